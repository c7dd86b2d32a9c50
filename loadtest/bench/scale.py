"""How cost grows: ``python -m loadtest.bench.scale``. It varies one quantity at a time.

    workers      1 to 4             requests per second and CPU per request (all processors are shared with wrk)
    connections  1 to 8,000         CPU per request
    routes       1 to 200           CPU per request of a pass-through, which matches no route
    migrations   1 to 20            the same, and the control plane's own CPU without requests
    body         1 B to 64 MiB      CPU per download

The points of a quantity are measured in turn, round by round, so that other work on the machine affects all of them
alike. A line is fitted, and called straight if it explains most of the variance.
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
_MOVED_LEAST: Final = 64 << 20  # bytes downloaded for one point
_DOWNLOADS_LEAST: Final = 20  # per point: the kernel counts CPU time in steps of 10 ms
_DOWNLOADS_MOST: Final = 500  # per point, so that small bodies do not take minutes
_STILL_S: Final = 3.0  # without requests; each migration is judged twelve times meanwhile


def _pass_through(bench: Bench) -> Path:
    return bench.script("scale", {"Cookie": BROWSER["Cookie"] + "; phasegate=%016x"}, 64)


def _turned(bench: Bench, stack: ExitStack, options: Sequence[ContenderOptions]) -> list[Running]:
    return [stack.enter_context(running("phasegate", bench, each, f"-{i}")) for i, each in enumerate(options)]


def workers(bench: Bench) -> list[Curve]:
    """All processes share all processors: the workers, wrk and the app."""
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
    """Active connections, each sending as fast as it is answered."""
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
    bench: Bench, quantity: str, options: dict[int, ContenderOptions]
) -> Iterator[tuple[int, Running, Curve]]:
    """A phasegate for each value, all running at once, each measured once per round; yields it after its turn."""
    cpu = Curve(quantity, "CPU a request", "µs")
    # No path twice: a cached request line would skip the table of routes.
    lua = bench.script("scale-paths", path="/page/%d")
    with ExitStack() as stack:
        contenders = dict(zip(options, _turned(bench, stack, list(options.values())), strict=True))
        for _ in range(bench.rounds):
            for value, contender in contenders.items():
                sample = bench.sample(Turn(f"{value} {quantity}", contender, "/", lua), bench.seconds)
                cpu.note(value, sample.cpu_us)
                yield value, contender, cpu
            bench.say(f"  {quantity}: {cpu.last()} µs a request")


def routes(bench: Bench) -> list[Curve]:
    """Routes that no request matches, so that each request is compared with all of them."""
    curves = [curve for _, _, curve in _of_options(bench, "routes", {n: ContenderOptions(routes=n) for n in ROUTES})]
    return curves[:1]


def migrations(bench: Bench) -> list[Curve]:
    """Migrations, each with its own state, judge and counts."""
    still = Curve("migrations", "CPU when nothing is asked", "ms/s")
    options = {n: ContenderOptions(migrations=n) for n in MIGRATIONS}
    cpu: Curve | None = None
    for value, contender, cpu in _of_options(bench, "migrations", options):  # noqa: B007 - the last has all rounds
        pids = contender.pids()
        used = procfs.cpu_s(pids)
        time.sleep(_STILL_S)
        still.note(value, (procfs.cpu_s(pids) - used) / _STILL_S * 1000)
    assert cpu is not None, "there is at least one round"
    return [cpu, still]


def bodies(bench: Bench) -> list[Curve]:
    """Bodies of different sizes, downloaded one after another."""
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
    """Tables in Markdown, each with the fitted line, and its plot if there is one."""
    report = []
    for curve in curves:
        if plots is not None:
            report += [f"![{curve.figure} by {curve.quantity}]({plots.name}/{_plot_name(curve)})", ""]
        report += [f"**{curve.figure}** ({curve.unit}) by {curve.quantity}: {curve.line.words(curve.unit)}", ""]
        report += [f"| {curve.quantity} | median | least | most |", "|---|---|---|---|"]
        report += [f"| {short(p.x)} | {p.y:,.4g} | {p.low:,.4g} | {p.high:,.4g} |" for p in curve.points]
        report.append("")
    return report


def _plot_name(curve: Curve) -> str:
    words = curve.figure.lower().replace("cpu a request", "cpu").replace("cpu when nothing is asked", "still")
    return f"{curve.quantity}-{words.replace(' ', '-')}.svg"


def write_plots(curves: Sequence[Curve], folder: Path) -> None:
    """Write one file per curve."""
    from loadtest.bench import plot  # imported here: the tables do not need matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    for curve in curves:
        log_x = curve.quantity in _LOGARITHMIC
        title = f"{curve.figure} by {curve.quantity}"
        drawing = plot.figure(title, curve.quantity, curve.unit, curve.points, log_x=log_x)
        (folder / _plot_name(curve)).write_text(plot.svg(drawing))


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.scale", description="How cost grows.")
    parser.add_argument("--only", metavar="QUANTITY", nargs="+", choices=list(QUANTITIES), default=list(QUANTITIES))
    parser.add_argument("--rounds", type=int, default=3, help="of each quantity [3]")
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk [3]")
    parser.add_argument("--json", type=Path, default=Path("scale.json"), help="where the figures go [scale.json]")
    parser.add_argument("--plots", type=Path, help="a folder for SVG plots")
    parser.add_argument("--page", type=Path, help="a page beside that folder, with a marked place for the figures")
    options = parser.parse_args(argv)
    if options.rounds <= 0 or options.seconds <= 0:
        parser.error("expected --rounds and --seconds above 0")
    return options


def main(argv: list[str]) -> int:
    """The command; its exit code."""
    options = arguments(argv)
    try:
        allow_files(2 * max(CONNECTIONS))  # child processes inherit it; a proxy has two connections per client
        machine.need_tools(("taskset", "wrk"))
        first, second = machine.default_cpus()
        facts = machine.describe("loadtest.bench.scale", argv)
        print("\n".join(machine.said(facts)), flush=True)
        curves = []
        with tempfile.TemporaryDirectory(prefix="phasegate-scale-") as folder:
            for name in options.only:
                both = f"{first},{second}" if name == "workers" else ""
                place = Place(Path(folder), both or first, both or second)
                curves += _measure(place, options, QUANTITIES[name])
        facts["load_average_after"] = round(os.getloadavg()[0], 2)
    except StageError as error:
        print(f"scale: {error}", file=sys.stderr)
        return 1
    if options.plots is not None:
        write_plots(curves, options.plots)
    told = ["```text", *machine.said(facts), "```", "", *lines(curves, options.plots)]
    document = {"name": "scale", "told": told, "machine": facts, "curves": [curve.to_json() for curve in curves]}
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.page is not None:
        page.fill(options.page, document)
    print("\n".join(["", *lines(curves), f"load average after: {facts['load_average_after']}"]))
    return 0


def _measure(place: Place, options: argparse.Namespace, work: Callable[[Bench], list[Curve]]) -> list[Curve]:
    app = BenchApp(place)
    try:
        return work(Bench(place, app, options.rounds, options.seconds, lambda line: print(line, flush=True)))
    finally:
        app.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
