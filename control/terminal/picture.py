"""Draws one status of a migration on a terminal: phases, soak and proof, both arms side by side, the verdict.

Where the terminal has too few lines, the least important parts are left out first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from control.figures.documents import Sample, SampledArm
from control.judge.document import VerdictDocument
from control.judge.rules import RuleResult, VerdictOutcome
from control.lead.documents import ArmStatus, CopiesStatus, CurrentPhase, Status, WorkerStatus
from control.report.nextstep import next_line
from control.report.wording import (
    NONE,
    count,
    data_line,
    error_rate,
    ms,
    percent,
    proof,
    rollback_line,
    rule,
    span,
    words,
)
from control.rollout.model import State

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

COLOURS: Final[dict[str, str]] = {
    "running": "green",
    "paused": "yellow",
    "rolling_back": "red",
    "rolled_back": "red",
    "aborted": "red",
    "completed": "bright_green",
}
_OUTCOMES: Final[dict[str, str]] = {
    "promote": "bold green",
    "hold": "bold yellow",
    "roll_back": "bold red",
    "no_data": "bold",
}
_MARKS: Final[dict[str, tuple[str, str]]] = {
    "promote": ("kept", "green"),
    "hold": ("not yet", "yellow"),
    "roll_back": ("broken", "bold red"),
    "no_data": ("no data", "dim"),
}
_BAR: Final = 24  # width of a progress bar, in characters
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARKS_MAX: Final = 20  # seconds in a sparkline, one character each
_RATE_OVER: Final = 5  # samples, of a second each, that a rate is averaged over


def print_rendered(console: Console, drawn: RenderableType) -> None:
    """Print a rendered object. In a file or pipe, lines have no trailing spaces."""
    if console.is_terminal:
        console.print(drawn)
        return
    with console.capture() as captured:
        console.print(drawn)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_status(status: Status) -> None:
    """Print one status."""
    from rich.console import Console

    console = Console(highlight=False)
    print_rendered(console, picture(console, status))


class _Part(NamedTuple):
    """A part of the picture. ``spare`` 0 is always drawn; of the others, the greatest is left out first."""

    spare: int
    drawn: RenderableType


def picture(
    console: Console, status: Status, log: Sequence[str] = (), footer: str = "", samples: Sequence[Sample] = ()
) -> RenderableType:
    """The whole picture of one status, no higher than the console.

    ``log``: the newest lines, oldest first. ``samples``: both arms' figures in each of the last seconds.
    """
    from rich.console import Group
    from rich.text import Text

    parts = [_Part(0, _head(status, console.width)), _Part(0, _rail(status, console.width)), _Part(3, Text())]
    if status.phase is not None and status.state in (State.RUNNING, State.PAUSED, State.ROLLED_BACK):
        parts.append(_Part(0, _soak(status.state, status.phase)))
    following = Text.assemble(("Next     ", "bold"), next_line(status))
    parts += [_Part(1, following), _Part(2, Text()), _Part(0, _arms(status, samples)), _Part(2, Text())]
    if status.verdict.rules:
        parts += [_Part(1, _rules(status.verdict.rules)), _Part(3, Text())]
    parts.append(_Part(0, _verdict(status.verdict)))
    if status.last_rollback is not None:
        fresh = status.state in (State.ROLLING_BACK, State.ROLLED_BACK, State.ABORTED)
        style = "red" if fresh else "dim"  # an earlier run's rollback matters less
        parts.append(_Part(0 if fresh else 5, Text(rollback_line(status.last_rollback), style=style)))
    if status.data is not None:
        style = "dim" if status.data.complete else "yellow"
        parts.append(_Part(4 if status.data.complete else 1, Text(f"Data     {data_line(status.data)}", style=style)))
    parts.append(_Part(4, _workers(status.workers)))
    parts += [_Part(6 + age, _line(line)) for age, line in zip(range(len(log) - 1, -1, -1), log, strict=True)]
    if footer:
        parts += [_Part(4, Text()), _Part(0, Text.from_markup(footer))]
    return Group(*(part.drawn for part in _fitting(console, parts)))


def _fitting(console: Console, parts: list[_Part]) -> list[_Part]:
    """The parts that fit. A picture higher than the terminal would lose its last lines, which show the keys."""
    heights = [len(console.render_lines(part.drawn, pad=False)) for part in parts]
    drawn = list(range(len(parts)))
    for spare in sorted({part.spare for part in parts if part.spare}, reverse=True):
        if not console.is_terminal or sum(heights[i] for i in drawn) < console.height:
            break
        drawn = [i for i in drawn if parts[i].spare != spare]
    return [parts[i] for i in drawn]


def _head(status: Status, width: int) -> RenderableType:
    from rich.text import Text

    head = Text.assemble(
        ("phasegate ", "bold"),
        f"{status.migration}  ",
        (f"● {words(status.state)}", f"bold {COLOURS.get(status.state, 'white')}"),
        f"  {percent(status.weight)} on the target",
    )
    revision = f"revision {status.revision}"
    head.append(revision.rjust(min(width, 100) - head.cell_len) if head.cell_len + 12 < width else "", "dim")
    return head


def _rail(status: Status, width: int) -> RenderableType:
    """The phases in one line. Where the line would be too long, only the current phase shows its name."""
    from rich.text import Text

    named = sum(len(f"{phase.name} {percent(phase.weight)}") + 6 for phase in status.phases) <= width
    current = -1 if status.phase is None else status.phase.index
    done = status.state is State.COMPLETED
    rail = Text(no_wrap=True, overflow="ellipsis")
    for index, phase in enumerate(status.phases):
        if index:
            rail.append(" ── ", "green" if done or index <= current else "dim")
        weight = percent(phase.weight)
        name = f"{phase.name} {weight}" if named or index == current else weight
        if done or index < current:
            rail.append(f"● {name}", "green")
        elif index == current:
            rail.append(f"◉ {name}", f"bold {COLOURS.get(status.state, 'white')}")
        else:
            rail.append(f"○ {name}", "dim")
    return rail


def _soak(state: State, phase: CurrentPhase) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    soaked, least = phase.soaked_s, phase.min_soak_s
    full = max(least, 1e-9)  # a bar cannot have length 0
    label = (
        f"{span(soaked)} of {span(least)}" if soaked < least else f"{span(soaked)}, of at least {span(least)}: done"
    )
    if state is State.ROLLED_BACK:
        label = f"held until `phasegate resume`; then {span(least)} at least"
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        Text("Soak    ", style="bold"), ProgressBar(full, min(soaked, full), width=_BAR), Text(label, no_wrap=True)
    )
    return grid


def _rules(rules: Sequence[RuleResult]) -> RenderableType:
    """Each rule's value against its limit, and how much of its proof there is."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("Rule", min_width=9)
    for column in ("target", "limit", "samples"):
        table.add_column(column, justify="right", min_width=8, no_wrap=True)
    table.add_column("proof", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in rules:
        name, written = rule(each)
        mark, style = _MARKS[each.outcome]
        bar: RenderableType = "" if each.proof is None else ProgressBar(1.0, each.proof, width=_BAR)
        if each.proof is not None and each.outcome in (VerdictOutcome.PROMOTE, VerdictOutcome.HOLD):
            above = each.value is not None and each.value > each.limit
            mark = "proven" if each.proof >= 1 else "above" if above else proof(each.proof)
        figures = (written(each.value), written(each.limit), count(each.samples))
        table.add_row(name, *figures, bar, Text(mark, style=style))
    return table


def _arms(status: Status, samples: Sequence[Sample]) -> RenderableType:
    """Source beside target."""
    from rich.table import Table

    arms = status.arms
    sides = (
        _Side("source", arms.source, [(sample.span_s, sample.source) for sample in samples]),
        _Side("target", arms.target, [(sample.span_s, sample.target) for sample in samples]),
    )
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", min_width=9)
    for side in sides:
        table.add_column(f"{side.name} · {side.arm.backend}", justify="right", min_width=22, no_wrap=True)
    table.add_row("requests", *(_requests(side) for side in sides))
    table.add_row("errors", *(_errors(side.arm) for side in sides))
    if status.unsplit:
        table.add_row("not split", count(status.unsplit), "")
    if status.copies:
        table.add_row("copies", "", _copies(status.copies))
    table.add_row("p50", *(ms(side.arm.p50_ms) for side in sides))
    table.add_row("p95", *(ms(side.arm.p95_ms) for side in sides))
    table.add_row("p99", *(ms(side.arm.p99_ms) for side in sides))
    if len(samples) > 1:
        newest = [[sampled.p95_ms for _, sampled in side.samples[-_SPARKS_MAX:]] for side in sides]
        least, most = _range(newest)
        table.add_row(f"p95, {len(newest[0])} s", *(_sparks(each, least, most) for each in newest), style="cyan")
    return table


class _Side(NamedTuple):
    """An arm, and its figures in each of the last seconds with that sample's exact length."""

    name: str
    arm: ArmStatus
    samples: Sequence[tuple[float, SampledArm]]


def _requests(side: _Side) -> str:
    total = count(side.arm.requests)
    lately = side.samples[-_RATE_OVER:]
    seconds = sum(span_s for span_s, _ in lately)
    if not seconds:
        return total
    rate = sum(sampled.requests for _, sampled in lately) / seconds
    return f"{total}  {rate:,.0f}/s" if rate >= 10 or rate == 0 else f"{total}  {rate:.1f}/s"


def _errors(arm: ArmStatus) -> str:
    return f"{count(arm.errors)}  {error_rate(arm)}" if arm.requests else NONE


def _copies(copies: Sequence[CopiesStatus]) -> str:
    """What became of the target's copies of writes, of all operations."""
    made, failed = sum(each.copies for each in copies), sum(each.faults for each in copies)
    return f"{count(made)}  {count(failed)} failed"


def _range(values: Sequence[Sequence[float | None]]) -> tuple[float, float]:
    """The least and the greatest p95 of both arms, so that both sparklines have one scale."""
    measured = [value for each in values for value in each if value]
    return (min(measured), max(measured)) if measured else (1.0, 1.0)


def _sparks(values: Sequence[float | None], least: float, most: float) -> str:
    """A sparkline: one character per second, on a logarithmic scale; a space where there was no request."""
    scale = math.log(most / least) or 1.0
    top = len(_SPARKS) - 1
    return "".join(" " if not v else _SPARKS[round(top * math.log(v / least) / scale)] for v in values)


def _workers(workers: Sequence[WorkerStatus]) -> RenderableType:
    from rich.text import Text

    alive = [worker for worker in workers if worker.pid]
    oldest = max((worker.heartbeat_age_ms for worker in alive), default=None)
    age = "" if oldest is None else f", oldest heartbeat within the last {span(max(1.0, math.ceil(oldest / 1000)))}"
    return Text(f"Workers  {len(alive)} of {len(workers)} alive{age}", style="dim", no_wrap=True)


def _line(line: str) -> RenderableType:
    from rich.text import Text

    return Text(line, style="dim", no_wrap=True, overflow="ellipsis")


def _verdict(verdict: VerdictDocument) -> RenderableType:
    """The verdict's outcome in its colour, and its first reason."""
    from rich.text import Text

    outcome = (words(verdict.outcome), _OUTCOMES[verdict.outcome])
    return Text.assemble(("Verdict  ", "bold"), outcome, *(f": {reason}" for reason in verdict.reasons[:1]))
