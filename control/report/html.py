"""The report as one HTML page that needs no script, no font and no other host; plots are inline SVG. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import Final

from control.report import plots as report_plots
from control.report.plots import ARMS
from control.report.wording import NONE, Json, criteria, ms, percent, rollback_line, span, words
from control.report.wording import rule as rule_of

_OUTCOMES: Final = {"promote": "good", "roll_back": "bad"}
# The dashboard's colours: one an arm, green for what was earned, red for what was not.
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #17202b; --soft: #546070; --line: #dde2e8; --page: #f4f6f8; --card: #ffffff;
  --source: #8a5a00; --target: #0b5fb5; --good: #14713d; --bad: #b3261e; --on: #ffffff }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #9ba7b5; --line: #2a323c; --page: #0e1216;
  --card: #161b21; --source: #e0ab4f; --target: #74b3f2; --good: #63c78d; --bad: #f28b82; --on: #0e1216 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.75rem 1rem 3rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 14px/1.45 Inter, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums }
h1 { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .75rem; margin: 0; font-size: 1.9rem;
  letter-spacing: -.02em } h2 { font-size: 1rem; margin: 0 0 .5rem }
h3 { font-size: .95rem; margin: 1.2rem 0 .25rem } h2 + h3 { margin-top: 0 } h3 span { font-weight: 400 }
p { margin: .25rem 0 }
.outcome { padding: .1rem .7rem; border-radius: 99px; color: var(--on); font-size: .95rem; letter-spacing: 0 }
.completed { background: var(--good) } .rolled_back, .rolling_back, .aborted { background: var(--bad) }
.idle, .running, .paused { background: var(--soft) }
section { margin-top: 1rem; padding: .9rem 1rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { padding: .3rem 0 .3rem .9rem; text-align: right; white-space: nowrap; vertical-align: baseline }
th { color: var(--soft); font-weight: 400; font-size: 12px } tbody tr { border-top: 1px solid var(--line) }
th:first-child, td:first-child { padding-left: 0 } tr.second { border-top: 0 }
th.text, td.text { text-align: left } td.long { text-align: left; white-space: normal; min-width: 6rem }
.good, .bad { font-weight: 600 } .good { color: var(--good) } .bad { color: var(--bad) }
.soft, footer { color: var(--soft) } footer { margin-top: 1rem }
.key::before { content: ""; display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 2px;
  background: var(--target) } .key.from::before { background: var(--source) }
figure { margin: 1.25rem 0 0; overflow-x: auto } figure + p { margin-top: 1.25rem }
figcaption { margin-bottom: .4rem; font-weight: 600 } figcaption .key { margin: 0 2px }
svg { width: 100%; min-width: 30rem; height: auto; display: block }
svg text { fill: var(--ink); font: 12px Inter, system-ui, sans-serif } svg .soft { fill: var(--soft) }
.source { fill: var(--source) } .target { fill: var(--target) } .step { fill: var(--bad) }
.track { fill: var(--line) }
.rule { stroke: var(--line) } .limit { stroke: var(--ink); stroke-width: 2 } code { overflow-wrap: anywhere }
@media print { body { max-width: none; background: none } section { break-inside: avoid } }
"""


def page(report: Json) -> str:
    """The whole page for a report as the control API gives it."""
    phases = report.get("phases") or []
    outcome = report["outcome"]
    title = f"{report['migration']}: {words(outcome)}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f"<header><h1>{_text(report['migration'])} "
        f'<span class="outcome {_text(outcome)}">{_text(words(outcome))}</span></h1>',
        f'<p class="soft">{_text(_when(report))}</p></header>',
        "<main>",
        _section("Success criteria", _criteria(report)),
        _section("Phases", _phases(phases) + report_plots.shares(phases) + report_plots.latencies(phases)),
        _section("Rollbacks", _rollbacks(report.get("rollbacks") or [])),
        _section("Verdicts", "\n".join(_verdict(phase) for phase in phases if phase.get("verdict"))),
        "</main>",
        _footer(report),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _text(value: object) -> str:
    return escape(str(value))


def _when(report: Json) -> str:
    """When the run began and ended, in UTC and to the second, and how long it took."""
    began, ended = report.get("started_at"), report.get("ended_at")
    if not began:
        return "not started"
    if not ended:
        return f"{_moment(began)} UTC, going on"
    took = datetime.fromisoformat(ended) - datetime.fromisoformat(began)
    return f"{_moment(began)} to {_moment(ended)} UTC, {span(took.total_seconds())}"


