"""The report's plots as shapes of an SVG: shares, latencies, a rollback's clock. Pure.

A plot says where each shape lies; ``report.html.jinja`` writes it down, and escapes every text. A shape's class is
the page's name for its colour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, log10
from typing import Final

from control.figures.documents import Summary
from control.report.documents import ReportedPhase
from control.report.wording import measured, ms, percent
from control.rollout.model import Rollback

# Lengths are in the drawing's own units: a page that is as wide as the report's shows them about as pixels.
_WIDTH: Final = 720.0
_LEFT: Final = 170.0  # where what is drawn begins: the phases' names stand before it
_SHARE_RIGHT: Final = 70.0  # kept free for a bar's figure
_AXIS_RIGHT: Final = 30.0  # kept free for half of the last tick's label
_CLOCK_SIDE: Final = 20.0  # kept free beside a rollback's track
_BAR_STEP: Final = 30.0  # from a phase's bar to the next one's
_PHASE_STEP: Final = 44.0  # from a phase's two lanes to the next one's
_LANE_STEP: Final = 18.0
_AXIS_HEIGHT: Final = 24.0
_CLOCK_HEIGHT: Final = 60
_LABEL: Final = 60.0  # the width that a step's label takes
_CLOCK_MS: Final = 10_000.0  # a rollback's track ends there, or with a rollback that took longer
_LEAST_CLOCK_MS: Final = 1.0  # the track is logarithmic, and begins there


@dataclass(frozen=True, slots=True)
class Shape:
    """An element of a plot: its tag, its attributes, and what it says; ``title`` is shown when it is pointed at."""

    tag: str
    attributes: Mapping[str, object]
    text: str = ""
    title: str = ""


@dataclass(slots=True)
class Plot:
    """A whole plot. ``label`` is for who cannot see it."""

    label: str
    height: int
    shapes: list[Shape] = field(default_factory=list)
    width: int = int(_WIDTH)

    def add(self, tag: str, text: str = "", title: str = "", **attributes: object) -> None:
        """One more shape; lengths are written to a tenth, ``class_`` as ``class``, and ``_`` in a name as ``-``."""
        written = {
            name.rstrip("_").replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else value
            for name, value in attributes.items()
        }
        self.shapes.append(Shape(tag, written, text, title))


def shares(phases: Sequence[ReportedPhase]) -> Plot:
    """Bars of the target's measured share, with the configured weight as a mark."""
    wide = _WIDTH - _LEFT - _SHARE_RIGHT
    plot = Plot("Share of data requests on the target", round(len(phases) * _BAR_STEP))
    for row, phase in enumerate(phases):
        y = row * _BAR_STEP
        share = phase.target_share or 0.0
        at = _LEFT + wide * phase.weight / 100
        plot.add("text", f"{phase.name} {percent(phase.weight)}", x=0, y=y + 19)
        plot.add("rect", class_="track", x=_LEFT, y=y + 6, width=wide, height=18, rx=3)
        plot.add("rect", class_="target", x=_LEFT, y=y + 6, width=wide * share, height=18, rx=3)
        plot.add("line", class_="limit", x1=at, x2=at, y1=y + 2, y2=y + 28)
        plot.add("text", measured(share), x=_LEFT + wide + 8, y=y + 19)
    return plot


def latencies(phases: Sequence[ReportedPhase]) -> Plot | None:
    """p50, p95 and p99 of both arms in each phase, on a logarithmic scale; None where nothing was measured."""
    values = [value for phase in phases for _, arm in phase.arms.named() for _, value in _quantiles(arm)]
    if not values:
        return None
    low = 10.0 ** floor(log10(min(values)))
    high = max(10.0 ** (floor(log10(max(values))) + 1), 10 * low)
    across = _track(low, high, _LEFT, _WIDTH - _LEFT - _AXIS_RIGHT)
    bottom = _AXIS_HEIGHT + len(phases) * _PHASE_STEP
    plot = Plot("Latency of both arms in each phase", round(bottom))
    for tick in _decades(low, high):
        x = across(tick)
        plot.add("line", class_="rule", x1=x, x2=x, y1=_AXIS_HEIGHT, y2=bottom)
        plot.add("text", _round(tick), class_="soft", text_anchor="middle", x=x, y=14)
    for row, phase in enumerate(phases):
        top = _AXIS_HEIGHT + row * _PHASE_STEP
        plot.add("text", phase.name, x=0, y=top + 26)
        for lane, (name, arm) in enumerate(phase.arms.named()):
            for quantile, value in _quantiles(arm):
                title = f"{phase.name}, {name}, {quantile}: {ms(value)}"
                _POINTS[quantile](plot, across(value), top + 14 + lane * _LANE_STEP, name, title)
    return plot


