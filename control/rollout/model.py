"""A rollout's vocabulary: its states and events, the rollout itself as a value, the effects of a step. Pure.

``control.rollout.machine`` is the state machine over them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from control.plan.phases import PREVIOUS, START, Phase, phase_above, phase_at, phase_at_or_below
from control.plan.times import Now
from proxy.settings import Mode

# Why an event is refused, as the control API's errors name it.
NOT_ALLOWED: Final = "not_allowed"  # in this state
INCOMPLETE: Final = "data_incomplete"  # the target lacks something of the source's data


class State(StrEnum):
    """Where a rollout stands."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    COMPLETED = "completed"
    ABORTED = "aborted"


class On(StrEnum):
    """What can happen to a rollout."""

    # An operator's word.
    START = "start"
    ADVANCE = "advance"
    PAUSE = "pause"
    RESUME = "resume"
    ROLLBACK = "rollback"
    ABORT = "abort"
    RESET = "reset"
    # The judge's.
    PROMOTE = "promote"
    BREACH = "breach"
    # The store's and the workers' answers.
    PERSISTED = "persisted"
    UNPERSISTED = "unpersisted"
    SEEN = "seen"  # every live worker shows the generation
    DRAINED = "drained"  # and no older request is open on the target
    LEASE_LOST = "lease_lost"


class EnteredPhase(Struct, frozen=True):
    """A phase as it was when it was entered. An edited list of phases changes neither its name nor its weight."""

    name: str
    weight_bp: int


class RolloutEvent(Struct, frozen=True):
    """Something that happened, and who made it happen."""

    kind: On
    actor: str = "phasegate"
    reason: str = ""
    reasons: tuple[str, ...] = ()  # of a verdict: its parts, one a rule, the first the most telling
    # Of a rollback: "previous" (also None), "start", or a phase's name. Of an advance: the phase it must lead to.
    # Of a breach: "start" where the target fails whole; None is as far as the configuration says.
    to: str | None = None
    resume: bool = False  # of a start: go on from the checkpoint
    forced: bool = False  # of an increase: against a failed check, and whatever the target lacks
    lacking: str = ""  # what the target is known to lack of the source's data, and the command that mends it
    revision: int | None = None  # of an answer to a persist: which one; of a command: refuse where it is stale
    detected: float | None = None  # of a breach or command: when it was known, CLOCK_MONOTONIC seconds
    unheard: tuple[int, ...] = ()  # of a drain: slots of hung workers, which were left out


class RunSplit(Struct, frozen=True):
    """How keys fall into buckets in this run; what version 0.1 wrote, which knew one way only, is the default.

    ``salt`` is the name that the migration had when the run began, and "" where it is not known. ``key`` is what the
    workers go by, in hexadecimal digits; "" stands for what follows from version 1 and the migration's name.
    """

    version: Literal[1, 2] = 1
    salt: str = ""
    key: Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")] = ""


class Raise(Struct, frozen=True):
    """An increase that waits for the store."""

    kind: str
    to: State
    phase: EnteredPhase
    weight_bp: int
    pinned: bool
    soaked_s: float
    revision: int  # of the state that carries it
    new_run: bool  # a start, and not from a checkpoint
    new_phase: bool  # the phase is entered, and not gone on with
    split: RunSplit | None = None  # of a new run that begins with nothing on the target
    forced: bool = False


class Descent(Struct, frozen=True):
    """A rollback that is draining. Times are CLOCK_MONOTONIC seconds."""

    trigger: str
    reason: str
    from_bp: int
    detected: float
    decided: float
    within_s: float
    final: State
    seen: float | None = None
    reasons: tuple[str, ...] = ()


class Rollback(Struct, frozen=True):
    """A rollback that is complete: the steps one after the other, which add up to the total."""

    trigger: str
    reason: str
    from_weight: float
    to_weight: float
    decided_ms: float  # detected → published
    seen_ms: float  # → every live worker shows it
    drained_ms: float  # → no older request open on the target
    total_ms: float
    within_deadline: bool
    reasons: tuple[str, ...] = ()  # the parts of `reason`, where a verdict gave it


