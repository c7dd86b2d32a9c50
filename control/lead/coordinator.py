"""One migration's loop: look at the board, judge, step the machine, carry out its effects. On an injected clock.

Everything runs on one event loop, and the loop's own pass renews the lease: a coordinator that hangs renews
nothing. What may take long (the store, a health check) is awaited beside the loop and comes back as an event.

The coordinator is the only writer of its migration's cells on the board. A state only ever changes through
``apply``, which carries out the machine's effects in the machine's order and without a suspension in between.
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

from control.figures.counts import workers
from control.judge.evidence import PROBES
from control.judge.rules import VerdictOutcome
from control.judge.verdict import PhaseVerdict
from control.lead import crashpoints as faults
from control.lead import execution, observer
from control.lead.clock import Clock
from control.lead.commands import Command
from control.lead.lease import Lease
from control.lead.observer import Chapter, Kept, Observer
from control.lead.publishing import Teller
from control.lead.readiness import HealthCheck, Readiness
from control.lead.saving import Outbox, Owner
from control.plan.phases import Phase
from control.plan.settings import Migration
from control.plan.times import Now, ns
from control.rollout.machine import step
from control.rollout.model import Effect, Event, Notify, On, Persist, Plan, Publish, Refuse, Rollout, State
from control.rollout.recovery import Found, recover, rejoin, wait
from control.store.entry import AuditLine, audit_document
from control.store.port import Storage, StoreError
from proxy.board import board as boards
from proxy.board.board import Board

_log = structlog.get_logger("phasegate.coordinator")

WATCHFUL_S: Final = 0.005  # between looks at the board while workers are waited for
HEALTH_AGAIN_S: Final = 1.0  # between health checks that hold up an earned advance
READ_WITHIN_S: Final = 2.0  # how long the checkpoint is waited for at the start, and a third of a lease at most
CLOSE_WITHIN_S: Final = 3.0  # how long an end waits for the store
_JUDGED: Final = (State.RUNNING, State.PAUSED, State.ROLLED_BACK)

Json = dict[str, Any]


Probe = Callable[[], Awaitable[bool]]  # whether the target answers, within its deadline


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
        now = clock.now()
        owner = Owner(self._document, self._found, self._saved, self._failed)
        self._observer = Observer(board, index, migration, now)
        self.name = name
        self.index = index
        self.settings = migration
        self.plan = Plan(migration.phases, migration.on_breach)
        self.state = Rollout()
        self.raised_at = 0  # the revision of the last increase that was published
        self.outbox = Outbox(store, name, Document, clock, owner)
        self.readiness = Readiness(board, index, migration, health, clock)
        self.teller = Teller(name, index, migration.phases, kinds, board, self._observer, self.outbox, now)
        self._board = board
        self._clock = clock
        self._probe = probe
        self._notify = notify
        self._lease = Lease(board, index, migration.lease_s)
        self._checking: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._checked_at = 0.0
        self._held_by: tuple[str, ...] = ()
        self._earned: PhaseVerdict | None = None  # the newest verdict, where it asks for the next phase
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
            saved = await self.outbox.read(min(READ_WITHIN_S, self.settings.lease_s / 3))
        now = self._clock.now()
        self._left = self._word()
        self._lapsed = not self._lease.take_over(now.mono)
        if self.outbox.known:
            self._go_on(saved, now)
        else:
            _log.error("held until the checkpoint can be read", migration=self.name, error=self.outbox.error)
            self.state, effects = wait(self.plan, self._left, self.settings.mode, self._lapsed)
            self._carry_out(effects, now)
            self.outbox.dirty.set()
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
        saver = asyncio.create_task(self.outbox.run(), name=f"store {self.name}")
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
        await self.outbox.finish(CLOSE_WITHIN_S)

    def _patience(self) -> float:
        waiting = self.state.state is State.ROLLING_BACK or not self.state.verified
        return WATCHFUL_S if waiting else min(observer.DETECT_EVERY_S, self.settings.lease_s / 6)

    def tick(self) -> None:
        """One pass. Never waits."""
        now = self._clock.now()
        self._ticked_at = now.mono
        self._board.beat(os.getpid(), ns(now.mono))
        self._keep_lease(now)
        self._look(now)
        if self.state.weight_bp and self._observer.detect_due(now):
            self._detect(now)
        self.teller.keep_up(self.state, now)

    # The lease.

    def _leased(self) -> bool:
        return self.state.weight_bp > 0 and not self.state.pinned

    def _keep_lease(self, now: Now) -> None:
        """Renew the lease in time."""
        self._lapse(now)
        if self._leased() and self._lease.due(now.mono):
            self._renew(now)

    def _lapse(self, now: Now) -> None:
        """Where the lease has run out, the workers are at 0: say so on the board before anything can renew it."""
        late = self._lease.ran_out(now.mono) if self._leased() else None
        if late is not None:
            reason = f"the lease ran out {late:.1f} s ago: control was not running"
            self.apply(Event(On.LEASE_LOST, reason=reason, detected=now.mono))

    def _renew(self, now: Now) -> None:
        if not self._leased():
            return
        before = self._lease.ends
        self._lease.renew(now.mono)
        after = self.mono()
        if before is not None and after >= before:  # stopped between looking and renewing
            self.apply(Event(On.LEASE_LOST, reason="the lease ran out while it was renewed", detected=after))

    # What the workers show.

    def _look(self, now: Now) -> None:
        s = self.state
        if s.verified and s.state is not State.ROLLING_BACK:
            return
        rows = workers(self._board, self.index, now.mono)
        live = [row for row in rows if row.live]
        seen = all(row.generation == s.generation & 0xFFFFFFFF for row in live)
        if s.descent is None:
            if seen:
                self.apply(Event(On.SEEN))
            return
        if seen and s.descent.seen is None:
            self.apply(Event(On.SEEN))
            faults.point("descent.seen")
        late = now.mono > s.descent.decided + s.descent.within_s + 1.0
        drained = seen and all(row.inflight_old == 0 for row in live)
        if drained or late:
            open_still = [row.slot for row in rows if not row.live or row.inflight_old]
            faults.point("descent.drained")
            self.apply(Event(On.DRAINED, unheard=tuple(open_still)))

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
            answers = await asyncio.gather(*(self._probe() for _ in range(PROBES)))
            if self.state.generation == generation:
                self._observer.watch = self._observer.watch.after_probes(answers.count(False), len(answers))
                if self._observer.watch.breached and self.state.state in _JUDGED:
                    self._validate(self._clock.now())
        finally:
            self._probing = None

    def _validate(self, now: Now) -> None:
        verdict = self._observer.validate(self.state, self._phase(), now)
        self.outbox.dirty.set()  # the soak earned so far
        self._consider(verdict, now)

    def _phase(self) -> Phase | None:
        return None if self.state.phase is None else self.plan.phases[self.state.phase]

    def _consider(self, verdict: PhaseVerdict, now: Now) -> None:
        """Act on a verdict."""
        s = self.state
        self._earned = None
        if verdict.outcome is VerdictOutcome.ROLL_BACK and s.state in _JUDGED:
            self.apply(Event(On.BREACH, reason="; ".join(verdict.reasons), detected=now.mono))
        elif verdict.outcome is VerdictOutcome.PROMOTE and s.state is State.RUNNING and s.pending is None:
            self._earned = verdict
            closed = self.readiness.held(self._following())
            held = (*closed, *self._held_by)
            if held:
                self._observer.verdict = replace(
                    verdict, outcome=VerdictOutcome.HOLD, summary=(*held, *verdict.summary)
                )
            if not closed:
                self._check_then_promote(now)

    def _following(self) -> Phase | None:
        following = 0 if self.state.phase is None else self.state.phase + 1
        return self.plan.phases[following] if following < len(self.plan.phases) else None

    def _check_then_promote(self, now: Now) -> None:
        if self._checking is not None or (self._held_by and now.mono - self._checked_at < HEALTH_AGAIN_S):
            return
        self._checked_at = now.mono
        self._checking = asyncio.create_task(self._promote(self.state.revision), name=f"health {self.name}")

    async def _promote(self, revision: int) -> None:
        try:
            self._held_by = tuple(await self.readiness.unwell())
            # The check may take seconds: what was earned before it must still be so, and still be allowed.
            earned = self._earned
            if not self._held_by and earned is not None and not self.readiness.held(self._following()):
                self.apply(Event(On.PROMOTE, reason="; ".join(earned.reasons), revision=revision))
        finally:
            self._checking = None

    # Commands.

    async def act(self, command: Command) -> None:
        """Carry out a command; returns when it has taken effect. Raises ``Refused``."""
        await execution.carry_out(self, command)

    def refusal(self, event: Event) -> Refuse | None:
        """Why the event would be refused; changes nothing."""
        _, effects = step(self.plan, self.state, event, self._clock.now())
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

    def apply(self, event: Event) -> Refuse | None:
        """Let the event happen, with all its effects, unless it is refused."""
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
            if self.raised_at:  # and not what a process before this one had raised
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
        self.teller.tell(self.state, now)

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
            self._lease.renew(now.mono)
        generation = self._board.publish(
            self.index,
            effect.weight_bp,
            pinned=effect.pinned,
            now_ns=ns(now.mono),
            cut_over_at=ns(effect.cut_over_at),
            cancel_at=ns(effect.cancel_at),
        )
        faults.point(f"{what}.published")
        assert generation == self.state.generation & 0xFFFFFFFF, "the coordinator alone writes its migration's cells"
        self._observer.begin(now)

    def _post(self, effect: Persist, ended: Chapter, now: Now) -> None:
        for entry in effect.entries:
            facts = self._observer.facts(ended, now) if entry.kind == "phase_left" else {}
            self.outbox.put(replace(entry, detail=entry.detail | facts))
        self.outbox.dirty.set()

    # The store.

    def _document(self) -> tuple[Document, int]:
        # The soak clock's reading means nothing to another process.
        soaked_s = self.state.soaked(self.mono())
        kept = replace(self.state, soaked_s=soaked_s, soaking_since=None)
        return Document(kept, self._observer.kept()), self.state.revision

    def _found(self, saved: Document | None) -> None:
        now = self._clock.now()
        self._lapse(now)
        self._go_on(saved, now)
        self._pulse_now()
        self.teller.tell(self.state, now)

    def _failed(self, error: str) -> None:
        if self.state.pending is not None:
            self.apply(Event(On.UNPERSISTED, reason=error, revision=self.state.pending.revision))
        self._pulse_now()

    def _saved(self, lines: list[AuditLine], revision: int) -> None:
        for line in lines:
            self.teller.hub.publish("audit", audit_document(line))
        if self.state.pending is not None and self.state.pending.revision <= revision:
            faults.point("raise.persisted")
            self.raised_at = self.state.pending.revision
            self.apply(Event(On.PERSISTED, revision=revision))
        elif any(line.kind == "rollback_complete" for line in lines):
            faults.point("descent.recorded")
        self._pulse_now()

    # What is told.

    def _pulse_now(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()

    def status(self) -> Json:
        """The migration's status, as the API shows it."""
        return self.teller.status(self.state, self._clock.now())

    @property
    def ready(self) -> bool:
        """Whether it leads: it has recovered, and its loop goes round."""
        return self._recovered and self.mono() - self._ticked_at < 2.0

    @property
    def store_error(self) -> str | None:
        """Why the store was not written last time; None where it was."""
        return self.outbox.error

    def age_s(self) -> dict[str, float]:
        """How old the signs of life on the board are: the oldest of a worker's, and control's own."""
        return self.teller.age_s(self._clock.now())

    def adapters(self) -> dict[str, int]:
        """The target's requests since the last change of weight, by adapter."""
        return self._observer.adapters()
