"""The buckets: sticky, fair, and never taking back on the way up."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from backends.arm import SOURCE, TARGET
from proxy.migration import buckets

KEYS = [b"user-%d" % i for i in range(40_000)]
WEIGHTS_BP = st.integers(0, buckets.BUCKETS)


@given(st.binary(max_size=64), WEIGHTS_BP, WEIGHTS_BP)
def test_raising_the_weight_never_moves_a_key_back(key: bytes, one: int, other: int) -> None:
    low, high = sorted((one, other))
    bucket = buckets.bucket(buckets.salt("phase6"), key)
    assert buckets.assign(bucket, low) <= buckets.assign(bucket, high)


@given(st.binary(max_size=64))
def test_no_key_is_on_the_target_at_0_and_every_key_is_at_100_percent(key: bytes) -> None:
    bucket = buckets.bucket(buckets.salt("phase6"), key)
    assert 0 <= bucket < buckets.BUCKETS
    assert buckets.assign(bucket, 0) == SOURCE
    assert buckets.assign(bucket, buckets.BUCKETS) == TARGET


def test_keys_that_differ_in_a_counter_spread_evenly() -> None:
    salt = buckets.salt("phase6")
    cells = Counter(buckets.bucket(salt, key) // 100 for key in KEYS)
    expected = len(KEYS) / 100
    chi_squared = sum((cells[i] - expected) ** 2 / expected for i in range(100))
    # 99 degrees of freedom: 99.99 % of fair splits lie below 160, and far fewer than 40 would be too even to be true.
    assert 40 < chi_squared < 160


def test_two_migrations_split_the_same_keys_independently() -> None:
    one, other = buckets.salt("phase6"), buckets.salt("phase7")
    both = sum(buckets.bucket(one, key) < 5000 and buckets.bucket(other, key) < 5000 for key in KEYS)
    assert abs(both / len(KEYS) - 0.25) < 0.02


def test_a_key_keeps_its_bucket_for_ever() -> None:
    # Recorded once: another value here would move every user of a running migration.
    assert buckets.bucket(buckets.salt("phase6"), b"alice") == 4835
