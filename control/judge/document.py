"""A verdict as status, audit trail and report show it. Pure."""

from __future__ import annotations

from msgspec import Struct

from control.judge.rules import RuleResult, VerdictOutcome
from control.judge.verdict import PhaseVerdict
from control.plan.times import Timestamp, rfc3339


class VerdictDocument(Struct, frozen=True):
    """A verdict. `rules` has each rule's figures and reason; `reasons` is the whole verdict as lines of text."""

    outcome: VerdictOutcome
    reasons: tuple[str, ...]  # in words; what decided the outcome comes first
    checked_at: Timestamp | None  # null before the first verdict
    rules: tuple[RuleResult, ...]
    summary: tuple[str, ...] = ()  # about the verdict as a whole; empty in verdicts that an earlier version wrote


def verdict_document(verdict: PhaseVerdict | None) -> VerdictDocument:
    """The document of a verdict. Before the first verdict its outcome is ``no_data``."""
    if verdict is None:
        nothing = ("nothing has been judged yet",)
        return VerdictDocument(VerdictOutcome.NO_DATA, nothing, None, (), nothing)
    at = rfc3339(verdict.checked_at)
    return VerdictDocument(verdict.outcome, verdict.reasons, at, verdict.rules, verdict.summary)
