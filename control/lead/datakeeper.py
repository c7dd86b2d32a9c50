"""Keeps what is known of one migration's data: counts missed changes, runs its tasks, and says what they found.

The state is a value in the checkpoint (``control.data.state``). Nothing is begun before the checkpoint is known: a
copy that was under way when control ended goes on then, under the name of whoever had begun it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import structlog

from backends.documents.port import Rejected
from backends.errors import Fault
from control.data import state as known
from control.data.documents import DataDocument, EndedTask, TaskInShort, TaskPrice, data_document
from control.data.entries import PHASEGATE, begun_entry, ended_entry, is_recorded, of_task
from control.data.messages import OrderedTask, TaskDone, TaskEnd, TaskFailed, TaskKind
from control.data.runner import TaskBusyError, TaskRunner, task_id
from control.data.state import AskedTask, BegunTask, DataGauges, DataPair, DataState
from control.figures.metrics import DataFigures
from control.lead.clock import Clock
from control.lead.news import DataDiffers, Told
from control.plan.gates import Hold
from control.plan.times import Now, rfc3339
from control.rollout.model import Entry, Rollout, State

_log = structlog.get_logger("phasegate.data")

LOOK_EVERY_S: Final = 1.0  # at the board's counts of missed changes
SEED_EVERY_S: Final = 30.0  # between looks for a seed while a phase waits for the data
SEED_WITHIN_S: Final = 5.0
TELL_AGAIN_S: Final = 300.0  # before further losses are told: an outage that loses changes loses them one by one
ENDED_MAX: Final = 16  # ended tasks that are remembered, for whoever asks what came of them

# While it is in one of these a migration's data is compared in the background.
_COMPARED: Final = (State.RUNNING, State.PAUSED, State.COMPLETED)


class DataSetup(NamedTuple):
    """What a migration between document stores is led with."""

    pair: DataPair
    compare_every_s: float  # 0: never
    orders: Callable[[AskedTask], OrderedTask]
    gauges: Callable[[Now], DataGauges]
    runner: Callable[[], TaskRunner]
    seed: Callable[[], Awaitable[str | None]]  # the digest in the target's marker; raises ``Fault``


class DataLeader(Protocol):
    """What keeping data needs of whoever leads the migration."""

    name: str
    state: Rollout

    def record(self, *entries: Entry) -> None:
        """Write the state of the data, and these lines of the audit trail."""

    def tell(self, news: Told) -> None:
        """Notify the migration's webhooks; never waits."""


