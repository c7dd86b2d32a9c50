"""One figure as a function of one quantity: points, their spread over the rounds, and a fitted line. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

FLAT: Final = 0.15  # of the mean; a smaller rise over the whole range counts as none
STRAIGHT: Final = 0.98  # share of the variance that a line must explain to count as straight


@dataclass(frozen=True, slots=True)
class Point:
    """A median and its range over the rounds."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """``y = base + slope * x`` by least squares; ``explained`` is the share of the variance (R²)."""

    base: float
    slope: float
    explained: float
    rise: float  # over the range of x, as a share of the mean

    def words(self, unit: str) -> str:
        """The shape of the points, in words."""
        if abs(self.rise) < FLAT:
            return f"flat: {self.base:.4g} {unit}, {self.rise:+.0%} over the whole range"
        if self.explained >= STRAIGHT:
            return f"a straight line: {self.base:.4g} {unit} and {self.slope:.4g} more for each"
        return f"no straight line (R² {self.explained:.2f}), {self.rise:+.0%} over the whole range"


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """The least-squares line through at least two points of different x. Raises ``ValueError`` otherwise."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if len(set(xs)) < 2:
        raise ValueError("expected points at two places at least")
    slope, base = statistics.linear_regression(xs, ys)
    explained = statistics.correlation(xs, ys) ** 2 if len(set(ys)) > 1 else 1.0
    mean = statistics.fmean(ys)
    return Fit(base, slope, explained, slope * (max(xs) - min(xs)) / mean if mean else 0.0)


@dataclass(slots=True)
class Curve:
    """One figure as a function of one quantity: by the quantity's value, the figure of each round."""

    quantity: str
    figure: str
    unit: str
    found: dict[float, list[float]] = field(default_factory=dict)

    def note(self, x: float, y: float) -> None:
        """Add a round's figure."""
        self.found.setdefault(x, []).append(y)

    @property
    def points(self) -> list[Point]:
        """Median and range of each value."""
        return [Point(x, statistics.median(ys), min(ys), max(ys)) for x, ys in sorted(self.found.items())]

    @property
    def line(self) -> Fit:
        """The straight line through the medians."""
        return fit([(point.x, point.y) for point in self.points])

    def last(self) -> str:
        """The newest round's figures, in words."""
        return ", ".join(f"{short(x)}: {ys[-1]:,.4g}" for x, ys in sorted(self.found.items()))

    def to_json(self) -> dict[str, object]:
        """All of it."""
        summary = {"quantity": self.quantity, "figure": self.figure, "unit": self.unit, "line": asdict(self.line)}
        return {**summary, "points": [asdict(point) for point in self.points], "rounds": list(self.found.items())}


def short(value: float) -> str:
    """A number for an axis: 1Ki, 64Mi."""
    for size, letter in ((1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")):
        if value >= size and value % size == 0:
            return f"{value / size:g}{letter}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
