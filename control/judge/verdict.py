"""Numbers → verdict: promote, hold, roll back, or no data, each with its evidence. Pure.

A window's rate held against a threshold is wrong at small counts: at 150 requests a window a healthy target with a
true error rate of 2 % passes 5 % by chance within the hour in most runs. So each rule is a row of yes-or-no trials
(this request failed; this one was slower than the limit) with a share p₀ that it may not pass, and is judged twice:

*Roll back* by a CUSUM mixture (Page 1954; Lorden 1971): for shares p_j above p₀ the log-likelihood ratio of p_j
against p₀ is summed and never let below 0, so that what was good for hours does not hide what is bad now. It fires
when the mean of the likelihood ratios passes 3·10⁶. At a small weight requests come seldom, so a *suspicion* (10²) is
followed up by asking the target itself, twice in every pass. A health check may know less than real requests do, so a
second detector counts both kinds and the first goes on without the checks: the mean of both decides.

*Promote* by an e-test (Ville's inequality; Ramdas et al. 2023): the same with p_j below p₀, from the beginning of
the phase and never reset. A mean likelihood ratio of 1/alpha = 100 happens by chance at most once in 100 phases
whenever one looks, so it may be looked at all the time.

*Hold* where source and target degrade together: the target is then not what is wrong. *No data* is never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import Final, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from control.plan.phases import Thresholds

POINTS: Final = 12
FIRE: Final = math.log(3e6)
SUSPECT: Final = math.log(1e2)
PROBES: Final = 2  # asked of a suspected target in every pass of the fast detector
ALPHA: Final = 0.01
PROOF: Final = math.log(1 / ALPHA)
GAUGE_SAMPLES: Final = 3  # in a row above the limit are a breach
HALF_LIFE_S: Final = 10.0  # of the recent rates by which source and target are compared
TOGETHER_RATIO: Final = 1.5  # a target worse than that beside a degraded source is a worse target
TOGETHER_SAMPLES: Final = 20  # recent source requests without which nothing is said of the source


class Outcome(StrEnum):
    """What a verdict, or a rule of it, comes to."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll_back"
    NO_DATA = "no_data"


class Counts(NamedTuple):
    """Requests of an arm, and how many of them broke each rule: failed, slower than p95_ms, slower than p99_ms."""

    requests: float = 0
    errors: float = 0
    slow_p95: float = 0
    slow_p99: float = 0

    def broke(self, rule: int) -> float:
        """How many broke rule ``rule`` of ``RULES``."""
        return self[rule + 1]

    def rate(self, rule: int) -> float:
        """The share that broke the rule; 0 of none."""
        return self[rule + 1] / self.requests if self.requests else 0.0

    def faded(self, factor: float, more: Counts) -> Counts:
        """These, worth ``factor`` of what they were, and ``more``."""
        return Counts(*(a * factor + b for a, b in zip(self, more, strict=True)))


RULES: Final = ("error_rate", "p95_ms", "p99_ms")


def shares(thresholds: Thresholds) -> tuple[float, float, float]:
    """The share of requests that may break each rule."""
    return thresholds.error_limit, 0.05, 0.01


@cache
def worse(p0: float) -> tuple[tuple[float, float], ...]:
    """For points above p₀, what a trial that broke the rule and one that kept it add to the log-likelihood ratio."""
    high = max(0.95, (1 + p0) / 2)
    low = min(1.2 * p0, (p0 + high) / 2)
    return _ratios(p0, _spaced(low, high))


@cache
def better(p0: float) -> tuple[tuple[float, float], ...]:
    """The same for points below p₀."""
    return _ratios(p0, _spaced(0.02 * p0, 0.9 * p0))


def _spaced(low: float, high: float) -> list[float]:
    return [low * (high / low) ** (j / (POINTS - 1)) for j in range(POINTS)]


def _ratios(p0: float, points: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple((math.log(p / p0), math.log((1 - p) / (1 - p0))) for p in points)


def _log_mean(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(x - top) for x in logs)) - math.log(len(logs))