def _moment(text: str) -> str:
    return text[:19].replace("T", " ")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}</section>" if body else ""


def _table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], *, pairs: bool = False) -> str:
    """A table of cells that are HTML already; a head has a kind, as a cell has; ``pairs`` joins every two rows."""
    head = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in heads)
    kinds = ("<tr>", '<tr class="second">' if pairs else "<tr>")
    body = "\n".join(f"{kinds[number % 2]}{''.join(row)}</tr>" for number, row in enumerate(rows))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _cell(value: object, kind: str = "") -> str:
    return f'<td class="{kind}">{_text(value)}</td>' if kind else f"<td>{_text(value)}</td>"


_RESULTS: Final = {
    True: _cell("✓ passed", "text good"),
    False: _cell("✕ FAILED", "text bad"),
    None: _cell("○ not yet", "text soft"),
}


def _criteria(report: Json) -> str:
    rows = [
        (_cell(name, "long"), _RESULTS[passed], _cell(evidence, "long"))
        for name, passed, evidence in criteria(report)
    ]
    return _table((("criterion", "text"), ("result", "text"), ("evidence", "text")), rows) if rows else ""


def _phases(phases: Iterable[Json]) -> str:
    rows = [_arm(phase, name) for phase in phases for name in ARMS]
    figures = ("requests", "errors", "error rate", "p50", "p95", "p99")
    heads = (("phase", "text"), ("on the target", ""), ("arm", "text"), *((name, "") for name in figures))
    return _table(heads, rows, pairs=True) if rows else ""


def _arm(phase: Json, name: str) -> Sequence[str]:
    """An arm's row; the phase is named in the source's, which is the upper one."""
    arm, share, upper = phase["arms"][name], phase.get("target_share"), name == "source"
    return (
        _cell(f"{phase['name']}, {percent(phase['weight'])}" if upper else "", "text"),
        _cell((NONE if share is None else f"{100 * share:.2f} %") if upper else ""),
        f'<td class="text"><span class="key{" from" if upper else ""}">{name}</span></td>',
        _cell(f"{arm['requests']:,}"),
        _cell(f"{arm['errors']:,}"),
        _cell(f"{100 * (arm['error_rate'] or 0):.2f} %" if arm["requests"] else NONE),
        *(_cell(ms(arm[key])) for key in ("p50_ms", "p95_ms", "p99_ms")),
    )


def _rollbacks(rollbacks: Sequence[Json]) -> str:
    told = [f"<p>{_text(rollback_line(rollback))}</p>{report_plots.clock(rollback)}" for rollback in rollbacks]
    return "\n".join(told) or "<p>None.</p>"


def _verdict(phase: Json) -> str:
    """The verdict that a phase was left with: what was said of the whole, and each rule's figures."""
    verdict = phase["verdict"]
    rules = verdict.get("rules") or []
    # A rule's own reason says in words what its row says in figures. A verdict of an earlier version has no summary.
    whole = [str(reason) for reason in verdict.get("summary", verdict.get("reasons")) or []]
    title = (
        f"{_text(phase['name'])} <span>{_text(percent(phase['weight']))}: {_text(words(verdict['outcome']))}</span>"
    )
    figures = (("rule", "text"), ("target", ""), ("limit", ""), ("samples", ""), ("proof", ""), ("asks for", "text"))
    told = "".join(f"<p>{_text(reason)}</p>" for reason in whole)
    return f"<h3>{title}</h3>{told}" + (_table(figures, map(_rule, rules)) if rules else "")


def _rule(rule: Json) -> Sequence[str]:
    proof, outcome = rule.get("proof"), rule["outcome"]
    name, tell = rule_of(rule)
    return (
        _cell(name, "text"),
        _cell(tell(rule["value"])),
        _cell(tell(rule["limit"])),
        _cell(f"{rule['samples']:,}"),
        _cell(NONE if proof is None else f"{100 * proof:.0f} %"),
        _cell(words(outcome), f"text {_OUTCOMES.get(outcome, '')}"),
    )


def _footer(report: Json) -> str:
    trail = report.get("audit") or {}
    told = (
        f" Audit trail: {trail['entries']} entries, <code>{_text(trail['hash'])}</code>." if trail.get("hash") else ""
    )
    return f"<footer><p>Written by phasegate.{told}</p></footer>"