def _quantiles(arm: Summary) -> list[tuple[str, float]]:
    """Those that were measured and can be shown on a logarithmic scale."""
    named = (("p50", arm.p50_ms), ("p95", arm.p95_ms), ("p99", arm.p99_ms))
    return [(name, value) for name, value in named if value]


def _circle(plot: Plot, x: float, y: float, arm: str, title: str) -> None:
    plot.add("circle", title=title, class_=arm, cx=x, cy=y, r=5)


def _square(plot: Plot, x: float, y: float, arm: str, title: str) -> None:
    plot.add("rect", title=title, class_=arm, x=x - 5, y=y - 5, width=10, height=10)


def _triangle(plot: Plot, x: float, y: float, arm: str, title: str) -> None:
    corners = f"M{x:.1f} {y - 7:.1f} L{x + 7:.1f} {y + 5:.1f} L{x - 7:.1f} {y + 5:.1f} Z"
    plot.add("path", title=title, class_=arm, d=corners)


_POINTS: Final = {"p50": _circle, "p95": _square, "p99": _triangle}


def clock(rollback: Rollback) -> Plot:
    """A rollback's steps on a logarithmic track that begins 1 ms after the detection."""
    most = max(_CLOCK_MS, rollback.total_ms)
    wide = _WIDTH - _CLOCK_SIDE - 2 * _CLOCK_SIDE
    across = _track(_LEAST_CLOCK_MS, most, _CLOCK_SIDE, wide)
    plot = Plot("When each step of the rollback was done", _CLOCK_HEIGHT)
    plot.add("rect", class_="track", x=_CLOCK_SIDE, y=26, width=wide, height=6, rx=3)
    plot.add(
        "rect", class_="step", x=_CLOCK_SIDE, y=26, width=across(rollback.total_ms) - _CLOCK_SIDE, height=6, rx=3
    )
    for tick in _decades(_LEAST_CLOCK_MS, most):
        plot.add("text", _round(tick), class_="soft", text_anchor="middle", x=across(tick), y=54)
    at, free = 0.0, 0.0
    for name, took_ms in (
        ("decided", rollback.decided_ms),
        ("seen", rollback.seen_ms),
        ("drained", rollback.drained_ms),
    ):
        at += took_ms
        x = across(at)
        plot.add("circle", title=f"{name}: {ms(at)}", class_="step", cx=x, cy=29, r=6)
        if x >= free:  # a label that would lie on the one before it is left to the circle's title
            plot.add("text", name, text_anchor="middle", x=max(x, 24.0), y=14)
            free = x + _LABEL
    return plot


def _track(low: float, high: float, left: float, wide: float) -> Callable[[float], float]:
    """Where a value lies on a logarithmic axis; what is below it lies at its beginning."""
    return lambda value: left + wide * log10(max(low, value) / low) / log10(high / low)


def _decades(low: float, high: float) -> list[float]:
    """The powers of ten from ``low``, which is one, to ``high``."""
    ticks = [low]
    while ticks[-1] * 10 <= high * (1 + _ROUNDING):
        ticks.append(ticks[-1] * 10)
    return ticks


_ROUNDING: Final = 1e-4  # powers of ten are multiplied up, and may miss by as much


def _round(value_ms: float) -> str:
    """A power of ten in the unit that a person would say it in."""
    if value_ms >= 1000 * (1 - _ROUNDING):
        return f"{value_ms / 1000:g} s"
    return f"{value_ms:g} ms" if value_ms >= 1 - _ROUNDING else f"{value_ms * 1000:g} µs"
