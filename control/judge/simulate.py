"""Simulates the judge on good and bad targets: ``python -m control.judge.simulate`` prints docs/judge.md's tables.

It uses the likelihood ratios of ``control.judge.evidence``, for many runs at once (with numpy, of the dev extra). A
test compares its arithmetic with the judge's. Requests arrive as a Poisson process; 5 % of 100 a second reach the
target.
"""

from __future__ import annotations

import math
import platform
import sys
from typing import TYPE_CHECKING, Any, Final

from control.judge.evidence import FIRE, POINTS, PROBES, PROOF, SUSPECT, better, worse
from control.judge.rules import ON_REQUESTS, bounds
from control.plan.phases import Thresholds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[Any]

RATE: Final = 5.0  # target requests a second: 5 % of 100
PASS_S: Final = 0.25  # between two looks of the fast detector
PROBE_S: Final = 0.05  # until a probe is answered
LITERAL_WINDOW_S: Final = 30.0  # of the literal rule, which compares a window's error rate with the limit
MIN_SAMPLES: Final = 100  # the default of min_samples: no phase is left on fewer requests
MIN_SOAK_S: Final = 300.0  # the first phase's min_soak
MAX_SOAK_S: Final = 600.0  # the default of max_soak: twice min_soak
Z99: Final = 2.3263478740408408  # the standard normal's 99th percentile

_SHARES: Final = {rule.name: bound.p0 for (rule, _), bound in zip(ON_REQUESTS, bounds(Thresholds()), strict=True)}
ERRORS: Final = _SHARES["error_rate"]
SLOW_P99: Final = _SHARES["p99_ms"]


class Runs:
    """One rule's detectors in many runs side by side: with probes among the trials, and without."""

    def __init__(self, p0: float, runs: int) -> None:
        import numpy as np

        self._np, self._p0 = np, p0
        ratios = np.array(worse(p0))
        self._bad, self._good = ratios[:, 0], ratios[:, 1]
        self.alone: Floats = np.zeros((runs, POINTS))
        self.probed: Floats = np.zeros((runs, POINTS))

    def after(self, broke: Floats, requests: Floats) -> None:
        """Count more requests."""
        self.alone = self._moved(self.alone, broke, requests)
        self.probed = self._moved(self.probed, broke, requests)

    def after_probes(self, failed: Floats, made: Floats) -> None:
        """Count more probes."""
        self.probed = self._moved(self.probed, failed, made)

    def _moved(self, scores: Floats, broke: Floats, requests: Floats) -> Floats:
        moved = scores + broke[:, None] * self._bad + (requests - broke)[:, None] * self._good
        floored: Floats = self._np.maximum(moved, 0.0, out=moved)
        return floored

    def only(self, runs: Floats) -> Runs:
        """A copy of some of the runs."""
        few = Runs(self._p0, len(runs))
        few.alone, few.probed = self.alone[runs], self.probed[runs]
        return few

    def evidence(self) -> Floats:
        """``TargetWatch.evidence`` of this rule, for each run."""
        np = self._np
        both = np.concatenate((self.alone, self.probed), axis=1)
        top = both.max(axis=1)
        log_mean: Floats = top + np.log(np.exp(both - top[:, None]).sum(axis=1)) - math.log(2 * POINTS)
        return log_mean


def detection_s(
    rate: float, runs: int, seed: int, *, within_s: float, before: float = 0.01, warm_up_s: float = 60.0
) -> Floats:
    """Seconds from when a target begins to fail a share ``rate`` of its requests until it is caught; inf: never."""
    import numpy as np

    rng = np.random.default_rng(seed)
    detector = Runs(ERRORS, runs)
    for _ in range(int(warm_up_s / PASS_S)):
        n = rng.poisson(RATE * PASS_S, runs)
        detector.after(rng.binomial(n, before), n)
    offset = rng.random(runs) * PASS_S  # when within a pass the failure begins
    caught = np.full(runs, np.inf)
    for i in range(int(within_s / PASS_S)):
        healthy = offset if i == 0 else np.zeros(runs)
        good, ill = rng.poisson(RATE * healthy), rng.poisson(RATE * (PASS_S - healthy))
        detector.after(rng.binomial(good, before) + rng.binomial(ill, rate), good + ill)
        end = (i + 1) * PASS_S - offset
        evidence = detector.evidence()
        _note(caught, evidence >= FIRE, end)
        probes = np.where(evidence >= SUSPECT, PROBES, 0)
        detector.after_probes(rng.binomial(probes, rate), probes)
        _note(caught, detector.evidence() >= FIRE, end + PROBE_S)
    return caught


def _note(caught: Floats, now: NDArray[np.bool_], when: Floats) -> None:
    new = now & (caught == math.inf)
    caught[new] = when[new]


