"""The breaker, the retry budget and the waits between attempts, with time as an argument."""

from __future__ import annotations

import random

from backends.resilience.backoff import TOKENS, RetryBudget, backoff
from backends.resilience.breaker import MIN_CALLS, OPEN_S, PROBE_S, PROBES, WINDOW_S, Breaker, BreakerState


def failing(breaker: Breaker, calls: int, failures: int, at: float) -> None:
    """So many calls at one moment, the failures spread among them."""
    for nth in range(calls):
        if breaker.allow(at):
            breaker.record(nth * failures // calls != (nth + 1) * failures // calls, at)


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    failing(breaker, MIN_CALLS, MIN_CALLS, at)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_it_opens_when_half_of_enough_calls_fail() -> None:
    breaker = Breaker()
    failing(breaker, MIN_CALLS, MIN_CALLS // 2, 0.0)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allow(OPEN_S / 2)


def test_it_stays_closed_while_most_calls_succeed_or_there_are_few() -> None:
    breaker = Breaker()
    failing(breaker, 1000, 400, 0.0)
    assert breaker.state is BreakerState.CLOSED
    breaker = Breaker()
    failing(breaker, MIN_CALLS - 1, MIN_CALLS - 1, 0.0)
    assert breaker.state is BreakerState.CLOSED


def test_failures_of_long_ago_are_forgotten() -> None:
    breaker = Breaker()
    failing(breaker, MIN_CALLS - 1, MIN_CALLS - 1, 0.0)
    failing(breaker, MIN_CALLS - 1, 0, WINDOW_S + 1)
    failing(breaker, 1, 1, WINDOW_S + 1)
    assert breaker.state is BreakerState.CLOSED


def test_after_a_while_one_probe_passes_at_a_time() -> None:
    breaker = opened()
    assert breaker.allow(OPEN_S)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.allow(OPEN_S + 0.01)


def test_probes_that_succeed_close_it_and_one_that_fails_opens_it_again() -> None:
    breaker = opened()
    for nth in range(PROBES):
        assert breaker.state is not BreakerState.CLOSED
        now = OPEN_S + nth * 0.1
        assert breaker.allow(now)
        breaker.record(False, now)
    assert breaker.state is BreakerState.CLOSED
    breaker = opened()
    assert breaker.allow(OPEN_S)
    breaker.record(True, OPEN_S)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allow(2 * OPEN_S - 0.01)
    assert breaker.allow(2 * OPEN_S)


def test_a_probe_that_nothing_is_heard_of_does_not_keep_it_open_for_ever() -> None:
    breaker = opened()
    assert breaker.allow(OPEN_S)
    assert not breaker.allow(OPEN_S + PROBE_S / 2)
    assert breaker.allow(OPEN_S + PROBE_S)


def test_calls_begun_before_it_opened_do_not_keep_it_open() -> None:
    breaker = opened()
    breaker.record(True, 0.1)
    breaker.record(False, 0.1)
    assert breaker.state is BreakerState.OPEN
    assert breaker.allow(OPEN_S)


def test_retries_end_in_an_outage_and_come_back_with_success() -> None:
    budget = RetryBudget()
    assert sum(budget.spend() for _ in range(1000)) == TOKENS
    for _ in range(100):
        budget.succeeded()
    assert 9 <= sum(budget.spend() for _ in range(1000)) <= 10
    for _ in range(10_000):
        budget.succeeded()
    assert sum(budget.spend() for _ in range(1000)) == TOKENS  # bounded


def test_waits_double_up_to_the_cap_and_are_half_chance() -> None:
    dice = random.Random(1)
    for attempt, most in ((0, 0.1), (1, 0.2), (2, 0.4), (9, 1.0), (10_000, 1.0)):
        waits = [backoff(attempt, 0.1, 1.0, dice) for _ in range(200)]
        assert most / 2 <= min(waits) < 0.6 * most
        assert 0.9 * most < max(waits) <= most
