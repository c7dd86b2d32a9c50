"""Evidence: what a row of yes-or-no trials says for or against a share that may not be passed. Pure.

A window's rate held against a threshold is wrong at small counts: at 150 requests a window a healthy target with a
true error rate of 2 % passes 5 % by chance within the hour in most runs. So each rule on requests is a row of trials
(this request failed; this one was slower than the limit) with a share p₀ that it may not pass, and is judged twice:

*Roll back* by a CUSUM mixture (Page 1954; Lorden 1971): for shares p_j above p₀ the log-likelihood ratio of p_j
against p₀ is summed and never let below 0, so that what was good for hours does not hide what is bad now. It fires
when the mean of the likelihood ratios passes 3·10⁶. At a small weight requests come seldom, so a *suspicion* (10²) is
followed up by asking the target itself, twice in every look. A health check may know less than real requests do, so a
second detector counts both kinds and the first goes on without the checks: the mean of both decides.

*Promote* by an e-test (Ville's inequality; Ramdas et al. 2023): the same with p_j below p₀, from the beginning of
the phase and never reset. A mean likelihood ratio of 1/alpha = 100 happens by chance at most once in 100 phases
whenever one looks, so it may be looked at all the time.

*Hold* where source and target degrade together: the target is then not what is wrong.

Which rules there are is not known here: ``control.judge.rules`` has them as a table, and a rule is known here by its
place among the rules on requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from control.judge.whole import NO_FAILING, FailingRun

POINTS: Final = 12  # alternatives to p₀, log-spaced: more would find a share between two of them hardly sooner
FIRE: Final = math.log(3e6)  # seldom enough that a healthy target is left alone for days: see docs/judge.md
SUSPECT: Final = math.log(1e2)
PROBES: Final = 2  # asked of a suspected target in every look of the fast detector
ALPHA: Final = 0.01  # the chance at which a phase may be left by a target that is not below p₀
PROOF: Final = math.log(1 / ALPHA)
HALF_LIFE_S: Final = 10.0  # of the recent rates by which source and target are compared
TOGETHER_RATIO: Final = 1.5  # a target worse than that beside a degraded source is a worse target
TOGETHER_SAMPLES: Final = 20  # recent source requests without which nothing is said of the source

# The alternatives, as multiples of p₀ and as shares. Above: from just worse to all but dead; where p₀ itself is near
# 1 the bounds move between it and 1. Below: from hardly ever to just better.
WORSE_FROM: Final = 1.2
WORSE_TO: Final = 0.95
BETTER_FROM: Final = 0.02
BETTER_TO: Final = 0.9


class Trials(NamedTuple):
    """Requests of an arm, and how many of them broke each rule."""

    requests: float
    broke: tuple[float, ...]

    def rate(self, rule: int) -> float:
        """The share that broke the rule; 0 of none."""
        return self.broke[rule] / self.requests if self.requests else 0.0

    def faded(self, factor: float, more: Trials) -> Trials:
        """These, worth ``factor`` of what they were, and ``more``."""
        broke = tuple(a * factor + b for a, b in zip(self.broke, more.broke, strict=True))
        return Trials(self.requests * factor + more.requests, broke)


class Bound(NamedTuple):
    """What evidence is weighed against, of one rule."""

    p0: float  # the share of trials that may break it
    beside_source: bool  # whether the target is forgiven what the source does as badly
    probed: bool  # whether an answer to a health check is a trial too


@cache
def worse(p0: float) -> tuple[tuple[float, float], ...]:
    """For points above p₀, what a trial that broke the rule and one that kept it add to the log-likelihood ratio."""
    high = max(WORSE_TO, (1 + p0) / 2)
    low = min(WORSE_FROM * p0, (p0 + high) / 2)
    return _ratios(p0, _spaced(low, high))


@cache
def better(p0: float) -> tuple[tuple[float, float], ...]:
    """The same for points below p₀."""
    return _ratios(p0, _spaced(BETTER_FROM * p0, BETTER_TO * p0))


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


class TargetWatch(Struct, frozen=True):
    """The fast detector of a phase: every rule on the target's requests, beside the source's recent rates."""

    bounds: tuple[Bound, ...]
    detectors: tuple[Detector, ...]
    probed: tuple[Detector | None, ...]  # with the answers to suspicion among the trials; None: they say nothing
    source: Trials  # recent, fading
    target: Trials
    together: tuple[bool, ...]
    failing: FailingRun = NO_FAILING  # by the first rule that probes are trials of
    unanswered: bool = False  # suspected, and no probe of the last round was answered

    @classmethod
    def fresh(cls, bounds: Sequence[Bound], failing: FailingRun = NO_FAILING) -> TargetWatch:
        """Nothing seen yet; ``failing``: but for a failing that a rollback did not end."""
        nothing = Trials(0, (0,) * len(bounds))
        return cls(
            tuple(bounds),
            tuple(Detector(bound.p0) for bound in bounds),
            tuple(Detector(bound.p0) if bound.probed else None for bound in bounds),
            nothing,
            nothing,
            (False,) * len(bounds),
            failing,
        )

    def evidence(self, rule: int) -> float:
        """The log of the likelihood ratio against the target in one rule."""
        alone, probed = self.detectors[rule].evidence, self.probed[rule]
        return alone if probed is None else _log_mean((alone, probed.evidence))

    def fires(self, rule: int) -> bool:
        """Whether the target breaks the rule beyond doubt."""
        return self.evidence(rule) >= FIRE

    @property
    def breached(self) -> bool:
        """Whether it breaks any."""
        return any(map(self.fires, range(len(self.bounds))))

    @property
    def suspects(self) -> bool:
        """Whether the target should be asked."""
        return any(self.evidence(i) >= SUSPECT for i, bound in enumerate(self.bounds) if bound.probed)

    def _failing_after(self, target: Trials) -> FailingRun:
        place = next((i for i, bound in enumerate(self.bounds) if bound.probed), None)
        if place is None or not target.requests:
            return self.failing
        return self.failing.after(target.broke[place], target.requests, *worse(self.bounds[place].p0)[-1])

    def after_probes(self, failed: int, made: int) -> TargetWatch:
        """The watch after the target was asked ``made`` times."""
        probed = tuple(d and d.after(failed, made) for d in self.probed)
        return replace(self, probed=probed, unanswered=failed == made)

    def after(self, target: Trials, source: Trials, elapsed_s: float) -> TargetWatch:
        """The watch after another span of ``elapsed_s`` in which the arms did so much.

        Where the target's detector fires while the source is as bad, what it has summed is dropped: if the target
        stays bad when the source is well again, that is seen anew within seconds.
        """
        factor = 0.5 ** (elapsed_s / HALF_LIFE_S)
        recent_target, recent_source = self.target.faded(factor, target), self.source.faded(factor, source)
        trials = list(zip(target.broke, self.detectors, self.probed, strict=True))
        moved = replace(
            self,
            detectors=tuple(alone.after(broke, target.requests) for broke, alone, _ in trials),
            probed=tuple(probed and probed.after(broke, target.requests) for broke, _, probed in trials),
            source=recent_source,
            target=recent_target,
            failing=self._failing_after(target),
        )
        known = recent_source.requests >= TOGETHER_SAMPLES
        bad = [
            bound.beside_source and known and recent_source.rate(i) > bound.p0 for i, bound in enumerate(self.bounds)
        ]
        forgiven = [
            moved.fires(i) and bad[i] and recent_target.rate(i) <= TOGETHER_RATIO * recent_source.rate(i)
            for i in range(len(self.bounds))
        ]
        return replace(
            moved,
            unanswered=self.unanswered and moved.suspects,
            failing=NO_FAILING if any(forgiven) else moved.failing,
            detectors=tuple(Detector(d.p0) if f else d for d, f in zip(moved.detectors, forgiven, strict=True)),
            probed=tuple(Detector(d.p0) if f and d else d for d, f in zip(moved.probed, forgiven, strict=True)),
            together=tuple(f or (before and b) for f, before, b in zip(forgiven, self.together, bad, strict=True)),
        )
