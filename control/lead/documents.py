"""What a migration says of itself: its status, what a phase did, and the messages that webhooks are sent. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from control.checks.check import Check
from control.data.documents import DataDocument
from control.figures.documents import BothArms, Sample
from control.judge.document import VerdictDocument
from control.plan.times import Timestamp
from control.rollout.model import Rollback, State
from control.store.entry import AuditEntry


class PlannedPhase(Struct, frozen=True):
    """A phase as it is configured."""

    name: str
    weight: float  # the target's share, in percent
    min_soak_s: float  # how long it lasts at least
    rollback_within_s: float  # by when a rollback from it is complete
    approval: bool  # whether an operator must advance to it


class CurrentPhase(Struct, frozen=True):
    """The phase that a migration is in."""

    index: int  # into `phases`
    name: str
    weight: float  # percent, as configured; what is published is the status's own
    entered_at: Timestamp | None
    soaked_s: float  # how much soak it has earned
    min_soak_s: float
    rollback_within_s: float


class ArmStatus(Struct, frozen=True):
    """What an arm did since the current weight was on every worker, and what it has open."""

    backend: str  # the kind, as `x-data-source` says it
    requests: int
    errors: int
    error_rate: float  # share of 1; 0 of no requests
    p50_ms: float | None  # null of no requests
    p95_ms: float | None
    p99_ms: float | None
    inflight: int  # requests open now


class CopiesStatus(Struct, frozen=True):
    """What became of the copies of one operation's writes, over the same time as the arms' figures."""

    operation: str
    copies: int  # taken by the target, and tries that failed
    faults: int  # of them, those that failed


class ArmsStatus(Struct, frozen=True):
    """Source beside target."""

    source: ArmStatus
    target: ArmStatus


class CheckpointStatus(Struct, frozen=True):
    """What the store has of a migration."""

    revision: int | None  # the newest it was given; null before this process has written
    saved_at: Timestamp | None
    ok: bool  # false while it cannot be read or written
    error: str | None  # why
    unsaved_entries: int  # audit entries that wait for it
    lost_entries: int  # that found the queue full and will never be written
    resume_phase: str | None  # where `resume`, or `start` with `resume`, goes on; null: nowhere


class WorkerStatus(Struct, frozen=True):
    """A worker, as far as this migration is concerned."""

    slot: int
    pid: int
    generation: int  # of the weight that it shows
    inflight_target: int  # requests open on the target, of any generation
    heartbeat_age_ms: float


class WaitKind(StrEnum):
    """What kind of thing the next step waits for."""

    WINDOW = "window"
    FREEZE = "freeze"
    APPROVAL = "approval"
    HEALTH = "health"
    LAG = "lag"
    DATA = "data"
    SAMPLES = "samples"
    PROOF = "proof"


class Wait(Struct, frozen=True):
    """One thing that the next step waits for. While it lasts `kind` and `name` stay; `reason` may change."""

    kind: WaitKind
    name: str
    reason: str  # in words


class OpensAt(Struct, frozen=True):
    """When windows and freezes allow a phase to begin again."""

    at: Timestamp
    tz: str  # the time zone of the window that opens then; UTC where a freeze ends and there is no window


class WouldBeRefused(Struct, frozen=True):
    """The error that a command would be answered with."""

    code: str
    message: str
    hint: str


class Status(Struct, frozen=True):
    """Where a migration stands."""

    migration: str
    state: State
    revision: int  # goes up with every change; `expected_revision` of an action is compared with it
    weight: float  # the target's share that is published, in percent
    phase: CurrentPhase | None  # null where none is held, or where `phases` has none of the weight that is held
    phases: tuple[PlannedPhase, ...]
    verdict: VerdictDocument
    arms: ArmsStatus
    last_rollback: Rollback | None
    checkpoint: CheckpointStatus
    workers: tuple[WorkerStatus, ...]
    waits: tuple[Wait, ...] = ()  # what the next step waits for beside its minimum soak; only while it is running
    # Of `writes = "source"`, since the current weight was on every worker as the arms' figures:
    unsplit: int = 0  # requests that the source answered whatever the weight; they are not in `arms`
    copies: tuple[CopiesStatus, ...] = ()  # what became of the target's copies of writes
    opens: OpensAt | None = None  # while hours or a freeze keep phases from beginning; null: they do not, or for ever
    data: DataDocument | None = None  # null where the arms are no document stores
    checks: tuple[Check, ...] | UnsetType = UNSET  # in the answer to a dry run alone
    # In the answer to a dry run alone: what the command itself would be answered now; null: it would be carried out.
    refused: WouldBeRefused | UnsetType | None = UNSET
    message: str | UnsetType = UNSET  # in the answer to a rollback alone: where it is now, and how to go all the way


class Lagged(Struct, frozen=True):
    """Entries were lost to a reader that did not read: it begins anew from the audit trail."""


EventDocument = Status | Sample | AuditEntry | Lagged

# What the event stream carries, by the event's name.
EVENTS: Final[dict[str, type[EventDocument]]] = {
    "status": Status,
    "sample": Sample,
    "audit": AuditEntry,
    "lagged": Lagged,
}


class PhaseFacts(Struct, frozen=True):
    """What the arms did in a phase that ends."""

    arms: BothArms
    target_share: float | None  # of its requests, share of 1; null of none
    verdict: VerdictDocument  # the last
    adapters: dict[str, int]  # the target's requests, by adapter
    validations: int  # verdicts for the record
    validations_failed: int  # of them, those that asked for a rollback
    unsplit: int = 0  # requests that the source answered whatever the weight; they are not in `arms`
    copies: int = 0  # of writes: those that the target took, and tries that failed
    copy_faults: int = 0  # of them, those that failed


class PhaseLeft(PhaseFacts, frozen=True, kw_only=True):
    """The detail of a `phase_left` entry of the audit trail, which the report is made from. Times in Unix time."""

    name: str
    weight: float
    entered_at: float | None  # null where the phase was gone on with from the board alone
    left_at: float
    soaked_s: float


# Webhooks. A message is tagged with its event, and says of which migration and when before what happened.


class Message(Struct, frozen=True, kw_only=True, tag_field="event"):
    """What every message says."""

    migration: str
    at: Timestamp  # when it was made
    # The name that the migration had then, where it was renamed before the message was taken. Left out otherwise.
    was: str | UnsetType = UNSET

    @property
    def event(self) -> str:
        """Its tag."""
        return str(self.__struct_config__.tag)


class PhaseChangeMessage(Message, frozen=True, tag="phase_change"):
    """A higher weight was published, or the migration was completed."""

    state: State
    phase: str | None
    weight: float  # percent
    revision: int


class RollbackMessage(Message, frozen=True, tag="rollback"):
    """A lower weight was published. What the target has open is waited for, and `rollback_complete` follows, unless
    the trigger is `resume`, `start` or `recovered`.
    """

    # `command`, `breach`, `lease_lost`, `abort` or `reset`; `resume`, `start`: it went on with less weight than was
    # held; `recovered`: found when control started.
    trigger: str
    from_weight: float
    to_weight: float
    reason: str
    revision: int


class RollbackCompleteMessage(Message, frozen=True, tag="rollback_complete"):
    """No request is left on the target that should not be. The steps add up to the total."""

    trigger: str
    reason: str
    from_weight: float
    to_weight: float
    decided_ms: float
    seen_ms: float
    drained_ms: float
    total_ms: float
    within_deadline: bool
    revision: int


class ApprovalNeededMessage(Message, frozen=True, tag="approval_needed"):
    """A phase is earned, and begins when an operator advances to it. Once, and again after a restart of control."""

    phase: str
    weight: float  # percent, of that phase
    reason: str
    revision: int


class HeldMessage(Message, frozen=True, tag="held"):
    """A phase is earned, and something else keeps it from beginning; it begins by itself when that is over.

    Once for each thing that comes in the way.
    """

    reason_kind: str  # `window`, `freeze`, `health`, `lag` or `data`
    phase: str | None  # that was earned; null is completion
    weight: float | None  # percent, of that phase
    reason: str
    revision: int


class LeaseLostMessage(Message, frozen=True, tag="lease_lost"):
    """Control was away for longer than its lease: workers went back to the source by themselves."""

    from_weight: float
    reason: str
    revision: int


class DataDiffersMessage(Message, frozen=True, tag="data_differs"):
    """Source and target are known to differ: changes were lost, or a compare found differences. No phase begins."""

    lost: int  # changes that one side alone has, since the last copy or equal compare
    differences: int  # documents that differ
    reason: str  # with the command that mends it
    revision: int


MESSAGES: Final = (
    PhaseChangeMessage,
    RollbackMessage,
    RollbackCompleteMessage,
    ApprovalNeededMessage,
    HeldMessage,
    LeaseLostMessage,
    DataDiffersMessage,
)
