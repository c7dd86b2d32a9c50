"""How cost grows: ``python -m loadtest.bench.scale``. One quantity is turned at a time, all others stay as they are.

    workers      1 to 4             requests a second and CPU a request (more workers than processors share them)
    connections  1 to 8,000         CPU a request
    routes       1 to 200           CPU a request of a pass-through, which no route takes
    migrations   1 to 20            the same, and the control plane's own CPU when nothing is asked
    body         1 B to 64 MiB      CPU a request, downloaded through it

The points of a quantity are measured in turn, round by round, and each beside the first: what the machine did in
between falls on all of them. A straight line is fitted, and said to be one where it explains what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from loadtest.bench import machine, page
from loadtest.bench.bulk import download
from loadtest.bench.contenders import BenchApp, ContenderOptions, Place, Running
from loadtest.bench.curve import Curve, short
from loadtest.bench.idle import allow_files
from loadtest.bench.measuring import Bench, Turn, running
from loadtest.bench.wrk import BROWSER
from loadtest.stage import procfs
from loadtest.stage.errors import StageError

WORKERS: Final = (1, 2, 3, 4)
CONNECTIONS: Final = (1, 4, 16, 64, 256, 1000, 4000, 8000)
ROUTES: Final = (1, 10, 50, 100, 200)
MIGRATIONS: Final = (1, 2, 5, 10, 20)
BODIES: Final = tuple(1 << power for power in (0, 6, 10, 14, 16, 18, 20, 22, 24, 26))
_MOVED_LEAST: Final = 64 << 20  # bytes by which a body's cost is measured
_DOWNLOADS_LEAST: Final = 20  # of any size: the kernel counts CPU time in steps of 10 ms
_DOWNLOADS_MOST: Final = 500  # of the smallest: enough steps, and no minute of them
_STILL_S: Final = 3.0  # in which nothing is asked: twelve judgements of each migration


def _pass_through(bench: Bench) -> Path:
    return bench.script("scale", {"Cookie": BROWSER["Cookie"] + "; phasegate=%016x"}, 64)


def _turned(bench: Bench, stack: ExitStack, options: Sequence[ContenderOptions]) -> list[Running]:
    return [stack.enter_context(running("phasegate", bench, each, f"-{i}")) for i, each in enumerate(options)]


def workers(bench: Bench) -> list[Curve]:
    """All processors for all: the workers share them with wrk and the app, as they would on one machine."""
    rate = Curve("workers", "requests a second", "1/s")
    cpu = Curve("workers", "CPU a request", "µs")
    lua = _pass_through(bench)
    for _ in range(bench.rounds):
        for count in WORKERS:
            with running("phasegate", bench, ContenderOptions(workers=count)) as contender:
                sample = bench.sample(Turn(f"{count} workers", contender, "/", lua), bench.seconds)
            rate.note(count, sample.rate)
            cpu.note(count, sample.cpu_us)
        bench.say(f"  workers: {rate.last()} /s")
    return [rate, cpu]


def connections(bench: Bench) -> list[Curve]:
    """Live ones, all of them asking as fast as they are answered."""
    cpu = Curve("connections", "CPU a request", "µs")
    lua = _pass_through(bench)
    with running("phasegate", bench) as contender:
        for _ in range(bench.rounds):
            for count in CONNECTIONS:
                sample = bench.sample(Turn(f"{count} connections", contender, "/", lua, count), bench.seconds)
                cpu.note(count, sample.cpu_us)
            bench.say(f"  connections: {cpu.last()} µs a request")
    return [cpu]


def _of_options(
    bench: Bench, quantity: str, made: dict[int, ContenderOptions]
) -> Iterator[tuple[int, Running, Curve]]:
    """A phasegate for each value, all running at once, each measured once a round; yields it after its turn."""
    cpu = Curve(quantity, "CPU a request", "µs")
    # No path twice: one that is remembered is not looked up in any table of routes.
    lua = bench.script("scale-paths", path="/page/%d")
    with ExitStack() as stack:
        contenders = dict(zip(made, _turned(bench, stack, list(made.values())), strict=True))
        for _ in range(bench.rounds):
            for value, contender in contenders.items():
                sample = bench.sample(Turn(f"{value} {quantity}", contender, "/", lua), bench.seconds)
                cpu.note(value, sample.cpu_us)
                yield value, contender, cpu
            bench.say(f"  {quantity}: {cpu.last()} µs a request")


def routes(bench: Bench) -> list[Curve]:
    """Routes that no request takes, so that each of them is looked at."""
    curves = [curve for _, _, curve in _of_options(bench, "routes", {n: ContenderOptions(routes=n) for n in ROUTES})]
    return curves[:1]


def migrations(bench: Bench) -> list[Curve]:
    """Each with its own state, judge and counts."""
    still = Curve("migrations", "CPU when nothing is asked", "ms/s")
    made = {n: ContenderOptions(migrations=n) for n in MIGRATIONS}
    cpu: Curve | None = None
    for value, contender, cpu in _of_options(bench, "migrations", made):  # noqa: B007 - the last one is all of it
        pids = contender.pids()
        used = procfs.cpu_s(pids)
        time.sleep(_STILL_S)
        still.note(value, (procfs.cpu_s(pids) - used) / _STILL_S * 1000)
    assert cpu is not None, "there is at least one round"
    return [cpu, still]


def bodies(bench: Bench) -> list[Curve]:
    """Whole downloads, one after another."""
    cpu = Curve("body", "CPU a request", "µs")
    with running("phasegate", bench) as contender:
        pids = contender.pids()
        for _ in range(bench.rounds):
            for size in BODIES:
                times = max(_DOWNLOADS_LEAST, min(_DOWNLOADS_MOST, _MOVED_LEAST // size))
                used = procfs.cpu_s(pids)
                for _ in range(times):
                    download(contender.url, size)
                cpu.note(size, (procfs.cpu_s(pids) - used) / times * 1e6)
            bench.say(f"  body: {cpu.last()} µs a request")
    return [cpu]


QUANTITIES: Final[dict[str, Callable[[Bench], list[Curve]]]] = {
    "workers": workers,
    "connections": connections,
    "routes": routes,
    "migrations": migrations,
    "body": bodies,
}
_LOGARITHMIC: Final = ("connections", "body")


def lines(curves: Sequence[Curve], plots: Path | None = None) -> list[str]:
    """Tables in Markdown, each with the line that was fitted, and its plot where there is one."""
    told = []
    for curve in curves:
        if plots is not None:
            told += [f"![{curve.figure} by {curve.quantity}]({plots.name}/{_plot_name(curve)})", ""]
        told += [f"**{curve.figure}** ({curve.unit}) by {curve.quantity}: {curve.line.words(curve.unit)}", ""]
        told += [f"| {curve.quantity} | median | least | most |", "|---|---|---|---|"]
        told += [f"| {short(p.x)} | {p.y:,.4g} | {p.low:,.4g} | {p.high:,.4g} |" for p in curve.points]
        told.append("")
    return told


def _plot_name(curve: Curve) -> str:
    words = curve.figure.lower().replace("cpu a request", "cpu").replace("cpu when nothing is asked", "still")
    return f"{curve.quantity}-{words.replace(' ', '-')}.svg"


def write_plots(curves: Sequence[Curve], folder: Path) -> None:
    """One file a curve."""
    from loadtest.bench import plot  # only here: the tables need no matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    for curve in curves:
        log_x = curve.quantity in _LOGARITHMIC
        title = f"{curve.figure} by {curve.quantity}"
        made = plot.figure(title, curve.quantity, curve.unit, curve.points, log_x=log_x)
        (folder / _plot_name(curve)).write_text(plot.svg(made))


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.scale", description="How cost grows.")
    parser.add_argument("--only", metavar="QUANTITY", nargs="+", choices=list(QUANTITIES), default=list(QUANTITIES))
    parser.add_argument("--rounds", type=int, default=3, help="of each quantity [3]")
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk [3]")
    parser.add_argument("--json", type=Path, default=Path("scale.json"), help="where the figures go [scale.json]")
    parser.add_argument("--plots", type=Path, help="a folder for SVG plots")
    parser.add_argument("--page", type=Path, help="a page, beside that folder, that has a place for the figures")
    found = parser.parse_args(argv)
    if found.rounds <= 0 or found.seconds <= 0:
        parser.error("expected --rounds and --seconds above 0")
    return found


def main(argv: list[str]) -> int:
    """The command; its exit code."""
    asked = arguments(argv)
    try:
        allow_files(2 * max(CONNECTIONS))  # for what is started from here too: a proxy has two connections a client
        machine.need_tools(("taskset", "wrk"))
        first, second = machine.default_cpus()
        facts = machine.describe("loadtest.bench.scale", argv)
        print("\n".join(machine.said(facts)), flush=True)
        curves = []
        with tempfile.TemporaryDirectory(prefix="phasegate-scale-") as folder:
            for name in asked.only:
                both = f"{first},{second}" if name == "workers" else ""
                place = Place(Path(folder), both or first, both or second)
                curves += _measure(place, asked, QUANTITIES[name])
        facts["load_average_after"] = round(os.getloadavg()[0], 2)
    except StageError as error:
        print(f"scale: {error}", file=sys.stderr)
        return 1
    if asked.plots is not None:
        write_plots(curves, asked.plots)
    told = ["```text", *machine.said(facts), "```", "", *lines(curves, asked.plots)]
    document = {"name": "scale", "told": told, "machine": facts, "curves": [curve.to_json() for curve in curves]}
    asked.json.write_text(json.dumps(document, indent=1) + "\n")
    if asked.page is not None:
        page.fill(asked.page, document)
    print("\n".join(["", *lines(curves), f"load average after: {facts['load_average_after']}"]))
    return 0


def _measure(place: Place, asked: argparse.Namespace, work: Callable[[Bench], list[Curve]]) -> list[Curve]:
    app = BenchApp(place)
    try:
        return work(Bench(place, app, asked.rounds, asked.seconds, lambda line: print(line, flush=True)))
    finally:
        app.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
