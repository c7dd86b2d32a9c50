"""One migration's loop: look at the board, judge, step the machine, carry out its effects. On an injected clock.

Everything runs on one event loop, and the loop's own pass renews the lease: a coordinator that hangs renews
nothing. What may take long (the store, a health check) is awaited beside the loop and comes back as an event.

The coordinator is the only writer of its migration's cells on the board. A state only ever changes through
``_apply``, which carries out the machine's effects in the machine's order and without a suspension in between.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog
from msgspec.structs import replace

from backends.arm import ARMS, GAUGES
from backends.errors import FaultKind
from control import faults, gates, judge
from control.checks import Check, failed
from control.commands import Command
from control.events import Hub
from control.history import History
from control.judge import Outcome, Verdict
from control.phases import FULL_BP, Phase
from control.recovery import Found, recover
from control.rollout import (
    Effect,
    Entry,
    Event,
    Notify,
    Now,
    On,
    Persist,
    Plan,
    Publish,
    Refuse,
    Rollout,
    State,
    step,
)
from control.settings import Migration
from control.snapshot import Machine, Snapshot, arm, by_adapter, counts, dense, snapshot, sparse, summary, workers
from control.status import rfc3339, status_document, verdict_document
from control.store import Checkpoint, Line, StoreError
from proxy import board as boards
from proxy.board import Board

_log = structlog.get_logger("phasegate.coordinator")

DETECT_EVERY_S: Final = 0.25  # the fast detector
WATCHFUL_S: Final = 0.005  # between looks at the board while workers are waited for
VERIFY_WITHIN_S: Final = 5.0  # how long a command waits for every worker to show a raise
RECORD_WITHIN_S: Final = 1.0  # how long the answer to a decrease waits for the store
HEALTH_WITHIN_S: Final = 5.0
HEALTH_AGAIN_S: Final = 1.0  # between health checks that hold up an earned advance
RETRY_S: Final = 1.0  # between attempts on a store that failed
OUTBOX_MAX: Final = 10_000
STATUS_EVERY_S: Final = 1.0
_JUDGED: Final = (State.RUNNING, State.PAUSED, State.ROLLED_BACK)

Json = dict[str, Any]


class Clock(Protocol):
    """The time, and waiting."""

    def now(self) -> Now:
        """Both clocks."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the event, or so long."""


class Storage(Protocol):
    """What of the store a coordinator needs. Both calls may raise ``StoreError``."""

    async def save(self, migration: str, document: str, entries: Sequence[tuple[float, Entry]]) -> list[Line]:
        """Write a checkpoint and its entries, for good."""

    async def checkpoint(self, migration: str) -> Checkpoint | None:
        """What was saved last."""


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
    """A checkpoint: the rollout, where the phase's counts began, and how its validations went."""

    rollout: Rollout
    source: Json | None = None
    target: Json | None = None
    validations: tuple[int, int] = (0, 0)  # made, and those that asked for a rollback