class NotBegunError(Exception):
    """A task was not begun; ``code`` and the message say why, ``hint`` what to do."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class DataKeeper:
    """One migration's data, in the hands of the control plane."""

    def __init__(self, leader: DataLeader, setup: DataSetup, clock: Clock) -> None:
        self.state = known.of_pair(DataState(), setup.pair)
        self._leader = leader
        self._setup = setup
        self._clock = clock
        self._ready = False  # the checkpoint is known
        self._runner = setup.runner()
        self._task: BegunTask | None = None
        self._ended: OrderedDict[str, EndedTask] = OrderedDict()
        now = clock.now().mono
        self._looked_at = self._sought_at = -SEED_EVERY_S
        self._compare_from = now  # no compare of its own begins before: one that failed waits as long as the next
        self._told_at: float | None = None  # when missed changes were told last
        self._told = 0  # and how many were known then
        self._seeking: asyncio.Task[None] | None = None

    def _gauges(self) -> DataGauges:
        return self._setup.gauges(self._clock.now())

    # Beginning and ending, with control.

    def restore(self, saved: DataState | None) -> None:
        """Go on from what the checkpoint has; a copy that was under way goes on."""
        self.state = known.of_pair(saved or DataState(), self._setup.pair)
        self._told = self.state.missed
        self._ready = True
        copying = self.state.copying
        if copying is not None:
            _log.info("data_task_goes_on", migration=self._leader.name, task=copying.id, actor=copying.actor)
            self._run(copying)

    async def close(self) -> None:
        """End the task's process. A copy goes on after the restart; another task is given up, as the trail says."""
        task = self._task
        await self._runner.close()
        if self._seeking is not None:
            self._seeking.cancel()
        if task is not None and self.state.copying is None and task.actor != PHASEGATE:
            why = "control ended before it was done"
            self._leader.record(Entry("data_task_failed", PHASEGATE, of_task(task) | {"reason": why}))

    # One pass.

    def look(self, now: Now) -> None:
        """Count what was missed, and begin what is due. Never waits."""
        if not self._ready or now.mono - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now.mono
        self._count(now)
        self._tell_missed(now)
        held = self.hold() is not None and not known.was_filled(self.state, self._setup.pair)
        if held and self._leader.state.state is State.RUNNING and now.mono - self._sought_at >= SEED_EVERY_S:
            self._seek(now)
        if self._compare_is_due(now):
            self._begin(AskedTask(TaskKind.COMPARE), PHASEGATE, now)

    def _count(self, now: Now) -> None:
        counted = known.counted(self.state, self._setup.gauges(now))
        if counted is self.state:
            return
        self.state = counted
        self._leader.record()

    def _tell_missed(self, now: Now) -> None:
        """Changes were missed: say so at once, and of further ones some minutes later."""
        if not known.was_filled(self.state, self._setup.pair) and self.state.seed is None:
            self._told = self.state.missed  # the target lacks everything: a copy will have them
        more = self.state.missed - max(self._told, self.state.settled)
        if more <= 0 or (self._told_at is not None and now.mono - self._told_at < TELL_AGAIN_S):
            return
        self._told, self._told_at = self.state.missed, now.mono
        reason = self.lacking() or f"{more} changes reached one side alone"
        self._leader.record(Entry("changes_lost", PHASEGATE, {"lost": more, "reason": reason}))
        self._differs(reason)

    def _differs(self, reason: str) -> None:
        s = self.state
        _log.error("data_differs", migration=self._leader.name, lost=s.lost, differences=s.differences, reason=reason)
        self._leader.tell(DataDiffers(s.lost, s.differences, reason))

    def _compare_is_due(self, now: Now) -> bool:
        every_s = self._setup.compare_every_s
        due = known.compare_due_at(self.state, self._setup.pair, every_s)
        if due is None or self._task is not None or now.mono < self._compare_from:
            return False
        if self._leader.state.state not in _COMPARED and not self.state.unsure:
            return False
        turned_back = now.unix < due - every_s  # the clock was: the last compare is in the future
        return now.unix >= due or turned_back

    # The gate.

    def hold(self) -> Hold | None:
        """The gate, as of now."""
        return known.holding(self.state, self._gauges(), self._setup.pair)

    def lacking(self) -> str:
        """What the target is known to lack, whether or not the gate is on; "" where nothing."""
        return known.lacking(self.state, self._gauges(), self._setup.pair)

    async def look_for_seed(self) -> None:
        """Where the target was never filled, ask it for the marker of a seed."""
        if self._ready and not known.was_filled(self.state, self._setup.pair) and self._setup.pair.fixtures:
            if self._seeking is None:
                self._seek(self._clock.now())
            assert self._seeking is not None
            await asyncio.shield(self._seeking)

    def _seek(self, now: Now) -> None:
        if self._seeking is None:
            self._sought_at = now.mono
            self._seeking = asyncio.create_task(self._ask_for_seed(), name=f"seed {self._leader.name}")

    async def _ask_for_seed(self) -> None:
        try:
            with suppress(Fault, Rejected, TimeoutError):  # the health check says what is wrong with it
                async with asyncio.timeout(SEED_WITHIN_S):
                    digest = await self._setup.seed()
                seeded = self.state if digest is None else known.seeded(self.state, digest)
                if seeded is not self.state:
                    self.state = seeded
                    self._leader.record(Entry("seed_found", PHASEGATE, {"digest": digest}))
        finally:
            self._seeking = None

    # Tasks.

    async def begin(self, asked: AskedTask, actor: str) -> str:
        """Begin a task; returns its id. A compare of phasegate's own gives way. Raises ``NotBegunError``."""
        if not self._ready:
            message = f"{asked.kind.value} was not begun: the checkpoint cannot be read"
            raise NotBegunError("store_failed", message, "Mend the store; it is read again every second.")
        if self._task is not None and self._task.actor == PHASEGATE:
            # However the call ends: a task without a process would be under way for ever.
            await asyncio.shield(asyncio.create_task(self._give_up(self._task)))
        if self._task is not None:
            message = f"{self._task.orders.kind.value} is under way, begun by {self._task.actor}"
            raise NotBegunError("busy", message, "Wait for its end, or stop it.")
        return self._begin(asked, actor, self._clock.now()).id

    async def _give_up(self, task: BegunTask) -> None:
        await self._runner.close()
        if self._task is task:  # and nobody else was quicker
            self._task = None

    def stop(self, actor: str) -> str | None:
        """Tell the task under way to end; its id, or None where there is none."""
        task = self._task
        if task is None:
            return None
        self._runner.stop()
        self._leader.record(Entry("data_task_stopped", actor, of_task(task)))
        return task.id

    def _begin(self, asked: AskedTask, actor: str, now: Now) -> BegunTask:
        self.state = known.counted(self.state, self._setup.gauges(now))
        task = BegunTask(task_id(asked.kind), actor, now.unix, self.state.missed, asked)
        self.state = known.begun(self.state, task)
        self._run(task)
        _log.info("data_task_begun", migration=self._leader.name, task=task.id, actor=task.actor)
        if is_recorded(task):
            self._leader.record(begun_entry(task))
        return task

    def _run(self, task: BegunTask) -> None:
        self._task = task
        self._compare_from = self._clock.now().mono + self._setup.compare_every_s
        try:
            self._runner.begin(self._setup.orders(task.orders), lambda end: self._over(task, end))
        except TaskBusyError:  # a pass of ours cannot come between: ``_task`` says the same
            raise AssertionError("one task at a time") from None

    def _over(self, task: BegunTask, end: TaskEnd) -> None:
        """A task has ended: what it found, told and written down."""
        now, before = self._clock.now(), self.state
        self._remember(task, end, now)
        self._task = None
        was_copy = task.orders.kind is TaskKind.COPY
        self._compare_from = now.mono + (0.0 if was_copy else self._setup.compare_every_s)
        if isinstance(end, TaskDone):
            self.state = known.done(before, task, end, now.unix)
            self._done(task, end, before)
            return
        self.state = known.failed(before, task)
        _log.warning(
            "data_task_not_done", migration=self._leader.name, task=task.id, kind=end.kind, reason=end.message
        )
        self._leader.record(ended_entry(task, end, PHASEGATE))

    def _done(self, task: BegunTask, end: TaskDone, before: DataState) -> None:
        differing = self.state.differences
        _log.info(
            "data_task_done",
            migration=self._leader.name,
            task=task.id,
            documents=end.documents,
            differences=end.differences,
        )
        news = is_recorded(task) or differing != before.differences or before.lost != self.state.lost
        self._leader.record(*([ended_entry(task, end, PHASEGATE)] if news else ()))
        is_compare = task.orders.kind is not TaskKind.COPY and known.was_filled(self.state, self._setup.pair)
        if is_compare and differing and differing != before.differences:
            self._differs(self.lacking())

    def _remember(self, task: BegunTask, end: TaskEnd, now: Now) -> None:
        self._ended[task.id] = self._described(task, end, now)
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    # What is shown.

    def document(self) -> DataDocument:
        """The data as the API shows it."""
        return data_document(self.state, self._gauges(), self._setup.pair, self._in_short())

    def figures(self) -> DataFigures:
        """The data in numbers."""
        gauges = self._gauges()
        s, task = known.counted(self.state, gauges), self._in_short()
        counts = () if task is None else (("done", task.done), ("of", task.of))
        return DataFigures(
            complete=not self.lacking(),
            gated=self.hold() is not None,
            pending=gauges.pending,
            oldest_s=gauges.oldest_s,
            lost=s.lost,
            differences=s.differences,
            copied_at=s.copied_at or 0.0,
            compared_at=0.0 if s.compare is None else s.compare.at,
            compare_every_s=self._setup.compare_every_s,
            task_kind="" if task is None else task.kind.value,
            task=tuple((which, count) for which, count in counts if count is not None),
        )

    def task(self, task_id: str) -> EndedTask | None:
        """A task under way, or one that has ended; None of one that is not known here, or no longer."""
        if self._task is not None and self._task.id == task_id:
            return self._described(self._task, None, None)
        return self._ended.get(task_id)

    def _in_short(self) -> TaskInShort | None:
        if self._task is None:
            return None
        progress, kind = self._runner.progress, self._task.orders.kind
        if progress is None:
            return TaskInShort(kind, 0, None, None, None)
        return TaskInShort(kind, progress.done, progress.of, progress.rate, progress.left_s)

    def _described(self, task: BegunTask, end: TaskEnd | None, now: Now | None) -> EndedTask:
        cost = self._runner.cost
        done = end if isinstance(end, TaskDone) else None
        failed = end if isinstance(end, TaskFailed) else None
        return EndedTask(
            id=task.id,
            kind=task.orders.kind,
            actor=task.actor,
            began_at=rfc3339(task.at),
            ended_at=None if now is None else rfc3339(now.unix),
            failure=None if failed is None else failed.kind,
            message="" if failed is None else failed.message,
            cost=None if cost is None else TaskPrice(cost.reads, cost.writes, cost.usd),
            result=None if done is None else done.result,
            differences=0 if done is None else done.differences,
            documents=0 if done is None else done.documents,
        )
