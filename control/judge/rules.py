"""The judge's rules: one table, with each rule's signal, limit, unit and wording, and their results. Pure.

To add a rule, add a row to ``RULES``, a function for its signal unless one exists, and its limit in
``control.plan.phases.Thresholds``. A rule on a new figure of the machine also needs a sample in
``control.figures.counts.Machine``. Verdict, status, report, terminal, dashboard and docs/judge.md read name, unit and
reason from the row, or from the ``RuleResult`` that is made from it.

There are two kinds of rule, by the class of the row's ``signal``. ``Requests``: each request is a trial that broke
the rule or kept it, and the evidence against a fixed allowed share is weighed (``control.judge.evidence``).
``Gauge``: a figure of the machine is sampled and compared with the limit. A rule of another kind, relative to the
source or per operation, would be another class of signal with its own function beside ``by_evidence``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from msgspec import Struct

from control.judge.evidence import ALPHA, PROOF, Bound, TargetWatch, Trials, proof
from control.plan.phases import Thresholds
from proxy.board import histogram

if TYPE_CHECKING:
    from proxy.board.series import Series

GAUGE_SAMPLES: Final = (
    3  # this many in a row above the limit are a breach; one may be a garbage collection or a backup
)
US_PER_MS: Final = 1000
POWER_MAX: Final = 600.0  # a natural logarithm above it is written as a power of ten: math.exp overflows from 710 on


class VerdictOutcome(StrEnum):
    """The outcome of a verdict, or of one of its rules."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll_back"
    NO_DATA = "no_data"


UnitName = Literal["share", "ms", "MB"]


class RuleResult(Struct, frozen=True):
    """The result of one rule: figures for programs, the reason for a person.

    Audit trails of earlier versions have only the fields up to ``proof``; they are still read.
    """

    rule: str  # the rule's name, such as `error_rate`
    value: float | None  # the target's figure; null without data
    limit: float
    samples: int  # requests or samples that the value is from
    outcome: VerdictOutcome
    proof: float | None  # share of the evidence needed for promotion, 0 to 1; null where no evidence is weighed
    label: str = ""  # the rule's name for a person
    unit: UnitName = "share"  # of value and limit: a share of 1, milliseconds, or megabytes of 1,000,000 bytes
    evidence: float | None = None  # natural logarithm of the likelihood ratio behind the outcome; null as above
    reason: str = ""  # in words


class Unit(NamedTuple):
    """The unit of values and limits, and how a reason writes them."""

    name: UnitName
    value: Callable[[float], str]
    limit: Callable[[float], str]


def percent(share: float) -> str:
    """A share of 1, in percent with three significant digits."""
    return f"{share * 100:.3g} %"


SHARE: Final = Unit("share", percent, percent)
PARTS: Final = Unit("share", "{:.2f}".format, "{:g}".format)  # a share of 1 that is written as such, not in percent
MS: Final = Unit("ms", "{:.1f} ms".format, "{:g} ms".format)
MB: Final = Unit("MB", "{:.2f} MB".format, "{:g}".format)


class Requests(NamedTuple):
    """Each request of the target is a trial. The functions take an arm's counts and a limit or p₀."""

    broke: Callable[[Series, float], int]  # how many requests broke the rule, at this limit
    value: Callable[
        [Series, float], float | None
    ]  # the figure to compare with the limit, at p₀; None without requests
    allowed: float | None = None  # p₀, the share of requests that may break the rule; None: the limit is p₀
    beside_source: bool = True  # hold instead of rolling back while the source is as bad: the target is not the cause
    probed: bool = False  # a health check's answer is a trial, too
    copied: bool = False  # so is a copy of a write, where the source answers every write


class Gauge(Struct, frozen=True):
    """A figure of the machine, judged by its last samples."""


# By case: a rule's outcome, and its reason. ``{counted}`` is filled in from the row.
Wording = Mapping[str, tuple[VerdictOutcome, str]]

_EVIDENCE: Final[Wording] = {
    "broken": (
        VerdictOutcome.ROLL_BACK,
        "{counted}; at most {allowed} allowed; above it with a likelihood ratio of {ratio} to 1",
    ),
    "together": (
        VerdictOutcome.HOLD,
        "{counted}; at most {allowed} allowed; but the source has {source} of late: both degrade together",
    ),
    "copies": (
        VerdictOutcome.HOLD,
        "{counted}; at most {allowed} allowed; no phase is left while it is likely that more copies fail",
    ),
    "none": (VerdictOutcome.NO_DATA, "no target requests yet"),
    "proven": (
        VerdictOutcome.PROMOTE,
        "{counted}; at most {allowed} allowed; proven ({ratio} to 1, needs {needed})",
    ),
    "unproven": (
        VerdictOutcome.HOLD,
        "{counted}; at most {allowed} allowed; not proven yet ({ratio} to 1, needs {needed})",
    ),
    # With `judge = "threshold"`: the last window's figures.
    "none in the window": (VerdictOutcome.NO_DATA, "no target requests in the window"),
    "above in the window": (VerdictOutcome.ROLL_BACK, "{counted}; limit {limit}"),
    "kept in the window": (VerdictOutcome.PROMOTE, "{counted}; limit {limit}"),
}
_SAMPLES: Final[Wording] = {
    "none": (VerdictOutcome.NO_DATA, "no sample yet"),
    "broken": (VerdictOutcome.ROLL_BACK, "{counted}, limit {limit}, {times} times in a row"),
    "above": (VerdictOutcome.HOLD, "{counted}, limit {limit}"),
    "kept": (VerdictOutcome.PROMOTE, "{counted}, limit {limit}"),
}


