"""What the judge makes of counts: proof, breach, shared trouble, too little data; and the simulation beside it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from control.judge import rules, simulate
from control.judge.document import verdict_document
from control.judge.evidence import Detector, TargetWatch, Trials, better, worse
from control.judge.rules import Measured, Requests, Rule, Samples, VerdictOutcome, bounds
from control.judge.verdict import PhaseVerdict, Terms, judge, judge_by_threshold
from control.plan.phases import Thresholds
from control.report import wording
from proxy.board.board import Series

LIMITS = Thresholds()
TERMS = Terms(min_soak_s=300.0, max_soak_s=600.0, min_samples=100, on_low_traffic="promote")
CALM: Samples = {"memory_mb": (100.0,), "cpu": (0.2,)}


def counts(requests: float, errors: float = 0, slow_p95: float = 0, slow_p99: float = 0) -> Trials:
    return Trials(requests, (errors, slow_p95, slow_p99))


NOTHING = counts(0)


def fresh() -> TargetWatch:
    return TargetWatch.fresh(bounds(LIMITS))


def arm(requests: int, errors: int = 0, slow_p95: int = 0, slow_p99: int = 0) -> Measured:
    p95 = 1500.0 if slow_p95 > 0.05 * requests else 100.0
    p99 = 2500.0 if slow_p99 > 0.01 * requests else 150.0
    figures = (errors / requests, p95, p99) if requests else (None, None, None)
    return Measured(counts(requests, errors, slow_p95, slow_p99), figures)


def verdict(
    target: Measured,
    watch: TargetWatch | None = None,
    soaked: float = 300.0,
    terms: Terms = TERMS,
    gauges: Samples = CALM,
) -> PhaseVerdict:
    return judge(LIMITS, terms, target, watch or fresh(), gauges, soaked, 1.0)


def watched(target: Trials, source: Trials = NOTHING, seconds: int = 1) -> TargetWatch:
    watch = fresh()
    for _ in range(seconds):
        watch = watch.after(target, source, 1.0)
    return watch


@pytest.mark.parametrize(
    ("target", "soaked", "outcome", "said"),
    [
        (arm(0), 900.0, VerdictOutcome.NO_DATA, "no target requests"),
        (arm(2000), 299.0, VerdictOutcome.HOLD, "soaking"),
        (arm(99), 300.0, VerdictOutcome.HOLD, "99 target requests of the 100"),
        (arm(2000), 300.0, VerdictOutcome.PROMOTE, "proven"),
        (arm(200), 300.0, VerdictOutcome.HOLD, "held by p99_ms"),
        (arm(200), 600.0, VerdictOutcome.PROMOTE, "warning: limits kept but not proven"),
        (arm(200, slow_p99=3), 600.0, VerdictOutcome.HOLD, "held by"),
        (arm(2000, errors=90), 300.0, VerdictOutcome.HOLD, "held by error_rate"),
    ],
)
def test_a_phase_is_left_on_evidence(target: Measured, soaked: float, outcome: VerdictOutcome, said: str) -> None:
    found = verdict(target, soaked=soaked)
    assert found.outcome is outcome
    assert said in " ".join(found.reasons)


def test_too_little_traffic_holds_for_ever_where_the_config_says_so() -> None:
    terms = Terms(300.0, 600.0, 100, "hold")
    assert verdict(arm(200), soaked=1e9, terms=terms).outcome is VerdictOutcome.HOLD


def test_a_held_phase_says_so_and_is_rolled_back_all_the_same() -> None:
    held = Terms(300.0, 600.0, 100, "promote", held="paused: held until an operator resumes")
    found = verdict(arm(2000), soaked=0.0, terms=held)
    assert (found.outcome, found.reasons[0]) == (VerdictOutcome.HOLD, held.held)
    assert verdict(arm(2000), soaked=900.0, terms=held).outcome is VerdictOutcome.HOLD
    assert verdict(arm(6, errors=6), watched(counts(6, 6)), terms=held).outcome is VerdictOutcome.ROLL_BACK


def test_a_dead_target_fires_after_six_failures() -> None:
    assert not watched(counts(5, 5)).breached
    assert watched(counts(6, 6)).breached
    found = verdict(arm(6, errors=6), watched(counts(6, 6)), soaked=2.0)
    assert found.outcome is VerdictOutcome.ROLL_BACK
    assert "6 of 6 target requests failed" in found.reasons[0]


def test_hours_of_health_do_not_hide_a_failure() -> None:
    watch = watched(counts(50, 0), seconds=600)
    assert watch.after(counts(6, 6), NOTHING, 1.0).breached


def test_slow_answers_fire_by_their_own_rule() -> None:
    watch = watched(counts(40, 0, 20, 20))
    assert [watch.fires(i) for i in range(3)] == [False, True, True]


def test_a_suspicion_is_followed_up_and_answers_count_beside_requests() -> None:
    watch = watched(counts(3, 3))
    assert watch.suspects
    assert not watch.breached
    assert watch.after_probes(4, 4).breached
    # A health check that knows nothing of the failure holds nothing up for good.
    calm = watch.after_probes(0, 200)
    assert calm.after(counts(4, 4), NOTHING, 1.0).breached


def test_source_and_target_degrading_together_hold() -> None:
    watch = watched(counts(20, 10), counts(200, 90), seconds=5)
    assert not watch.breached
    assert watch.together[0]
    found = verdict(arm(100, errors=50), watch)
    assert found.outcome is VerdictOutcome.HOLD
    assert "both degrade together" in " ".join(found.reasons)
    # The source is well again, the target is not.
    for _ in range(40):
        watch = watch.after(counts(20, 10), counts(200, 0), 1.0)
    assert watch.breached


def test_a_target_much_worse_than_a_degraded_source_is_rolled_back() -> None:
    assert watched(counts(20, 20), counts(200, 20), seconds=5).breached


@pytest.mark.parametrize(
    ("memory_mb", "cpu", "outcome"),
    [
        ((600.0, 600.0), (0.1,), VerdictOutcome.HOLD),
        ((600.0, 600.0, 600.0), (0.1,), VerdictOutcome.ROLL_BACK),
        ((600.0, 400.0, 600.0), (0.1,), VerdictOutcome.HOLD),
        ((100.0,), (0.9, 0.9, 0.9), VerdictOutcome.ROLL_BACK),
    ],
)
def test_gauges_need_three_samples_in_a_row(
    memory_mb: tuple[float, ...], cpu: tuple[float, ...], outcome: VerdictOutcome
) -> None:
    assert verdict(arm(2000), gauges={"memory_mb": memory_mb, "cpu": cpu}).outcome is outcome


def test_the_literal_rule_judges_one_window() -> None:
    def literal(window: Measured) -> VerdictOutcome:
        return judge_by_threshold(LIMITS, TERMS, arm(2000), window, CALM, 300.0, 1.0).outcome

    assert literal(arm(100, errors=6)) is VerdictOutcome.ROLL_BACK
    assert literal(arm(100, errors=5)) is VerdictOutcome.PROMOTE
    assert literal(arm(0)) is VerdictOutcome.HOLD


# ----------------------------------------------------------------------------------------------- copies of writes


def copied(requests: float, copies: float, failed: float, errors: float = 0) -> Trials:
    return Trials(requests, (errors, 0, 0), copies, failed)


def one_writer(*steps: tuple[Trials, Trials], seconds: int = 1) -> TargetWatch:
    watch = TargetWatch.fresh(bounds(LIMITS, copies=True))
    for target, source in steps * seconds:
        watch = watch.after(target, source, 1.0)
    return watch


def both(requests: int, copies: int, failed: int) -> Measured:
    return Measured(copied(requests, copies, failed), (failed / copies if copies else 0.0, 100.0, 150.0))


def test_a_target_that_takes_no_writes_fires_however_well_its_reads_are() -> None:
    step = copied(200, 1, 1), counts(200)
    assert not one_writer(step, seconds=5).breached
    watch = one_writer(step, seconds=8)
    found = verdict(both(1600, 8, 8), watch)
    assert found.outcome is VerdictOutcome.ROLL_BACK
    assert "0 of 1600 target requests failed (0 %); 8 of 8 copies of writes failed (100 %)" in found.reasons[0]
    assert found.rules[0].value == 1.0
    assert not one_writer(*[(copied(200, 1, 0), counts(200))] * 8).suspects


def test_where_copies_are_not_counted_they_move_nothing() -> None:
    watch, other = watched(copied(200, 50, 50), seconds=8), watched(counts(200), seconds=8)
    assert [watch.evidence(i) for i in range(3)] == [other.evidence(i) for i in range(3)]
    assert not watch.breached


def test_copies_that_are_taken_prove_together_with_the_requests() -> None:
    well = both(60, 60, 0)
    assert verdict(well, one_writer((well.trials, NOTHING))).rules[0].outcome is VerdictOutcome.PROMOTE
    alone = both(60, 0, 0)
    assert verdict(alone, one_writer((alone.trials, NOTHING))).rules[0].outcome is VerdictOutcome.HOLD


def test_no_phase_is_left_while_copies_are_likely_to_fail() -> None:
    target = both(5000, 3, 3)
    watch = one_writer((target.trials, counts(5000)))
    assert not watch.breached
    found = verdict(target, watch)
    assert found.outcome is VerdictOutcome.HOLD
    assert "no phase is left while" in " ".join(found.reasons)


def test_copies_are_no_requests_of_the_minimum() -> None:
    assert "90 target requests of the 100" in verdict(both(90, 500, 0), one_writer()).reasons[0]
    assert verdict(both(0, 500, 0), one_writer()).outcome is VerdictOutcome.NO_DATA


def test_a_source_that_fails_reads_does_not_excuse_a_target_that_takes_no_writes() -> None:
    bad_source = counts(200, 20)  # a tenth of the reads fail there, too
    assert one_writer((copied(200, 2, 2, errors=20), bad_source), seconds=8).breached
    watch = one_writer((copied(200, 2, 0, errors=20), bad_source), seconds=8)
    assert watch.together[0]
    assert not watch.breached


def test_the_literal_rule_judges_copies_by_themselves() -> None:
    def literal(window: Measured) -> VerdictOutcome:
        return judge_by_threshold(LIMITS, TERMS, arm(2000), window, CALM, 300.0, 1.0).outcome

    assert literal(both(1000, 10, 1)) is VerdictOutcome.ROLL_BACK
    assert literal(both(1000, 100, 5)) is VerdictOutcome.PROMOTE


def test_the_success_rate_makes_the_error_limit_stricter() -> None:
    assert Thresholds(error_rate=0.05, success_rate=0.99).error_limit == pytest.approx(0.01)
    assert Thresholds(error_rate=0.05, success_rate=0.5).error_limit == 0.05


@pytest.mark.parametrize("p0", [0.001, 0.01, 0.05, 0.5, 0.9, 0.99])
def test_likelihood_ratios_are_finite_for_every_limit(p0: float) -> None:
    for bad, good in (*worse(p0), *better(p0)):
        assert math.isfinite(bad)
        assert math.isfinite(good)
    assert all(bad > 0 > good for bad, good in worse(p0))
    assert all(bad < 0 < good for bad, good in better(p0))


def test_the_simulation_counts_as_the_judge_does() -> None:
    chance = random.Random(5)
    runs, watch = simulate.Runs(0.05, 1), fresh()
    for _ in range(500):
        n = chance.randrange(5)
        k = sum(chance.random() < 0.1 for _ in range(n))
        runs.after(np.array([float(k)]), np.array([float(n)]))
        watch = watch.after(counts(n, k), NOTHING, 0.25)
        if chance.random() < 0.2:
            runs.after_probes(np.array([1.0]), np.array([2.0]))
            watch = watch.after_probes(1, 2)
        assert runs.evidence()[0] == pytest.approx(watch.evidence(0))


def test_a_dead_target_is_caught_in_time_in_a_small_simulation() -> None:
    caught = simulate.detection_s(1.0, 200, 4, within_s=4.0, warm_up_s=5.0)
    assert np.percentile(caught, 95) <= 2.0


def test_a_detector_is_not_moved_by_nothing() -> None:
    assert Detector(0.05).after(0, 0) == Detector(0.05)


def test_every_row_has_a_limit_and_words_for_all_that_it_may_come_to() -> None:
    for rule in rules.RULES:
        assert rules.limit_of(rule, LIMITS) > 0
        cases = rules.RULES[0].wording if isinstance(rule.signal, Requests) else rules.GAUGES[0].wording
        assert rule.wording.keys() == cases.keys(), rule.name
    assert len({rule.name for rule in rules.RULES}) == len(rules.RULES)


def test_a_rule_is_one_row_and_is_judged_and_told_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(series: Series, limit: float) -> int:
        return series.client_errors

    def share(series: Series, p0: float) -> float | None:
        return series.client_errors / series.requests if series.requests else None

    signal = Requests(refused, share)
    words = "{broke} of {requests} target requests refused ({rate})"
    row = Rule(
        "refused_rate", "Refused", signal, "error_limit", rules.SHARE, "refused", words, rules.RULES[0].wording
    )
    monkeypatch.setattr(rules, "ON_REQUESTS", (*rules.ON_REQUESTS, (row, signal)))
    series = Series.empty()
    series.buckets[0], series.client_errors = 40, 40
    watch = fresh().after(rules.trials(series, LIMITS), rules.trials(Series.empty(), LIMITS), 0.25)
    document = verdict_document(verdict(rules.measured(series, LIMITS), watch))
    assert document.outcome is VerdictOutcome.ROLL_BACK
    assert document.reasons[0].startswith(
        "refused_rate: 40 of 40 target requests refused (100 %); at most 5 % allowed"
    )
    (told,) = [each for each in document.rules if each.rule == "refused_rate"]
    label, written = wording.rule(told)
    assert (label, written(told.value), written(told.limit)) == ("Refused", "100 %", "5 %")


def test_a_verdict_has_the_reason_of_each_rule_beside_its_figures() -> None:
    document = verdict_document(verdict(arm(200, slow_p99=3)))
    assert document.summary == ("held by p99_ms",)
    assert document.reasons == (*document.summary, *(f"{each.rule}: {each.reason}" for each in document.rules))
    assert verdict_document(None).summary == ("nothing has been judged yet",)
