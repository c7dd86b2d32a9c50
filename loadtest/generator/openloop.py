"""An open loop: requests at a constant rate, each latency counted from the moment its request was due.

``python -m loadtest.generator.openloop`` runs it.

A closed loop (wrk, locust) asks the next thing when the last is answered, so it goes easy on a server that stalls and
hides what its visitors would have felt. This one keeps to its schedule and says by how much the two differ. It sends
one request over and over, or with ``--visitors`` what the app's users do, every answer judged. Several addresses get
the same rate each, interleaved, so that they are measured in the same moments.

Exit code: 0 every answer was right, 1 some were not, 2 usage, 3 the generator itself did not keep its schedule.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic_ns, process_time
from typing import Any, Final

import uvloop

from loadtest.generator.client import Job, Pool, encode
from loadtest.generator.histogram import Histogram
from loadtest.generator.pacing import ClosedLoop, Schedule
from loadtest.generator.timer import Timer
from loadtest.generator.visitors import Answer, Crowd

EXAMPLES_MOST: Final = 8
CONNECTIONS_MOST: Final = 4096
CPU_MOST: Final = 0.70
LATE_MOST_MS: Final = 5.0  # at p99: beyond it the generator did not get the processor when it needed it
BURST_MOST: Final = 256  # sent before answers are looked at again

OK, WRONG_ANSWERS, USAGE, NOT_ON_TIME = 0, 1, 2, 3


@dataclass(slots=True)
class Second:
    """What became of the requests due in one second."""

    sent: int = 0
    failed: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    fallbacks: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def to_json(self, number: int) -> dict[str, object]:
        """With its number, from the run's start."""
        told = {"second": number, "sent": self.sent, "failed": self.failed, "fallbacks": self.fallbacks}
        return {**told, "sources": dict(self.sources), "latency": self.latency.to_json()}


@dataclass(slots=True)
class Record:
    """What one address answered. ``latency`` is from when a request was due, ``service`` from when it was sent."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    examples: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    last_start_ns: dict[str, int] = field(default_factory=dict)  # by source: when its newest request was sent
    latency: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)  # how long after it was due a request was sent
    closed: Histogram = field(default_factory=Histogram)  # what a closed loop would have recorded
    operations: dict[str, Histogram] = field(default_factory=dict)
    operations_failed: Counter[str] = field(default_factory=Counter)
    seconds: dict[int, Second] = field(default_factory=dict)

    def second(self, number: int) -> Second:
        """That second's part."""
        return self.seconds.setdefault(number, Second())

    def fail(self, operation: str, problem: str) -> None:
        """Count a wrong answer, or none."""
        self.failed += 1
        self.operations_failed[operation] += 1
        if len(self.examples) < EXAMPLES_MOST:
            self.examples.append(f"{operation}: {problem}")

    def counts(self) -> dict[str, Any]:
        """The counts so far: what ``--live`` tells every second."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "failed": self.failed,
            "examples": self.examples,
            "statuses": dict(self.statuses),
            "sources": dict(self.sources),
            "fallbacks": dict(self.fallbacks),
            "last_start_ns": self.last_start_ns,
        }


Source = Callable[[Callable[[Job, Answer, str | None], None]], Job | None]


def repeated(pool: Pool, path: str, identities: int) -> Source:
    """The same GET, from so many users in turn."""
    wires = [encode("GET", path, pool.netloc, {"x-user-id": f"user-{n}"}, None) for n in range(identities)]
    turn = 0

    def make(done: Callable[[Job, Answer, str | None], None]) -> Job:
        nonlocal turn
        turn += 1
        return Job(wires[turn % identities], f"GET {path}", lambda job, answer: done(job, answer, _wrong(answer)))

    return make


def _wrong(answer: Answer) -> str | None:
    if answer.status == 200:
        return None
    return f"status {answer.status}" if answer.status else answer.body.decode("utf-8", "replace")


def of_crowd(pool: Pool, crowd: Crowd) -> Source:
    """What the app's users do."""

    def make(done: Callable[[Job, Answer, str | None], None]) -> Job | None:
        visitor = crowd.take()
        if visitor is None:
            return None
        request = visitor.next()

        def answered(job: Job, answer: Answer) -> None:
            # The weight may change at any time here, so which arm answers is counted and not judged.
            problem = visitor.judge(request, answer, settled=lambda: False)
            crowd.put(visitor)
            done(job, answer, problem)

        wire = encode(request.method, request.path, pool.netloc, {"x-user-id": visitor.identity}, request.body)
        return Job(wire, request.operation, answered)

    return make


