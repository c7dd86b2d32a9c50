"""Judging one migration: when to look, a suspicion followed up, and what becomes of a verdict.

A verdict to roll back is carried out at once. One that promotes passes approvals, hours and a health check of both
backends first; the check may take seconds, so what was earned before it is asked for again after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from msgspec.structs import replace

from control.judge.evidence import PROBES
from control.judge.rules import VerdictOutcome
from control.judge.verdict import PhaseVerdict
from control.lead.clock import Clock
from control.lead.news import ApprovalNeeded, Held, Told
from control.lead.observer import Observer
from control.lead.readiness import Readiness
from control.plan.gates import Hold, HoldKind
from control.plan.phases import START, Phase
from control.plan.settings import Migration
from control.plan.times import Now
from control.rollout.model import On, Refuse, Rollout, RolloutEvent, RolloutPlan, State

HEALTH_AGAIN_S: Final = 1.0  # between health checks that hold up an earned advance
TELL_AGAIN_S: Final = 300.0  # before the same hold is told anew: a backend that comes and goes is no news each second

# Where weight is held under a lease, a breach takes it back. A completed migration is judged too, but taking it back
# is an operator's decision.
_TAKEN_BACK: Final = (State.RUNNING, State.PAUSED, State.ROLLED_BACK)
_JUDGED: Final = (*_TAKEN_BACK, State.COMPLETED)

Probe = Callable[[], Awaitable[bool]]  # whether the target answers, within its deadline


class Judged(Protocol):
    """What judging needs of whoever leads the migration."""

    name: str
    state: Rollout
    plan: RolloutPlan

    def apply(self, event: RolloutEvent) -> Refuse | None:
        """Let the event happen, unless it is refused."""

    def save_soon(self) -> None:
        """Write a checkpoint: it has the soak that was earned so far."""

    def tell(self, news: Told) -> None:
        """Notify the migration's webhooks; never waits."""


