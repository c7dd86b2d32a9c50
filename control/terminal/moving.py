"""A task on the data at a terminal: how far it is, and at the end what came of it."""

from __future__ import annotations

import sys
import time
from typing import Final

import click
import msgspec

from control.data.messages import TaskCost, TaskDone, TaskResult

TELL_S: Final = 5.0  # between two lines of progress where nobody sits at a terminal


class ProgressLine:
    """Tells on standard error how far a task is: one line that changes at a terminal, else one now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._told = time.monotonic()

    def show(self, done: int, of: int | None, rate: float | None, left_s: float | None) -> None:
        """How far it is."""
        now = time.monotonic()
        if self._quiet or not (self._live or now - self._told >= TELL_S):
            return
        self._told = now
        share = "" if not of else f" of {of:,}"
        pace = "" if rate is None else f", {rate:,.0f} a second"
        left = "" if left_s is None else f", about {left_s:,.0f} s left"
        text = f"{done:,}{share} documents{pace}{left}"
        click.echo(f"\r\033[K{text}" if self._live else text, err=True, nl=not self._live)

    def end(self) -> None:
        """Nothing more is shown."""
        if self._live:
            click.echo("\r\033[K", err=True, nl=False)


def print_cost(cost: TaskCost, *, as_json: bool, migration: str) -> None:
    """What a copy would cost."""
    if as_json:
        click.echo(msgspec.json.encode({"reads": cost.reads, "writes": cost.writes, "usd": cost.usd}))
        return
    dollars = "" if cost.usd is None else f", about ${cost.usd:,.2f}"
    click.echo(f"{migration}: a copy reads {cost.reads:,} and writes {cost.writes:,} documents{dollars}")


def print_done(kind: str, done: TaskDone, *, migration: str) -> None:
    """What came of a task, for a person."""
    result = done.result
    if result.collections:
        _print_collections(result)
    if kind == "copy":
        newer = f", {result.skipped_newer:,} were newer on the target" if result.skipped_newer else ""
        click.echo(f"{migration}: copied {result.copied or 0:,} documents{newer}")
        return
    mended = f"{result.repaired:,} documents were repaired; " if kind == "repair" else ""
    left = done.differences
    if result.equal:
        click.echo(f"{migration}: {mended}both sides are equal, in {done.documents:,} documents")
    elif left:
        hint = "" if kind == "repair" else "; `phasegate compare --repair` mends them, --report FILE lists them"
        click.echo(f"{migration}: {mended}{left:,} documents differ{hint}")
    else:
        click.echo(f"{migration}: {mended}nothing differs so far; what is pending has yet to settle: compare again")


def _print_collections(result: TaskResult) -> None:
    width = max(len(each.name) for each in result.collections)
    click.echo(
        f"{'collection':{width}}  {'source':>10} {'target':>10} {'missing on target':>18} {'on source':>10} "
        f"{'different':>10} {'pending':>8}"
    )
    for each in result.collections:
        click.echo(
            f"{each.name:{width}}  {each.source:>10,} {each.target:>10,} {each.missing_on_target:>18,} "
            f"{each.missing_on_source:>10,} {each.different:>10,} {each.pending:>8,}"
        )
