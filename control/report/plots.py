"""The report's plots as inline SVG: shares, latencies, a rollback's clock. Pure; classes are the page's colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import log10
from typing import Final

from control.report.wording import Json, ms, percent

ARMS: Final = ("source", "target")
_WIDTH: Final = 720.0
_LEFT: Final = 170.0  # of what is drawn; the phases' names stand before it
_QUANTILES: Final = ("p50_ms", "p95_ms", "p99_ms")
_CLOCK_MS: Final = 10_000.0  # a rollback's track ends there, or with the rollback
_LABEL: Final = 60.0  # the width that a label takes

_SHAPES: Final[dict[str, Callable[[float, float, str], str]]] = {
    "p50_ms": lambda x, y, arm: f'<circle class="{arm}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
    "p95_ms": lambda x, y, arm: f'<rect class="{arm}" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>',
    "p99_ms": lambda x, y, arm: (
        f'<path class="{arm}" d="M{x:.1f} {y - 7:.1f} L{x + 7:.1f} {y + 5:.1f} L{x - 7:.1f} {y + 5:.1f} Z"/>'
    ),
}


def shares(phases: Sequence[Json]) -> str:
    """Bars of the target's measured share, with the configured weight as a mark."""
    if not phases:
        return ""
    step, wide = 30.0, _WIDTH - _LEFT - 70
    marks = []
    for row, phase in enumerate(phases):
        y = row * step
        share = phase.get("target_share") or 0.0
        at = _LEFT + wide * phase["weight"] / 100
        marks += [
            f'<text x="0" y="{y + 19:.0f}">{_text(phase["name"])} {_text(percent(phase["weight"]))}</text>',
            f'<rect class="track" x="{_LEFT:.0f}" y="{y + 6:.0f}" width="{wide:.1f}" height="18" rx="3"/>',
            f'<rect class="target" x="{_LEFT:.0f}" y="{y + 6:.0f}" width="{wide * share:.1f}" height="18" rx="3"/>',
            f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{y + 2:.0f}" y2="{y + 28:.0f}"/>',
            f'<text x="{_LEFT + wide + 8:.0f}" y="{y + 19:.0f}">{100 * share:.2f} %</text>',
        ]
    says = "Share of data requests on the target"
    return _figure(says, f"{says}; the mark is the phase's weight", marks, len(phases) * step)


def latencies(phases: Sequence[Json]) -> str:
    """p50, p95 and p99 of both arms in each phase, on a logarithmic scale."""
    values = [value for phase in phases for arm in ARMS for key in _QUANTILES if (value := phase["arms"][arm][key])]
    if not values:
        return ""
    low = 10.0 ** _floor(log10(min(values)))
    high = max(10.0 ** (_floor(log10(max(values))) + 1), 10 * low)
    across = _track(low, high, _LEFT, _WIDTH - _LEFT - 30)
    step, top = 44.0, 24.0
    tall = top + len(phases) * step
    marks = []
    for tick in _decades(low, high):
        x = across(tick)
        marks.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.0f}" y2="{tall:.0f}"/>')
        marks.append(f'<text class="soft" text-anchor="middle" x="{x:.1f}" y="14">{_round(tick)}</text>')
    for row, phase in enumerate(phases):
        marks.append(f'<text x="0" y="{top + row * step + 26:.0f}">{_text(phase["name"])}</text>')
        for lane, arm in enumerate(ARMS):
            y = top + row * step + 14 + lane * 18
            for key in _QUANTILES:
                value = phase["arms"][arm][key]
                if value:
                    title = f"<title>{_text(phase['name'])}, {arm}, {key[:3]}: {_text(ms(value))}</title>"
                    marks.append(f"<g>{title}{_SHAPES[key](across(value), y, arm)}</g>")
    caption = (
        'Latency of <span class="key from">the source</span> (upper lane) and '
        '<span class="key">the target</span> (lower lane): ● p50, ■ p95, ▲ p99'
    )
    return _figure("Latency of both arms in each phase", caption, marks, tall)


def clock(rollback: Json) -> str:
    """A rollback's steps on a logarithmic track that begins 1 ms after the detection."""
    most = max(_CLOCK_MS, rollback["total_ms"])
    left, wide = 20.0, _WIDTH - 60
    across = _track(1.0, most, left, wide)
    done = across(rollback["total_ms"]) - left
    marks = [
        f'<rect class="track" x="{left:.0f}" y="26" width="{wide:.0f}" height="6" rx="3"/>',
        f'<rect class="step" x="{left:.0f}" y="26" width="{done:.1f}" height="6" rx="3"/>',
    ]
    marks += [
        f'<text class="soft" text-anchor="middle" x="{across(tick):.1f}" y="54">{_round(tick)}</text>'
        for tick in _decades(1.0, most)
    ]
    at, free = 0.0, 0.0
    for name in ("decided", "seen", "drained"):
        at += rollback[f"{name}_ms"]
        x = across(at)
        marks.append(
            f'<circle class="step" cx="{x:.1f}" cy="29" r="6"><title>{name}: {_text(ms(at))}</title></circle>'
        )
        if x >= free:  # a label that would lie on the one before it is left to the circle's title
            marks.append(f'<text text-anchor="middle" x="{max(x, 24.0):.1f}" y="14">{name}</text>')
            free = x + _LABEL
    return _figure("When each step of the rollback was done", "", marks, 60)


def _track(low: float, high: float, left: float, wide: float) -> Callable[[float], float]:
    """Where a value lies on a logarithmic axis; what is below it lies at its beginning."""
    return lambda value: left + wide * log10(max(low, value) / low) / log10(high / low)


def _decades(low: float, high: float) -> list[float]:
    found = [low]
    while found[-1] * 10 <= high * 1.0001:
        found.append(found[-1] * 10)
    return found


def _floor(value: float) -> int:
    whole = int(value)
    return whole - 1 if value < whole else whole


def _round(value_ms: float) -> str:
    """A power of ten in the unit that a person would say it in."""
    if value_ms >= 999.9:
        return f"{value_ms / 1000:g} s"
    return f"{value_ms:g} ms" if value_ms >= 0.999 else f"{value_ms * 1000:g} µs"


def _figure(says: str, caption: str, marks: Sequence[str], tall: float) -> str:
    """``says`` is for who cannot see it; ``caption`` is HTML already, and may be nothing."""
    head = f"<figcaption>{caption}</figcaption>" if caption else ""
    picture = "\n".join(marks)
    size = f"0 0 {_WIDTH:.0f} {tall:.0f}"
    return f'<figure>{head}<svg viewBox="{size}" role="img" aria-label="{says}">\n{picture}\n</svg></figure>'


def _text(value: object) -> str:
    return escape(str(value))
