"""Log-linear latency histograms of a client: recorded, merged, written as JSON, read as percentiles.

The bucket of a value in microseconds has a width of at most 1/128 (0.8 %) of the value (the idea of Gil Tene's
HdrHistogram). A percentile is its bucket's upper end, so it is never too low.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

_SUB_BITS: Final = 7  # 2**7 buckets per power of two
_LINEAR: Final = 2 << _SUB_BITS  # below it: one bucket per microsecond

PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)


def index(us: int) -> int:
    """The bucket of ``us`` microseconds (0 or more)."""
    if us < _LINEAR:
        return us
    shift = us.bit_length() - _SUB_BITS - 1
    return (shift << _SUB_BITS) + (us >> shift)


def upper(bucket: int) -> int:
    """The greatest value, in microseconds, that falls into ``bucket``."""
    if bucket < _LINEAR:
        return bucket
    shift = (bucket >> _SUB_BITS) - 1
    return ((bucket - (shift << _SUB_BITS) + 1) << shift) - 1


class Histogram:
    """Counts of values in microseconds, with their greatest and their sum."""

    __slots__ = ("buckets", "count", "max_us", "sum_us")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.max_us = 0
        self.sum_us = 0

    def record(self, us: int) -> None:
        """Count one value; a negative one counts as 0."""
        us = max(us, 0)
        bucket = index(us)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.sum_us += us
        self.max_us = max(self.max_us, us)

    def add(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count
        self.sum_us += other.sum_us
        self.max_us = max(self.max_us, other.max_us)

    def percentile(self, percent: float) -> float | None:
        """The value in microseconds that ``percent`` (0 < percent ≤ 100) of all do not exceed; None if empty."""
        if not self.count:
            return None
        rank = percent / 100 * self.count
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank - 1e-9:
                return min(upper(bucket), self.max_us)
        return self.max_us

    def percentiles_ms(self, percents: Iterable[float] = PERCENTILES) -> dict[str, float | None]:
        """``{"p50": …, …, "max": …}`` in milliseconds."""
        percentiles = {f"p{percent:g}": _ms(self.percentile(percent)) for percent in percents}
        return {**percentiles, "max": _ms(self.max_us if self.count else None)}

    def to_json(self) -> dict[str, Any]:
        """All counts; ``from_json`` is the reverse."""
        buckets = sorted(self.buckets.items())
        return {"count": self.count, "max_us": self.max_us, "sum_us": self.sum_us, "buckets": buckets}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Histogram:
        """The histogram of a ``to_json`` value."""
        histogram = cls()
        histogram.count, histogram.max_us, histogram.sum_us = value["count"], value["max_us"], value["sum_us"]
        histogram.buckets = dict(value["buckets"])
        return histogram


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """The sum of histograms; without any, an empty one."""
    total = Histogram()
    for histogram in histograms:
        total.add(histogram)
    return total


def _ms(us: float | None) -> float | None:
    return None if us is None else round(us / 1000, 4)
