"""Evidence: how strongly a sequence of yes-or-no trials speaks for or against a share staying below its limit. Pure.

Comparing a window's rate with a threshold is wrong at small counts: with 150 requests per window, a healthy target
with a true error rate of 2 % exceeds 5 % by chance within an hour in most runs. So each rule on requests is a
sequence of trials (this request failed; this request was slower than the limit) with a limit p₀ for the share of
failed trials. It is judged by two tests:

*Roll back* by a CUSUM mixture (Page 1954; Lorden 1971): for several shares p_j above p₀, the log-likelihood ratio of
p_j against p₀ is summed, but never below 0, so that hours of good results do not hide bad ones now. The detector
fires when the mean of the likelihood ratios passes 3·10⁶. At a small weight requests are rare, so from a *suspicion*
(10²) on, the control plane also probes the target, twice in every look. A health check may test less than real
requests do, so two detectors run: one counts requests and probes, the other requests only. The mean of both decides.
Where the source answers every write, a third one counts the target's copies of them, by themselves: a target that
takes no writes must not be outvoted by its reads.

*Promote* by an e-test (Ville's inequality; Ramdas et al. 2023): the same sum for shares p_j below p₀, from the
beginning of the phase and never reset. A mean likelihood ratio of 1/alpha = 100 happens by chance in at most one of
100 phases, however often the test is read, so it may be read at every look.

*Hold* where source and target degrade together: then the cause is not the target.

This file does not know which rules exist: ``control.judge.rules`` has them as a table. Here a rule is an index among
the rules on requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from control.judge.whole import NO_FAILING, FailingRun

POINTS: Final = 12  # alternatives to p₀, log-spaced: more would hardly detect a share between two of them sooner
FIRE: Final = math.log(3e6)  # high enough that a healthy target is not rolled back for days: see docs/judge.md
SUSPECT: Final = math.log(1e2)
PROBES: Final = 2  # health checks of a suspected target in every look of the fast detector
ALPHA: Final = 0.01  # greatest probability that a target which is not below p₀ leaves a phase
PROOF: Final = math.log(1 / ALPHA)
HALF_LIFE_S: Final = 10.0  # of the recent rates by which source and target are compared
TOGETHER_RATIO: Final = 1.5  # a target whose rate exceeds this multiple of a degraded source's is at fault itself
TOGETHER_SAMPLES: Final = 20  # with fewer recent source requests the source's rate is not used

# The alternatives' ranges. Worse shares: from WORSE_FROM times p₀ to the share WORSE_TO, an almost dead target.
# Where p₀ itself is near 1, both bounds are moved between p₀ and 1. Better shares: both are multiples of p₀.
WORSE_FROM: Final = 1.2
WORSE_TO: Final = 0.95
BETTER_FROM: Final = 0.02
BETTER_TO: Final = 0.9


class Trials(NamedTuple):
    """Requests of an arm, and how many of them broke each rule."""

    requests: float
    broke: tuple[float, ...]
    copies: float = 0.0  # of writes that the other arm answered
    failed_copies: float = 0.0

    def rate(self, rule: int) -> float:
        """The share of requests that broke the rule; 0 without requests."""
        return self.broke[rule] / self.requests if self.requests else 0.0

    @property
    def copy_rate(self) -> float:
        """The share of copies that failed; 0 without copies."""
        return self.failed_copies / self.copies if self.copies else 0.0

    def faded(self, factor: float, more: Trials) -> Trials:
        """These trials weighted by ``factor``, plus ``more``."""
        broke = tuple(a * factor + b for a, b in zip(self.broke, more.broke, strict=True))
        return Trials(
            self.requests * factor + more.requests,
            broke,
            self.copies * factor + more.copies,
            self.failed_copies * factor + more.failed_copies,
        )


class Bound(NamedTuple):
    """The limit of one rule, and how its evidence is weighed."""

    p0: float  # the share of trials that may break the rule
    beside_source: bool  # whether the target is not blamed while the source breaks the rule as badly
    probed: bool  # whether a health check counts as a trial, too
    copied: bool = False  # whether a copy of a write counts as a trial, too


@cache
def worse(p0: float) -> tuple[tuple[float, float], ...]:
    """By share above p₀: what a trial that broke the rule, and one that kept it, add to the log-likelihood ratio."""
    high = max(WORSE_TO, (1 + p0) / 2)
    low = min(WORSE_FROM * p0, (p0 + high) / 2)
    return _ratios(p0, _spaced(low, high))


@cache
def better(p0: float) -> tuple[tuple[float, float], ...]:
    """The same for shares below p₀."""
    return _ratios(p0, _spaced(BETTER_FROM * p0, BETTER_TO * p0))


def _spaced(low: float, high: float) -> list[float]:
    return [low * (high / low) ** (j / (POINTS - 1)) for j in range(POINTS)]


def _ratios(p0: float, points: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple((math.log(p / p0), math.log((1 - p) / (1 - p0))) for p in points)


def _log_mean(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(x - top) for x in logs)) - math.log(len(logs))


def proof(p0: float, broke: float, requests: float) -> float:
    """The log of the e-value for "the share is below p₀", from all counts of a phase."""
    passed = requests - broke
    return _log_mean([broke * bad + passed * good for bad, good in better(p0)])


class Detector(Struct, frozen=True):
    """The CUSUM mixture of one rule on one arm."""

    p0: float
    scores: tuple[float, ...] = (0.0,) * POINTS

    def after(self, broke: float, requests: float) -> Detector:
        """The detector after ``requests`` more trials, of which ``broke`` broke the rule."""
        if not requests:
            return self
        passed = requests - broke
        pairs = zip(self.scores, worse(self.p0), strict=True)
        return replace(self, scores=tuple(max(0.0, s + broke * bad + passed * good) for s, (bad, good) in pairs))

    @property
    def evidence(self) -> float:
        """The log of the mean likelihood ratio against p₀; the detector fires at ``FIRE``."""
        return _log_mean(self.scores)


def _worst(trials: Trials, rule: int, bound: Bound) -> float:
    """The share that broke the rule: of the requests or, if it is greater, of the copies."""
    return max(trials.rate(rule), trials.copy_rate) if bound.copied else trials.rate(rule)


class TargetWatch(Struct, frozen=True):
    """The fast detector of a phase: the detectors of every rule on requests, and both arms' recent rates."""

    bounds: tuple[Bound, ...]
    detectors: tuple[Detector, ...]  # count requests only
    probed: tuple[Detector | None, ...]  # count requests and probes; None where probes do not count for the rule
    copied: tuple[Detector | None, ...]  # count copies of writes; None where they do not count for the rule
    source: Trials  # recent requests, older ones weighted less: see HALF_LIFE_S
    target: Trials
    together: tuple[bool, ...]  # by rule: whether source and target degrade together
    failing: FailingRun = NO_FAILING  # by the first rule that counts probes
    failing_copies: FailingRun = NO_FAILING  # the same of copies of writes
    unanswered: bool = False  # suspected, and no probe of the last round was answered

    @classmethod
    def fresh(
        cls, bounds: Sequence[Bound], failing: FailingRun = NO_FAILING, failing_copies: FailingRun = NO_FAILING
    ) -> TargetWatch:
        """A watch without any trials; the runs go on counting failures that a rollback did not end."""
        nothing = Trials(0, (0,) * len(bounds))
        return cls(
            tuple(bounds),
            tuple(Detector(bound.p0) for bound in bounds),
            tuple(Detector(bound.p0) if bound.probed else None for bound in bounds),
            tuple(Detector(bound.p0) if bound.copied else None for bound in bounds),
            nothing,
            nothing,
            (False,) * len(bounds),
            failing,
            failing_copies,
        )

    def evidence(self, rule: int) -> float:
        """The log of the likelihood ratio against the target, by one rule."""
        detectors = (self.detectors[rule], self.probed[rule], self.copied[rule])
        return _log_mean([each.evidence for each in detectors if each is not None])

    def suspects_copies(self, rule: int) -> bool:
        """Whether the copies of writes alone make it likely that the target breaks the rule."""
        copied = self.copied[rule]
        return copied is not None and copied.evidence >= SUSPECT

    def fires(self, rule: int) -> bool:
        """Whether the evidence that the target breaks the rule suffices for a rollback."""
        return self.evidence(rule) >= FIRE

    @property
    def breached(self) -> bool:
        """Whether any rule fires."""
        return any(map(self.fires, range(len(self.bounds))))

    @property
    def suspects(self) -> bool:
        """Whether the target should be probed."""
        return any(self.evidence(i) >= SUSPECT for i, bound in enumerate(self.bounds) if bound.probed)

    def _failing_after(self, target: Trials) -> FailingRun:
        place = next((i for i, bound in enumerate(self.bounds) if bound.probed), None)
        if place is None or not target.requests:
            return self.failing
        return self.failing.after(target.broke[place], target.requests, *worse(self.bounds[place].p0)[-1])

    def _failing_copies_after(self, target: Trials) -> FailingRun:
        p0 = next((bound.p0 for bound in self.bounds if bound.copied), None)
        if p0 is None or not target.copies:
            return self.failing_copies
        return self.failing_copies.after(target.failed_copies, target.copies, *worse(p0)[-1])

    def after_probes(self, failed: int, made: int) -> TargetWatch:
        """The watch after ``made`` probes of the target, of which ``failed`` failed."""
        probed = tuple(d and d.after(failed, made) for d in self.probed)
        return replace(self, probed=probed, unanswered=failed == made)

    def after(self, target: Trials, source: Trials, elapsed_s: float) -> TargetWatch:
        """The watch after another ``elapsed_s`` seconds with these trials of both arms.

        Where a detector fires while the source is as bad, the detector's sums are reset. If the target stays bad once
        the source is healthy again, the detector fires anew within seconds.
        """
        factor = 0.5 ** (elapsed_s / HALF_LIFE_S)
        recent_target, recent_source = self.target.faded(factor, target), self.source.faded(factor, source)
        trials = list(zip(target.broke, self.detectors, self.probed, strict=True))
        moved = replace(
            self,
            detectors=tuple(alone.after(broke, target.requests) for broke, alone, _ in trials),
            probed=tuple(probed and probed.after(broke, target.requests) for broke, _, probed in trials),
            copied=tuple(copied and copied.after(target.failed_copies, target.copies) for copied in self.copied),
            source=recent_source,
            target=recent_target,
            failing=self._failing_after(target),
            failing_copies=self._failing_copies_after(target),
        )
        enough = recent_source.requests >= TOGETHER_SAMPLES
        bad = [
            bound.beside_source and enough and recent_source.rate(i) > bound.p0 for i, bound in enumerate(self.bounds)
        ]
        forgiven = [
            moved.fires(i) and bad[i] and _worst(recent_target, i, bound) <= TOGETHER_RATIO * recent_source.rate(i)
            for i, bound in enumerate(self.bounds)
        ]
        return replace(
            moved,
            unanswered=self.unanswered and moved.suspects,
            failing=NO_FAILING if any(forgiven) else moved.failing,
            failing_copies=NO_FAILING if any(forgiven) else moved.failing_copies,
            detectors=tuple(Detector(d.p0) if f else d for d, f in zip(moved.detectors, forgiven, strict=True)),
            probed=tuple(Detector(d.p0) if f and d else d for d, f in zip(moved.probed, forgiven, strict=True)),
            copied=tuple(Detector(d.p0) if f and d else d for d, f in zip(moved.copied, forgiven, strict=True)),
            together=tuple(f or (before and b) for f, before, b in zip(forgiven, self.together, bad, strict=True)),
        )
