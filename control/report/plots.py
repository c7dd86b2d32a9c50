"""The report's plots as SVG shapes: shares, latencies, a rollback's clock. Pure.

A plot has the position of each shape; ``report.html.jinja`` writes the SVG and escapes every text. A shape's class
selects its colour in the page's style sheet.
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

# Lengths are in units of the SVG's view box: about a pixel each at the report page's width.
_WIDTH: Final = 720.0
_LEFT: Final = 170.0  # left edge of the drawing; the phases' names stand to the left of it
_SHARE_RIGHT: Final = 70.0  # free space for the figure beside a bar
_AXIS_RIGHT: Final = 30.0  # free space for half of the last tick's label
_CLOCK_SIDE: Final = 20.0  # free space on either side of a rollback's track
_BAR_STEP: Final = 30.0  # from one phase's bar to the next
_PHASE_STEP: Final = 44.0  # from one phase's two lanes to the next
_LANE_STEP: Final = 18.0
_AXIS_HEIGHT: Final = 24.0
_CLOCK_HEIGHT: Final = 60
_LABEL: Final = 60.0  # width of a step's label
_CLOCK_MS: Final = 10_000.0  # end of a rollback's track, unless the rollback took longer
_LEAST_CLOCK_MS: Final = 1.0  # begin of the track, which is logarithmic


@dataclass(frozen=True, slots=True)
class Shape:
    """An SVG element: its tag, attributes and text. ``title`` is its tooltip."""

    tag: str
    attributes: Mapping[str, object]
    text: str = ""
    title: str = ""


@dataclass(slots=True)
class Plot:
    """A whole plot. ``label`` is its description for screen readers."""

    label: str
    height: int
    shapes: list[Shape] = field(default_factory=list)
    width: int = int(_WIDTH)

    def add(self, tag: str, text: str = "", title: str = "", **attributes: object) -> None:
        """Add a shape. Floats get one decimal; ``class_`` is written as ``class``, other ``_`` in names as ``-``."""
        written = {
            name.rstrip("_").replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else value
            for name, value in attributes.items()
        }
        self.shapes.append(Shape(tag, written, text, title))


def shares(phases: Sequence[ReportedPhase]) -> Plot:
    """A bar per phase with the target's measured share, and a mark at the phase's weight."""
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
    """p50, p95 and p99 of both arms in each phase, on a logarithmic axis; None where nothing was measured."""
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
    """The percentiles that were measured and are above 0, which a logarithmic axis needs."""
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
    """A rollback's steps on a logarithmic track of the time since detection."""
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
        if x >= free:  # a label that would overlap the previous one is left out; the circle's title has the name
            plot.add("text", name, text_anchor="middle", x=max(x, 24.0), y=14)
            free = x + _LABEL
    return plot


def _track(low: float, high: float, left: float, wide: float) -> Callable[[float], float]:
    """A function from a value to its place on a logarithmic axis; values below ``low`` are placed at the begin."""
    return lambda value: left + wide * log10(max(low, value) / low) / log10(high / low)


def _decades(low: float, high: float) -> list[float]:
    """The powers of ten from ``low``, itself a power of ten, to ``high``."""
    ticks = [low]
    while ticks[-1] * 10 <= high * (1 + _ROUNDING):
        ticks.append(ticks[-1] * 10)
    return ticks


_ROUNDING: Final = 1e-4  # tolerance for rounding errors of powers of ten that were multiplied up


def _round(value_ms: float) -> str:
    """A power of ten in its usual unit: seconds, milliseconds or microseconds."""
    if value_ms >= 1000 * (1 - _ROUNDING):
        return f"{value_ms / 1000:g} s"
    return f"{value_ms:g} ms" if value_ms >= 1 - _ROUNDING else f"{value_ms * 1000:g} µs"