def proof(p0: float, broke: float, requests: float) -> float:
    """The log of the e-value for "the share is below p₀", from all the counts of a phase."""
    kept = requests - broke
    return _log_mean([broke * bad + kept * good for bad, good in better(p0)])


class Detector(Struct, frozen=True):
    """The CUSUM mixture of one rule on one arm."""

    p0: float
    scores: tuple[float, ...] = (0.0,) * POINTS

    def after(self, broke: float, requests: float) -> Detector:
        """The detector after so many more trials."""
        if not requests:
            return self
        kept = requests - broke
        pairs = zip(self.scores, worse(self.p0), strict=True)
        return replace(self, scores=tuple(max(0.0, s + broke * bad + kept * good) for s, (bad, good) in pairs))

    @property
    def evidence(self) -> float:
        """The log of the mean likelihood ratio against p₀; it fires from ``FIRE`` on."""
        return _log_mean(self.scores)


class Watch(Struct, frozen=True):
    """The fast detector of a phase: every rule on the target, beside the source's recent rates."""

    detectors: tuple[Detector, ...]
    probed: Detector  # errors, with the answers to suspicion among the requests
    source: Counts = Counts()  # recent, fading
    target: Counts = Counts()
    together: tuple[bool, ...] = (False,) * len(RULES)

    @classmethod
    def fresh(cls, thresholds: Thresholds) -> Watch:
        """Nothing seen yet."""
        return cls(tuple(Detector(p0) for p0 in shares(thresholds)), Detector(thresholds.error_limit))

    def evidence(self, rule: int) -> float:
        """The log of the likelihood ratio against the target in one rule."""
        alone = self.detectors[rule].evidence
        return alone if rule else _log_mean((alone, self.probed.evidence))

    def fires(self, rule: int) -> bool:
        """Whether the target breaks the rule beyond doubt."""
        return self.evidence(rule) >= FIRE

    @property
    def breached(self) -> bool:
        """Whether it breaks any."""
        return any(map(self.fires, range(len(RULES))))

    @property
    def suspects(self) -> bool:
        """Whether the target should be asked."""
        return self.evidence(0) >= SUSPECT

    def after_probes(self, failed: int, made: int) -> Watch:
        """The watch after the target was asked ``made`` times."""
        return replace(self, probed=self.probed.after(failed, made))

    def after(self, target: Counts, source: Counts, elapsed_s: float) -> Watch:
        """The watch after another span of ``elapsed_s`` in which the arms did so much.

        Where the target's detector fires while the source is as bad, what it has summed is dropped: if the target
        stays bad when the source is well again, that is seen anew within seconds.
        """
        factor = 0.5 ** (elapsed_s / HALF_LIFE_S)
        recent_target, recent_source = self.target.faded(factor, target), self.source.faded(factor, source)
        moved = replace(
            self,
            detectors=tuple(d.after(target.broke(i), target.requests) for i, d in enumerate(self.detectors)),
            probed=self.probed.after(target.errors, target.requests),
            source=recent_source,
            target=recent_target,
        )
        bad = [recent_source.rate(i) > d.p0 for i, d in enumerate(self.detectors)]
        known = recent_source.requests >= TOGETHER_SAMPLES
        forgiven = [
            moved.fires(i) and known and bad[i] and recent_target.rate(i) <= TOGETHER_RATIO * recent_source.rate(i)
            for i in range(len(RULES))
        ]
        return replace(
            moved,
            detectors=tuple(Detector(d.p0) if f else d for d, f in zip(moved.detectors, forgiven, strict=True)),
            probed=Detector(self.probed.p0) if forgiven[0] else moved.probed,
            together=tuple(
                f or (before and known and b) for f, before, b in zip(forgiven, self.together, bad, strict=True)
            ),
        )


