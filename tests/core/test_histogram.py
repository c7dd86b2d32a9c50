"""Latency histograms: where a value falls, and how well what is read agrees with what was recorded."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.board import histogram

MICROSECONDS = st.integers(0, histogram.VALUE_US_MAX)


def recorded(values: list[int]) -> list[int]:
    row = [0] * histogram.BUCKETS
    for value in values:
        row[histogram.index(value)] += 1
    return row


def test_every_bucket_begins_where_its_lower_bound_says() -> None:
    assert [histogram.index(histogram.lower_bound(b)) for b in range(histogram.BUCKETS)] == list(
        range(histogram.BUCKETS)
    )


@given(MICROSECONDS)
def test_a_value_lies_in_its_bucket_and_the_bucket_is_narrow(us: int) -> None:
    bucket = histogram.index(us)
    low, high = histogram.lower_bound(bucket), histogram.lower_bound(bucket + 1)
    assert low <= us < high
    assert high - low <= max(1, low / 32)


@given(st.lists(MICROSECONDS, min_size=2, max_size=2).map(sorted))
def test_a_slower_value_never_falls_into_an_earlier_bucket(pair: list[int]) -> None:
    assert histogram.index(pair[0]) <= histogram.index(pair[1])


def test_what_is_slower_than_the_scale_falls_into_the_last_bucket() -> None:
    assert histogram.index(10**12) == histogram.BUCKETS - 1


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99, 1.0])
def test_quantiles_are_within_a_bucket_of_the_exact_ones(q: float) -> None:
    seeded = random.Random(7)
    values = sorted(int(seeded.lognormvariate(8, 2)) for _ in range(5000))
    exact = values[max(0, round(q * len(values)) - 1)]
    found = histogram.quantile(recorded(values), q)
    assert found is not None
    assert abs(found - exact) <= exact / 16 + 1


def test_nothing_recorded_has_no_quantile() -> None:
    assert histogram.quantile([0] * histogram.BUCKETS, 0.5) is None


@given(st.lists(MICROSECONDS, max_size=50), st.lists(MICROSECONDS, max_size=50))
def test_merging_is_recording_both_and_difference_undoes_it(first: list[int], second: list[int]) -> None:
    merged = histogram.merge([recorded(first), recorded(second)])
    assert merged == recorded(first + second)
    assert histogram.difference(merged, recorded(first)) == recorded(second)


def test_a_value_that_may_have_kept_the_limit_does_not_count_as_slower() -> None:
    limit = 1_000_000
    row = recorded([999_999, limit, limit + 1, 2 * limit, 3 * limit])
    assert histogram.count_above(row, limit) == 2


def test_cumulative_counts_end_with_what_is_surely_below_the_bound() -> None:
    row = recorded([10, 20, 63, 1000, 5000])
    assert histogram.cumulative(row, [64, 1024, histogram.VALUE_US_MAX]) == [3, 4, 5]
