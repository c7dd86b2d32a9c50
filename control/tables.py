"""Checks, the audit trail and the report as tables on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from control.demo_verdict import Finding
from control.words import NONE, Json, ms, percent, rollback_line, words

_MARKS: Final = {
    True: Text("ok", style="green"),
    False: Text("FAILED", style="bold red"),
    None: Text("not made", style="yellow"),
}


def _console() -> Console:
    """As wide as the terminal; a file or pipe is given lines long enough not to be broken."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def print_checks(checks: Iterable[Json]) -> None:
    """Pre-flight checks: what was found, and under what is wrong how to mend it."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(_MARKS[check["ok"]], str(check["name"]), str(check["found"]))
        if check["ok"] is False and check.get("mend"):
            table.add_row("", "", Text(str(check["mend"]), style="yellow"))
    _console().print(table)


def print_audit(page: Json) -> None:
    """A page of the audit trail, newest first."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for column in ("time (UTC)", "who", "what", "detail"):
        table.add_column(column, overflow="fold")
    for entry in page.get("entries") or []:
        table.add_row(
            str(entry["at"])[:19].replace("T", " "), str(entry["actor"]), words(entry["kind"]), detail(entry)
        )
    _console().print(table)
    if page.get("next_cursor"):
        print(f"More: --cursor {page['next_cursor']}")


def detail(entry: Json) -> str:
    """What an audit entry says beside its kind, in one line."""
    found = entry.get("detail") or {}
    return ", ".join(
        f"{words(name)} {_short(value)}" for name, value in found.items() if value not in (None, "", [], {})
    )


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:159] + "…"


def print_report(report: Json) -> None:
    """A run: its phases with both arms, its rollbacks, its criteria."""
    console = _console()
    outcome = str(report["outcome"])
    style = "bold green" if outcome == "completed" else "bold red"
    console.print(
        Text.assemble(
            (f"{report['migration']} ", "bold"),
            (words(outcome), style),
            f"  {report.get('started_at') or NONE} to {report.get('ended_at') or NONE}",
        )
    )
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for column in ("phase", "weight", "on target", "arm", "requests", "errors", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="left" if column in ("phase", "arm") else "right", no_wrap=True)
    for phase in report.get("phases") or []:
        share = phase.get("target_share")
        first = [phase["name"], percent(phase["weight"]), NONE if share is None else f"{100 * share:.2f} %"]
        for index, (name, arm) in enumerate(phase["arms"].items()):
            lead = first if index == 0 else ["", "", ""]
            times = [ms(arm[key]).removesuffix(" ms") for key in ("p50_ms", "p95_ms", "p99_ms")]
            table.add_row(*lead, name, f"{arm['requests']:,}", f"{arm['errors']:,}", *times)
    console.print(table)
    for rollback in report.get("rollbacks") or []:
        console.print(Text(rollback_line(rollback), style="red"))
    _print_findings(
        console, [Finding(words(c["name"]), c["passed"], str(c["evidence"])) for c in report.get("criteria") or []]
    )


def print_findings(findings: Iterable[Finding]) -> None:
    """What a demo is judged by."""
    _print_findings(_console(), findings)


def _print_findings(console: Console, findings: Iterable[Finding]) -> None:
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    for finding in findings:
        table.add_row(_MARKS[finding.held], finding.name, finding.evidence)
    console.print(table)