class Rule(NamedTuple):
    """A row of the table."""

    name: str  # in verdicts and reasons
    label: str  # the name for a person
    signal: Requests | Gauge
    limit: str  # the attribute of ``Thresholds``
    unit: Unit
    meaning: str  # what breaks the rule, or what is sampled: for docs/judge.md
    counted: str  # the figures with which a reason begins
    wording: Wording


def _failed(series: Series, limit: float) -> int:
    return min(series.errors, series.requests)


def _failed_share(series: Series, p0: float) -> float | None:
    """The share of requests that failed or, if it is greater, of copies of writes."""
    requests, copies = series.requests, series.copies
    shares = [bad / made for bad, made in ((_failed(series, p0), requests), (series.copy_faults, copies)) if made]
    return max(shares, default=None)


def _slower(series: Series, limit_ms: float) -> int:
    return histogram.count_above(series.buckets, int(limit_ms * US_PER_MS))


def _slowest(series: Series, p0: float) -> float | None:
    """The latency that only a share p₀ of requests exceeds, in milliseconds."""
    us = histogram.quantile(series.buckets, 1 - p0)
    return None if us is None else round(us / US_PER_MS, 3)


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "error_rate",
        "Errors",
        Requests(_failed, _failed_share, probed=True, copied=True),
        "error_limit",
        SHARE,
        "the target failed the request, even if the source then answered it; or it did not take a copy of a write",
        "{broke} of {requests} target requests failed ({rate}){copies}",
        _EVIDENCE,
    ),
    Rule(
        "p95_ms",
        "p95",
        Requests(_slower, _slowest, allowed=0.05),
        "p95_ms",
        MS,
        "the request took longer than the limit",
        "{value}; {broke} of {requests} target requests slower than {limit}",
        _EVIDENCE,
    ),
    Rule(
        "p99_ms",
        "p99",
        Requests(_slower, _slowest, allowed=0.01),
        "p99_ms",
        MS,
        "the request took longer than the limit",
        "{value}; {broke} of {requests} target requests slower than {limit}",
        _EVIDENCE,
    ),
    Rule(
        "memory_mb",
        "Memory",
        Gauge(),
        "memory_mb",
        MB,
        "resident memory of phasegate's largest process, in MB of 1,000,000 bytes",
        "{value} in the largest process",
        _SAMPLES,
    ),
    Rule(
        "cpu",
        "CPU",
        Gauge(),
        "cpu",
        PARTS,
        "the share of the whole machine that all of phasegate's processes use",
        "{value} of the machine's processors",
        _SAMPLES,
    ),
)
BY_NAME: Final = {rule.name: rule for rule in RULES}
ON_REQUESTS: Final = tuple((rule, rule.signal) for rule in RULES if isinstance(rule.signal, Requests))
BY_PROBES: Final = frozenset(rule.name for rule, signal in ON_REQUESTS if signal.probed)  # errors
GAUGES: Final = tuple(rule for rule in RULES if isinstance(rule.signal, Gauge))


class Measured(NamedTuple):
    """An arm's requests in a span of time, as the rules on requests see them: the trials, and each rule's figure."""

    trials: Trials
    values: tuple[float | None, ...]  # None: no requests


Samples = Mapping[str, Sequence[float]]  # by name of a gauge rule: the last samples, oldest first


def limit_of(rule: Rule, thresholds: Thresholds) -> float:
    """The rule's limit."""
    limit: float = getattr(thresholds, rule.limit)
    return limit


def _allowed(rule: Rule, signal: Requests, thresholds: Thresholds) -> float:
    return limit_of(rule, thresholds) if signal.allowed is None else signal.allowed


def bounds(thresholds: Thresholds, *, copies: bool = False) -> tuple[Bound, ...]:
    """The bound of each rule on requests; ``copies``: whether copies of writes are counted."""
    return tuple(
        Bound(_allowed(rule, signal, thresholds), signal.beside_source, signal.probed, copies and signal.copied)
        for rule, signal in ON_REQUESTS
    )


def trials(series: Series, thresholds: Thresholds) -> Trials:
    """An arm's requests, and how many of them broke each rule."""
    broke = tuple(signal.broke(series, limit_of(rule, thresholds)) for rule, signal in ON_REQUESTS)
    return Trials(series.requests, broke, series.copies, min(series.copy_faults, series.copies))


