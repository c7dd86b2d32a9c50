"""One migration's loop: look at the board, judge, step the machine, carry out its effects. On an injected clock.

Everything runs on one event loop, and the loop's own pass renews the lease: a coordinator that hangs renews
nothing. What may take long (the store, a health check) is awaited beside the loop and comes back as an event.

The coordinator is the only writer of its migration's cells on the board. A state only ever changes through
``_apply``, which carries out the machine's effects in the machine's order and without a suspension in between.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog
from msgspec.structs import replace

from backends.arm import ARMS
from control import checks, faults, gates, judge, observer
from control.checks import Check, failed
from control.clock import Clock
from control.commands import Command
from control.events import Hub
from control.history import History
from control.judge import Outcome, Verdict
from control.observer import Chapter, Kept, Observer
from control.outbox import Outbox, Owner, Storage
from control.phases import Phase
from control.recovery import Found, recover, rejoin, wait
from control.rollout import step
from control.settings import Migration
from control.snapshot import figures, lag, snapshot, summary, workers
from control.states import Effect, Entry, Event, Notify, Now, On, Persist, Plan, Publish, Refuse, Rollout, State
from control.status import audit_document, status_document
from control.store import Line, StoreError
from proxy import board as boards
from proxy.board import Board

_log = structlog.get_logger("phasegate.coordinator")

WATCHFUL_S: Final = 0.005  # between looks at the board while workers are waited for
VERIFY_WITHIN_S: Final = 5.0  # how long a command waits for every worker to show a raise
RECORD_WITHIN_S: Final = 1.0  # how long the answer to a decrease waits for the store
HEALTH_WITHIN_S: Final = 5.0
HEALTH_AGAIN_S: Final = 1.0  # between health checks that hold up an earned advance
READ_WITHIN_S: Final = 2.0  # how long the checkpoint is waited for at the start, and a third of a lease at most
CLOSE_WITHIN_S: Final = 3.0  # how long an end waits for the store
STATUS_EVERY_S: Final = 1.0
_JUDGED: Final = (State.RUNNING, State.PAUSED, State.ROLLED_BACK)

Json = dict[str, Any]


HealthCheck = Callable[[], Awaitable[list[Check]]]  # of both backends
Probe = Callable[[], Awaitable[bool]]  # whether the target answers, within its deadline


class Refused(Exception):  # noqa: N818 - what is so
    """A command was not carried out; nothing has changed."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Document(msgspec.Struct, frozen=True):
    """A checkpoint."""

    rollout: Rollout
    chapter: Kept | None = None


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
        kinds: tuple[str, str] = ("mock", "firestore"),
        notify: Callable[[str, str, Json], None] = lambda name, kind, detail: None,
    ) -> None:
        """``index`` is the migration's place on the board; ``kinds`` names the arms' backends."""
        self.name = name
        self.settings = migration
        self.plan = Plan(migration.phases, migration.on_breach)
        self.hub = Hub()
        self.history = History()
        self.state = Rollout()
        self.index = index
        self._board = board
        owner = Owner(self._document, self._found, self._saved, self._failed)
        self._outbox = Outbox(store, name, Document, clock, owner)
        self._clock = clock
        self._health = health
        self._probe = probe
        self._kinds = kinds
        self._notify = notify
        now = clock.now()
        self._observer = Observer(board, index, migration, now)
        self._told_at = now.mono
        self._renewed_at = 0.0
        self._lapse_at: float | None = None
        self._checking: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._checked_at = 0.0
        self._held_by: tuple[str, ...] = ()
        self._earned: Verdict | None = None  # the newest verdict, where it asks for the next phase
        self._raised_at = 0  # the revision of the last increase that was published
        self._pulse = asyncio.Event()
        self._left = Found(0, 0, False)  # what the board said when this process began
        self._lapsed = False  # and whether its lease had run out
        self._recovered = False
        self._ticked_at = now.mono

    # Beginning and running.

    async def recover(self) -> None:
        """Go on from checkpoint and board; while the checkpoint cannot be read, from the board alone."""
        saved = None
        with suppress(StoreError):
            saved = await self._outbox.read(min(READ_WITHIN_S, self.settings.lease_s / 3))
        now = self._clock.now()
        self._left = self._word()
        self._lapsed = self._board.lease_until(self.index) <= _ns(now.mono)
        if self._outbox.known:
            self._go_on(saved, now)
        else:
            _log.error("held until the checkpoint can be read", migration=self.name, error=self._outbox.error)
            self.state, effects = wait(self.plan, self._left, self.settings.mode, self._lapsed)
            self._carry_out(effects, now)
            self._outbox.dirty.set()
        self._lapse_at = None if self._lapsed else self._board.lease_until(self.index) / 1e9
        self._renew(now)
        self._recovered = True

    def _go_on(self, saved: Document | None, now: Now) -> None:
        """Go on from the checkpoint, once it is known."""
        rollout, chapter = (saved.rollout, saved.chapter) if saved is not None else (None, None)
        if self.state.revision:  # decided without it
            self.state, effects = rejoin(rollout, self.state)
            chapter = None
        else:
            mode = self.settings.mode
            self.state, effects = recover(self.plan, rollout, self._left, mode, now, self._lapsed, self._word())
        self._carry_out(effects, now)
        if rollout is not None and chapter is not None and self.state.phase == rollout.phase:
            self._observer.restore(chapter)
        _log.info("recovered", migration=self.name, state=self.state.state.value, weight_bp=self.state.weight_bp)

    def _word(self) -> Found:
        word = self._board.word(self.index)
        return Found(word.generation, word.weight_bp, bool(word.flags & boards.PINNED))

    async def run(self) -> None:
        """Go on until cancelled."""
        saver = asyncio.create_task(self._outbox.run(), name=f"store {self.name}")
        try:
            while True:
                if saver.done():
                    saver.result()
                self.tick()
                await self._clock.wait(self._pulse, self._patience())
        finally:
            saver.cancel()
            for task in (self._checking, self._probing):
                if task is not None:
                    task.cancel()

    async def close(self) -> None:
        """Write what is still to be written, as far as the store lets us."""
        # A successor that is started now has a whole lease to come up in.
        self._lapse(self._clock.now())
        self._renew(self._clock.now())
        await self._outbox.finish(CLOSE_WITHIN_S)

    def _patience(self) -> float:
        waiting = self.state.state is State.ROLLING_BACK or not self.state.verified
        return WATCHFUL_S if waiting else min(observer.DETECT_EVERY_S, self.settings.lease_s / 6)

    def tick(self) -> None:
        """One pass. Never waits."""
        now = self._clock.now()
        self._ticked_at = now.mono
        self._board.beat(os.getpid(), _ns(now.mono))
        self._lease(now)
        self._look(now)
        if self._observer.detect_due(now):
            self._detect(now)
        if self.history.due(now.mono):
            self._remember(now)
        if now.mono - self._told_at >= STATUS_EVERY_S:
            self._tell(now)

    # The lease.

    def _leased(self) -> bool:
        return self.state.weight_bp > 0 and not self.state.pinned

    def _lease(self, now: Now) -> None:
        """Renew the lease in time."""
        self._lapse(now)
        if self._leased() and now.mono - self._renewed_at >= self.settings.lease_s / 3:
            self._renew(now)

    def _lapse(self, now: Now) -> None:
        """Where the lease has run out, the workers are at 0: say so on the board before anything can renew it."""
        if self._leased() and self._lapse_at is not None and now.mono >= self._lapse_at:
            reason = f"the lease ran out {now.mono - self._lapse_at:.1f} s ago: control was not running"
            self._lapse_at = None
            self._apply(Event(On.LEASE_LOST, reason=reason, detected=now.mono))

    def _renew(self, now: Now) -> None:
        if not self._leased():
            return
        before = self._lapse_at
        self._renewed_at = now.mono
        self._lapse_at = now.mono + self.settings.lease_s
        self._board.renew_lease(self.index, _ns(self._lapse_at))
        after = self._clock.now()
        if before is not None and after.mono >= before:  # stopped between looking and renewing
            self._apply(Event(On.LEASE_LOST, reason="the lease ran out while it was renewed", detected=after.mono))

    # What the workers show.

    def _look(self, now: Now) -> None:
        s = self.state
        if s.verified and s.state is not State.ROLLING_BACK:
            return
        rows = workers(self._board, self.index, _ns(now.mono))
        live = [row for row in rows if row.live]
        seen = all(row.generation == s.generation & 0xFFFFFFFF for row in live)
        if s.descent is None:
            if seen:
                self._apply(Event(On.SEEN))
            return
        if seen and s.descent.seen is None:
            self._apply(Event(On.SEEN))
            faults.point("descent.seen")
        late = now.mono > s.descent.decided + s.descent.within_s + 1.0
        drained = seen and all(row.inflight_old == 0 for row in live)
        if drained or late:
            open_still = [row.slot for row in rows if not row.live or row.inflight_old]
            faults.point("descent.drained")
            self._apply(Event(On.DRAINED, unheard=tuple(open_still)))

    # Judging.

    def _detect(self, now: Now) -> None:
        s = self.state
        weighing = s.verified and s.weight_bp > 0 and s.state in (*_JUDGED, State.COMPLETED)
        self._observer.detect(now, weighing=weighing)
        if not weighing:
            return
        sequential, watch = self.settings.judge == "sequential", self._observer.watch
        if sequential and watch.suspects and self._probing is None and s.state in _JUDGED:
            self._probing = asyncio.create_task(self._ask_target(s.generation), name=f"probe {self.name}")
        if self._observer.validation_due(now):
            self._validate(now)
        elif sequential:
            self._consider(self._observer.weigh(s, self._phase(), now), now)

    async def _ask_target(self, generation: int) -> None:
        """Follow up a suspicion."""
        try:
            answers = await asyncio.gather(*(self._probe() for _ in range(judge.PROBES)))
            if self.state.generation == generation:
                self._observer.watch = self._observer.watch.after_probes(answers.count(False), len(answers))
                if self._observer.watch.breached and self.state.state in _JUDGED:
                    self._validate(self._clock.now())
        finally:
            self._probing = None

    def _validate(self, now: Now) -> None:
        verdict = self._observer.validate(self.state, self._phase(), now)
        self._outbox.dirty.set()  # the soak earned so far
        self._consider(verdict, now)

    def _phase(self) -> Phase | None:
        return None if self.state.phase is None else self.plan.phases[self.state.phase]

    def _consider(self, verdict: Verdict, now: Now) -> None:
        """Act on a verdict."""
        s = self.state
        self._earned = None
        if verdict.outcome is Outcome.ROLL_BACK and s.state in _JUDGED:
            self._apply(Event(On.BREACH, reason="; ".join(verdict.reasons), detected=now.mono))
        elif verdict.outcome is Outcome.PROMOTE and s.state is State.RUNNING and s.pending is None:
            self._earned = verdict
            closed = self._closed(now)
            held = (*closed, *self._held_by)
            if held:
                self._observer.verdict = replace(verdict, outcome=Outcome.HOLD, reasons=(*held, *verdict.reasons))
            if not closed:
                self._check_then_promote(now)

    def _closed(self, now: Now) -> list[str]:
        """Why the next phase may not begin by itself now, whatever was earned."""
        following = 0 if self.state.phase is None else self.state.phase + 1
        phase = self.plan.phases[following] if following < len(self.plan.phases) else None
        return gates.closed(self.settings.windows, self.settings.freezes, now.unix) + gates.approval(phase)

    def _check_then_promote(self, now: Now) -> None:
        if self._checking is not None or (self._held_by and now.mono - self._checked_at < HEALTH_AGAIN_S):
            return
        self._checked_at = now.mono
        self._checking = asyncio.create_task(self._promote(self.state.revision), name=f"health {self.name}")

    async def _promote(self, revision: int) -> None:
        try:
            bad = failed(await self._healthy())
            self._held_by = tuple(f"{check.name}: {check.found}" for check in bad)
            # The check may take seconds: what was earned before it must still be so, and still be allowed.
            earned = self._earned
            if not bad and earned is not None and not self._closed(self._clock.now()):
                self._apply(Event(On.PROMOTE, reason="; ".join(earned.reasons), revision=revision))
        finally:
            self._checking = None

    async def _healthy(self) -> list[Check]:
        behind = checks.lag(*lag(self._board, self.index, _ns(self._clock.now().mono)))
        try:
            async with asyncio.timeout(HEALTH_WITHIN_S):
                return [*await self._health(), behind]
        except TimeoutError:
            return [Check("health", False, f"no answer within {HEALTH_WITHIN_S:g} s", "Look at the backends.")]

    # Commands.

    async def act(self, command: Command) -> None:
        """Carry out a command; returns when it has taken effect. Raises ``Refused``."""
        received = self._clock.now().mono
        revision = command.expected_revision
        if revision is not None and revision != self.state.revision:
            message = f"revision {revision} was expected, and it is {self.state.revision}"
            raise Refused("stale_revision", message, "Something changed in between: look at the status, decide anew.")
        if command.action in ("start", "advance", "resume"):
            if not self._outbox.known:
                hint = "Mend the store; it is read again every second. Rollback, abort and reset are possible."
                raise Refused("store_failed", f"{command.action} was not tried: {self._outbox.error}", hint)
            revision = self.state.revision if revision is None else revision
            self._refuse_early(command.event(revision, received))
            await self._passes(command)
        self._obey(self._apply(command.event(revision, received)))
        if self.state.pending is not None:
            await self._raised(self.state.pending.revision)
        elif self.state.state is State.ROLLING_BACK:
            within = self.state.descent.within_s if self.state.descent is not None else 0.0
            await self._until(lambda: self.state.state is not State.ROLLING_BACK, within + 2.0)
        await self._until(lambda: not self._outbox.entries or self._outbox.error is not None, RECORD_WITHIN_S)

    def _refuse_early(self, event: Event) -> None:
        _, effects = step(self.plan, self.state, event, self._clock.now())
        self._obey(next((effect for effect in effects if isinstance(effect, Refuse)), None))

    def _obey(self, refused: Refuse | None) -> None:
        if refused is not None:
            raise Refused("not_allowed", refused.message, refused.hint)

    async def _passes(self, command: Command) -> None:
        """What stands before any increase: health, and for a phase its hours. Force, with a reason, passes it."""
        if command.force:
            return
        problems = [f"{check.name}: {check.found}" for check in failed(await self._healthy())]
        if command.action != "resume":
            problems += gates.closed(self.settings.windows, self.settings.freezes, self._clock.now().unix)
        if problems:
            hint = "Mend it, or repeat with force and a reason."
            raise Refused("check_failed", f"{command.action} was not tried: {'; '.join(problems)}", hint)

    async def _raised(self, revision: int) -> None:
        def answered() -> bool:
            return self.state.pending is None or self.state.pending.revision != revision

        if not await self._until(answered, VERIFY_WITHIN_S):
            hint = "It goes on as soon as the store answers; abort calls it off."
            raise Refused("store_slow", "the store has not taken the checkpoint yet", hint)
        if self._raised_at != revision and self._outbox.error is None:
            raise Refused("superseded", "a decrease came before it", "Look at the status and decide anew.")
        if self._raised_at != revision:
            message = f"the checkpoint could not be written: {self._outbox.error}"
            raise Refused("store_failed", message, "Mend the disk.")
        await self._until(lambda: self.state.verified, VERIFY_WITHIN_S)

    async def _until(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Wait for a change of state that makes ``holds`` true."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    await self._pulse.wait()
        except TimeoutError:
            return False
        return True

    # Steps and effects.

    def _apply(self, event: Event) -> Refuse | None:
        now = self._clock.now()
        self._lapse(now)
        before = self.state
        self.state, effects = step(self.plan, before, event, now)
        refused = self._carry_out(effects, now)
        if self.state is not before:
            self._changed(event, before, now)
        return refused

    def _changed(self, event: Event, before: Rollout, now: Now) -> None:
        if event.kind is On.SEEN and before.descent is None:
            # The soak begins: what is judged from here on came under the new weight on every worker.
            if self.state.state is State.RUNNING and self.state.soaked_s == 0.0:
                self._observer.begin(now)
            if self._raised_at:  # and not what a process before this one had raised
                faults.point("raise.verified")
        if self.state.revision != before.revision:
            self._held_by = ()
            _log.info(
                event.kind.value,
                migration=self.name,
                state=self.state.state.value,
                weight_bp=self.state.weight_bp,
                revision=self.state.revision,
                actor=event.actor,
                reason=event.reason,
            )
        self._pulse_now()
        self._tell(now)

    def _carry_out(self, effects: Sequence[Effect], now: Now) -> Refuse | None:
        refused: Refuse | None = None
        # What answers the store publishes too, and has nothing new to say.
        said = any(isinstance(effect, Persist) and effect.entries for effect in effects)
        lowering = said and isinstance(effects[0], Publish)
        ended = self._observer.chapter()
        if lowering:
            faults.point("descent.decided")
        for effect in effects:
            match effect:
                case Publish():
                    self._publish(effect, now, "descent" if lowering else "raise")
                case Persist():
                    if not lowering and self.state.pending is not None:
                        faults.point("raise.decided")
                    self._post(effect, ended, now)
                case Notify():
                    self._notify(self.name, effect.kind, effect.detail | {"revision": self.state.revision})
                case Refuse():
                    refused = effect
        return refused

    def _publish(self, effect: Publish, now: Now, what: str) -> None:
        faults.point(f"{what}.publishing")
        if self._leased():
            self._renewed_at, self._lapse_at = now.mono, now.mono + self.settings.lease_s
            self._board.renew_lease(self.index, _ns(self._lapse_at))
        generation = self._board.publish(
            self.index,
            effect.weight_bp,
            pinned=effect.pinned,
            now_ns=_ns(now.mono),
            cut_over_at=_ns(effect.cut_over_at),
            cancel_at=_ns(effect.cancel_at),
        )
        faults.point(f"{what}.published")
        assert generation == self.state.generation & 0xFFFFFFFF, "the coordinator alone writes its migration's cells"
        self._observer.begin(now)

    def _post(self, effect: Persist, ended: Chapter, now: Now) -> None:
        for entry in effect.entries:
            facts = self._observer.facts(ended, now) if entry.kind == "phase_left" else {}
            self._outbox.put(replace(entry, detail=entry.detail | facts))
        self._outbox.dirty.set()

    # The store.

    def _document(self) -> tuple[Document, int]:
        # The soak clock's reading means nothing to another process.
        soaked_s = self.state.soaked(self._clock.now().mono)
        kept = replace(self.state, soaked_s=soaked_s, soaking_since=None)
        return Document(kept, self._observer.kept()), self.state.revision

    def _found(self, saved: Document | None) -> None:
        now = self._clock.now()
        self._lapse(now)
        self._go_on(saved, now)
        self._pulse_now()
        self._tell(now)

    def _failed(self, error: str) -> None:
        if self.state.pending is not None:
            self._apply(Event(On.UNPERSISTED, reason=error, revision=self.state.pending.revision))
        self._pulse_now()

    def _saved(self, lines: list[Line], revision: int) -> None:
        for line in lines:
            self.hub.publish("audit", audit_document(line))
        if self.state.pending is not None and self.state.pending.revision <= revision:
            faults.point("raise.persisted")
            self._raised_at = self.state.pending.revision
            self._apply(Event(On.PERSISTED, revision=revision))
        elif any(line.kind == "rollback_complete" for line in lines):
            faults.point("descent.recorded")
        self._pulse_now()

    # What is told.

    def _pulse_now(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()

    def _tell(self, now: Now) -> None:
        self._told_at = now.mono
        if self.hub:
            self.hub.publish("status", self.status())

    def _remember(self, now: Now) -> None:
        seen = snapshot(self._board, self.index, now.mono)
        sample = self.history.add(seen, now.unix, self.state.weight_bp / 100)
        if sample is not None:
            self.hub.publish("sample", sample)

    def status(self) -> Json:
        """The migration's status, as the API shows it."""
        now = self._clock.now()
        rows = workers(self._board, self.index, _ns(now.mono))
        done = self._observer.so_far(now)
        inflight = (sum(r.inflight_source for r in rows), sum(r.inflight_target + r.inflight_old for r in rows))
        arms = {
            name: {"backend": kind} | summary(series) | {"inflight": open_now}
            for name, kind, series, open_now in zip(
                ARMS, self._kinds, (done.source, done.target), inflight, strict=True
            )
        }
        resume = self.state.resume_phase
        checkpoint = self._outbox.status(None if resume is None else self._phase_name(resume))
        verdict = self._observer.verdict
        return status_document(self.name, self.plan.phases, self.state, now, verdict, arms, checkpoint, rows)

    @property
    def store_error(self) -> str | None:
        """Why the store was not written last time; None where it was."""
        return self._outbox.error

    @property
    def ready(self) -> bool:
        """Whether it leads: it has recovered, and its loop goes round."""
        return self._recovered and self._clock.now().mono - self._ticked_at < 2.0

    def age_s(self) -> dict[str, float]:
        """How old the signs of life on the board are: the oldest of a worker's, and control's own."""
        now_ns = _ns(self._clock.now().mono)
        ages = [row.heartbeat_age_s for row in workers(self._board, self.index, now_ns)]
        return {"workers": max(ages, default=0.0), "control": max(0, now_ns - self._board.control()[1]) / 1e9}

    def figures(self) -> Json:
        """Every operation since boot, and the data sources' gauges, as the API shows them."""
        return {"migration": self.name} | figures(self._board, self.index)

    def adapters(self) -> dict[str, int]:
        """The target's requests since the last change of weight, by adapter."""
        return self._observer.adapters()

    def unsaved(self) -> list[tuple[float, Entry]]:
        """Entries that the store has not taken yet."""
        return self._outbox.entries

    def _phase_name(self, index: int) -> str:
        return self.plan.phases[min(index, len(self.plan.phases) - 1)].name


def _ns(seconds: float | None) -> int:
    return 0 if seconds is None else int(seconds * 1e9)
