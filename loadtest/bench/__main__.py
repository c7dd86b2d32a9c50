"""``python -m loadtest.bench``: run the works, print the table, write JSON.

A run that failed is an error and ends the benchmark (exit code 1): it never becomes a row.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from loadtest.bench import machine, page, table, works
from loadtest.bench.bulk import GIB, bulk
from loadtest.bench.contenders import BEFORE, CONTENDERS, BenchApp, Place, phasegate_of
from loadtest.bench.idle import IDLE, idle
from loadtest.bench.measuring import Bench
from loadtest.bench.steady import SECONDS, steady, weight_change
from loadtest.stage.errors import StageError
from loadtest.stage.processes import running_emulator

Rows = list[Any]
_IDLE: Final = ("nginx", "phasegate")  # contenders whose idle connections are measured

# By name: the function that runs it. Some have a fixed set of contenders and ignore --contenders.
WORKS: Final[dict[str, Callable[[Bench, argparse.Namespace], Rows]]] = {
    "pass-through": lambda bench, options: works.pass_through(bench, options.contenders, options.reference),
    "data": lambda bench, options: works.data(bench, options.contenders, options.reference),
    "split": lambda bench, options: works.split(bench, beside=BEFORE if options.before else None),
    "bulk": lambda bench, options: bulk(bench, options.contenders, options.bytes, options.reference),
    "idle": lambda bench, options: idle(bench, [name for name in options.contenders if name in _IDLE], options.idle),
    "steady": lambda bench, options: steady(bench, options.steady_seconds),
    "weight-change": lambda bench, options: _weight_change(bench),
}


def _weight_change(bench: Bench) -> Rows:
    with running_emulator(bench.place.folder / "emulator.log", bench.place.load) as address:
        return weight_change(bench, address)


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="WORK", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--contenders", metavar="NAME", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--before", type=Path, metavar="TREE", help=f"an earlier checkout, compiled: {BEFORE}")
    parser.add_argument("--reference", metavar="NAME", help=f"what costs are divided by [{BEFORE}, else nginx]")
    parser.add_argument("--rounds", type=int, default=5, help="of each work, in turn [5]")
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk [3]")
    parser.add_argument("--bytes", type=int, default=GIB, help="of the large transfers [1 GiB]")
    parser.add_argument("--idle", type=int, default=IDLE, help=f"idle connections [{IDLE}]")
    parser.add_argument("--steady-seconds", type=float, default=SECONDS, help=f"of the open loop [{SECONDS}]")
    parser.add_argument("--proxy-cpus", help="where the proxies run, as taskset takes it [the first]")
    parser.add_argument("--load-cpus", help="where wrk and the app run [the second]")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures go [bench.json]")
    parser.add_argument("--page", type=Path, help="a page with a marked place for the figures")
    options = parser.parse_args(argv)
    for name in ("rounds", "seconds", "bytes", "idle", "steady_seconds"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')}: expected more than 0")
    options.contenders.sort(key=list(CONTENDERS).index)
    if options.before is not None:
        CONTENDERS[BEFORE] = phasegate_of(options.before.resolve())
        options.contenders.append(BEFORE)
    options.reference = options.reference or (BEFORE if options.before is not None else "nginx")
    if options.reference not in options.contenders:
        parser.error(f"--contenders: {options.reference} is what the others are compared with")
    return options


def main(argv: list[str]) -> int:
    """The command; its exit code."""
    options = arguments(argv)
    try:
        machine.need_tools()
        first, second = machine.default_cpus()
        facts = machine.describe("loadtest.bench", argv)
        print("\n".join(machine.said(facts)), flush=True)
        with tempfile.TemporaryDirectory(prefix="phasegate-bench-") as folder:
            place = Place(Path(folder), options.proxy_cpus or first, options.load_cpus or second)
            rows = _measure(place, options)
        facts["load_average_after"] = round(os.getloadavg()[0], 2)
    except StageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report = table.lines(rows, options.reference)
    told = ["```text", *machine.said(facts), "", *report, "```"]
    document = {"name": "bench", "told": told, "machine": facts, "rows": [row.to_json() for row in rows]}
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.page is not None:
        page.fill(options.page, document)
    print("\n".join(["", *report]))
    print(f"load average after: {facts['load_average_after']}\n{options.json} has all of it.")
    return 0


def _measure(place: Place, options: argparse.Namespace) -> Rows:
    app = BenchApp(place)
    try:
        bench = Bench(place, app, options.rounds, options.seconds, lambda line: print(line, flush=True))
        rows = []
        for name in options.only:
            print(f"{name}:", flush=True)
            rows += WORKS[name](bench, options)
        return rows
    finally:
        app.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