class Judging:
    """Looks, validates, and acts on verdicts."""

    def __init__(
        self,
        leader: Judged,
        settings: Migration,
        observer: Observer,
        readiness: Readiness,
        probe: Probe,
        clock: Clock,
    ) -> None:
        self._leader = leader
        self._sequential = settings.judge == "sequential"
        self._observer = observer
        self._readiness = readiness
        self._probe = probe
        self._clock = clock
        self._checking: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._checked_at = 0.0
        self._unwell: tuple[Hold, ...] = ()  # what the last health check held an earned advance up with
        self.holds: tuple[Hold, ...] = ()  # what holds an earned advance up now
        self._told: dict[tuple[HoldKind, str], float] = {}  # when each hold of this state was told last
        self._lasting: set[tuple[HoldKind, str]] = set()  # those of the last earned verdict
        self._earned: PhaseVerdict | None = None  # the newest verdict, where it asks for the next phase

    def look(self, now: Now) -> None:
        """Look where it is time to, and act on what is seen. Never waits."""
        s = self._leader.state
        if not s.weight_bp or not self._observer.detect_due(now):
            return
        weighing = s.verified and s.state in _JUDGED
        self._observer.detect(now, weighing=weighing)
        if not weighing:
            return
        if self._sequential and self._observer.watch.suspects and self._probing is None and s.state in _TAKEN_BACK:
            self._probing = asyncio.create_task(self._ask_target(s.generation), name=f"probe {self._leader.name}")
        if self._observer.validation_due(now):
            self._validate(now)
        elif self._sequential:
            self.consider(self._observer.weigh(s, self._phase(), now), now)

    def forget_health(self) -> None:
        """The state has changed: the next earned advance is checked anew, and what holds it up is told anew."""
        self._unwell = self.holds = ()
        self._told.clear()
        self._lasting.clear()

    def cancel(self) -> None:
        """End what is under way."""
        for task in (self._checking, self._probing):
            if task is not None:
                task.cancel()

    async def _ask_target(self, generation: int) -> None:
        """Follow up a suspicion; what was asked of another weight's generation is not counted."""
        try:
            answers = await asyncio.gather(*(self._probe() for _ in range(PROBES)))
            if self._leader.state.generation == generation:
                self._observer.watch = self._observer.watch.after_probes(answers.count(False), len(answers))
                if self._observer.watch.breached and self._leader.state.state in _TAKEN_BACK:
                    self._validate(self._clock.now())
        finally:
            self._probing = None

    def _validate(self, now: Now) -> None:
        verdict = self._observer.validate(self._leader.state, self._phase(), now)
        self._leader.save_soon()
        self.consider(verdict, now)

    def consider(self, verdict: PhaseVerdict, now: Now) -> None:
        """Act on a verdict."""
        s = self._leader.state
        self._earned = None
        held: tuple[Hold, ...] = ()
        if verdict.outcome is VerdictOutcome.ROLL_BACK and s.state in _TAKEN_BACK:
            self._leader.apply(self._breach(verdict, now))
        elif verdict.outcome is VerdictOutcome.PROMOTE and s.state is State.RUNNING and s.pending is None:
            self._earned = verdict
            closed = self._readiness.held(self._following())
            held = (*closed, *self._unwell)
            if held:
                reasons = tuple(hold.reason for hold in held)
                shown = replace(verdict, outcome=VerdictOutcome.HOLD, summary=(*reasons, *verdict.summary))
                self._observer.verdict = shown
            self._tell(held, now)
            if not closed:
                self._check_then_promote(now)
        self.holds = held

    def _tell(self, held: tuple[Hold, ...], now: Now) -> None:
        """Tell of each hold when it begins, and not of one that was told a moment ago."""
        before, self._lasting = self._lasting, {(hold.kind, hold.name) for hold in held}
        following = self._following()
        for hold in held:
            known = (hold.kind, hold.name)
            told = self._told.get(known)
            if known not in before and (told is None or now.mono - told >= TELL_AGAIN_S):
                self._told[known] = now.mono
                self._leader.tell(_news(hold, following))

    def _breach(self, verdict: PhaseVerdict, now: Now) -> RolloutEvent:
        """The breach; what surely fails whole goes to the start at once, whatever ``on_breach`` says."""
        whole = self._observer.fails_whole(verdict)
        reasons = (whole, *verdict.reasons) if whole else verdict.reasons
        return RolloutEvent(
            On.BREACH, reason=_joined(reasons), reasons=reasons, detected=now.mono, to=START if whole else None
        )

    def _phase(self) -> Phase | None:
        return self._leader.plan.current(self._leader.state)

    def _following(self) -> Phase | None:
        return self._leader.plan.following(self._leader.state)

    def _check_then_promote(self, now: Now) -> None:
        if self._checking is not None or (self._unwell and now.mono - self._checked_at < HEALTH_AGAIN_S):
            return
        self._checked_at = now.mono
        revision = self._leader.state.revision
        self._checking = asyncio.create_task(self._promote(revision), name=f"health {self._leader.name}")

    async def _promote(self, revision: int) -> None:
        try:
            self._unwell = tuple(await self._readiness.unwell())
            # The check may take seconds: what was earned before it must still be so, and still be allowed.
            earned = self._earned
            if not self._unwell and earned is not None and not self._readiness.held(self._following()):
                why, reasons = _joined(earned.reasons), earned.reasons
                self._leader.apply(RolloutEvent(On.PROMOTE, reason=why, reasons=reasons, revision=revision))
        finally:
            self._checking = None


def _joined(reasons: Sequence[str]) -> str:
    """A verdict's reasons as one text."""
    return "; ".join(reasons)


def _news(hold: Hold, following: Phase | None) -> Told:
    phase, weight = (None, None) if following is None else (following.name, following.weight)
    if hold.kind is HoldKind.APPROVAL and phase is not None and weight is not None:
        return ApprovalNeeded(phase, weight, hold.reason)
    return Held(hold.kind.value, phase, weight, hold.reason)
