"""The verdict on a phase: promote, hold, roll back or no data, combined from the results of all rules. Pure.

The worst outcome wins. A phase is left only when every rule promotes; *no data* never counts as a pass. The rules
themselves are in ``control.judge.rules``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from control.judge.evidence import TargetWatch
from control.judge.rules import Measured, RuleResult, Samples, VerdictOutcome, by_evidence, by_samples, by_window
from control.plan.phases import Thresholds


class PhaseVerdict(Struct, frozen=True):
    """The outcome and its reasons: ``summary`` about the whole, ``rules`` about each rule."""

    outcome: VerdictOutcome
    summary: tuple[str, ...]
    checked_at: float  # Unix time
    rules: tuple[RuleResult, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The summary and each rule's reason as lines. For a rollback, only the rules that ask for it."""
        only = VerdictOutcome.ROLL_BACK if self.outcome is VerdictOutcome.ROLL_BACK else None
        rules = [f"{rule.rule}: {rule.reason}" for rule in self.rules if only is None or rule.outcome is only]
        return (*self.summary, *rules)


class Terms(Struct, frozen=True):
    """The conditions under which a phase may be left."""

    min_soak_s: float
    max_soak_s: float
    min_samples: int
    on_low_traffic: Literal["hold", "promote"]
    held: str = ""  # in words: why the phase must not be left now, whatever the evidence; empty: it may be


def judge(
    thresholds: Thresholds,
    terms: Terms,
    target: Measured,
    watch: TargetWatch,
    samples: Samples,
    soaked_s: float,
    now: float,
) -> PhaseVerdict:
    """The sequential verdict on a phase. ``target`` has the target's requests since the soak began."""
    rules = (*by_evidence(thresholds, target, watch), *by_samples(thresholds, samples))
    return _weigh(terms, int(target.trials.requests), rules, soaked_s, now)


def judge_by_threshold(
    thresholds: Thresholds,
    terms: Terms,
    target: Measured,
    window: Measured,
    samples: Samples,
    soaked_s: float,
    now: float,
) -> PhaseVerdict:
    """The literal verdict: the last window's figures against the thresholds, however few requests they are from."""
    rules = (*by_window(thresholds, window), *by_samples(thresholds, samples))
    return _weigh(terms, int(target.trials.requests), rules, soaked_s, now)


def _weigh(terms: Terms, requests: int, rules: tuple[RuleResult, ...], soaked_s: float, now: float) -> PhaseVerdict:
    outcome, summary = _whole(terms, requests, rules, soaked_s)
    return PhaseVerdict(outcome, (summary,) if summary else (), now, rules)


def _whole(terms: Terms, requests: int, rules: Sequence[RuleResult], soaked_s: float) -> tuple[VerdictOutcome, str]:
    """The outcome of all rules together, and the summary; it is empty where the rules' reasons suffice."""
    if any(rule.outcome is VerdictOutcome.ROLL_BACK for rule in rules):
        return VerdictOutcome.ROLL_BACK, ""
    if not requests:
        return VerdictOutcome.NO_DATA, "no target requests since the phase began; waiting for traffic"
    if terms.held:
        return VerdictOutcome.HOLD, terms.held
    if soaked_s < terms.min_soak_s:
        return VerdictOutcome.HOLD, f"soaking: {soaked_s:.1f} s of {terms.min_soak_s:g} s"
    if requests < terms.min_samples:
        few = f"{requests} target requests of the {terms.min_samples} without which no phase is left"
        return VerdictOutcome.HOLD, few
    waiting = [rule for rule in rules if rule.outcome is not VerdictOutcome.PROMOTE]
    if not waiting:
        return VerdictOutcome.PROMOTE, ""
    names = ", ".join(rule.rule for rule in waiting)
    within_limits = all(rule.value is not None and rule.value <= rule.limit for rule in waiting)
    if soaked_s < terms.max_soak_s or terms.on_low_traffic == "hold" or not within_limits:
        return VerdictOutcome.HOLD, f"held by {names}"
    warning = f"warning: limits kept but not proven in {terms.max_soak_s:g} s on {requests} target requests: {names}"
    return VerdictOutcome.PROMOTE, warning
