"""An open loop: requests at a constant rate; each latency counts from when the request was due.

``python -m loadtest.generator.openloop`` runs it.

A closed loop (wrk, locust) sends the next request when the last is answered, so it sends less to a stalled server and
hides the latency that real users would see. The open loop keeps its schedule, and reports the difference between the
two. It sends one request repeatedly, or with ``--visitors`` the requests of the app's users, with every answer
judged. Several addresses get the same rate each, interleaved, so that they are measured at the same time.

Exit code: 0 every answer was right, 1 some were not, 2 usage, 3 the generator itself did not keep its schedule.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic_ns, process_time
from typing import Any, Final

import uvloop

from loadtest.generator.arrivals import Lane, OpenLoop
from loadtest.generator.client import LoadClient
from loadtest.generator.figures import Measured, of_crowd, repeated
from loadtest.generator.pacing import Schedule
from loadtest.generator.visitors import Crowd

CONNECTIONS_MOST: Final = 4096  # and visitors; beyond it a due request counts as unsent
CPU_MOST: Final = 0.70  # of a core; above it the generator's own delays distort every figure
LATE_MOST_MS: Final = 5.0  # at p99; above it the generator lacked CPU time
LIVE_EVERY_S: Final = 1.0

OK, WRONG_ANSWERS, USAGE, NOT_ON_TIME = 0, 1, 2, 3


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.generator.openloop", description=__doc__.split("\n")[0])
    parser.add_argument("url", nargs="+", help="http://HOST:PORT; each gets the rate")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second [100]")
    parser.add_argument("--for", dest="seconds", type=float, default=10.0, help="seconds [10]")
    parser.add_argument("--path", default="/", help="the path to GET [/]")
    parser.add_argument("--identities", type=int, default=64, help="users in turn, by x-user-id [64]")
    parser.add_argument("--visitors", metavar="PREFIX", help="send what the app's users send, under these names")
    parser.add_argument("--app-path", action="append", help="a path of the app's, for --visitors [/]")
    parser.add_argument("--connections", type=int, default=64, help="open beforehand; more as needed [64]")
    parser.add_argument("--users", type=int, default=64, help="of the closed loop to compare with [64]")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for an answer [30]")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--live", action="store_true", help="a line of JSON with the counts every second")
    options = parser.parse_args(argv)
    for name in ("rate", "seconds", "identities", "connections", "users", "timeout"):
        if getattr(options, name) <= 0:
            parser.error(f"--{'for' if name == 'seconds' else name}: expected more than 0")
    return options


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole run. Raises ``OSError`` and ``ValueError``."""
    schedules = [
        Schedule(options.rate, options.seconds, number / options.rate / len(options.url))
        for number in range(len(options.url))
    ]
    targets = [_measured(options, url, schedule) for url, schedule in zip(options.url, schedules, strict=True)]
    loop = OpenLoop([Lane(schedule, target.send) for schedule, target in zip(schedules, targets, strict=True)])
    for number in (signal.SIGINT, signal.SIGTERM):  # end early, and report what was measured
        asyncio.get_running_loop().add_signal_handler(number, loop.stop)
    began = datetime.now(UTC)
    try:
        for target in targets:
            await target.client.fill(options.connections)
        async with _live(targets) if options.live else contextlib.nullcontext():
            since, used = monotonic_ns(), process_time()
            await loop.run()
            cpu = (process_time() - used) / ((monotonic_ns() - since) / 1e9)
            for target in targets:
                await target.client.drain()
    finally:
        for target in targets:
            await target.client.close()
    return {
        "started_at": began.isoformat(timespec="milliseconds"),
        "start_ns": loop.start_ns,
        "seconds": options.seconds,
        "generator_cpu": round(cpu, 3),
        "targets": [target.result() for target in targets],
    }


def _measured(options: argparse.Namespace, url: str, schedule: Schedule) -> Measured:
    client = LoadClient(url, most=max(CONNECTIONS_MOST, options.connections), timeout_s=options.timeout)
    if options.visitors:
        crowd = Crowd(options.visitors, options.users, CONNECTIONS_MOST, tuple(options.app_path or ("/",)))
        source = of_crowd(client, crowd)
    else:
        source = repeated(client, options.path, options.identities)
    return Measured(url, client, schedule, source, options.users)


@contextlib.asynccontextmanager
async def _live(targets: Sequence[Measured]) -> AsyncIterator[None]:
    """Print a line of JSON with the counts every second while the block runs."""

    async def print_counts() -> None:
        while True:
            await asyncio.sleep(LIVE_EVERY_S)
            counts = [{"url": target.url, **target.figures.counts()} for target in targets]
            sys.stdout.write(json.dumps({"at_ns": monotonic_ns(), "targets": counts}) + "\n")
            sys.stdout.flush()

    printing = asyncio.create_task(print_counts())
    try:
        yield
    finally:
        printing.cancel()


def told(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    lines = []
    for target in result["targets"]:
        lines.append(
            f"{target['url']}: {target['sent']:,} requests at {target['rate']:g}/s, {target['failed']:,} failed"
            + "".join(f", {count:,} from {source}" for source, count in sorted(target["sources"].items()))
            + (f", {target['repeated']:,} sent twice" if target["repeated"] else "")
        )
        lines += [f"  {example}" for example in target["examples"]]
        columns = list(target["latency_ms"])
        lines.append(f"  {'ms':22}" + "".join(f"{column:>10}" for column in columns))
        rows = (("from when it was due", "latency_ms"), ("as a closed loop sees", "closed_loop_ms"))
        for title, key in rows:
            figures = (target[key][column] for column in columns)
            lines.append(f"  {title:22}" + "".join(f"{_figure(value):>10}" for value in figures))
        lines.append(f"  {difference(target)}")
    lines.append(f"The generator used {result['generator_cpu']:.0%} of a core.")
    return lines


def difference(target: dict[str, Any]) -> str:
    """What a closed loop would have missed, in a sentence."""
    loop, opened, closed = target["closed_loop"], target["latency_ms"]["p99"], target["closed_loop_ms"]["p99"]
    if opened is None or closed is None:
        return "Nothing was answered."
    return (
        f"A closed loop of {loop['users']} users would have left out {loop['left_out']:,} requests, with a p99 of "
        f"{closed:.2f} ms instead of {opened:.2f} ms: {opened - closed:+.2f} ms."
    )


def own_fault(result: dict[str, Any]) -> str | None:
    """Why the figures measure the generator and not the server; None if they are valid."""
    if result["generator_cpu"] > CPU_MOST:
        return f"the generator used {result['generator_cpu']:.0%} of a core; above {CPU_MOST:.0%} it measures itself"
    late = max((target["late_ms"]["p99"] or 0.0) for target in result["targets"])
    if late > LATE_MOST_MS:
        return (
            f"requests were sent {late:.1f} ms late at p99: the generator waited for a processor, and measured that"
        )
    return None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    options = arguments(argv)
    try:
        result = uvloop.run(run(options))
    except (OSError, ValueError) as error:
        print(f"openloop: {error}", file=sys.stderr)
        return USAGE
    if options.json is not None:
        options.json.write_text(json.dumps(result) + "\n")
    print("\n".join(told(result)), file=sys.stderr if options.live else sys.stdout)
    problem = own_fault(result)
    if problem is not None:
        print(f"openloop: {problem}", file=sys.stderr)
        return NOT_ON_TIME
    return WRONG_ANSWERS if any(target["failed"] for target in result["targets"]) else OK


if __name__ == "__main__":
    sys.exit(main())