class Lane:
    """One address: its schedule, its requests and their record."""

    def __init__(self, url: str, pool: Pool, schedule: Schedule, source: Source, users: int) -> None:
        self.url = url
        self.pool = pool
        self.schedule = schedule
        self.record = Record()
        self._source = source
        self._closed_loop = ClosedLoop(users)
        self._next = 0

    def fire(self, start_ns: int) -> int:
        """Send what is due; the time of the next one, 0 after the last."""
        schedule = self.schedule
        due = schedule.arrived((monotonic_ns() - start_ns) / 1e9)
        for k in range(self._next, min(due, self._next + BURST_MOST)):
            self._send(k, start_ns)
            self._next = k + 1
        return 0 if self._next >= schedule.total else start_ns + round(schedule.due(self._next) * 1e9)

    def _send(self, k: int, start_ns: int) -> None:
        record = self.record
        due_s = self.schedule.due(k)
        second = record.second(int(due_s))
        record.sent += 1
        second.sent += 1
        closed = self._closed_loop.sends(k)

        def done(job: Job, answer: Answer, problem: str | None) -> None:
            now = monotonic_ns()
            latency, service = (now - job.due_ns) // 1000, (now - job.sent_ns) // 1000
            if closed:
                self._closed_loop.answered(k)
                record.closed.record(service)
            record.latency.record(latency)
            record.service.record(service)
            record.late.record((job.sent_ns - job.due_ns) // 1000)
            record.operations.setdefault(job.operation, Histogram()).record(latency)
            second.latency.record(latency)
            record.statuses[answer.status] += 1
            if answer.status:
                record.answered += 1
            source = answer.fields.get("x-data-source")
            if source is not None:
                record.sources[source] += 1
                second.sources[source] += 1
                record.last_start_ns[source] = max(record.last_start_ns.get(source, 0), job.sent_ns)
            if "x-data-fallback" in answer.fields:
                record.fallbacks[answer.fields["x-data-fallback"]] += 1
                second.fallbacks += 1
            if problem is not None:
                second.failed += 1
                record.fail(job.operation, problem)

        job = self._source(done)
        if job is None or not self._give(job, k, start_ns + round(due_s * 1e9)):
            if closed:
                self._closed_loop.answered(k)
            second.failed += 1
            record.fail(job.operation if job else "any", "not sent: everything that may be open waits for its answer")

    def _give(self, job: Job, k: int, due_ns: int) -> bool:
        job.k, job.due_ns = k, due_ns
        return self.pool.send(job)

    def result(self) -> dict[str, Any]:
        """All of it, in JSON."""
        record, loop = self.record, self._closed_loop
        operations = {
            name: {"count": h.count, "failed": record.operations_failed[name], **h.percentiles_ms((50, 95, 99))}
            for name, h in sorted(record.operations.items())
        }
        return {
            "url": self.url,
            "rate": self.schedule.rate,
            **record.counts(),
            "latency_ms": record.latency.percentiles_ms(),
            "service_ms": record.service.percentiles_ms(),
            "late_ms": record.late.percentiles_ms(),
            "closed_loop_ms": record.closed.percentiles_ms(),
            "closed_loop": {"users": loop.users, "left_out": loop.omitted},
            "operations": operations,
            "histogram": record.latency.to_json(),
            "seconds": [second.to_json(number) for number, second in sorted(record.seconds.items())],
        }


class Run:
    """All lanes on one timer. ``start_ns`` is CLOCK_MONOTONIC at the first request's time."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._timer = Timer()
        self._over = asyncio.Event()
        self.start_ns = 0
        self.cpu = 0.0

    async def go(self, connections: int, live: Callable[[], None] | None) -> None:
        """Send everything and wait for the answers. Raises ``OSError`` where an address cannot be reached at all."""
        loop = asyncio.get_running_loop()
        for lane in self._lanes:
            await lane.pool.fill(connections)
        self.start_ns = monotonic_ns() + 50_000_000
        loop.add_reader(self._timer.fd, self._wake)
        self._timer.set(self.start_ns)
        watch = loop.create_task(self._watch(live))
        began, used = monotonic_ns(), process_time()
        await self._over.wait()
        self.cpu = (process_time() - used) / ((monotonic_ns() - began) / 1e9)
        for lane in self._lanes:
            await lane.pool.drain()
        watch.cancel()
        loop.remove_reader(self._timer.fd)
        self._timer.close()

    def stop(self) -> None:
        """Send nothing more."""
        self._over.set()

    def _wake(self) -> None:
        self._timer.clear()
        if self._over.is_set():
            return
        following = [at for at in [lane.fire(self.start_ns) for lane in self._lanes] if at]
        if following:
            self._timer.set(min(following))
        else:
            self._over.set()

    async def _watch(self, live: Callable[[], None] | None) -> None:
        told = monotonic_ns()
        while True:
            await asyncio.sleep(0.1)
            for lane in self._lanes:
                lane.pool.sweep()
            if live is not None and monotonic_ns() - told >= 1_000_000_000:
                told += 1_000_000_000
                live()


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.generator.openloop", description=__doc__.split("\n")[0])
    parser.add_argument("url", nargs="+", help="http://HOST:PORT; each gets the rate")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second [100]")
    parser.add_argument("--for", dest="seconds", type=float, default=10.0, help="seconds [10]")
    parser.add_argument("--path", default="/", help="what to GET [/]")
    parser.add_argument("--identities", type=int, default=64, help="users in turn, by x-user-id [64]")
    parser.add_argument("--visitors", metavar="PREFIX", help="send what the app's users do, under these names")
    parser.add_argument("--app-path", action="append", help="a path of the app's, for --visitors [/]")
    parser.add_argument("--connections", type=int, default=64, help="open beforehand; more as needed [64]")
    parser.add_argument("--users", type=int, default=64, help="of the closed loop to compare with [64]")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for an answer [30]")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--live", action="store_true", help="a line of JSON with the counts every second")
    found = parser.parse_args(argv)
    for name in ("rate", "seconds", "identities", "connections", "users", "timeout"):
        if getattr(found, name) <= 0:
            parser.error(f"--{'for' if name == 'seconds' else name}: expected more than 0")
    return found


async def run(asked: argparse.Namespace) -> dict[str, Any]:
    """The whole run, as it was asked for. Raises ``OSError`` and ``ValueError``."""
    lanes = []
    for number, url in enumerate(asked.url):
        pool = Pool(url, most=max(CONNECTIONS_MOST, asked.connections), timeout_s=asked.timeout)
        schedule = Schedule(asked.rate, asked.seconds, number / asked.rate / len(asked.url))
        if asked.visitors:
            crowd = Crowd(asked.visitors, asked.users, CONNECTIONS_MOST, tuple(asked.app_path or ("/",)))
            source = of_crowd(pool, crowd)
        else:
            source = repeated(pool, asked.path, asked.identities)
        lanes.append(Lane(url, pool, schedule, source, asked.users))
    whole = Run(lanes)

    def live() -> None:
        told = {"at_ns": monotonic_ns(), "targets": [{"url": lane.url, **lane.record.counts()} for lane in lanes]}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()

    loop = asyncio.get_running_loop()
    for number in (2, 15):  # SIGINT, SIGTERM: end early, and tell what there is
        loop.add_signal_handler(number, whole.stop)
    began = datetime.now(UTC)
    await whole.go(asked.connections, live if asked.live else None)
    return {
        "started_at": began.isoformat(timespec="milliseconds"),
        "start_ns": whole.start_ns,
        "seconds": asked.seconds,
        "generator_cpu": round(whole.cpu, 3),
        "targets": [lane.result() for lane in lanes],
    }


def told(result: dict[str, Any]) -> list[str]:
    """The result for a person."""
    lines = []
    for target in result["targets"]:
        lines.append(
            f"{target['url']}: {target['sent']:,} requests at {target['rate']:g}/s, {target['failed']:,} failed"
            + "".join(f", {count:,} from {source}" for source, count in sorted(target["sources"].items()))
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
    """By how much a closed loop would have told less, in a sentence."""
    loop, opened, closed = target["closed_loop"], target["latency_ms"]["p99"], target["closed_loop_ms"]["p99"]
    if opened is None or closed is None:
        return "Nothing was answered."
    return (
        f"A closed loop of {loop['users']} users would have left out {loop['left_out']:,} requests and told a p99 of "
        f"{closed:.2f} ms where it was {opened:.2f} ms: {opened - closed:+.2f} ms."
    )


def own_fault(result: dict[str, Any]) -> str | None:
    """Why these figures would be the generator's own and not the server's; None where they are the server's."""
    if result["generator_cpu"] > CPU_MOST:
        return f"the generator used {result['generator_cpu']:.0%} of a core; above {CPU_MOST:.0%} it measures itself"
    late = max((target["late_ms"]["p99"] or 0.0) for target in result["targets"])
    if late > LATE_MOST_MS:
        return (
            f"requests were sent {late:.1f} ms late at p99: the generator waited for a processor, so it measured that"
        )
    return None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    asked = arguments(argv)
    try:
        result = uvloop.run(run(asked))
    except (OSError, ValueError) as error:
        print(f"openloop: {error}", file=sys.stderr)
        return USAGE
    if asked.json is not None:
        asked.json.write_text(json.dumps(result) + "\n")
    print("\n".join(told(result)), file=sys.stderr if asked.live else sys.stdout)
    problem = own_fault(result)
    if problem is not None:
        print(f"openloop: {problem}", file=sys.stderr)
        return NOT_ON_TIME
    return WRONG_ANSWERS if any(target["failed"] for target in result["targets"]) else OK


if __name__ == "__main__":
    sys.exit(main())
