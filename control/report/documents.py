"""The report of a run, as the control API gives it and the command line prints it. Pure."""

from __future__ import annotations

from msgspec import Struct

from control.figures.documents import BothArms
from control.judge.document import VerdictDocument
from control.plan.times import Timestamp
from control.rollout.model import Rollback, State


class ReportedPhase(Struct, frozen=True):
    """A phase of the run: one that was left, or the one going on."""

    name: str
    weight: float  # percent
    entered_at: Timestamp | None
    left_at: Timestamp | None  # null of the one going on
    arms: BothArms
    target_share: float | None  # of its requests, share of 1; null of none
    verdict: VerdictDocument  # the last


class Criterion(Struct, frozen=True):
    """One of the criteria that a run is judged by."""

    name: str
    passed: bool  # false too while the run goes on and it is not met yet
    evidence: str  # in words


class TrailHead(Struct, frozen=True):
    """The end of the audit trail that the report was made from: it vouches for every entry before it."""

    entries: int
    hash: str | None  # of the last; null of none


class Report(Struct, frozen=True):
    """The report of a run."""

    migration: str
    outcome: State
    started_at: Timestamp | None
    ended_at: Timestamp | None  # null while it goes on
    phases: tuple[ReportedPhase, ...]
    rollbacks: tuple[Rollback, ...]
    criteria: tuple[Criterion, ...]
    audit: TrailHead
