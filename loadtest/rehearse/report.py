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

A rehearsal breaks one thing while a migration is under way, and measures what clients and operators notice. Each one
runs real processes: phasegate as `phasegate serve` starts it with two workers, the Firestore emulator, and a small
app, under a constant load. `loadtest/rehearse/faults.py` fixes before the run how many requests may fail. That number
is 0 wherever the source or another worker can answer.

    {command}

{machine}

{table}

{failings}\
The columns:

- **held**: yes where no more failed than is allowed, nothing was lost, the migration ended in the state that the
  rehearsal expects, and all of the list below is so.
- **failed**: requests that got no answer, an unexpected status, a wrong document or a stale one.
- **allowed**: how many may fail.
- **stale**: those of the failed whose answer was good but lacked the visitor's own last write.
- **p99 before, during, after**: the 99th percentile of the time from when a request was due to its answer, before,
  during and after the fault.
- **detected**: from the fault to the first decision to take traffic back.
- **decided**, **drained**: two steps of the slowest rollback, as phasegate recorded them: from detection to the
  publication of the lower weight, and from when every worker showed it until no older request was open on the target.
- **safe**: from the fault to the end of the last rollback.
- **ends**: the migration's state and weight when the load ended.
- **writes**: the writes that were sent. Each was looked for at the end on every side that is read.
- **lost**: the writes that were confirmed and then not found as they were written, or counted more than once. One
  that the source has and the target lacks is left out where phasegate reported that it lost copies: a killed worker
  loses the changes that it has not copied to the target yet.

A rehearsal holds only if all of this is so as well:

- The fault was seen to happen.
- Every visitor stayed on one side while the weight did not change. Only after a write that the source took was the
  visitor read from the source for a while.
- No request went to the target after the last rollback was complete.
- phasegate counted exactly the requests that the client counted. Where a process was killed, the two may differ by
  the requests whose connection broke.
- The audit trail's chain is whole.

`python -m loadtest.rehearse.mutants` plants bugs in phasegate and shows that the rehearsals find them.

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
    return filled(command, f"Made on: {facts}.", "\n".join(lines), _failings(verdicts), [v.name for v in verdicts])


def filled(command: str, machine: str, figures: str, failings: str, names: Sequence[str]) -> str:
    """The page with these results; everything else in it is the same for all results. ``names`` are rehearsals'."""
    titles = "\n".join(map(_title, names))
    return _PAGE.format(command=command, machine=machine, table=figures, failings=failings, titles=titles)


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
    allowed = "".join(f" {allowed.most} failures are allowed: {allowed.why}." for allowed in row.allowed)
    return f"- **{name}**: {row.title}.{allowed}"