def false_alarms(rate: float, runs: int, seed: int, seconds: float) -> tuple[float, float]:
    """The share of runs in which a healthy target is rolled back: by the judge, and by the literal rule.

    Simulating every look of a day would take too many steps. So the judge's simulation goes from failure to failure,
    with all requests between two failures as one step; only a suspected run goes look by look, with probes in each
    look. The detector is thus read after every failure instead of after every look, and rolls back no less often than
    the real one.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    detector = Runs(ERRORS, runs)
    fired, seen = np.zeros(runs, bool), np.zeros(runs)
    while (seen < RATE * seconds).any():
        good = rng.geometric(rate, runs) - 1.0  # requests until the next failure
        seen += good + 1
        going_on = seen <= RATE * seconds
        # The evidence is a mean of likelihood ratios, so it never exceeds the greatest: other runs are not suspected.
        near = np.flatnonzero(np.maximum(detector.alone.max(axis=1), detector.probed.max(axis=1)) >= SUSPECT)
        while near.size:
            few = detector.only(near)
            probes = np.where((few.evidence() >= SUSPECT) & (good[near] > 0), PROBES, 0)
            few.after_probes(rng.binomial(probes, rate), probes)
            fired[near] |= (few.evidence() >= FIRE) & going_on[near]
            step = np.where(probes > 0, np.minimum(good[near], RATE * PASS_S), 0.0)
            few.after(np.zeros(near.size), step)
            good[near] -= step
            detector.alone[near], detector.probed[near] = few.alone, few.probed
            near = near[probes > 0]
        detector.after(np.zeros(runs), good)
        detector.after(np.ones(runs), np.ones(runs))
        near = np.flatnonzero(np.maximum(detector.alone.max(axis=1), detector.probed.max(axis=1)) >= FIRE)
        if near.size:
            fired[near] |= (detector.only(near).evidence() >= FIRE) & going_on[near]
    windows = rng.poisson(RATE * LITERAL_WINDOW_S, (int(seconds / LITERAL_WINDOW_S), runs))
    literal = (rng.binomial(windows, rate) > ERRORS * windows).any(axis=0)
    return float(fired.mean()), float(literal.mean())


def promotions(
    slow: float, p0: float, runs: int, seed: int, min_soak_s: float, max_soak_s: float
) -> tuple[float, int]:
    """The share of runs in which a target that breaks a rule with a share ``slow`` of its requests leaves a phase.

    A phase is left with the proof, or at ``max_soak_s`` if the limit was kept so far. Also returns the fewest
    requests on which the phase was left.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    detector = Runs(p0, runs)
    ratios = np.array(better(p0))
    total_n, total_k = np.zeros(runs), np.zeros(runs)
    left, out = np.zeros(runs, bool), np.zeros(runs, bool)
    fewest = sys.maxsize
    for i in range(int(max_soak_s / PASS_S)):
        n = rng.poisson(RATE * PASS_S, runs)
        k = rng.binomial(n, slow)
        detector.after(k, n)
        total_n += n
        total_k += k
        out |= (detector.evidence() >= FIRE) & ~left
        soaked = (i + 1) * PASS_S
        if soaked < min_soak_s:
            continue
        logs = total_k[:, None] * ratios[:, 0] + (total_n - total_k)[:, None] * ratios[:, 1]
        top = logs.max(axis=1)
        proof = top + np.log(np.exp(logs - top[:, None]).sum(axis=1)) - math.log(POINTS)
        within_limit = total_k <= p0 * total_n
        leaves = (proof >= PROOF) | (within_limit & (soaked >= max_soak_s))
        leaves &= (total_n >= MIN_SAMPLES) & ~left & ~out
        if leaves.any():
            fewest = min(fewest, int(total_n[leaves].min()))
        left |= leaves
    return float(left.mean()), fewest if left.any() else 0


def share_slower(p99_over_limit: float, sigma: float = 1.0) -> float:
    """The share of log-normal latencies above a limit, where their 99th percentile is ``p99_over_limit`` times it."""
    return 0.5 * math.erfc((Z99 - math.log(p99_over_limit) / sigma) / math.sqrt(2))


def main() -> None:
    """Print the tables."""
    import numpy as np

    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    print(f"`python -m control.judge.simulate {runs}`: {runs} runs each, {versions}")
    print()
    print("| A target that | is caught after: median | 95th percentile | 99th |")
    print("|---|---|---|---|")
    for rate, within in ((1.0, 10.0), (0.5, 30.0), (0.2, 120.0)):
        p50, p95, p99 = np.percentile(detection_s(rate, runs, 1, within_s=within), (50, 95, 99))
        print(f"| fails {rate:.0%} of its requests | {p50:.2f} s | {p95:.2f} s | {p99:.2f} s |")
    print()
    _print_promotions(runs)
    print("| A healthy target with a true error rate of | for | is rolled back by the judge | by the literal rule |")
    print("|---|---|---|---|")
    for rate, hours in ((0.02, 1), (0.04, 1), (0.04, 24)):
        ours, literal = false_alarms(rate, runs, 2, hours * 3600.0)
        print(f"| {rate:.0%} | {hours} h | {ours:.1%} of runs | {literal:.1%} of runs |", flush=True)


def _print_promotions(runs: int) -> None:
    print("| A target whose | leaves a phase of 5 min (at most 10) in | on at least |")
    print("|---|---|---|")
    cases: tuple[tuple[str, float, float], ...] = (
        ("p99 is half the limit", share_slower(0.5), SLOW_P99),
        ("p99 is twice the limit", share_slower(2.0), SLOW_P99),
        ("error rate is 0.5 %", 0.005, ERRORS),
        ("error rate is 10 %", 0.10, ERRORS),
    )
    for what, share, p0 in cases:
        left, fewest = promotions(share, p0, runs, 3, MIN_SOAK_S, MAX_SOAK_S)
        print(f"| {what} | {left:.1%} of runs | {f'{fewest} requests' if left else '-'} |", flush=True)
    print()


if __name__ == "__main__":
    main()
