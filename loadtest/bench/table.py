"""The figures as text tables, and whether each promised limit was kept. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from typing import Any

from loadtest.bench.bulk import BulkRow
from loadtest.bench.idle import IdleRow
from loadtest.bench.measuring import Spread, WrkRow
from loadtest.bench.steady import ChangeRow, SteadyRow


def lines(rows: Sequence[Any], reference: str = "nginx") -> list[str]:
    """A table for each kind of row; then the promised limits, which are about costs by nginx's."""
    table: list[str] = []
    heading = ""
    for row in rows:
        title, line = _table_row(row)
        if title != heading:
            table += ["", title] if table else [title]
            heading = title
        table.append(line)
    promised = list(promises(rows)) if reference == "nginx" else []
    if promised:
        table += ["", f"{'promised':58} {'at most':>9} {'measured':>9}"]
        table += [
            f"{what:58} {limit:>9.4g} {value:>9.4g}  {'kept' if value <= limit else 'NOT KEPT'}"
            for what, limit, value in promised
        ]
    return table


def promises(rows: Sequence[Any]) -> Iterator[tuple[str, float, float]]:
    """(what, its limit, the measured median): kept if the figure does not exceed the limit."""
    for row in rows:
        if isinstance(row, WrkRow) and row.contender == "phasegate":
            if row.work.startswith("data"):
                yield f"{row.work}: CPU by nginx's for proxying it", 0.6, row.ratio.median
            elif row.work != "pass-through, no head twice":
                yield f"{row.work}: CPU by nginx's", 1.25, row.ratio.median
        elif isinstance(row, WrkRow) and row.contender == "on":
            yield "split and record: CPU, on by off", 1.05, row.ratio.median
        elif isinstance(row, BulkRow) and row.contender == "phasegate":
            yield f"{row.work}: nginx's bytes by CPU second, by phasegate's", 1 / 0.8, 1 / row.ratio.median
            yield f"{row.work}: memory grows, MiB", 16, max(t.grown for t in row.transfers) / (1 << 20)
        elif isinstance(row, IdleRow) and row.contender == "phasegate":
            yield f"{row.connections} idle connections: KiB each", 12, row.bytes_each / 1024
            yield f"{row.connections} idle connections: p99 of live ones, by before", 1.5, row.ratio
        elif isinstance(row, SteadyRow):
            yield f"{row.path} at {row.rate:g}/s: added at p99, ms", 0.5, row.added_p99_ms
        elif isinstance(row, ChangeRow):
            yield "weight change: last request of the old weight, ms", 50, max(row.last_old_ms)


@singledispatch
def _table_row(row: Any) -> tuple[str, str]:
    """The heading of the row's table, and the row."""
    raise AssertionError(f"no table for {type(row).__name__}")


@_table_row.register
def _(row: WrkRow) -> tuple[str, str]:
    title = (
        f"{'work':28} {'':15} {'CPU µs a request':>24} {'by the reference':>20} {'requests/s':>11}"
        f" {'p50 ms':>7} {'p99 ms':>7} {'others':>6}"
    )
    cpu, ratio, rate = row.spread("cpu_us"), row.ratio, row.spread("rate").median
    return title, (
        f"{row.work:28} {row.contender:15} {_spread(cpu, 1):>24} {_spread(ratio, 2):>20} {rate:>11,.0f}"
        f" {row.spread('p50_ms').median:>7.2f} {row.spread('p99_ms').median:>7.2f}"
        f" {row.spread('foreign').median:>6.0%}"
    )


@_table_row.register
def _(row: BulkRow) -> tuple[str, str]:
    title = f"{'large bodies':28} {'':15} {'GB by CPU second':>24} {'by the reference':>20} {'memory MiB':>11}"
    speed = Spread.of([t.bytes_per_cpu_s / 1e9 for t in row.transfers])
    grown = max(t.grown for t in row.transfers) / (1 << 20)
    size = f"{row.work} of {row.size / (1 << 20):g} MiB"
    return title, f"{size:28} {row.contender:15} {_spread(speed, 2):>24} {_spread(row.ratio, 2):>20} {grown:>+11.1f}"


@_table_row.register
def _(row: IdleRow) -> tuple[str, str]:
    title = f"{'idle connections':28} {'':15} {'KiB each':>24} {'p99 ms before':>20} {'beside':>11} {'ratio':>7}"
    before, beside = Spread.of(row.p99_before_ms).median, Spread.of(row.p99_beside_ms).median
    each = row.bytes_each / 1024
    return title, (
        f"{row.connections:<28,} {row.contender:15} {each:>24.1f} {before:>20.2f} {beside:>11.2f} {row.ratio:>7.2f}"
    )


@_table_row.register
def _(row: SteadyRow) -> tuple[str, str]:
    title = f"{'open loop, ms':28} {'':15} {'direct p50':>12} {'p99':>9} {'through p50':>12} {'p99':>9} {'added':>9}"
    direct, through = row.direct_ms, row.through_ms
    work = f"{row.path} at {row.rate:g}/s for {row.seconds:g} s"
    return title, (
        f"{work:39} {direct['p50']:>12.3f} {direct['p99']:>9.3f} {through['p50']:>12.3f} {through['p99']:>9.3f}"
        f" {row.added_p99_ms:>+9.3f}"
    )


@_table_row.register
def _(row: ChangeRow) -> tuple[str, str]:
    title = (
        f"{'weight change, ms':28} {'':15} {'last of the old weight':>24} {'seen by all':>20} {'API answered':>13}"
    )
    last, seen, answered = (Spread.of(v) for v in (row.last_old_ms, row.seen_ms, row.answered_ms))
    work = f"{row.workers} workers, {row.load_rate:,.0f}/s"
    return title, f"{work:28} {'':15} {_spread(last, 1):>24} {_spread(seen, 1):>20} {_spread(answered, 1):>13}"


def _spread(spread: Spread, digits: int) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}-{spread.high:.{digits}f})"
