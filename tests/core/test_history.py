"""What plots are drawn from: steps, their own percentiles, and an end to what is kept."""

from __future__ import annotations

import pytest

from control.figures.counts import Reading
from control.figures.history import HEAT_BOUNDS_US, StepHistory, heat
from proxy.board import histogram
from proxy.board.series import Series


def series(*latencies_us: int, errors: int = 0) -> Series:
    found = Series.empty()
    for us in latencies_us:
        found.buckets[histogram.index(us)] += 1
    found.faults[0] = errors
    return found


def many(us: int, requests: int) -> Series:
    found = Series.empty()
    found.buckets[histogram.index(us)] = requests
    return found


def reading(mono: float, source: Series | None = None, target: Series | None = None) -> Reading:
    return Reading(mono, source or Series.empty(), target or Series.empty())


def test_a_step_tells_what_came_since_the_step_before() -> None:
    history = StepHistory()
    assert history.add(reading(0, target=many(1_000, 50)), 100.0, 5.0) is None, "nothing to compare with yet"
    sample = history.add(reading(1, target=series(*[1_000] * 50, 8_000, 8_000, errors=1)), 101.0, 5.0)
    assert sample is not None
    assert (sample.at, sample.span_s, sample.weight) == (101.0, 1.0, 5.0)
    assert (sample.target.requests, sample.target.errors) == (2, 1)
    assert sample.target.p50_ms == pytest.approx(8.0, rel=0.04), "the step's own, not that of all before"
    assert sample.source.requests == 0
    assert sample.source.p95_ms is None


def test_a_reading_before_a_step_is_over_adds_nothing() -> None:
    history = StepHistory()
    history.add(reading(0), 100.0, 5.0)
    assert not history.due(0.75)
    assert history.add(reading(0.75), 100.75, 5.0) is None
    assert history.due(1.0)


def test_counts_that_begin_anew_are_nothing_and_never_less_than_nothing() -> None:
    history = StepHistory()
    history.add(reading(0, source=many(500, 9)), 100.0, 5.0)
    sample = history.add(reading(1, source=series(500)), 101.0, 5.0)
    assert sample is not None
    assert sample.source.requests == 0


def test_every_tier_has_its_own_steps_and_forgets_the_oldest() -> None:
    tiers = ((1, 9), (10, 3))
    history = StepHistory(tiers)
    for second in range(51):
        history.add(reading(second, target=many(700, second)), 1_000.0 + second, 25.0)
    for step, kept in tiers:
        document = history.document(step)
        assert document.step_s == step
        samples = document.samples
        assert len(samples) == kept
        assert {sample.span_s for sample in samples} == {float(step)}
        assert {sample.target.requests for sample in samples} == {step}
        assert samples[-1].at == 1_050.0


def test_the_heat_map_counts_every_request_in_the_row_of_its_latency() -> None:
    latencies = [3, 50, 51, 999, 20_000, 20_001, 99_000_000]
    rows = heat(series(*latencies).buckets)
    assert sum(rows) == len(latencies)
    assert rows[0] == 1, "what is faster than the first bound"
    assert len(rows) == len(HEAT_BOUNDS_US) + 1, "what is slower than the last"
    assert rows[-1] == 1
    for us in latencies[1:-1]:
        # A bound that falls into a bucket belongs to the row below it: off by one bucket, 3 % at most.
        row = next(i for i, bound in enumerate(HEAT_BOUNDS_US) if us <= bound * 1.032)
        assert rows[row] > 0


def test_rows_after_the_last_count_are_left_out() -> None:
    assert heat(Series.empty().buckets) == ()
    assert len(heat(series(12).buckets)) == 2
