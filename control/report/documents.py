"""The report of a run as a document: the control API answers with it, the command line prints it. Pure."""

from __future__ import annotations

from msgspec import Struct

from control.data.documents import ComparedInShort
from control.figures.documents import BothArms
from control.judge.document import VerdictDocument
from control.plan.times import Timestamp
from control.rollout.model import Rollback, State


class ReportedPhase(Struct, frozen=True):
    """A phase of the run: one that was left, or the current one."""

    name: str
    weight: float  # percent
    entered_at: Timestamp | None
    left_at: Timestamp | None  # null for the current phase
    arms: BothArms
    target_share: float | None  # measured share of the phase's requests on the target, 0 to 1; null without requests
    verdict: VerdictDocument  # the phase's last verdict
    unsplit: int = 0  # requests that the source answered whatever the weight; they are not in `arms`
    copies: int = 0  # of writes: those that the target took, and tries that failed
    copy_faults: int = 0  # of them, those that failed


class Criterion(Struct, frozen=True):
    """One success criterion of a run."""

    name: str
    passed: bool  # also false while the run goes on and the criterion is not met yet
    evidence: str  # in words


class TrailHead(Struct, frozen=True):
    """The last entry of the audit trail behind the report. Its hash covers every earlier entry."""

    entries: int
    hash: str | None  # the last entry's hash; null without entries


class ReportedData(Struct, frozen=True):
    """Whether the target has the source's documents, when the report was made."""

    complete: bool  # it is not known to lack anything
    copied_at: Timestamp | None  # null: never
    lost: int  # changes that one side alone has, since the last copy or equal compare
    compare: ComparedInShort | None  # the newest; null: none yet
    gated: bool = False  # whether the gate holds: no phase begins
    mend: str | None = None  # the command that mends what the target lacks; null: nothing is to be mended


class Report(Struct, frozen=True):
    """The report of a run."""

    migration: str
    outcome: State
    started_at: Timestamp | None
    ended_at: Timestamp | None  # null while the run goes on
    phases: tuple[ReportedPhase, ...]
    rollbacks: tuple[Rollback, ...]
    criteria: tuple[Criterion, ...]
    audit: TrailHead
    data: ReportedData | None = None  # null where the arms are no document stores
