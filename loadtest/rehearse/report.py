"""The results of rehearsals as text, as JSON, and as a Markdown page. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from loadtest.rehearse.faults import BY_NAME
from loadtest.rehearse.judge import RehearsalVerdict

Json = dict[str, Any]

_COLUMNS: Final = (
    ("rehearsal", "name"),
    ("held", "held"),
    ("requests", "requests"),
    ("failed", "failed"),
    ("allowed", "allowed"),
    ("stale", "stale"),
    ("p99 ms before", "p99_before_ms"),
    ("during", "p99_during_ms"),
    ("after", "p99_after_ms"),
    ("detected s", "detected_s"),
    ("decided ms", "decided_ms"),
    ("drained ms", "drained_ms"),
    ("safe s", "safe_s"),
    ("ends", "ends"),
    ("writes", "writes"),
    ("lost", "lost"),
)

_PAGE: Final = """\
# Rehearsals

What happens when things break. Each row is a migration on real processes (phasegate as `phasegate serve` starts
it, two workers, the Firestore emulator, a small app) under a constant load, with one fault at a time. The number of
failed requests that is allowed is fixed in `loadtest/rehearse/faults.py` before the run; it is 0 wherever the
source or another worker can answer.

    {command}

{machine}

{table}

{failings}\
*failed*: requests without a right answer: no answer, an unexpected status, a wrong document, or *stale*, a good
answer in which the visitor's own last write is missing. *p99*: from when a request was due, before, during and after
the fault. *detected*: from the fault to the first decision to take traffic back. *decided*, *drained*: the slowest
rollback's own steps, from its record. *safe*: from the fault to the end of the last rollback. *writes*: those that
were sent, and looked for at the end on every side that is read. *lost*: those confirmed and not found as written, or
counted more than once. A killed worker may take with it what it had yet to copy to the target: a write that the
source has and the target lacks is forgiven where phasegate itself says that it lost copies.

Besides, a rehearsal fails unless what was to be broken was seen to be broken; every visitor stayed on one side as
long as the weight stood; nobody was sent to the target once it was left; phasegate's counters agreed with the
client's to the request (where processes were killed: up to the requests that broke on the way); and the audit
trail's chain is whole. `python -m loadtest.rehearse.mutants` plants bugs and shows that the rehearsals that watch for
them fail.

## What was broken

{titles}
"""


def table(verdicts: Sequence[RehearsalVerdict]) -> list[list[str]]:
    """The figures, one row per rehearsal, after a row of headings."""
    rows = [[heading for heading, _ in _COLUMNS]]
    for verdict in verdicts:
        shown = verdict.figures | {"name": verdict.name, "held": "yes" if verdict.held else "NO"}
        rows.append([_cell(shown.get(key)) for _, key in _COLUMNS])
    return rows


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return str(value)


def line(verdict: RehearsalVerdict) -> str:
    """One rehearsal in one line, printed when it ends."""
    shown = verdict.figures
    return (
        f"{verdict.name:22} {'held' if verdict.held else 'DID NOT HOLD':12} {shown['requests']} requests,"
        f" {shown['failed']} failed, {shown['lost']} of {shown['writes']} writes lost, {shown['ends']}"
    )


def text(verdicts: Sequence[RehearsalVerdict]) -> str:
    """The table for a terminal, and below it the promises that did not hold."""
    rows = table(verdicts)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for verdict in verdicts:
        lines += [
            f"{verdict.name}: NOT SO: {finding.name}: {finding.evidence}"
            for finding in verdict.findings
            if not finding.held
        ]
    return "\n".join(lines)


def document(verdicts: Sequence[RehearsalVerdict], machine: Json) -> str:
    """All results as JSON."""
    return json.dumps({"machine": machine, "rehearsals": [asdict(verdict) for verdict in verdicts]}, indent=1) + "\n"


def page(verdicts: Sequence[RehearsalVerdict], machine: Json, command: str) -> str:
    """The Markdown page."""
    head, *rows = table(verdicts)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    return _PAGE.format(
        command=command,
        machine=f"Made on: {facts}.",
        table="\n".join(lines),
        failings=_failings(verdicts),
        titles="\n".join(_title(verdict.name) for verdict in verdicts),
    )


def _failings(verdicts: Sequence[RehearsalVerdict]) -> str:
    """The promises that did not hold, one per line, and an empty line; "" if all held."""
    lines = [
        f"- **{verdict.name}** did not hold: {finding.name}: {finding.evidence}"
        for verdict in verdicts
        for finding in verdict.findings
        if not finding.held
    ]
    return "\n".join([*lines, "", ""]) if lines else ""


def _title(name: str) -> str:
    row = BY_NAME[name]
    allowed = "; ".join(f"allowed: {allowed.most} failures ({allowed.why})" for allowed in row.allowed)
    return f"- **{name}**: {row.title}." + (f" {allowed[0].upper()}{allowed[1:]}." if allowed else "")