class Rollout(Struct, frozen=True):
    """All that is known of a rollout, and all that a checkpoint holds of it."""

    state: State = State.IDLE
    mode: Mode = Mode.HYBRID
    phase: EnteredPhase | None = None
    weight_bp: int = 0
    pinned: bool = False
    revision: int = 0
    generation: int = 0
    started_at: float | None = None  # Unix time
    entered_at: float | None = None
    ended_at: float | None = None
    soaked_s: float = 0.0  # earned before ``soaking_since``
    soaking_since: float | None = None  # CLOCK_MONOTONIC; None: the soak clock is stopped
    verified: bool = False  # every live worker has shown the generation
    resume_phase: EnteredPhase | None = None  # with nothing on the target: going on leads no higher than this
    pending: Raise | None = None
    descent: Descent | None = None
    last_rollback: Rollback | None = None
    split: RunSplit = RunSplit()

    def soaked(self, mono: float) -> float:
        """Seconds of soak earned in this phase."""
        return self.soaked_s + (max(0.0, mono - self.soaking_since) if self.soaking_since is not None else 0.0)

    @property
    def resumable_bp(self) -> int | None:
        """The weight that was held last: going on leads to no more. None: there is nothing to go on from."""
        if self.phase is not None:
            return self.phase.weight_bp
        if self.weight_bp:
            return self.weight_bp
        return None if self.resume_phase is None else self.resume_phase.weight_bp


class RolloutPlan(Struct, frozen=True):
    """What of a configuration the machine needs."""

    phases: tuple[Phase, ...]
    on_breach: Literal["previous", "start"] = "previous"
    split: RunSplit | None = None  # that a new run takes; None: it keeps the one there is

    def following(self, s: Rollout) -> Phase | None:
        """The next phase: the first with more weight than is held now. None: the phase held is the last."""
        return phase_above(self.phases, s.weight_bp)

    def resumed(self, s: Rollout) -> Phase | None:
        """Where going on leads: the phase with the largest weight that is not above what was held last."""
        limit = s.resumable_bp
        return None if limit is None else phase_at_or_below(self.phases, limit)

    def below(self, s: Rollout, to: str | None) -> Phase | None:
        """Where a rollback goes to; None is the start, with nothing on the target."""
        if to == START:
            return None
        if to is None or to == PREVIOUS:
            return phase_at_or_below(self.phases, s.weight_bp - 1)
        return next(phase for phase in self.phases if phase.name == to)

    def current(self, s: Rollout) -> Phase | None:
        """The phase that is held, as it is configured now; None where the configuration has none of its weight."""
        return None if s.phase is None else phase_at(self.phases, s.phase.weight_bp)


# Effects: what a step asks to be done, in the order given.


class PublishWeight(Struct, frozen=True):
    """Set the board's word. Times in CLOCK_MONOTONIC seconds; None: never."""

    weight_bp: int
    pinned: bool
    cut_over_at: float | None = None
    cancel_at: float | None = None


class Entry(Struct, frozen=True):
    """A line of the audit trail, before it has its number and hash."""

    kind: str
    actor: str
    detail: dict[str, Any]


class Persist(Struct, frozen=True):
    """Write the new state and these lines, as one."""

    entries: tuple[Entry, ...] = ()


class PhaseChange(Struct, frozen=True):
    """A phase was entered with more weight, or completed. ``weight`` in percent."""

    state: State
    phase: str | None
    weight: float


class RollbackBegun(Struct, frozen=True):
    """A lower weight was published: by a rollback, or by a command that went on with less. Weights in percent."""

    trigger: str
    from_weight: float
    to_weight: float
    reason: str
    revision: int
    reasons: tuple[str, ...] = ()


News = PhaseChange | RollbackBegun | Rollback


class Notify(Struct, frozen=True):
    """Notify webhooks; never waited for."""

    news: News


class Refuse(Struct, frozen=True):
    """The event is not allowed now; nothing has changed. In words, with what to do instead."""

    message: str
    hint: str
    code: str = NOT_ALLOWED


Effect = PublishWeight | Persist | Notify | Refuse
Step = tuple[Rollout, tuple[Effect, ...]]
Act = Callable[[RolloutPlan, Rollout, RolloutEvent, Now], Step]
