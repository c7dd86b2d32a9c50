"""The picture of a migration on a terminal: phases, soak and proof, both arms side by side, the verdict in words.

Draws one status; what is left out first where the terminal is low is said by the parts' order of importance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from control.report.wording import (
    NONE,
    Json,
    count,
    error_rate,
    ms,
    next_line,
    percent,
    proof,
    rollback_line,
    rule,
    span,
    verdict_line,
    words,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

COLOURS: Final = {
    "running": "green",
    "paused": "yellow",
    "rolling_back": "red",
    "rolled_back": "red",
    "aborted": "red",
    "completed": "bright_green",
}
_OUTCOMES: Final = {"promote": "bold green", "hold": "bold yellow", "roll_back": "bold red", "no_data": "bold"}
_MARKS: Final = {
    "promote": ("kept", "green"),
    "hold": ("not yet", "yellow"),
    "roll_back": ("broken", "bold red"),
    "no_data": ("no data", "dim"),
}
_BAR: Final = 24
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARKS_MAX: Final = 20


def print_rendered(console: Console, drawn: RenderableType) -> None:
    """What was drawn; a file or pipe is not given the blanks that end its lines."""
    if console.is_terminal:
        console.print(drawn)
        return
    with console.capture() as captured:
        console.print(drawn)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_status(status: Json) -> None:
    """A status for a person, once."""
    from rich.console import Console

    console = Console(highlight=False)
    print_rendered(console, picture(console, status))


class _Part(NamedTuple):
    """A piece of the picture; 0 is always drawn, and of the rest the greatest ``spare`` goes first."""

    spare: int
    drawn: RenderableType


def picture(
    console: Console, status: Json, log: Sequence[str] = (), footer: str = "", samples: Sequence[Json] = ()
) -> RenderableType:
    """The whole view of one status, no higher than the console.

    ``log``: the newest lines, oldest first. ``samples``: what both arms did in each of the last seconds.
    """
    from rich.console import Group
    from rich.text import Text

    phase = status.get("phase")
    parts = [_Part(0, _head(status, console.width)), _Part(0, _rail(status, console.width)), _Part(3, Text())]
    if phase and status["state"] in ("running", "paused", "rolled_back"):
        parts.append(_Part(0, _soak(status, phase)))
    following = Text.assemble(("Next     ", "bold"), next_line(status), no_wrap=True, overflow="ellipsis")
    parts += [_Part(1, following), _Part(2, Text()), _Part(0, _arms(status, samples)), _Part(2, Text())]
    if (status.get("verdict") or {}).get("rules"):
        parts += [_Part(1, _rules(status)), _Part(3, Text())]
    outcome = (status.get("verdict") or {}).get("outcome")
    parts.append(_Part(0, Text.assemble(("Verdict  ", "bold"), _styled(verdict_line(status), outcome))))
    if status.get("last_rollback"):
        fresh = status["state"] in ("rolling_back", "rolled_back", "aborted")
        style = "red" if fresh else "dim"  # of an earlier run it is only a memory
        parts.append(_Part(0 if fresh else 5, Text(rollback_line(status["last_rollback"]), style=style)))
    parts.append(_Part(4, _workers(status)))
    parts += [_Part(6 + age, _line(line)) for age, line in zip(range(len(log) - 1, -1, -1), log, strict=True)]
    if footer:
        parts += [_Part(4, Text()), _Part(0, Text.from_markup(footer))]
    return Group(*(part.drawn for part in _fitting(console, parts)))


def _fitting(console: Console, parts: list[_Part]) -> list[_Part]:
    """What there is room for: a picture higher than the terminal would lose its end, which is the keys."""
    heights = [len(console.render_lines(part.drawn, pad=False)) for part in parts]
    kept = list(range(len(parts)))
    for spare in sorted({part.spare for part in parts if part.spare}, reverse=True):
        if not console.is_terminal or sum(heights[i] for i in kept) < console.height:
            break
        kept = [i for i in kept if parts[i].spare != spare]
    return [parts[i] for i in kept]


def _head(status: Json, width: int) -> RenderableType:
    from rich.text import Text

    state = str(status["state"])
    head = Text.assemble(
        ("phasegate ", "bold"),
        f"{status['migration']}  ",
        (f"● {words(state)}", f"bold {COLOURS.get(state, 'white')}"),
        f"  {percent(status['weight'])} on the target",
    )
    revision = f"revision {status.get('revision', NONE)}"
    head.append(revision.rjust(min(width, 100) - head.cell_len) if head.cell_len + 12 < width else "", "dim")
    return head


def _rail(status: Json, width: int) -> RenderableType:
    """The phases in a line; where that is too long, only the current one has its name."""
    phases = status.get("phases") or []
    full = sum(len(f"{phase['name']} {percent(phase['weight'])}") + 6 for phase in phases)
    return _rail_of(status, phases, named=full <= width)


def _rail_of(status: Json, phases: Sequence[Json], *, named: bool) -> Text:
    from rich.text import Text

    current = (status.get("phase") or {}).get("index", -1)
    done = status["state"] == "completed"
    rail = Text(no_wrap=True, overflow="ellipsis")
    for index, phase in enumerate(phases):
        if index:
            rail.append(" ── ", "green" if done or index <= current else "dim")
        weight = percent(phase["weight"])
        name = f"{phase['name']} {weight}" if named or index == current else weight
        if done or index < current:
            rail.append(f"● {name}", "green")
        elif index == current:
            rail.append(f"◉ {name}", f"bold {COLOURS.get(status['state'], 'white')}")
        else:
            rail.append(f"○ {name}", "dim")
    return rail


def _soak(status: Json, phase: Json) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    soaked, least = float(phase.get("soaked_s") or 0), float(phase.get("min_soak_s") or 0)
    full = max(least, 1e-9)
    said = (
        f"{span(soaked)} of {span(least)}" if soaked < least else f"{span(soaked)}, of at least {span(least)}: done"
    )
    if status["state"] == "rolled_back":
        said = f"stands until `phasegate resume`; then {span(least)} at least"
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        Text("Soak    ", style="bold"), ProgressBar(full, min(soaked, full), width=_BAR), Text(said, no_wrap=True)
    )
    return grid


def _rules(status: Json) -> RenderableType:
    """Each rule's value against its limit, and how far its proof has come."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("Rule", min_width=9)
    for column in ("target", "limit", "samples"):
        table.add_column(column, justify="right", min_width=8, no_wrap=True)
    table.add_column("proof", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in status["verdict"]["rules"]:
        name, written = rule(each)
        mark, style = _MARKS.get(each["outcome"], (words(each["outcome"]), ""))
        proven = each.get("proof")
        bar: RenderableType = "" if proven is None else ProgressBar(1.0, proven, width=_BAR)
        if proven is not None and each["outcome"] in ("promote", "hold"):
            above = each["value"] is not None and each["value"] > each["limit"]
            mark = "proven" if proven >= 1 else "above" if above else proof(proven)
        figures = (written(each["value"]), written(each["limit"]), count(each["samples"]))
        table.add_row(name, *figures, bar, Text(mark, style=style))
    return table


def _arms(status: Json, samples: Sequence[Json]) -> RenderableType:
    """Source beside target."""
    from rich.table import Table

    arms = status.get("arms") or {}
    sides = [name for name in ("source", "target") if name in arms]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", min_width=9)
    for name in sides:
        table.add_column(f"{name} · {arms[name].get('backend', NONE)}", justify="right", min_width=22, no_wrap=True)
    table.add_row("requests", *(_requests(arms[name], name, samples) for name in sides))
    table.add_row("errors", *(_errors(arms[name]) for name in sides))
    for key in ("p50_ms", "p95_ms", "p99_ms"):
        table.add_row(key.removesuffix("_ms"), *(ms(arms[name].get(key)) for name in sides))
    newest = samples[-_SPARKS_MAX:]
    if len(newest) > 1:
        least, most = _range(newest, sides)
        lines = [_sparks([_p95(sample, name) for sample in newest], least, most) for name in sides]
        table.add_row(f"p95, {len(newest)} s", *lines, style="cyan")
    return table


def _requests(arm: Json, name: str, samples: Sequence[Json]) -> str:
    total = count(arm.get("requests", 0))
    lately = [sample for sample in samples[-5:] if sample.get("span_s")]
    if not lately:
        return total
    rate = sum(sample[name]["requests"] for sample in lately) / sum(sample["span_s"] for sample in lately)
    return f"{total}  {rate:,.0f}/s" if rate >= 10 or rate == 0 else f"{total}  {rate:.1f}/s"


def _errors(arm: Json) -> str:
    return f"{count(arm.get('errors', 0))}  {error_rate(arm)}" if arm.get("requests") else NONE


def _p95(sample: Json, name: str) -> float | None:
    found = sample[name].get("p95_ms")
    return float(found) if found else None


def _range(samples: Sequence[Json], sides: Sequence[str]) -> tuple[float, float]:
    """Of both arms together, so that they can be compared."""
    seen = [value for sample in samples for name in sides if (value := _p95(sample, name))]
    return (min(seen), max(seen)) if seen else (1.0, 1.0)


def _sparks(values: Sequence[float | None], least: float, most: float) -> str:
    """One character a second, on a logarithmic scale; a space where there was no request."""
    scale = math.log(most / least) or 1.0
    top = len(_SPARKS) - 1
    return "".join(" " if v is None else _SPARKS[round(top * math.log(v / least) / scale)] for v in values)


def _workers(status: Json) -> RenderableType:
    from rich.text import Text

    workers = status.get("workers") or []
    alive = [worker for worker in workers if worker.get("pid")]
    oldest = max((worker["heartbeat_age_ms"] for worker in alive), default=None)
    heard = "" if oldest is None else f", each heard of within the last {span(max(1.0, math.ceil(oldest / 1000)))}"
    return Text(f"Workers  {len(alive)} of {len(workers)} alive{heard}", style="dim", no_wrap=True)


def _line(line: str) -> RenderableType:
    from rich.text import Text

    return Text(line, style="dim", no_wrap=True, overflow="ellipsis")


def _styled(said: str, outcome: object) -> Text:
    """The verdict's first word in its colour."""
    from rich.text import Text

    word, colon, rest = said.partition(":")
    return Text.assemble((word, _OUTCOMES.get(str(outcome), "bold")), colon, rest)
