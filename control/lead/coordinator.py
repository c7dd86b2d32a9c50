"""One migration's loop: look at the board, judge, step the machine, carry out its effects. On an injected clock.

Everything runs on one event loop, and the loop's own pass renews the lease: a coordinator that hangs renews
nothing. What may take long (the store, a health check) is awaited beside the loop and comes back as an event.

The coordinator is the only writer of its migration's cells on the board. A state only ever changes through
``apply``, which carries out the machine's effects in the machine's order and without a suspension in between.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from control.data.documents import DataDocument
from control.figures.counts import workers
from control.figures.metrics import DataFigures
from control.lead import crashpoints, execution, observer, splitkey
from control.lead.checkpoint import CheckpointDocument, decoded
from control.lead.clock import Clock
from control.lead.commands import Command
from control.lead.datakeeper import DataKeeper, DataSetup
from control.lead.documents import Status
from control.lead.judging import Judging, Probe
from control.lead.lease import Lease, leased
from control.lead.news import LeaseLost, Told
from control.lead.observer import Observer, WeightRecord
from control.lead.publishing import Publisher
from control.lead.readiness import HealthCheck, Readiness
from control.lead.saving import Outbox, OutboxOwner
from control.lead.wrongs import Diagnose, TargetWrongs
from control.plan.gates import Hold
from control.plan.phases import percent_of
from control.plan.settings import Migration
from control.plan.times import Now, ns
from control.rollout.machine import step
from control.rollout.model import (
    Effect,
    Entry,
    Notify,
    On,
    Persist,
    PhaseChange,
    PublishWeight,
    Refuse,
    RollbackBegun,
    Rollout,
    RolloutEvent,
    RolloutPlan,
    RunSplit,
    State,
)
from control.rollout.recovery import BoardWord, recover, rejoin, wait
from control.store.entry import AuditLine, audit_document
from control.store.port import Storage, StoreError
from proxy.board.board import Board
from proxy.board.layout import PINNED

_log = structlog.get_logger("phasegate.coordinator")

WATCHFUL_S: Final = 0.005  # between looks at the board while workers are waited for
PASSES_A_LEASE: Final = 6  # at least, so that no renewal, which is due every third, comes much too late
READ_WITHIN_S: Final = 2.0  # how long the checkpoint is waited for at the start, and a third of a lease at most
READ_WITHIN_LEASES: Final = 1 / 3
GENERATION_MASK: Final = 0xFFFFFFFF  # the board's word has 32 bits of a generation
DRAIN_GRACE_S: Final = 1.0  # beyond a rollback's limit: a worker that is then not drained hangs, and is left out
READY_WITHIN_S: Final = 2.0  # a loop whose last pass is older does not lead
CLOSE_WITHIN_S: Final = 3.0  # how long an end waits for the store


async def _nothing_wrong() -> tuple[()]:
    return ()


class Coordinator:
    """One migration in the hands of the control plane."""

    def __init__(
        self,
        name: str,
        index: int,
        migration: Migration,
        board: Board,
        store: Storage,
        clock: Clock,
        health: HealthCheck,
        probe: Probe,
        *,
        diagnose: Diagnose = _nothing_wrong,
        kinds: tuple[str, str] = ("mock", "firestore"),
        notify: Callable[[str, Told, int], None] = lambda name, news, revision: None,
        split: RunSplit | None = None,
        data: DataSetup | None = None,
    ) -> None:
        """``index`` is the migration's place on the board; ``diagnose`` asks the target what it does not answer;
        ``kinds`` names the arms' backends; ``notify`` is told the migration's name, what happened, and the revision
        after it; ``split`` is what a new run takes; ``data`` is None where the arms are no document stores.
        """
        now = clock.now()
        owner = OutboxOwner(self._document, self._found, self._saved, self._failed)
        self._observer = Observer(board, index, migration, now)
        self.name = name
        self.index = index
        self.settings = migration
        self.plan = RolloutPlan(migration.phases, migration.on_breach, split)
        self.state = Rollout(split=splitkey.known(RunSplit(), self._first_name))
        self.raised_at = 0  # the revision of the last increase that was published
        self.outbox = Outbox(store, name, partial(decoded, migration.phases), clock, owner)
        self.data = None if data is None else DataKeeper(self, data, clock)
        self.readiness = Readiness(board, index, migration, health, clock, self.data)
        self.publisher = Publisher(
            name,
            index,
            migration,
            self.plan,
            kinds,
            board,
            self._observer,
            self.outbox,
            lambda: self.holds,
            now,
            self.data_document,
        )
        self._board = board
        self._clock = clock
        self._notify = notify
        self._lease = Lease(board, index, migration.lease_s)
        self.judging = Judging(self, migration, self._observer, self.readiness, probe, clock)
        self.wrongs = TargetWrongs(self, migration.target, diagnose)
        self.leases_lost = 0  # while this process led, and the one that ran out before it
        self.lease_lost_at: float | None = None  # Unix time of the last
        self._pulse = asyncio.Event()
        self._left = BoardWord(0, 0, False)  # what the board said when this process began
        self._lapsed = False  # and whether its lease had run out
        self._recovered = False
        self._ticked_at = now.mono

    # Beginning and running.

    async def recover(self) -> None:
        """Go on from checkpoint and board; while the checkpoint cannot be read, from the board alone."""
        saved = None
        with suppress(StoreError):
            saved = await self.outbox.read(min(READ_WITHIN_S, self.settings.lease_s * READ_WITHIN_LEASES))
        now = self._clock.now()
        self._left = self._word()
        self._lapsed = not self._lease.take_over(now.mono)
        if self.outbox.known:
            self._go_on(saved, now)
        else:
            _log.error("held_without_checkpoint", migration=self.name, reason=self.outbox.error)
            self.state, effects = wait(self.plan, self._left, self.settings.mode, self._lapsed)
            self._settle_split()
            self._carry_out(effects, now)
            self.save_soon()
        if self._lapsed and self._left.weight_bp and not self._left.pinned:
            self._tell_lease_lost(self._left.weight_bp, "the lease ran out while control was not running")
        self._renew(now)
        self._recovered = True

    def _go_on(self, saved: CheckpointDocument | None, now: Now) -> None:
        """Go on from the checkpoint, once it is known."""
        rollout, baseline = (saved.rollout, saved.baseline) if saved is not None else (None, None)
        if self.state.revision:  # decided without it
            self.state, effects = rejoin(rollout, self.state)
            baseline = None
        else:
            mode = self.settings.mode
            self.state, effects = recover(self.plan, rollout, self._left, mode, now, self._lapsed, self._word())
            if rollout is not None:
                self._tell_recovered(rollout, effects)
        self._settle_split()
        self._show_split()
        if self.data is not None:
            self.data.restore(None if saved is None else saved.data)
        self._carry_out(effects, now)
        if rollout is not None and baseline is not None and self.state.weight_bp == rollout.weight_bp:
            self._observer.restore(baseline)
        _log.info("recovered", migration=self.name, state=self.state.state.value, weight_bp=self.state.weight_bp)

    def _tell_recovered(self, saved: Rollout, effects: Sequence[Effect]) -> None:
        """Tell of a weight that is not the checkpoint's: the process before may have been killed before it could.

        Where it could, receivers are told twice, as they may be.
        """
        s, wanted = self.state, saved.pending
        if s.weight_bp < saved.weight_bp and not self._lapsed:  # a lapse is told as a lost lease
            why = "; ".join(
                str(entry.detail["why"])
                for effect in effects
                if isinstance(effect, Persist)
                for entry in effect.entries
            )
            weights = percent_of(saved.weight_bp), percent_of(s.weight_bp)
            self.tell(RollbackBegun("recovered", *weights, why, s.revision))
        elif wanted is not None and (s.state, s.weight_bp) == (wanted.to, wanted.weight_bp):
            name = None if s.phase is None else s.phase.name
            self.tell(PhaseChange(s.state, name, percent_of(s.weight_bp)))

    @property
    def _first_name(self) -> str:
        """The name that a run of version 0.1 splits by: its checkpoint holds no key."""
        return self.settings.was or self.name

    def _settle_split(self) -> None:
        board = self._board.split(self.index)
        split = splitkey.settled(self.state.split, self._first_name, board, self._left.weight_bp)
        self.state = replace(self.state, split=split)

    def _show_split(self) -> None:
        """Put the split onto the board: before the word, so that whoever sees the word sees its split."""
        split = splitkey.for_board(self.state.split)
        if self._board.split(self.index) != split:
            self._board.set_split(self.index, split)

    def _word(self) -> BoardWord:
        word = self._board.word(self.index)
        return BoardWord(word.generation, word.weight_bp, bool(word.flags & PINNED))

    async def run(self) -> None:
        """Go on until cancelled."""
        saver = asyncio.create_task(self.outbox.run(), name=f"store {self.name}")
        try:
            while True:
                if saver.done():
                    saver.result()
                self.tick()
                await self._clock.wait(self._pulse, self._patience())
        finally:
            saver.cancel()
            self.judging.cancel()
            self.wrongs.cancel()

    async def close(self) -> None:
        """Write what is still to be written, as far as the store lets us."""
        # So that a successor that is started now has a whole lease to come up in.
        self._lapse(self._clock.now())
        self._renew(self._clock.now())
        if self.data is not None:
            await self.data.close()
        await self.outbox.finish(CLOSE_WITHIN_S)

    def _patience(self) -> float:
        waiting = self.state.state is State.ROLLING_BACK or not self.state.verified
        return WATCHFUL_S if waiting else min(observer.DETECT_EVERY_S, self.settings.lease_s / PASSES_A_LEASE)

    def tick(self) -> None:
        """One pass. Never waits."""
        now = self._clock.now()
        self._ticked_at = now.mono
        self._board.beat(os.getpid(), ns(now.mono))
        self._keep_lease(now)
        self._look(now)
        if self.data is not None:
            self.data.look(now)
        self.judging.look(now)
        self.wrongs.look(self._observer.newest.target, now)
        self.publisher.publish_due(self.state, now)

    # The lease.

    def _keep_lease(self, now: Now) -> None:
        """Renew the lease in time."""
        self._lapse(now)
        if self._lease.due(now.mono):
            self._renew(now)

    def _lapse(self, now: Now) -> None:
        """Where the lease has run out, the workers are at 0: say so on the board before anything can renew it."""
        self._lose(self._lease.lost(self.state, now.mono))

    def _renew(self, now: Now) -> None:
        self._lose(self._lease.renew_or_lose(now.mono, self.mono) if leased(self.state) else None)

    def _lose(self, lost: RolloutEvent | None) -> None:
        """Take the weight back on the board where the lease was lost, and then tell."""
        if lost is not None:
            from_bp = self.state.weight_bp
            self.apply(lost)
            self._tell_lease_lost(from_bp, lost.reason)

    def _tell_lease_lost(self, from_bp: int, reason: str) -> None:
        self.leases_lost += 1
        self.lease_lost_at = self._clock.now().unix
        self.tell(LeaseLost(percent_of(from_bp), reason))

    def tell(self, news: Told) -> None:
        """Notify the migration's webhooks of something that is no change of the rollout; never waits."""
        self._notify(self.name, news, self.state.revision)

    # What the workers show.

    def _look(self, now: Now) -> None:
        s = self.state
        if s.verified and s.state is not State.ROLLING_BACK:
            return
        rows = workers(self._board, self.index, now.mono)
        live = [row for row in rows if row.live]
        seen = all(row.generation == s.generation & GENERATION_MASK for row in live)
        if s.descent is None:
            if seen:
                self.apply(RolloutEvent(On.SEEN))
            return
        if seen and s.descent.seen is None:
            self.apply(RolloutEvent(On.SEEN))
            crashpoints.point("descent.seen")
        late = now.mono > s.descent.decided + s.descent.within_s + DRAIN_GRACE_S
        drained = seen and all(row.inflight_old == 0 for row in live)
        if drained or late:
            open_still = [row.slot for row in rows if not row.live or row.inflight_old]
            crashpoints.point("descent.drained")
            self.apply(RolloutEvent(On.DRAINED, unheard=tuple(open_still)))

    # Commands.

    async def act(self, command: Command) -> None:
        """Carry out a command; returns when it has taken effect. Raises ``CommandRefused``."""
        await execution.carry_out(self, command)

    async def examine(self, command: Command) -> execution.Examined:
        """What ``act`` would ask before it carries out the command now, and whether it would be refused."""
        return await execution.examine(self, command, command.expected_revision, self.mono())

    def refusal(self, event: RolloutEvent) -> Refuse | None:
        """Why the event would be refused; changes nothing."""
        _, effects = step(self.plan, self.state, self._with_data(event), self._clock.now())
        return next((effect for effect in effects if isinstance(effect, Refuse)), None)

    def mono(self) -> float:
        """The monotonic clock, in seconds."""
        return self._clock.now().mono

    async def until(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Wait for a change of state that makes ``holds`` true; False where none did in time."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    await self._pulse.wait()
        except TimeoutError:
            return False
        return True

    # Steps and effects.

    def apply(self, event: RolloutEvent) -> Refuse | None:
        """Let the event happen, with all its effects, unless it is refused."""
        now = self._clock.now()
        self._lapse(now)
        before = self.state
        self.state, effects = step(self.plan, before, self._with_data(event), now)
        refused = self._carry_out(effects, now)
        if self.state is not before:
            self._changed(event, before, now)
        return refused

    def _with_data(self, event: RolloutEvent) -> RolloutEvent:
        """The event, with what the target is known to lack: the machine decides whether that matters."""
        lacking = self.readiness.lacking()
        return replace(event, lacking=lacking[0].reason) if lacking else event

    def _changed(self, event: RolloutEvent, before: Rollout, now: Now) -> None:
        if event.kind is On.SEEN and before.descent is None:
            # The soak begins: what is judged from here on came under the new weight on every worker.
            if self.state.state is State.RUNNING and self.state.soaked_s == 0.0:
                self._observer.begin(now)
            if self.raised_at:  # and not what a process before this one had raised
                crashpoints.point("raise.verified")
        if self.state.revision != before.revision:
            self.judging.forget_health()
            _log.info(
                "rollout_changed",
                migration=self.name,
                kind=event.kind.value,
                state=self.state.state.value,
                weight_bp=self.state.weight_bp,
                revision=self.state.revision,
                actor=event.actor,
                reason=event.reason,
            )
        if self.state.weight_bp != before.weight_bp:
            # A raise is asked for first, and the line above then still has the old weight.
            _log.info(
                "weight_published",
                migration=self.name,
                state=self.state.state.value,
                weight_bp=self.state.weight_bp,
                revision=self.state.revision,
            )
        self._pulse_now()
        self.publisher.publish_status(self.state, now)

    def _carry_out(self, effects: Sequence[Effect], now: Now) -> Refuse | None:
        refused: Refuse | None = None
        # A descent publishes first and writes entries. The increase that a store's answer publishes has no entries.
        said = any(isinstance(effect, Persist) and effect.entries for effect in effects)
        lowering = said and isinstance(effects[0], PublishWeight)
        ended = self._observer.record()
        if lowering:
            crashpoints.point("descent.decided")
        for effect in effects:
            match effect:
                case PublishWeight():
                    self._publish(effect, now, "descent" if lowering else "raise")
                case Persist():
                    if not lowering and self.state.pending is not None:
                        crashpoints.point("raise.decided")
                    self._post(effect, ended, now)
                case Notify():
                    self._notify(self.name, effect.news, self.state.revision)
                case Refuse():
                    refused = effect
        return refused

    def _publish(self, effect: PublishWeight, now: Now, what: str) -> None:
        crashpoints.point(f"{what}.publishing")
        if leased(self.state):
            self._lease.renew(now.mono)
        self._show_split()
        generation = self._board.publish(
            self.index,
            effect.weight_bp,
            pinned=effect.pinned,
            now_ns=ns(now.mono),
            cut_over_at=ns(effect.cut_over_at),
            cancel_at=ns(effect.cancel_at),
        )
        crashpoints.point(f"{what}.published")
        assert generation == self.state.generation & GENERATION_MASK, (
            "the coordinator alone writes its migration's cells"
        )
        self._observer.begin(now, lowered=what == "descent")

    def _post(self, effect: Persist, ended: WeightRecord, now: Now) -> None:
        for entry in effect.entries:
            if entry.kind == "phase_left":
                # As the store will have it, which takes plain values.
                facts = msgspec.to_builtins(self._observer.facts(ended, now))
                entry = replace(entry, detail=entry.detail | facts)
            self.outbox.put(entry)
        self.save_soon()

    # The store.

    def note(self, entry: Entry) -> None:
        """Write to the audit trail what is no change of the rollout."""
        self.outbox.put(entry)
        self.save_soon()

    def save_soon(self) -> None:
        """Write a checkpoint as soon as the store takes one."""
        self.outbox.dirty.set()

    def _document(self) -> tuple[CheckpointDocument, int]:
        # The soak clock's reading means nothing to another process.
        soaked_s = self.state.soaked(self.mono())
        kept = replace(self.state, soaked_s=soaked_s, soaking_since=None)
        data = None if self.data is None else self.data.state
        return CheckpointDocument(kept, self._observer.kept(), data), self.state.revision

    def _found(self, saved: CheckpointDocument | None) -> None:
        now = self._clock.now()
        self._lapse(now)
        self._go_on(saved, now)
        self._pulse_now()
        self.publisher.publish_status(self.state, now)

    def _failed(self, error: str) -> None:
        if self.state.pending is not None:
            self.apply(RolloutEvent(On.UNPERSISTED, reason=error, revision=self.state.pending.revision))
        self._pulse_now()

    def _saved(self, lines: list[AuditLine], revision: int) -> None:
        for line in lines:
            self.publisher.hub.publish(audit_document(line))
        if self.state.pending is not None and self.state.pending.revision <= revision:
            crashpoints.point("raise.persisted")
            asked, before = self.state.pending.revision, self.state.generation
            self.apply(RolloutEvent(On.PERSISTED, revision=revision))
            if self.state.generation != before:  # and was not called off
                self.raised_at = asked
        elif any(line.kind == "rollback_complete" for line in lines):
            crashpoints.point("descent.recorded")
        self._pulse_now()

    def record(self, *entries: Entry) -> None:
        """Write the state of the data, and these lines of the audit trail."""
        for entry in entries:
            self.outbox.put(entry)
        self.save_soon()

    # What is shown.

    def _pulse_now(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()

    def status(self) -> Status:
        """The migration's status, as the API shows it."""
        return self.publisher.status(self.state, self._clock.now())

    def data_document(self) -> DataDocument | None:
        """The migration's data, as the API shows it; None where the arms are no document stores."""
        return None if self.data is None else self.data.document()

    def data_figures(self) -> DataFigures | None:
        """The migration's data in numbers; None where the arms are no document stores."""
        return None if self.data is None else self.data.figures()

    @property
    def ready(self) -> bool:
        """Whether it leads: it has recovered, and its loop goes round."""
        return self._recovered and self.mono() - self._ticked_at < READY_WITHIN_S

    @property
    def store_error(self) -> str | None:
        """Why the store was not written last time; None where it was."""
        return self.outbox.error

    @property
    def holds(self) -> tuple[Hold, ...]:
        """What keeps an earned phase from beginning now."""
        return self.judging.holds

    @property
    def unsplit(self) -> int:
        """Requests since boot that the source answered whatever the weight."""
        return self._observer.unsplit(self._clock.now())

    def age_s(self) -> dict[str, float]:
        """How old the signs of life on the board are: the oldest of a worker's, and control's own."""
        return self.publisher.age_s(self._clock.now())

    def adapters(self) -> dict[str, int]:
        """The target's requests since the last change of weight, by adapter."""
        return self._observer.adapters()
