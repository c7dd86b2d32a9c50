"""The comparison with the source: what is found, what is not, by which operation, and how bursts are told."""

from __future__ import annotations

import numpy as np
import pytest

from control.judge.bursts import DELAY, Burstiness, Bursts
from control.judge.evidence import FIRE, PROOF
from control.judge.relative import (
    ABANDONED,
    ERRORS,
    RHO_WORSE,
    SIGNALS,
    STATUS,
    Comparison,
    Floats,
    log_ratio,
    mean_evidence,
    worse_points,
)

OPERATIONS = 2
LOOK_S = 0.25
RUNS = 40
MIX = np.array([0.5, 0.3, 0.18, 0.02])


def compared(signal: int, target: tuple[int, int], source: tuple[int, int], looks: int) -> Comparison:
    """After looks of (bad, made) trials of both arms by one signal of the second operation; the first is well."""
    comparison = Comparison(OPERATIONS)
    made, bad = np.zeros((1, 2, OPERATIONS, len(SIGNALS))), np.zeros((1, 2, OPERATIONS, len(SIGNALS)))
    for arm, (broken, trials) in enumerate((source, target)):
        made[0, arm] = trials
        bad[0, arm, 1, signal] = broken
    for _ in range(looks):
        comparison.after(made, bad, LOOK_S)
    return comparison


def evidence(comparison: Comparison) -> Floats:
    """Of a judge whose fixed limits say nothing."""
    by_operation = comparison.by_operation()
    return mean_evidence(np.zeros((len(by_operation), 3)), comparison.pooled(), by_operation)


@pytest.mark.parametrize("signal", range(len(SIGNALS)))
def test_a_target_that_is_worse_is_found_by_every_signal_and_the_operation_is_known(signal: int) -> None:
    comparison = compared(signal, (2, 2), (0, 40), 16)
    assert evidence(comparison)[0] >= FIRE
    strongest = np.unravel_index(comparison.by_operation()[0].argmax(), (OPERATIONS, len(SIGNALS)))
    assert tuple(map(int, strongest)) == (1, signal)


@pytest.mark.parametrize("signal", [ERRORS, STATUS, ABANDONED])
def test_what_the_source_does_as_well_is_not_held_against_the_target(signal: int) -> None:
    assert evidence(compared(signal, (1, 2), (20, 40), 400))[0] < 3


def test_without_a_source_nothing_is_said() -> None:
    comparison = compared(STATUS, (5, 5), (0, 0), 100)
    assert evidence(comparison)[0] < 1e-9
    assert not comparison.compared(STATUS)[0]


def test_a_signal_that_is_not_compared_says_nothing() -> None:
    comparison = Comparison(OPERATIONS, (0.0,) * len(SIGNALS))
    made = np.full((1, 2, OPERATIONS, len(SIGNALS)), 50.0)
    bad = np.zeros_like(made)
    bad[:, 1] = 50
    for _ in range(100):
        comparison.after(made, bad, LOOK_S)
    assert (evidence(comparison)[0] < 1e-9, comparison.active) == (True, ())


def test_a_target_that_is_no_worse_is_proven_so() -> None:
    assert compared(ERRORS, (0, 2), (0, 38), 50).proof()[0, ERRORS] < PROOF
    assert (compared(ERRORS, (0, 2), (0, 38), 400).proof() >= PROOF).all()


def test_what_fails_in_one_look_is_one_burst_however_much_it_is() -> None:
    assert evidence(compared(ERRORS, (500, 500), (0, 500), 2))[0] < FIRE
    assert evidence(compared(ERRORS, (500, 500), (0, 500), 5))[0] >= FIRE


def test_what_was_suspected_is_so_after_a_raise_and_not_after_a_descent() -> None:
    comparison = compared(ERRORS, (2, 2), (0, 40), 4)
    before = comparison.suspicion()[0].max()
    comparison.begin()
    assert comparison.suspicion()[0].max() == before > 1
    comparison.forget()
    assert comparison.suspicion()[0].max() == pytest.approx(0)


