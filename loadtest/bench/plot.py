"""Line plots as SVG: a few series over one axis, linear or logarithmic, their spread as bars. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 46
# Told apart by the colour-blind too (Okabe and Ito's palette).
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass(frozen=True, slots=True)
class Point:
    """A median and its range over the rounds."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Series:
    """A line and its name."""

    name: str
    points: Sequence[Point]


def ticks(high: float) -> list[float]:
    """From 0 to at least ``high`` in four to eight round steps."""
    if high <= 0:
        return [0.0, 1.0]
    raw = high / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


def plot(title: str, x_label: str, y_label: str, series: Sequence[Series], *, log_x: bool = False) -> str:
    """The whole file. ``log_x`` wants every x above 0."""
    xs = sorted({point.x for line in series for point in line.points})
    high = max(point.high for line in series for point in line.points)
    marks = ticks(high)

    def across(x: float) -> float:
        first, last = (math.log(v) if log_x else v for v in (xs[0], xs[-1]))
        at = math.log(x) if log_x else x
        share = (at - first) / (last - first) if last > first else 0.5
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return HEIGHT - _BOTTOM - y / marks[-1] * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    foot = HEIGHT - _BOTTOM + 16
    parts += [_line(_LEFT, up(mark), WIDTH - _RIGHT, up(mark), "#ddd") for mark in marks]
    parts += [f'<text x="{_LEFT - 6}" y="{up(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>' for mark in marks]
    parts += [f'<text x="{across(x):.1f}" y="{foot}" text-anchor="middle">{short(x)}</text>' for x in xs]
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    middle = HEIGHT / 2
    parts.append(
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    for number, line in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{across(p.x):.1f},{up(p.y):.1f}" for p in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [_line(across(p.x), up(p.low), across(p.x), up(p.high), colour) for p in line.points]
        parts += [f'<circle cx="{across(p.x):.1f}" cy="{up(p.y):.1f}" r="3" fill="{colour}"/>' for p in line.points]
        right = WIDTH - _RIGHT - 110 * (len(series) - number - 1)
        parts.append(f'<text x="{right}" y="18" text-anchor="end" fill="{colour}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def short(value: float) -> str:
    """A number for an axis: 1k, 64M."""
    for size, letter in ((1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")):
        if value >= size and value % size == 0:
            return f"{value / size:g}{letter}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
