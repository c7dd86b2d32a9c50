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
from loadtest.bench.contenders import CONTENDERS, BenchApp, Place
from loadtest.bench.idle import IDLE, idle
from loadtest.bench.measuring import Bench
from loadtest.bench.steady import SECONDS, steady, weight_change
from loadtest.stage.errors import StageError
from loadtest.stage.processes import running_emulator

Rows = list[Any]
_IDLE: Final = ("nginx", "phasegate")  # whose idle connections are of interest

# By name: what runs it. Those without the choice of contenders say so by ignoring it.
WORKS: Final[dict[str, Callable[[Bench, argparse.Namespace], Rows]]] = {
    "pass-through": lambda bench, asked: works.pass_through(bench, asked.contenders),
    "data": lambda bench, asked: works.data(bench, asked.contenders),
    "split": lambda bench, asked: works.split(bench),
    "bulk": lambda bench, asked: bulk(bench, asked.contenders, asked.bytes),
    "idle": lambda bench, asked: idle(bench, [name for name in asked.contenders if name in _IDLE], asked.idle),
    "steady": lambda bench, asked: steady(bench, asked.steady_seconds),
    "weight-change": lambda bench, asked: _weight_change(bench),
}


def _weight_change(bench: Bench) -> Rows:
    with running_emulator(bench.place.folder / "emulator.log", bench.place.load) as address:
        return weight_change(bench, address)


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="WORK", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--contenders", metavar="NAME", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5, help="of each work, in turn [5]")
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk [3]")
    parser.add_argument("--bytes", type=int, default=GIB, help="of the large transfers [1 GiB]")
    parser.add_argument("--idle", type=int, default=IDLE, help=f"idle connections [{IDLE}]")
    parser.add_argument("--steady-seconds", type=float, default=SECONDS, help=f"of the open loop [{SECONDS}]")
    parser.add_argument("--proxy-cpus", help="where the proxies run, as taskset takes it [the first]")
    parser.add_argument("--load-cpus", help="where wrk and the app run [the second]")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures go [bench.json]")
    parser.add_argument("--page", type=Path, help="a page that has a place for the figures")
    found = parser.parse_args(argv)
    for name in ("rounds", "seconds", "bytes", "idle", "steady_seconds"):
        if getattr(found, name) <= 0:
            parser.error(f"--{name.replace('_', '-')}: expected more than 0")
    if "nginx" not in found.contenders:
        parser.error("--contenders: nginx is what the others are compared with")
    found.contenders.sort(key=list(CONTENDERS).index)
    return found


def main(argv: list[str]) -> int:
    """The command; its exit code."""
    asked = arguments(argv)
    try:
        machine.need_tools()
        first, second = machine.default_cpus()
        facts = machine.describe("loadtest.bench", argv)
        print("\n".join(machine.said(facts)), flush=True)
        with tempfile.TemporaryDirectory(prefix="phasegate-bench-") as folder:
            place = Place(Path(folder), asked.proxy_cpus or first, asked.load_cpus or second)
            rows = _measure(place, asked)
        facts["load_average_after"] = round(os.getloadavg()[0], 2)
    except StageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    found = table.lines(rows)
    told = ["```text", *machine.said(facts), "", *found, "```"]
    document = {"name": "bench", "told": told, "machine": facts, "rows": [row.to_json() for row in rows]}
    asked.json.write_text(json.dumps(document, indent=1) + "\n")
    if asked.page is not None:
        page.fill(asked.page, document)
    print("\n".join(["", *found]))
    print(f"load average after: {facts['load_average_after']}\n{asked.json} has all of it.")
    return 0


def _measure(place: Place, asked: argparse.Namespace) -> Rows:
    app = BenchApp(place)
    try:
        bench = Bench(place, app, asked.rounds, asked.seconds, lambda line: print(line, flush=True))
        rows = []
        for name in asked.only:
            print(f"{name}:", flush=True)
            rows += WORKS[name](bench, asked)
        return rows
    finally:
        app.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