def measured(series: Series, thresholds: Thresholds) -> Measured:
    """An arm's trials with each rule's figure."""
    values = tuple(signal.value(series, _allowed(rule, signal, thresholds)) for rule, signal in ON_REQUESTS)
    return Measured(trials(series, thresholds), values)


def by_evidence(thresholds: Thresholds, target: Measured, watch: TargetWatch) -> list[RuleResult]:
    """The result of each rule on requests, by the evidence. ``target`` has all requests since the soak began."""
    return [_by_evidence(place, rule, thresholds, target, watch) for place, (rule, _) in enumerate(ON_REQUESTS)]


def _by_evidence(place: int, rule: Rule, thresholds: Thresholds, target: Measured, watch: TargetWatch) -> RuleResult:
    bound, made = watch.bounds[place], target.trials
    p0 = bound.p0
    requests, broke = made.requests, made.broke[place]
    if bound.copied:
        requests, broke = requests + made.copies, broke + made.failed_copies
    share: float | None = None
    if watch.fires(place):
        case, evidence = "broken", watch.evidence(place)
    elif watch.together[place]:
        case, evidence = "together", watch.evidence(place)
    elif not requests:
        return _result(rule, thresholds, "none")
    else:
        evidence = proof(p0, broke, requests)
        if watch.suspects_copies(place):
            case = "copies"
        else:
            share = round(min(1.0, max(0.0, evidence / PROOF)), 4)
            case = "proven" if evidence >= PROOF else "unproven"
    words = {
        "allowed": percent(p0),
        "source": percent(watch.source.rate(place)),
        "ratio": _power(evidence),
        "needed": f"{1 / ALPHA:.0f}",
    }
    return _of_requests(rule, thresholds, case, place, target, words, share, round(evidence, 4))


def by_window(thresholds: Thresholds, window: Measured) -> list[RuleResult]:
    """The result of each rule on requests, by the last window's figures against the limits, however few they are."""
    return [_by_window(place, rule, thresholds, window) for place, (rule, _) in enumerate(ON_REQUESTS)]


def _by_window(place: int, rule: Rule, thresholds: Thresholds, window: Measured) -> RuleResult:
    value = window.values[place]
    if value is None:
        return _result(rule, thresholds, "none in the window")
    case = "above in the window" if value > limit_of(rule, thresholds) else "kept in the window"
    return _of_requests(rule, thresholds, case, place, window)


def by_samples(thresholds: Thresholds, samples: Samples) -> list[RuleResult]:
    """The result of each gauge rule."""
    return [_by_samples(rule, thresholds, samples.get(rule.name, ())) for rule in GAUGES]


def _by_samples(rule: Rule, thresholds: Thresholds, samples: Sequence[float]) -> RuleResult:
    if not samples:
        return _result(rule, thresholds, "none")
    above = [value > limit_of(rule, thresholds) for value in samples[-GAUGE_SAMPLES:]]
    broken = len(above) == GAUGE_SAMPLES and all(above)
    case = "broken" if broken else "above" if above[-1] else "kept"
    words = {"times": str(GAUGE_SAMPLES)}
    return _result(rule, thresholds, case, words, value=samples[-1], samples=len(samples))


def _of_requests(
    rule: Rule,
    thresholds: Thresholds,
    case: str,
    place: int,
    arm: Measured,
    words: Mapping[str, str] | None = None,
    share: float | None = None,
    evidence: float | None = None,
) -> RuleResult:
    """The result of a rule on requests, with the counts in its reason and figures."""
    made = arm.trials
    copied = f"; {int(made.failed_copies)} of {int(made.copies)} copies of writes failed ({percent(made.copy_rate)})"
    counts = {
        "broke": str(int(made.broke[place])),
        "requests": str(int(made.requests)),
        "rate": percent(made.rate(place)),
        "copies": copied if made.copies else "",
    }
    counted = ON_REQUESTS[place][1].copied
    value, samples = arm.values[place], int(made.requests + (made.copies if counted else 0))
    return _result(
        rule,
        thresholds,
        case,
        {**counts, **(words or {})},
        value=value,
        samples=samples,
        share=share,
        evidence=evidence,
    )


def _result(
    rule: Rule,
    thresholds: Thresholds,
    case: str,
    words: Mapping[str, str] | None = None,
    *,
    value: float | None = None,
    samples: int = 0,
    share: float | None = None,
    evidence: float | None = None,
) -> RuleResult:
    """The result for one case of the row's wording. ``words`` fill the reason's gaps; None: the reason has none."""
    outcome, reason = rule.wording[case]
    limit = limit_of(rule, thresholds)
    if words is not None:
        written = "none" if value is None else rule.unit.value(value)
        filled = {"value": written, "limit": rule.unit.limit(limit), **words}
        reason = reason.format(counted=rule.counted.format(**filled), **filled)
    return RuleResult(rule.name, value, limit, samples, outcome, share, rule.label, rule.unit.name, evidence, reason)


def _power(log: float) -> str:
    return f"{math.exp(log):.3g}" if log < POWER_MAX else f"10^{log / math.log(10):.0f}"
