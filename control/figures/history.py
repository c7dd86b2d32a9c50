"""What both arms did over the last hours, step by step: what plots are drawn from.

Each tier has steps of one length and remembers a fixed number of them; a step is the difference of two readings of
the ever-growing counts, so its percentiles are its own and not a mean of means. A new process begins with no steps:
for the time before it nothing is drawn. Bounded; the time is an argument.
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

# Bounds of the heat map's rows: four a factor of ten, from 10 µs to 10 s. Row i is what lies above bound i-1 and not
# above bound i; the first and the last take the rest.
HEAT_BOUNDS_US: Final = tuple(round(10 ** (1 + i / 4)) for i in range(25))
HEAT_BOUNDS_MS: Final = tuple(bound / 1000 for bound in HEAT_BOUNDS_US)
_HEAT_ROWS: Final = tuple(histogram.index(bound) for bound in HEAT_BOUNDS_US)


class StepHistory:
    """The steps of one migration."""

    def __init__(self, tiers: Sequence[tuple[int, int]] = TIERS) -> None:
        self._tiers = {step: _Tier(step, kept) for step, kept in tiers}
        self._shortest = self._tiers[min(self._tiers)]

    def due(self, mono: float) -> bool:
        """Whether a step of the shortest tier is over, or none was begun."""
        return self._shortest.due(mono)

    def add(self, seen: Reading, unix: float, weight: float) -> Sample | None:
        """Take a reading (``weight`` in percent): the step of the shortest tier that it ends, if it ends one."""
        ended = {tier: tier.add(seen, unix, weight) for tier in self._tiers.values()}
        return ended[self._shortest]

    def document(self, step: int) -> HistoryDocument:
        """The steps of one tier, oldest first. ``step`` is one of ``STEPS``."""
        return HistoryDocument(step, HEAT_BOUNDS_MS, tuple(self._tiers[step].samples))


class _Tier:
    def __init__(self, step: int, kept: int) -> None:
        self.samples: deque[Sample] = deque(maxlen=kept)
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
        sample = Sample(round(unix, 3), span_s, weight, _arm(new.source), _arm(new.target))
        self.samples.append(sample)
        return sample


def _arm(series: Series) -> SampledArm:
    return SampledArm(**asdict(summary(series)), fallbacks=series.fallbacks, heat=heat(series.buckets))


def heat(buckets: list[int]) -> tuple[int, ...]:
    """A histogram's counts by the rows of the heat map; rows after the last count are left out."""
    sums = list(accumulate(buckets))
    ends = [sums[row] for row in _HEAT_ROWS] + [sums[-1]]
    rows = [end - begin for begin, end in zip((0, *ends), ends, strict=False)]
    while rows and not rows[-1]:
        rows.pop()
    return tuple(rows)
