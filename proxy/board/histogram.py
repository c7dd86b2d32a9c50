"""Log-linear latency histograms: a row of counts, and the statistics read from it. Pure.

A value in microseconds falls into bucket ``index(us)``. Below 64 µs a bucket is 1 µs wide; from there each power of
two is divided into 32, so a bucket's width is at most 1/32 (3.1 %) of its values. The last bucket takes all values
from 134 s. Buckets are plain integers, so histograms of workers, operations or moments are added and subtracted cell
by cell. (The idea is Gil Tene's HdrHistogram; this part of it fits in shared memory and costs 0.2 µs per value.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

_SUB_BITS: Final = 5
_SUB: Final = 1 << _SUB_BITS  # buckets per power of two
_LINEAR: Final = 2 * _SUB  # below it: one bucket per microsecond
_VALUE_BITS: Final = 27  # the largest distinguished value is 2**27 - 1 µs, 134 s
VALUE_US_MAX: Final = (1 << _VALUE_BITS) - 1
BUCKETS: Final = (_VALUE_BITS - _SUB_BITS) * _SUB + _SUB


def index(us: int) -> int:
    """The bucket of ``us`` microseconds (0 or more)."""
    if us < _LINEAR:
        return us
    if us > VALUE_US_MAX:
        return BUCKETS - 1
    shift = us.bit_length() - _SUB_BITS - 1
    return (shift << _SUB_BITS) + (us >> shift)


def lower_bound(bucket: int) -> int:
    """The least value, in microseconds, that falls into ``bucket``. ``lower_bound(BUCKETS)`` is past the last."""
    if bucket < _LINEAR:
        return bucket
    shift = (bucket >> _SUB_BITS) - 1
    return (bucket - (shift << _SUB_BITS)) << shift


def merge(rows: Iterable[Sequence[int]]) -> list[int]:
    """The sum of histograms, cell by cell; without any, an empty histogram."""
    total = [0] * BUCKETS
    for row in rows:
        total = [a + b for a, b in zip(total, row, strict=True)]
    return total


def difference(later: Sequence[int], earlier: Sequence[int]) -> list[int]:
    """What was counted between two readings of one cumulative row."""
    return [a - b for a, b in zip(later, earlier, strict=True)]


def quantile(row: Sequence[int], q: float) -> float | None:
    """The ``q`` quantile (0 < q ≤ 1) in microseconds, interpolated within its bucket; None if nothing was counted.

    The true quantile of the recorded values lies in the same bucket, so the error is below 1/32.
    """
    total = sum(row)
    if not total:
        return None
    rank = q * total
    seen = 0
    for bucket, count in enumerate(row):
        if count and seen + count >= rank:
            low, high = lower_bound(bucket), lower_bound(bucket + 1)
            return low + (high - low) * max(0.0, rank - seen) / count
        seen += count
    raise AssertionError("a rank within the total falls into a bucket")


def quantiles(row: Sequence[int], qs: Sequence[float]) -> list[float | None]:
    """Several quantiles of one histogram, in the order asked."""
    return [quantile(row, q) for q in qs]


def count_above(row: Sequence[int], limit_us: int) -> int:
    """How many values were slower than ``limit_us``, to the precision of the buckets.

    The bucket that holds the limit counts as not slower: a rule never fires on a value that may be within the limit.
    """
    return sum(row[index(limit_us) + 1 :])


def cumulative(row: Sequence[int], bounds_us: Sequence[int]) -> list[int]:
    """For each bound (ascending), how many values lie in buckets that end at or below it: Prometheus's ``le``."""
    sums = [0, *accumulate(row)]
    return [sums[index(bound)] for bound in bounds_us]
