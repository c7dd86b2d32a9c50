"""The buckets: sticky, fair, never taking back on the way up, and with a key, nobody's to predict."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.arm import SOURCE, TARGET
from proxy.board.layout import SplitKey
from proxy.migration import buckets

KEYS = [b"user-%d" % i for i in range(40_000)]
WEIGHTS_BP = st.integers(0, buckets.BUCKETS)
SECRET = bytes(range(32))
SPLITS = {"plain": buckets.plain("phase6"), "keyed": buckets.keyed(SECRET, "phase6")}
BEGUN = st.sampled_from([buckets.begin(split) for split in SPLITS.values()])
each_version = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)


@given(BEGUN, st.binary(max_size=64), WEIGHTS_BP, WEIGHTS_BP)
def test_raising_the_weight_never_moves_a_key_back(
    state: int | buckets.blake2b, key: bytes, one: int, other: int
) -> None:
    low, high = sorted((one, other))
    bucket = buckets.bucket(state, key)
    assert buckets.assign(bucket, low) <= buckets.assign(bucket, high)


@given(BEGUN, st.binary(max_size=64))
def test_no_key_is_on_the_target_at_0_and_every_key_is_at_100_percent(
    state: int | buckets.blake2b, key: bytes
) -> None:
    bucket = buckets.bucket(state, key)
    assert 0 <= bucket < buckets.BUCKETS
    assert buckets.assign(bucket, 0) == SOURCE
    assert buckets.assign(bucket, buckets.BUCKETS) == TARGET


@each_version
def test_keys_that_differ_in_a_counter_spread_evenly(split: SplitKey) -> None:
    state = buckets.begin(split)
    cells = Counter(buckets.bucket(state, key) // 100 for key in KEYS)
    expected = len(KEYS) / 100
    chi_squared = sum((cells[i] - expected) ** 2 / expected for i in range(100))
    # 99 degrees of freedom: 99.99 % of fair splits lie below 160, and far fewer than 40 would be too even to be true.
    assert 40 < chi_squared < 160


@pytest.mark.parametrize(
    "splits",
    [
        (buckets.plain("phase6"), buckets.plain("phase7")),
        (buckets.keyed(SECRET, "phase6"), buckets.keyed(SECRET, "phase7")),
        (buckets.plain("phase6"), buckets.keyed(SECRET, "phase6")),
        (buckets.keyed(SECRET, "phase6"), buckets.keyed(bytes(32), "phase6")),
    ],
)
def test_two_splits_split_the_same_keys_independently(splits: tuple[SplitKey, SplitKey]) -> None:
    one, other = map(buckets.begin, splits)
    both = sum(buckets.bucket(one, key) < 5000 and buckets.bucket(other, key) < 5000 for key in KEYS)
    assert abs(both / len(KEYS) - 0.25) < 0.02


def test_a_key_keeps_its_bucket_for_ever() -> None:
    # Recorded once: another value here would move every user of a running migration.
    assert buckets.bucket(buckets.salt("phase6"), b"alice") == 4835
    assert buckets.bucket(buckets.begin(SPLITS["plain"]), b"alice") == 4835
    assert buckets.bucket(buckets.begin(SPLITS["keyed"]), b"alice") == 4790


def test_a_key_that_was_hashed_changes_no_other_keys_bucket() -> None:
    state = buckets.begin(SPLITS["keyed"])
    first = [buckets.bucket(state, key) for key in KEYS[:100]]
    assert [buckets.bucket(state, key) for key in KEYS[:100]] == first


def of_target(split: SplitKey) -> list[bool]:
    state = buckets.begin(split)
    return [buckets.bucket(state, key) < 5000 for key in KEYS]


def agreement(one: list[bool], other: list[bool]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(KEYS)


def test_without_the_secret_nobody_can_tell_a_clients_side() -> None:
    # Whoever knows everything but the secret: the source, the migration's name, and the sides of all keys but one.
    plain, keyed = of_target(SPLITS["plain"]), of_target(SPLITS["keyed"])
    guesses = [plain, of_target(buckets.keyed(bytes(32), "phase6")), of_target(SplitKey(buckets.KEYED, 0))]
    for guess in guesses:
        assert 0.48 < agreement(guess, keyed) < 0.52, "no better than a coin"
    sides = sum(here == following for here, following in pairwise(keyed)) / len(KEYS)
    assert 0.48 < sides < 0.52, "the next key's side does not follow from this one's"
    assert agreement(of_target(buckets.keyed(SECRET, "phase6")), keyed) == 1.0, "with the secret it can"
    assert agreement(of_target(buckets.plain("phase6")), plain) == 1.0, "version 1 needs the name alone"


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**128 - 1))
def test_a_split_comes_back_from_its_cells_as_it_was(version: int, key: int) -> None:
    split = SplitKey(version, key)
    assert SplitKey.unpack(*split.pack()) == split
    assert max(split.pack()) < 2**64
