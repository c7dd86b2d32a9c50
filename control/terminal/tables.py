"""Checks, the audit trail and the report as tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from control.demo.findings import Finding
from control.report.wording import NONE, Json, audit_detail, criteria, ms, percent, rollback_line, words

_MARKS: Final = {
    True: Text("ok", style="green"),
    False: Text("FAILED", style="bold red"),
    None: Text("not made", style="yellow"),
}

_RESULTS: Final = _MARKS | {None: Text("not yet", style="yellow")}
_STYLES: Final = dict.fromkeys(
    ("rollback", "rollback_complete", "abort", "reset", "lease_lost"), "red"
) | dict.fromkeys(("start", "advance", "resume", "complete"), "green")


def _console() -> Console:
    """As wide as the terminal; a file or pipe is given lines long enough not to be broken."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def _print(console: Console, table: Table) -> None:
    """A table; a file or pipe is not given the blanks that end its lines."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as drawn:
        console.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def print_checks(checks: Sequence[Json]) -> None:
    """Pre-flight checks: what was found, under what is wrong how to mend it, and at the end what it comes to."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(_MARKS[check["ok"]], str(check["name"]), str(check["found"]))
        if check["ok"] is False and check.get("mend"):
            table.add_row("", "", Text(f"→ {check['mend']}", style="yellow"))
    console = _console()
    _print(console, table)
    wrong = [str(check["name"]) for check in checks if check["ok"] is False]
    if wrong:
        console.print(Text(f"{len(wrong)} of {len(checks)} checks failed: {', '.join(wrong)}.", style="bold red"))
    else:
        console.print(Text(f"All {sum(check['ok'] is True for check in checks)} checks passed.", style="bold green"))


def print_audit(page: Json) -> None:
    """A page of the audit trail, newest first."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for column in ("time (UTC)", "who", "what"):
        table.add_column(column, no_wrap=True)
    table.add_column("detail", overflow="fold")
    for entry in page.get("entries") or []:
        at, told = str(entry["at"])[:19].replace("T", " "), audit_detail(entry)
        table.add_row(at, str(entry["actor"]), Text(words(entry["kind"]), _STYLES.get(entry["kind"], "")), told)
    _print(_console(), table)
    if not page.get("entries"):
        print("Nothing yet: the first entry comes with the first start.")
    if page.get("next_cursor"):
        print(f"More: phasegate audit --cursor {page['next_cursor']}")


def print_report(report: Json) -> None:
    """A run: its phases with both arms, its rollbacks, its criteria."""
    console = _console()
    outcome = str(report["outcome"])
    style = {"completed": "bold green", "rolled_back": "bold red", "aborted": "bold red"}.get(outcome, "bold")
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
    _print(console, table)
    for rollback in report.get("rollbacks") or []:
        console.print(Text(rollback_line(rollback), style="red"))
    _print_findings(console, [(_RESULTS[passed], name, evidence) for name, passed, evidence in criteria(report)])


def print_findings(findings: Iterable[Finding]) -> None:
    """What a demo is judged by."""
    _print_findings(_console(), [(_MARKS[found.held], found.name, found.evidence) for found in findings])


def _print_findings(console: Console, findings: Iterable[tuple[Text, str, str]]) -> None:
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    for finding in findings:
        table.add_row(*finding)
    _print(console, table)