def test_a_failure_that_is_counted_later_than_its_request_counts() -> None:
    comparison = Comparison(1)
    for broke in (0.0, 1.0) * 12:  # an answer breaks off in the look after its request's
        made, bad = np.zeros((1, 2, 1, len(SIGNALS))), np.zeros((1, 2, 1, len(SIGNALS)))
        made[0, 0], made[0, 1] = 40, 1 - broke
        bad[0, 1, 0, ERRORS] = broke
        comparison.after(made, bad, LOOK_S)
    assert evidence(comparison)[0] >= FIRE


def test_the_expected_likelihood_ratio_at_the_boundary_is_at_most_one() -> None:
    dice = np.random.default_rng(1)
    points = worse_points(SIGNALS[ERRORS], RHO_WORSE)
    n_s, n_t, p_s, runs = 40, 3, 0.03, 200_000
    k_s = dice.binomial(n_s, p_s, runs)
    k_t = dice.binomial(n_t, RHO_WORSE * (p_s + SIGNALS[ERRORS].margin), runs)
    made = np.full(runs, n_s), np.full(runs, n_t)
    logs = log_ratio(made, (k_s, k_t), SIGNALS[ERRORS].margin, points, RHO_WORSE)
    assert np.exp(logs[:, :4]).mean(axis=0).max() < 1.02  # the points whose mean a sample of this size can show


# ------------------------------------------------------------------------------------------------------ in traffic


def fired(source: Floats, target: Floats, seconds: int, together: int = 1, weight: float = 0.25) -> float:
    """The share of runs at 100 requests a second that find the target worse; shares of errors by operation."""
    dice = np.random.default_rng(5)
    comparison, bursts = Comparison(len(MIX), runs=RUNS), Bursts(RHO_WORSE, SIGNALS[ERRORS].margin, RUNS)
    rates = np.stack((100 * (1 - weight) * MIX, 100 * weight * MIX)) * LOOK_S
    shares = np.stack((source, target))

    def look() -> tuple[Floats, Floats]:
        made = dice.poisson(rates, (RUNS, 2, len(MIX)))
        return made.astype(float), np.minimum(made, together * dice.binomial(made, shares / together)).astype(float)

    for _ in range(800):  # how failures come is learnt before anything is on the target
        made, failed = look()
        made[:, 1], failed[:, 1] = 0, 0
        bursts.after(made.sum(axis=2).T, failed.sum(axis=2).T)
    found = np.zeros(RUNS, bool)
    for _ in range(int(seconds / LOOK_S)):
        made, failed = look()
        bursts.after(made.sum(axis=2).T, failed.sum(axis=2).T)
        bad = np.zeros((RUNS, 2, len(MIX), len(SIGNALS)))
        bad[..., ERRORS] = failed
        comparison.after(np.repeat(made[..., None], len(SIGNALS), axis=-1), bad, LOOK_S, bursts.phi)
        found |= evidence(comparison) >= FIRE
    return float(found.mean())


ALIKE = np.full(len(MIX), 0.02)


def test_one_operation_that_fails_whole_is_found_though_it_is_two_in_a_hundred_requests() -> None:
    assert fired(ALIKE, np.array([0.02, 0.02, 0.02, 1.0]), 150) == 1.0


@pytest.mark.parametrize(
    ("share", "together"), [(0.02, 1), (0.02, 7), (0.08, 1)], ids=["alone", "sevens", "both sick"]
)
def test_a_target_as_good_as_its_source_is_left_alone(share: float, together: int) -> None:
    assert fired(np.full(len(MIX), share), np.full(len(MIX), share), 100, together) == 0.0


def test_failures_that_come_together_are_burstier_than_chance() -> None:
    dice = np.random.default_rng(3)
    alone, sevens = Burstiness(), Burstiness()
    for _ in range(DELAY + 4000):
        made = dice.poisson(25.0, 1)
        alone.after(made.astype(float), dice.binomial(made, 0.02).astype(float))
        sevens.after(made.astype(float), np.minimum(made, 7 * dice.binomial(made, 0.02 / 7)).astype(float))
    assert alone.phi[0] < 1.5
    assert 4 < sevens.phi[0] < 10
