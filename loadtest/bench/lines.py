"""A straight line through points, and whether it is one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FLAT = 0.15  # of the mean: a rise over the whole range below that is none that can be seen
STRAIGHT = 0.98  # of the variance explained


@dataclass(frozen=True, slots=True)
class Fit:
    """``y = base + slope * x`` by least squares; ``explained`` is the share of the variance (R²)."""

    base: float
    slope: float
    explained: float
    rise: float  # over the range of x, as a share of the mean

    def words(self, unit: str) -> str:
        """What the points look like, for a person."""
        if abs(self.rise) < FLAT:
            return f"flat: {self.base:.4g} {unit}, {self.rise:+.0%} over the whole range"
        if self.explained >= STRAIGHT:
            return f"a straight line: {self.base:.4g} {unit} and {self.slope:.4g} more for each"
        return f"no straight line (R² {self.explained:.2f}), {self.rise:+.0%} over the whole range"


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """The least-squares line through at least two points of different x."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    xx = sum((x - mean_x) ** 2 for x, _ in points)
    if not xx:
        raise ValueError("expected points at two places at least")
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / xx
    base = mean_y - slope * mean_x
    total = sum((y - mean_y) ** 2 for _, y in points)
    left = sum((y - base - slope * x) ** 2 for x, y in points)
    span = max(x for x, _ in points) - min(x for x, _ in points)
    return Fit(base, slope, 1 - left / total if total else 1.0, slope * span / mean_y if mean_y else 0.0)
