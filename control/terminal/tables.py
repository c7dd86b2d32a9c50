"""Prints checks, the audit trail and the report as tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from control.api.documents import AuditPage
from control.checks.check import Check, failed
from control.report.documents import Report
from control.report.wording import (
    NONE,
    audit_detail,
    count,
    criteria,
    data_known,
    data_lines,
    measured,
    moment,
    ms,
    percent,
    rollback_line,
    words,
)
from control.terminal.picture import COLOURS, print_rendered

_MADE: Final = {
    True: Text("ok", style="green"),
    False: Text("FAILED", style="bold red"),
    None: Text("not made", style="yellow"),
}

_WARNS: Final = Text("warning", style="yellow")
_HELD: Final = _MADE | {None: Text("not yet", style="yellow")}
_PIPE_WIDTH: Final = 240  # characters
_STYLES: Final = dict.fromkeys(
    ("rollback", "rollback_complete", "abort", "reset", "lease_lost"), "red"
) | dict.fromkeys(("start", "advance", "resume", "complete"), "green")


def _console() -> Console:
    """A console as wide as the terminal. For a file or pipe it is wide enough that lines are not broken."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def print_checks(checks: Sequence[Check]) -> None:
    """Print pre-flight checks: what each found, how to repair what is wrong, and at the end how many failed."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        warns = check.ok is None and check.mend
        table.add_row(_WARNS if warns else _MADE[check.ok], check.name, check.found)
        if check.ok is not True and check.mend:
            table.add_row("", "", Text(f"→ {check.mend}", style="yellow"))
    console = _console()
    print_rendered(console, table)
    wrong = [check.name for check in failed(checks)]
    if wrong:
        console.print(Text(f"{len(wrong)} of {len(checks)} checks failed: {', '.join(wrong)}.", style="bold red"))
    else:
        console.print(Text(f"All {sum(check.ok is True for check in checks)} checks passed.", style="bold green"))


def print_audit(page: AuditPage, migration: str) -> None:
    """Print a page of a migration's audit trail, newest entry first."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for column in ("time (UTC)", "who", "what"):
        table.add_column(column, no_wrap=True)
    table.add_column("detail", overflow="fold")
    for entry in page.entries:
        what = Text(words(entry.kind), _STYLES.get(entry.kind, ""))
        table.add_row(moment(entry.at), entry.actor, what, audit_detail(entry))
    print_rendered(_console(), table)
    if not page.entries:
        print("No entries yet: the first one is written at the first start.")
    if page.next_cursor is not None:
        earlier = "" if page.renamed_to is None else f"--migration {migration} "
        print(f"More: phasegate audit {earlier}--cursor {page.next_cursor}")
    if page.renamed_to is not None:
        print(f"{migration} was renamed: `phasegate audit --migration {page.renamed_to}` goes on with it.")


def print_report(report: Report) -> None:
    """Print a run: its phases with both arms, its rollbacks, its criteria."""
    console = _console()
    console.print(
        Text.assemble(
            (f"{report.migration} ", "bold"),
            (words(report.outcome), f"bold {COLOURS.get(report.outcome, '')}".strip()),
            f"  {report.started_at or NONE} to {report.ended_at or NONE}",
        )
    )
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for column in ("phase", "weight", "on target", "arm", "requests", "errors", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="left" if column in ("phase", "arm") else "right", no_wrap=True)
    for phase in report.phases:
        lead = [phase.name, percent(phase.weight), measured(phase.target_share)]
        for name, arm in phase.arms.named():
            times = [ms(value).removesuffix(" ms") for value in (arm.p50_ms, arm.p95_ms, arm.p99_ms)]
            table.add_row(*lead, name, count(arm.requests), count(arm.errors), *times)
            lead = ["", "", ""]  # the phase's name is in its first row only
        if phase.unsplit:
            table.add_row(*lead, "not split", count(phase.unsplit))
        if phase.copies:
            table.add_row(*lead, "copies", count(phase.copies), count(phase.copy_faults))
    print_rendered(console, table)
    for rollback in report.rollbacks:
        console.print(Text(rollback_line(rollback), style="red"))
    for line in () if report.data is None else (data_known(report.data), *data_lines(report.data)):
        console.print(Text(f"Data {line}"))
    print_judged((passed, name, evidence) for name, passed, evidence in criteria(report))


def print_judged(rows: Iterable[tuple[bool | None, str, str]]) -> None:
    """Print criteria: whether each one holds (None: not decided yet), its name, its evidence."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    for held, name, evidence in rows:
        table.add_row(_HELD[held], name, evidence)
    print_rendered(_console(), table)
