"""The report as one HTML page that needs no script, no font and no other host; plots are inline SVG. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import log10
from typing import Final

from control.words import NONE, Json, ms, percent, rollback_line, words

_ARMS: Final = ("source", "target")
_WIDTH: Final = 720.0
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --line: #d5dbe3; --page: #ffffff; --card: #f5f7fa;
  --source: #8a5a00; --target: #0b5fb5; --good: #14713d; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #a2adba; --line: #38424f; --page: #12161b;
  --card: #1b2129; --source: #e0ab4f; --target: #74b3f2; --good: #63c78d; --bad: #f28b82 } }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
.outcome { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; color: var(--page); font-weight: 600 }
.completed { background: var(--good) } .rolled_back, .aborted, .running { background: var(--bad) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 600 } th:first-child, td:first-child, .text { text-align: left }
td.text { white-space: normal } .good, .bad { font-weight: 600 }
.good { color: var(--good) } .bad { color: var(--bad) }
.soft, footer { color: var(--soft) }
figure { margin: 0; background: var(--card); border-radius: .5rem; padding: 1rem }
figcaption { color: var(--soft); margin-bottom: .5rem } svg { width: 100%; height: auto; display: block }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif } svg .soft { fill: var(--soft) }
.source { fill: var(--source) } .target { fill: var(--target) } .rule { stroke: var(--line) }
.limit { stroke: var(--ink); stroke-width: 2 } ul { padding-left: 1.2rem } code { overflow-wrap: anywhere }
@media print { body { max-width: none } }
"""


def page(report: Json) -> str:
    """The whole page for a report as the control API gives it."""
    phases = report.get("phases") or []
    title = f"{report['migration']}: {words(report['outcome'])}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f"<header><h1>{_text(report['migration'])} "
        f'<span class="outcome {_text(report["outcome"])}">{_text(words(report["outcome"]))}</span></h1>',
        f'<p class="soft">{_text(report.get("started_at") or NONE)} to {_text(report.get("ended_at") or NONE)}</p>',
        "</header>",
        "<main>",
        _criteria(report.get("criteria") or []),
        _phases(phases),
        _shares(phases),
        _latencies(phases),
        _verdicts(phases),
        _rollbacks(report.get("rollbacks") or []),
        "</main>",
        _footer(report),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _text(value: object) -> str:
    return escape(str(value))


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}</section>" if body else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _cell(value: object, kind: str = "") -> str:
    return f'<td class="{kind}">{_text(value)}</td>' if kind else f"<td>{_text(value)}</td>"


def _criteria(criteria: Iterable[Json]) -> str:
    rows = [
        (
            _cell(words(found["name"]), "text"),
            _cell("passed" if found["passed"] else "FAILED", "good" if found["passed"] else "bad"),
            _cell(found["evidence"], "text"),
        )
        for found in criteria
    ]
    return (
        _section("Success criteria", _table(("criterion", "result", '<span class="text">evidence</span>'), rows))
        if rows
        else ""
    )


def _phases(phases: Iterable[Json]) -> str:
    rows = []
    for phase in phases:
        share = phase.get("target_share")
        for name in _ARMS:
            arm = phase["arms"][name]
            first = name == "source"
            rows.append(
                (
                    _cell(f"{phase['name']} ({percent(phase['weight'])})" if first else ""),
                    _cell((NONE if share is None else f"{100 * share:.2f} %") if first else ""),
                    _cell(name),
                    _cell(f"{arm['requests']:,}"),
                    _cell(f"{arm['errors']:,}"),
                    _cell(f"{100 * (arm['error_rate'] or 0):.2f} %"),
                    *(_cell(ms(arm[key])) for key in ("p50_ms", "p95_ms", "p99_ms")),
                )
            )
    heads = ("phase", "on the target", "arm", "requests", "errors", "error rate", "p50", "p95", "p99")
    return _section("Phases", _table(heads, rows)) if rows else ""


