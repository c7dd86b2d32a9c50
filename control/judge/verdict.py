"""The verdict on a phase: promote, hold, roll back or no data, put together from what its rules say. Pure.

The worst outcome wins, and a phase is left only when everything asks for it; *no data* is never a pass. What each
rule says, and why, is ``control.judge.rules``' affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from control.judge.evidence import TargetWatch
from control.judge.rules import Measured, RuleResult, Samples, VerdictOutcome, by_evidence, by_samples, by_window
from control.plan.phases import Thresholds


class PhaseVerdict(Struct, frozen=True):
    """What the judge says, and why: of the whole in ``summary``, of each rule in ``rules``."""

    outcome: VerdictOutcome
    summary: tuple[str, ...]
    checked_at: float  # Unix time
    rules: tuple[RuleResult, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Everything that is said, as lines; of a rollback only the rules that ask for it."""
        only = VerdictOutcome.ROLL_BACK if self.outcome is VerdictOutcome.ROLL_BACK else None
        rules = [f"{rule.rule}: {rule.reason}" for rule in self.rules if only is None or rule.outcome is only]
        return (*self.summary, *rules)


class Terms(Struct, frozen=True):
    """What a phase must show before it is left."""

    min_soak_s: float
    max_soak_s: float
    min_samples: int
    on_low_traffic: Literal["hold", "promote"]
    held: str = ""  # why the phase is not left now, whatever the evidence, in words


def judge(
    thresholds: Thresholds,
    terms: Terms,
    target: Measured,
    watch: TargetWatch,
    samples: Samples,
    soaked_s: float,
    now: float,
) -> PhaseVerdict:
    """The sequential verdict on a phase: ``target`` is what it did since its soak began."""
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
    """The literal verdict: the last window's figures against the thresholds, whatever their number."""
    rules = (*by_window(thresholds, window), *by_samples(thresholds, samples))
    return _weigh(terms, int(target.trials.requests), rules, soaked_s, now)


def _weigh(terms: Terms, requests: int, rules: tuple[RuleResult, ...], soaked_s: float, now: float) -> PhaseVerdict:
    outcome, said = _whole(terms, requests, rules, soaked_s)
    return PhaseVerdict(outcome, (said,) if said else (), now, rules)


def _whole(terms: Terms, requests: int, rules: Sequence[RuleResult], soaked_s: float) -> tuple[VerdictOutcome, str]:
    """What all rules together come to, and what is to be said of the whole: nothing where the rules say it all."""
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
    kept = all(rule.value is not None and rule.value <= rule.limit for rule in waiting)
    if soaked_s < terms.max_soak_s or terms.on_low_traffic == "hold" or not kept:
        return VerdictOutcome.HOLD, f"held by {names}"
    warning = f"warning: limits kept but not proven in {terms.max_soak_s:g} s on {requests} target requests: {names}"
    return VerdictOutcome.PROMOTE, warning
