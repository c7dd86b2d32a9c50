"""What the judge makes of counts: proof, breach, shared trouble, too little data; and the simulation beside it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from control.judge import simulate
from control.judge import verdict as judge
from control.judge.verdict import Arm, Counts, Detector, Gauges, Outcome, Terms, Verdict, Watch
from control.plan.phases import Thresholds

LIMITS = Thresholds()
TERMS = Terms(min_soak_s=300.0, max_soak_s=600.0, min_samples=100, on_low_traffic="promote")
NOTHING = Counts()
CALM = Gauges((100.0,), (0.2,))


def arm(requests: int, errors: int = 0, slow_p95: int = 0, slow_p99: int = 0) -> Arm:
    p95 = 1500.0 if slow_p95 > 0.05 * requests else 100.0
    p99 = 2500.0 if slow_p99 > 0.01 * requests else 150.0
    figures = (p95, p99) if requests else (None, None)
    return Arm(Counts(requests, errors, slow_p95, slow_p99), *figures)


def verdict(
    target: Arm, watch: Watch | None = None, soaked: float = 300.0, terms: Terms = TERMS, gauges: Gauges = CALM
) -> Verdict:
    return judge.judge(LIMITS, terms, target, watch or Watch.fresh(LIMITS), gauges, soaked, 1.0)


def watched(target: Counts, source: Counts = NOTHING, seconds: int = 1) -> Watch:
    watch = Watch.fresh(LIMITS)
    for _ in range(seconds):
        watch = watch.after(target, source, 1.0)
    return watch


@pytest.mark.parametrize(
    ("target", "soaked", "outcome", "said"),
    [
        (arm(0), 900.0, Outcome.NO_DATA, "no target requests"),
        (arm(2000), 299.0, Outcome.HOLD, "soaking"),
        (arm(99), 300.0, Outcome.HOLD, "99 target requests of the 100"),
        (arm(2000), 300.0, Outcome.PROMOTE, "proven"),
        (arm(200), 300.0, Outcome.HOLD, "held by p99_ms"),
        (arm(200), 600.0, Outcome.PROMOTE, "warning: limits kept but not proven"),
        (arm(200, slow_p99=3), 600.0, Outcome.HOLD, "held by"),
        (arm(2000, errors=90), 300.0, Outcome.HOLD, "held by error_rate"),
    ],
)
def test_a_phase_is_left_on_evidence(target: Arm, soaked: float, outcome: Outcome, said: str) -> None:
    found = verdict(target, soaked=soaked)
    assert found.outcome is outcome
    assert said in " ".join(found.reasons)


def test_too_little_traffic_holds_for_ever_where_the_config_says_so() -> None:
    terms = Terms(300.0, 600.0, 100, "hold")
    assert verdict(arm(200), soaked=1e9, terms=terms).outcome is Outcome.HOLD


def test_a_held_phase_says_so_and_is_rolled_back_all_the_same() -> None:
    held = Terms(300.0, 600.0, 100, "promote", held="paused: held until an operator resumes")
    found = verdict(arm(2000), soaked=0.0, terms=held)
    assert (found.outcome, found.reasons[0]) == (Outcome.HOLD, held.held)
    assert verdict(arm(2000), soaked=900.0, terms=held).outcome is Outcome.HOLD
    assert verdict(arm(6, errors=6), watched(Counts(6, 6)), terms=held).outcome is Outcome.ROLL_BACK


def test_a_dead_target_fires_after_six_failures() -> None:
    assert not watched(Counts(5, 5)).breached
    assert watched(Counts(6, 6)).breached
    found = verdict(arm(6, errors=6), watched(Counts(6, 6)), soaked=2.0)
    assert found.outcome is Outcome.ROLL_BACK
    assert "6 of 6 target requests failed" in found.reasons[0]


def test_hours_of_health_do_not_hide_a_failure() -> None:
    watch = watched(Counts(50, 0), seconds=600)
    assert watch.after(Counts(6, 6), Counts(), 1.0).breached


def test_slow_answers_fire_by_their_own_rule() -> None:
    watch = watched(Counts(40, 0, 20, 20))
    assert [watch.fires(i) for i in range(3)] == [False, True, True]


def test_a_suspicion_is_followed_up_and_answers_count_beside_requests() -> None:
    watch = watched(Counts(3, 3))
    assert watch.suspects
    assert not watch.breached
    assert watch.after_probes(4, 4).breached
    # A health check that knows nothing of the failure holds nothing up for good.
    calm = watch.after_probes(0, 200)
    assert calm.after(Counts(4, 4), Counts(), 1.0).breached


def test_source_and_target_degrading_together_hold() -> None:
    watch = watched(Counts(20, 10), Counts(200, 90), seconds=5)
    assert not watch.breached
    assert watch.together[0]
    found = verdict(arm(100, errors=50), watch)
    assert found.outcome is Outcome.HOLD
    assert "both degrade together" in " ".join(found.reasons)
    # The source is well again, the target is not.
    for _ in range(40):
        watch = watch.after(Counts(20, 10), Counts(200, 0), 1.0)
    assert watch.breached


def test_a_target_much_worse_than_a_degraded_source_is_rolled_back() -> None:
    assert watched(Counts(20, 20), Counts(200, 20), seconds=5).breached


def test_gauges_need_three_samples_in_a_row() -> None:
    twice = Gauges((600.0, 600.0), (0.1,))
    assert verdict(arm(2000), gauges=twice).outcome is Outcome.HOLD
    assert verdict(arm(2000), gauges=Gauges((600.0, 600.0, 600.0), (0.1,))).outcome is Outcome.ROLL_BACK
    assert verdict(arm(2000), gauges=Gauges((600.0, 400.0, 600.0), (0.1,))).outcome is Outcome.HOLD
    assert verdict(arm(2000), gauges=Gauges((100.0,), (0.9, 0.9, 0.9))).outcome is Outcome.ROLL_BACK


def test_the_literal_rule_judges_one_window() -> None:
    def literal(window: Arm) -> Outcome:
        return judge.judge_by_threshold(LIMITS, TERMS, arm(2000), window, CALM, 300.0, 1.0).outcome

    assert literal(arm(100, errors=6)) is Outcome.ROLL_BACK
    assert literal(arm(100, errors=5)) is Outcome.PROMOTE
    assert literal(arm(0)) is Outcome.HOLD


def test_the_success_rate_makes_the_error_limit_stricter() -> None:
    assert Thresholds(error_rate=0.05, success_rate=0.99).error_limit == pytest.approx(0.01)
    assert Thresholds(error_rate=0.05, success_rate=0.5).error_limit == 0.05


@pytest.mark.parametrize("p0", [0.001, 0.01, 0.05, 0.5, 0.9, 0.99])
def test_likelihood_ratios_are_finite_for_every_limit(p0: float) -> None:
    for bad, good in (*judge.worse(p0), *judge.better(p0)):
        assert math.isfinite(bad)
        assert math.isfinite(good)
    assert all(bad > 0 > good for bad, good in judge.worse(p0))
    assert all(bad < 0 < good for bad, good in judge.better(p0))


def test_the_simulation_counts_as_the_judge_does() -> None:
    chance = random.Random(5)
    runs, watch = simulate.Runs(0.05, 1), Watch.fresh(LIMITS)
    for _ in range(500):
        n = chance.randrange(5)
        k = sum(chance.random() < 0.1 for _ in range(n))
        runs.after(np.array([float(k)]), np.array([float(n)]))
        watch = watch.after(Counts(n, k), Counts(), 0.25)
        if chance.random() < 0.2:
            runs.after_probes(np.array([1.0]), np.array([2.0]))
            watch = watch.after_probes(1, 2)
        assert runs.evidence()[0] == pytest.approx(watch.evidence(0))


def test_a_dead_target_is_caught_in_time_in_a_small_simulation() -> None:
    caught = simulate.detection_s(1.0, 200, 4, within_s=4.0, warm_up_s=5.0)
    assert np.percentile(caught, 95) <= 2.0


def test_a_detector_is_not_moved_by_nothing() -> None:
    assert Detector(0.05).after(0, 0) == Detector(0.05)