def _shares(phases: Sequence[Json]) -> str:
    """Bars of the target's measured share, with the configured weight as a mark."""
    if not phases:
        return ""
    left, step = 170.0, 30.0
    wide = _WIDTH - left - 70
    marks = []
    for row, phase in enumerate(phases):
        y = row * step
        share = phase.get("target_share") or 0.0
        at = left + wide * phase["weight"] / 100
        marks += [
            f'<text x="0" y="{y + 19:.0f}">{_text(phase["name"])} {_text(percent(phase["weight"]))}</text>',
            f'<rect class="target" x="{left:.0f}" y="{y + 6:.0f}" width="{wide * share:.1f}" height="18" rx="3"/>',
            f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{y + 2:.0f}" y2="{y + 28:.0f}"/>',
            f'<text x="{left + wide + 8:.0f}" y="{y + 19:.0f}">{100 * share:.2f} %</text>',
        ]
    return _figure("Share of data requests on the target; the mark is the phase's weight", marks, len(phases) * step)


def _latencies(phases: Sequence[Json]) -> str:
    """p50, p95 and p99 of both arms in each phase, on a logarithmic scale."""
    keys = ("p50_ms", "p95_ms", "p99_ms")
    values = [phase["arms"][arm][key] for phase in phases for arm in _ARMS for key in keys if phase["arms"][arm][key]]
    if not values:
        return ""
    low = 10.0 ** _floor(log10(min(values)))
    high = max(10.0 ** (_floor(log10(max(values))) + 1), 10 * low)
    left, step, top = 170.0, 44.0, 24.0
    wide = _WIDTH - left - 20

    def across(value: float) -> float:
        return left + wide * (log10(value) - log10(low)) / (log10(high) - log10(low))

    tall = top + len(phases) * step
    marks, tick = [], low
    while tick <= high * 1.0001:
        x = across(tick)
        marks.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.0f}" y2="{tall:.0f}"/>')
        marks.append(f'<text class="soft" text-anchor="middle" x="{x:.1f}" y="14">{tick:g} ms</text>')
        tick *= 10
    shapes: dict[str, Callable[[float, float, str], str]] = {
        "p50_ms": lambda x, y, arm: f'<circle class="{arm}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
        "p95_ms": lambda x, y, arm: f'<rect class="{arm}" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>',
        "p99_ms": lambda x, y, arm: (
            f'<path class="{arm}" d="M{x:.1f} {y - 7:.1f} L{x + 7:.1f} {y + 5:.1f} L{x - 7:.1f} {y + 5:.1f} Z"/>'
        ),
    }
    for row, phase in enumerate(phases):
        marks.append(f'<text x="0" y="{top + row * step + 26:.0f}">{_text(phase["name"])}</text>')
        for lane, arm in enumerate(_ARMS):
            y = top + row * step + 14 + lane * 18
            for key in keys:
                value = phase["arms"][arm][key]
                if value:
                    title = f"<title>{_text(phase['name'])}, {arm}, {key[:3]}: {_text(ms(value))}</title>"
                    marks.append(f"<g>{title}{shapes[key](across(value), y, arm)}</g>")
    caption = (
        'Latency of <b style="color: var(--source)">the source</b> (upper lane) and '
        '<b style="color: var(--target)">the target</b> (lower lane): ● p50, ■ p95, ▲ p99'
    )
    return _figure(caption, marks, tall)


def _floor(value: float) -> int:
    whole = int(value)
    return whole - 1 if value < whole else whole


def _figure(caption: str, marks: Sequence[str], tall: float) -> str:
    picture = "\n".join(marks)
    return (
        f'<figure><figcaption>{caption}</figcaption><svg viewBox="0 0 {_WIDTH:.0f} {tall:.0f}" role="img">\n'
        f"{picture}\n</svg></figure>"
    )


def _verdicts(phases: Iterable[Json]) -> str:
    items = []
    for phase in phases:
        verdict = phase.get("verdict") or {}
        reasons = "; ".join(map(str, verdict.get("reasons") or []))
        items.append(
            f"<li><b>{_text(phase['name'])}</b>: {_text(words(verdict.get('outcome', NONE)))}. {_text(reasons)}</li>"
        )
    return _section("Verdicts", f"<ul>{''.join(items)}</ul>") if items else ""


def _rollbacks(rollbacks: Iterable[Json]) -> str:
    items = [f"<li>{_text(rollback_line(rollback))}</li>" for rollback in rollbacks]
    return _section("Rollbacks", f"<ul>{''.join(items)}</ul>" if items else "<p>None.</p>")


def _footer(report: Json) -> str:
    trail = report.get("audit") or {}
    told = (
        f" Audit trail: {trail['entries']} entries, <code>{_text(trail['hash'])}</code>." if trail.get("hash") else ""
    )
    return f"<footer><p>Written by phasegate.{told}</p></footer>"
