"""A verdict as everyone outside shows it: status, audit trail, report. Pure."""

from __future__ import annotations

from msgspec import Struct

from control.judge.rules import RuleResult, VerdictOutcome
from control.judge.verdict import PhaseVerdict
from control.plan.times import Timestamp, rfc3339


class VerdictDocument(Struct, frozen=True):
    """A verdict: each rule in ``rules``, with its figures and its reason; ``reasons`` is all of it as lines."""

    outcome: VerdictOutcome
    reasons: tuple[str, ...]  # in words, what decides first
    checked_at: Timestamp | None  # null before the first verdict
    rules: tuple[RuleResult, ...]
    summary: tuple[str, ...] = ()  # what is said of the whole; nothing where an earlier version wrote it


def verdict_document(verdict: PhaseVerdict | None) -> VerdictDocument:
    """A verdict; before the first one, that there is no data."""
    if verdict is None:
        nothing = ("nothing has been judged yet",)
        return VerdictDocument(VerdictOutcome.NO_DATA, nothing, None, (), nothing)
    at = rfc3339(verdict.checked_at)
    return VerdictDocument(verdict.outcome, verdict.reasons, at, verdict.rules, verdict.summary)