class Rule(Struct, frozen=True):
    """What one rule says: its value now, its limit, from how many samples, and what follows."""

    rule: str
    value: float | None
    limit: float
    samples: int
    outcome: Outcome
    proof: float | None = None  # share of the evidence that going on needs, 0 to 1; None where none is weighed


class Verdict(Struct, frozen=True):
    """What the judge says, and why, in words and in numbers. ``checked_at`` in Unix time."""

    outcome: Outcome
    reasons: tuple[str, ...]
    checked_at: float
    rules: tuple[Rule, ...] = ()


class Terms(Struct, frozen=True):
    """What a phase must show before it is left."""

    min_soak_s: float
    max_soak_s: float
    min_samples: int
    on_low_traffic: Literal["hold", "promote"]
    held: str = ""  # why the phase is not left now, whatever the evidence, in words


class Arm(NamedTuple):
    """What an arm did in a span: counts, and its 95th and 99th percentile in milliseconds (None: no requests)."""

    counts: Counts
    p95_ms: float | None
    p99_ms: float | None


class Gauges(NamedTuple):
    """The last samples, oldest first: the largest process's memory in MB, and all processes' share of the machine."""

    memory_mb: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()


def judge(
    thresholds: Thresholds, terms: Terms, target: Arm, watch: Watch, gauges: Gauges, soaked_s: float, now: float
) -> Verdict:
    """The sequential verdict on a phase: ``target`` is what it did since its soak began."""
    found = [_sequential(i, thresholds, target, watch) for i in range(len(RULES))]
    found += _gauge_rules(thresholds, gauges)
    return _weigh(terms, target.counts, found, soaked_s, now)


def judge_by_threshold(
    thresholds: Thresholds, terms: Terms, target: Arm, window: Arm, gauges: Gauges, soaked_s: float, now: float
) -> Verdict:
    """The literal verdict: the last window's figures against the thresholds, whatever their number."""
    found = [_literal(i, thresholds, window) for i in range(len(RULES))]
    found += _gauge_rules(thresholds, gauges)
    return _weigh(terms, target.counts, found, soaked_s, now)


Found = tuple[Rule, str]  # a rule, and its reason in words


def _figures(i: int, thresholds: Thresholds, arm: Arm) -> tuple[float | None, float, str]:
    """A rule's value and limit, and the counts behind it in words."""
    n, broke = int(arm.counts.requests), int(arm.counts.broke(i))
    if i == 0:
        value = arm.counts.rate(0) if n else None
        return (
            value,
            thresholds.error_limit,
            f"{broke} of {n} target requests failed ({_percent(arm.counts.rate(0))})",
        )
    value = (arm.p95_ms, arm.p99_ms)[i - 1]
    limit = (thresholds.p95_ms, thresholds.p99_ms)[i - 1]
    took = "none" if value is None else f"{value:.1f} ms"
    return value, limit, f"{took}; {broke} of {n} target requests slower than {limit:g} ms"


def _sequential(i: int, thresholds: Thresholds, target: Arm, watch: Watch) -> Found:
    p0 = shares(thresholds)[i]
    value, limit, words = _figures(i, thresholds, target)
    n = int(target.counts.requests)
    allowed = f"at most {_percent(p0)} allowed"
    if watch.fires(i):
        words = f"{words}; {allowed}; above it with a likelihood ratio of {_power(watch.evidence(i))} to 1"
        return Rule(RULES[i], value, limit, n, Outcome.ROLL_BACK), words
    if watch.together[i]:
        source = f"the source has {_percent(watch.source.rate(i))} of late"
        return Rule(
            RULES[i], value, limit, n, Outcome.HOLD
        ), f"{words}; {allowed}; but {source}: both degrade together"
    if not n:
        return Rule(RULES[i], None, limit, 0, Outcome.NO_DATA), "no target requests yet"
    e = proof(p0, target.counts.broke(i), target.counts.requests)
    share = round(min(1.0, max(0.0, e / PROOF)), 4)
    if e >= PROOF:
        words = f"{words}; {allowed}; proven ({_power(e)} to 1, needs {1 / ALPHA:.0f})"
        return Rule(RULES[i], value, limit, n, Outcome.PROMOTE, share), words
    words = f"{words}; {allowed}; not proven yet ({_power(e)} to 1, needs {1 / ALPHA:.0f})"
    return Rule(RULES[i], value, limit, n, Outcome.HOLD, share), words