class Chapter(NamedTuple):
    """What is known of the weight that ends: where its counts began, its validations, its last verdict."""

    base: Snapshot
    adapters: dict[str, int]
    validations: tuple[int, int]
    verdict: Verdict | None


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
        self.verdict: Verdict | None = None
        self.store_error: str | None = None
        self.saved_at: float | None = None
        self.saved_revision: int | None = None
        self.index = index
        self._board = board
        self._store = store
        self._clock = clock
        self._health = health
        self._probe = probe
        self._kinds = kinds
        self._notify = notify
        self._machine = Machine(board)
        now = clock.now()
        self._last = self._base = self._window = snapshot(board, index, now.mono)
        self._adapters = by_adapter(board, index)
        self._watch = judge.Watch.fresh(migration.thresholds)
        self._gauges = judge.Gauges()
        self._validations = (0, 0)
        self._validated_at = now.mono
        self._detected_at = now.mono
        self._told_at = now.mono
        self._renewed_at = 0.0
        self._lapse_at: float | None = None
        self._checking: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._checked_at = 0.0
        self._held_by: tuple[str, ...] = ()
        self._raised_at = 0  # the revision of the last increase that was published
        self._lost = 0  # entries that found the outbox full
        self._outbox: deque[tuple[float, Entry]] = deque()
        self._dirty = asyncio.Event()
        self._pulse = asyncio.Event()
        self._recovered = False
        self._ticked_at = now.mono

    # Beginning and running.

    async def recover(self, notes: Sequence[str] = ()) -> None:
        """Go on from checkpoint and board. ``notes`` are written into the audit trail, such as a store set aside."""
        saved = await self._read_checkpoint()
        now = self._clock.now()
        word = self._board.word(self.index)
        found = Found(word.generation, word.weight_bp, bool(word.flags & boards.PINNED))
        lapsed = self._board.lease_until(self.index) <= _ns(now.mono)
        rollout = saved.rollout if saved is not None else None
        self.state, effects = recover(self.plan, rollout, found, self.settings.mode, now, lapsed)
        if saved is not None and rollout is not None and self.state.phase == rollout.phase:
            self._restore(saved)
        for note in notes:
            self._outbox.append((now.unix, Entry("note", "phasegate", {"note": note})))
        self._carry_out(effects, now)
        self._lapse_at = None if lapsed else self._board.lease_until(self.index) / 1e9
        self._renew(now)
        self._recovered = True
        _log.info("recovered", migration=self.name, state=self.state.state.value, weight_bp=self.state.weight_bp)

    async def _read_checkpoint(self) -> Document | None:
        try:
            found = await self._store.checkpoint(self.name)
        except StoreError as error:
            self.store_error = str(error)
            return None
        if found is None:
            return None
        try:
            document = msgspec.json.decode(found.document, type=Document)
        except msgspec.DecodeError as error:
            self.store_error = f"the checkpoint cannot be read: {error}"
            return None
        self.saved_at, self.saved_revision = found.saved_at, document.rollout.revision
        return document

    def _restore(self, saved: Document) -> None:
        if saved.source is None or saved.target is None:
            return
        with suppress(LookupError, ValueError, TypeError):
            base = Snapshot(self._base.mono, dense(saved.source), dense(saved.target))
            # Counts that have begun anew (another board) say nothing about what was before.
            if (
                self._last.source.requests >= base.source.requests
                and self._last.target.requests >= base.target.requests
            ):
                self._base = base
                self._validations = saved.validations

    async def run(self) -> None:
        """Go on until cancelled."""
        saver = asyncio.create_task(self._save_all(), name=f"store {self.name}")
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
        if self._outbox:
            with suppress(StoreError):
                await self._save_once()

    def _patience(self) -> float:
        waiting = self.state.state is State.ROLLING_BACK or not self.state.verified
        return WATCHFUL_S if waiting else min(DETECT_EVERY_S, self.settings.lease_s / 6)

    def tick(self) -> None:
        """One pass. Never waits."""
        now = self._clock.now()
        self._ticked_at = now.mono
        self._board.beat(os.getpid(), _ns(now.mono))
        self._lease(now)
        self._look(now)
        if now.mono - self._detected_at >= DETECT_EVERY_S:
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
        seen = snapshot(self._board, self.index, now.mono)
        s, thresholds = self.state, self.settings.thresholds
        if s.verified and s.weight_bp and s.state in (*_JUDGED, State.COMPLETED):
            new = seen.since(self._last)
            elapsed = now.mono - self._last.mono
            self._watch = self._watch.after(counts(new.target, thresholds), counts(new.source, thresholds), elapsed)
        self._last, self._detected_at = seen, now.mono
        if not s.verified or not s.weight_bp or s.state not in (*_JUDGED, State.COMPLETED):
            return
        sequential = self.settings.judge == "sequential"
        if sequential and self._watch.suspects and self._probing is None and s.state in _JUDGED:
            self._probing = asyncio.create_task(self._ask_target(s.generation), name=f"probe {self.name}")
        if (sequential and self._watch.breached) or self._validation_due(now):
            self._validate(now)
        elif sequential:
            self.verdict = self._judged(now)
            self._consider(self.verdict, now)

    async def _ask_target(self, generation: int) -> None:
        """Follow up a suspicion."""
        try:
            answers = await asyncio.gather(*(self._probe() for _ in range(judge.PROBES)))
            if self.state.generation == generation:
                self._watch = self._watch.after_probes(answers.count(False), len(answers))
                if self._watch.breached and self.state.state in _JUDGED:
                    self._validate(self._clock.now())
        finally:
            self._probing = None

    def _validation_due(self, now: Now) -> bool:
        return now.mono - self._validated_at >= self.settings.validate_every_s

    def _validate(self, now: Now) -> None:
        self._sample_gauges(now)
        self.verdict = verdict = self._judged(now)
        made, bad = self._validations
        self._validations = made + 1, bad + (verdict.outcome is Outcome.ROLL_BACK)
        self._validated_at = now.mono
        self._window = self._last
        self._dirty.set()  # the soak earned so far
        self._consider(verdict, now)

    def _sample_gauges(self, now: Now) -> None:
        memory, cpu = self._machine.sample(now.mono)
        kept = self._gauges
        cpus = kept.cpu if cpu is None else (*kept.cpu, cpu)[-judge.GAUGE_SAMPLES :]
        self._gauges = judge.Gauges((*kept.memory_mb, memory)[-judge.GAUGE_SAMPLES :], cpus)

    def _judged(self, now: Now) -> Verdict:
        settings, thresholds = self.settings, self.settings.thresholds
        if not self._gauges.cpu:
            self._sample_gauges(now)
        target = arm(self._last.since(self._base).target, thresholds)
        terms, soaked = self._terms(), self.state.soaked(now.mono)
        if settings.judge == "threshold":
            window = arm(self._last.since(self._window).target, thresholds)
            return judge.judge_by_threshold(thresholds, terms, target, window, self._gauges, soaked, now.unix)
        return judge.judge(thresholds, terms, target, self._watch, self._gauges, soaked, now.unix)

    def _terms(self) -> judge.Terms:
        settings, phase = self.settings, self._phase()
        if phase is None:
            return judge.Terms(0.0, 0.0, settings.min_samples, "hold")
        max_soak = phase.max_soak_s if phase.max_soak_s is not None else settings.max_soak_s
        return judge.Terms(
            phase.min_soak_s,
            max(phase.min_soak_s, 2 * phase.min_soak_s if max_soak is None else max_soak),
            phase.min_samples or settings.min_samples,
            settings.on_low_traffic,
        )

    def _phase(self) -> Phase | None:
        return None if self.state.phase is None else self.plan.phases[self.state.phase]

    def _consider(self, verdict: Verdict, now: Now) -> None:
        """Act on a verdict."""
        s = self.state
        if verdict.outcome is Outcome.ROLL_BACK and s.state in _JUDGED:
            self._apply(Event(On.BREACH, reason="; ".join(verdict.reasons), detected=now.mono))
        elif verdict.outcome is Outcome.PROMOTE and s.state is State.RUNNING and s.pending is None:
            closed = gates.closed(self.settings.windows, self.settings.freezes, now.unix)
            held = (*closed, *gates.approval(self._next_phase()), *self._held_by)
            if held:
                self.verdict = replace(verdict, outcome=Outcome.HOLD, reasons=(*held, *verdict.reasons))
            if not closed and not gates.approval(self._next_phase()):
                self._check_then_promote(now)

    def _next_phase(self) -> Phase | None:
        following = 0 if self.state.phase is None else self.state.phase + 1
        return self.plan.phases[following] if following < len(self.plan.phases) else None

    def _check_then_promote(self, now: Now) -> None:
        if self._checking is not None or (self._held_by and now.mono - self._checked_at < HEALTH_AGAIN_S):
            return
        self._checked_at = now.mono
        self._checking = asyncio.create_task(self._promote(self.state.revision), name=f"health {self.name}")

    async def _promote(self, revision: int) -> None:
        try:
            bad = failed(await self._healthy())
            self._held_by = tuple(f"{check.name}: {check.found}" for check in bad)
            if not bad and self.state.revision == revision:
                self._apply(
                    Event(
                        On.PROMOTE, reason="; ".join(self.verdict.reasons if self.verdict else ()), revision=revision
                    )
                )
        finally:
            self._checking = None

    async def _healthy(self) -> list[Check]:
        try:
            async with asyncio.timeout(HEALTH_WITHIN_S):
                return await self._health()
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
            revision = self.state.revision if revision is None else revision
            self._refuse_early(command.event(revision, received))
            await self._passes(command)
        self._obey(self._apply(command.event(revision, received)))
        if self.state.pending is not None:
            await self._raised(self.state.pending.revision)
        elif self.state.state is State.ROLLING_BACK:
            within = self.state.descent.within_s if self.state.descent is not None else 0.0
            await self._until(lambda: self.state.state is not State.ROLLING_BACK, within + 2.0)
        await self._until(lambda: not self._outbox or self.store_error is not None, RECORD_WITHIN_S)

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
        if self._raised_at != revision and self.store_error is None:
            raise Refused("superseded", "a decrease came before it", "Look at the status and decide anew.")
        if self._raised_at != revision:
            message = f"the checkpoint could not be written: {self.store_error}"
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
                self._begin_counts(now)
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
        ended = Chapter(self._base, self._adapters, self._validations, self.verdict)
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
        self._begin_counts(now)

    def _begin_counts(self, now: Now) -> None:
        """From here on the counts are of what was just published."""
        self._last = self._base = self._window = snapshot(self._board, self.index, now.mono)
        self._adapters = by_adapter(self._board, self.index)
        self._watch = judge.Watch.fresh(self.settings.thresholds)
        self._validations = (0, 0)
        self._validated_at = self._detected_at = now.mono
        self.verdict = None

    def _post(self, effect: Persist, ended: Chapter, now: Now) -> None:
        for entry in effect.entries:
            if entry.kind == "phase_left":
                entry = Entry(entry.kind, entry.actor, entry.detail | self._facts(ended, now))
            if len(self._outbox) < OUTBOX_MAX:
                self._outbox.append((now.unix, entry))
            else:
                self._lost += 1
        self._dirty.set()

    def _facts(self, ended: Chapter, now: Now) -> Json:
        """What the arms did in the phase that ends."""
        done = snapshot(self._board, self.index, now.mono).since(ended.base)
        requests = done.source.requests + done.target.requests
        made, bad = ended.validations
        return {
            "arms": {"source": summary(done.source), "target": summary(done.target)},
            "target_share": round(done.target.requests / requests, 6) if requests else None,
            "verdict": verdict_document(ended.verdict),
            "adapters": self._since(ended.adapters),
            "validations": made,
            "validations_failed": bad,
        }

    # The store.

    async def _save_all(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._save_once()
            except StoreError as error:
                if self.store_error is None:
                    _log.error("store failed", migration=self.name, error=str(error))
                self.store_error = str(error)
                if self.state.pending is not None:
                    self._apply(Event(On.UNPERSISTED, reason=str(error), revision=self.state.pending.revision))
                self._pulse_now()
                await self._clock.sleep(RETRY_S)
                self._dirty.set()

    async def _save_once(self) -> None:
        now = self._clock.now()
        state, entries = self.state, list(self._outbox)
        document = Document(
            replace(state, soaked_s=state.soaked(now.mono), soaking_since=None),
            sparse(self._base.source),
            sparse(self._base.target),
            self._validations,
        )
        lines = await self._store.save(self.name, msgspec.json.encode(document).decode(), entries)
        for _ in entries:
            self._outbox.popleft()
        self.store_error, self.saved_at, self.saved_revision = None, now.unix, state.revision
        for line in lines:
            self.hub.publish("audit", audit_document(line))
        if self.state.pending is not None and self.state.pending.revision <= state.revision:
            faults.point("raise.persisted")
            self._raised_at = self.state.pending.revision
            self._apply(Event(On.PERSISTED, revision=state.revision))
        elif any(entry.kind == "rollback_complete" for _, entry in entries):
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
        done = snapshot(self._board, self.index, now.mono).since(self._base)
        inflight = (sum(r.inflight_source for r in rows), sum(r.inflight_target + r.inflight_old for r in rows))
        arms = {
            name: {"backend": kind} | summary(series) | {"inflight": open_now}
            for name, kind, series, open_now in zip(
                ARMS, self._kinds, (done.source, done.target), inflight, strict=True
            )
        }
        checkpoint = {
            "revision": self.saved_revision,
            "saved_at": rfc3339(self.saved_at),
            "ok": self.store_error is None,
            "error": self.store_error,
            "unsaved_entries": len(self._outbox),
            "lost_entries": self._lost,
            "resume_phase": None if self.state.resume_phase is None else self._phase_name(self.state.resume_phase),
        }
        return status_document(self.name, self.plan.phases, self.state, now, self.verdict, arms, checkpoint, rows)

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
        operations = []
        for number, name in enumerate(self._board.layout.migrations[self.index][1]):
            source, target = (self._board.series(self.index, i, [number]) for i in range(len(ARMS)))
            operations.append(
                {
                    "operation": name,
                    "arms": {"source": summary(source), "target": summary(target)},
                    "faults": {kind.label: target.faults[kind] for kind in FaultKind},
                    "fallbacks": target.fallbacks,
                    "client_errors": source.client_errors + target.client_errors,
                }
            )
        shares = self._board.shares(self.index)
        gauges = {name: [share.gauges[i] for share in shares] for i, name in enumerate(GAUGES)}
        return {"migration": self.name, "operations": operations, "gauges": gauges}

    def adapters(self) -> dict[str, int]:
        """The target's requests since the last change of weight, by adapter."""
        return self._since(self._adapters)

    def _since(self, before: dict[str, int]) -> dict[str, int]:
        now = by_adapter(self._board, self.index)
        return {name: max(0, requests - before.get(name, 0)) for name, requests in now.items()}

    def unsaved(self) -> list[tuple[float, Entry]]:
        """Entries that the store has not taken yet."""
        return list(self._outbox)

    def _phase_name(self, index: int) -> str:
        return self.plan.phases[min(index, len(self.plan.phases) - 1)].name


def audit_document(line: Line) -> Json:
    """An audit line as the API shows it."""
    return {
        "seq": line.seq,
        "at": rfc3339(line.at),
        "kind": line.kind,
        "actor": line.actor,
        "detail": line.detail,
        "previous": line.previous,
        "hash": line.hash,
    }


def _ns(seconds: float | None) -> int:
    return 0 if seconds is None else int(seconds * 1e9)


__all__ = ["FULL_BP", "Clock", "Coordinator", "HealthCheck", "Refused", "audit_document"]
