"""What both arms did over the last hours, in steps of time: the plots' data.

Each tier has steps of one length and keeps a fixed number of them. A step is the difference of two readings of the
counts, which only grow, so a step's percentiles are computed from its own requests and not averaged from other
percentiles. The history is in memory only: a new process starts without steps, and plots are empty for the time
before it started. Memory is bounded; the time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from msgspec.structs import asdict

from control.figures.counts import Reading, summary
from control.figures.documents import HistoryDocument, Sample, SampledArm
from proxy.board import histogram
from proxy.board.series import Series

TIERS: Final = ((1, 900), (10, 360), (60, 360))  # seconds a step, steps kept: 15 minutes, 1 hour, 6 hours
STEPS: Final = tuple(step for step, _ in TIERS)

# Bounds of the heat map's rows: four per factor of ten, from 10 µs to 10 s. Row i counts latencies above bound i-1 up
# to bound i. The first row also counts everything below it, the last everything above the last bound.
HEAT_BOUNDS_US: Final = tuple(round(10 ** (1 + i / 4)) for i in range(25))
HEAT_BOUNDS_MS: Final = tuple(bound / 1000 for bound in HEAT_BOUNDS_US)
_HEAT_ROWS: Final = tuple(histogram.index(bound) for bound in HEAT_BOUNDS_US)


class StepHistory:
    """The steps of one migration."""

    def __init__(self, tiers: Sequence[tuple[int, int]] = TIERS) -> None:
        self._tiers = {step: _Tier(step, steps_max) for step, steps_max in tiers}
        self._shortest = self._tiers[min(self._tiers)]

    def due(self, mono: float) -> bool:
        """Whether a step of the shortest tier has ended, or none has begun yet."""
        return self._shortest.due(mono)

    def add(self, seen: Reading, unix: float, weight: float) -> Sample | None:
        """Add a reading (``weight`` in percent). Returns the step of the shortest tier that it ends, or None."""
        ended = {tier: tier.add(seen, unix, weight) for tier in self._tiers.values()}
        return ended[self._shortest]

    def document(self, step: int) -> HistoryDocument:
        """The steps of one tier, oldest first. ``step`` is one of ``STEPS``."""
        return HistoryDocument(step, HEAT_BOUNDS_MS, tuple(self._tiers[step].samples))


class _Tier:
    def __init__(self, step: int, steps_max: int) -> None:
        self.samples: deque[Sample] = deque(maxlen=steps_max)
        self._step = step
        self._begun: Reading | None = None

    def due(self, mono: float) -> bool:
        return self._begun is None or mono - self._begun.mono >= self._step

    def add(self, seen: Reading, unix: float, weight: float) -> Sample | None:
        if not self.due(seen.mono):
            return None
        begun, self._begun = self._begun, seen
        if begun is None:
            return None
        new = seen.since(begun)
        span_s = round(seen.mono - begun.mono, 3)
        sample = Sample(round(unix, 3), span_s, weight, _arm(new.source), _arm(new.target), new.unsplit)
        self.samples.append(sample)
        return sample


def _arm(series: Series) -> SampledArm:
    return SampledArm(**asdict(summary(series)), fallbacks=series.fallbacks, heat=heat(series.buckets))


def heat(buckets: list[int]) -> tuple[int, ...]:
    """A histogram's counts by rows of the heat map, without the empty rows at the end."""
    sums = list(accumulate(buckets))
    ends = [sums[row] for row in _HEAT_ROWS] + [sums[-1]]
    rows = [end - begin for begin, end in zip((0, *ends), ends, strict=False)]
    while rows and not rows[-1]:
        rows.pop()
    return tuple(rows)