def _literal(i: int, thresholds: Thresholds, window: Arm) -> Found:
    value, limit, words = _figures(i, thresholds, window)
    n = int(window.counts.requests)
    if value is None:
        return Rule(RULES[i], None, limit, 0, Outcome.NO_DATA), "no target requests in the window"
    outcome = Outcome.ROLL_BACK if value > limit else Outcome.PROMOTE
    bound = _percent(limit) if i == 0 else f"{limit:g} ms"
    return Rule(RULES[i], value, limit, n, outcome), f"{words}; limit {bound}"


def _gauge_rules(thresholds: Thresholds, gauges: Gauges) -> list[Found]:
    return [
        _gauge("memory_mb", gauges.memory_mb, thresholds.memory_mb, "MB in the largest process"),
        _gauge("cpu", gauges.cpu, thresholds.cpu, "of the machine's processors"),
    ]


def _gauge(name: str, samples: tuple[float, ...], limit: float, unit: str) -> Found:
    if not samples:
        return Rule(name, None, limit, 0, Outcome.NO_DATA), "no sample yet"
    last = samples[-GAUGE_SAMPLES:]
    above = [value > limit for value in last]
    words = f"{samples[-1]:.2f} {unit}, limit {limit:g}"
    if len(last) == GAUGE_SAMPLES and all(above):
        return Rule(
            name, samples[-1], limit, len(samples), Outcome.ROLL_BACK
        ), f"{words}, {GAUGE_SAMPLES} times in a row"
    outcome = Outcome.HOLD if above[-1] else Outcome.PROMOTE
    return Rule(name, samples[-1], limit, len(samples), outcome), words


def _weigh(terms: Terms, counts: Counts, found: Sequence[Found], soaked_s: float, now: float) -> Verdict:
    """One verdict of all rules: the worst outcome wins, and a phase is left only when everything asks for it."""
    rules = tuple(rule for rule, _ in found)

    def say(outcome: Outcome, *first: str, only: Outcome | None = None) -> Verdict:
        told = [f"{rule.rule}: {words}" for rule, words in found if only is None or rule.outcome is only]
        return Verdict(outcome, (*first, *told), now, rules)

    n = int(counts.requests)
    if any(rule.outcome is Outcome.ROLL_BACK for rule in rules):
        return say(Outcome.ROLL_BACK, only=Outcome.ROLL_BACK)
    if not n:
        return say(Outcome.NO_DATA, "no target requests since the phase began; waiting for traffic")
    if terms.held:
        return say(Outcome.HOLD, terms.held)
    if soaked_s < terms.min_soak_s:
        return say(Outcome.HOLD, f"soaking: {soaked_s:.1f} s of {terms.min_soak_s:g} s")
    if n < terms.min_samples:
        return say(Outcome.HOLD, f"{n} target requests of the {terms.min_samples} without which no phase is left")
    if all(rule.outcome is Outcome.PROMOTE for rule in rules):
        return say(Outcome.PROMOTE)
    waiting = [rule for rule in rules if rule.outcome is not Outcome.PROMOTE]
    names = ", ".join(rule.rule for rule in waiting)
    kept = all(rule.value is not None and rule.value <= rule.limit for rule in waiting)
    if soaked_s < terms.max_soak_s or terms.on_low_traffic == "hold" or not kept:
        return say(Outcome.HOLD, f"held by {names}")
    warning = f"warning: limits kept but not proven in {terms.max_soak_s:g} s on {n} target requests: {names}"
    return say(Outcome.PROMOTE, warning)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _power(log: float) -> str:
    return f"{math.exp(log):.3g}" if log < 600 else f"10^{log / math.log(10):.0f}"
