"""The answers of one address to an open loop: counts and latency histograms by second, operation and arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any, Final

from loadtest.generator.client import UNSENT, Job, LoadClient, Reply, encode
from loadtest.generator.histogram import Histogram
from loadtest.generator.pacing import ClosedLoop, Schedule
from loadtest.generator.visitors import Crowd

EXAMPLES_MOST: Final = 8  # of what was wrong, kept in words


@dataclass(slots=True)
class Second:
    """The outcomes of the requests due in one second."""

    sent: int = 0
    failed: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    fallbacks: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def to_json(self, number: int) -> dict[str, object]:
        """As JSON, with its number from the run's start."""
        counts = {"second": number, "sent": self.sent, "failed": self.failed, "fallbacks": self.fallbacks}
        return {**counts, "sources": dict(self.sources), "latency": self.latency.to_json()}


@dataclass(slots=True)
class Figures:
    """All figures of one address. ``latency`` is from when a request was due, ``service`` from when it was sent."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    repeated: int = 0  # sent again, because their keep-alive connection was closed
    examples: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    last_start_ns: dict[str, int] = field(default_factory=dict)  # by source: when its newest request was sent
    latency: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)  # from when a request was due to when it was sent
    closed: Histogram = field(default_factory=Histogram)  # what a closed loop would have recorded
    operations: dict[str, Histogram] = field(default_factory=dict)
    operations_failed: Counter[str] = field(default_factory=Counter)
    seconds: dict[int, Second] = field(default_factory=dict)

    def second(self, number: int) -> Second:
        """The figures of that second."""
        return self.seconds.setdefault(number, Second())

    def fail(self, operation: str, problem: str) -> None:
        """Count a wrong or missing answer."""
        self.failed += 1
        self.operations_failed[operation] += 1
        if len(self.examples) < EXAMPLES_MOST:
            self.examples.append(f"{operation}: {problem}")

    def counts(self) -> dict[str, Any]:
        """The counts so far: ``--live`` prints them every second."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "failed": self.failed,
            "repeated": self.repeated,
            "examples": self.examples,
            "statuses": dict(self.statuses),
            "sources": dict(self.sources),
            "fallbacks": dict(self.fallbacks),
            "last_start_ns": self.last_start_ns,
        }


Answered = Callable[[Job, Reply, str], None]  # the text says what is wrong with the answer; "" if nothing is
Source = Callable[[Answered], Job | None]  # makes the next request; None: no visitor is free


def repeated(client: LoadClient, path: str, identities: int) -> Source:
    """The same GET, from ``identities`` users in turn."""
    wires = [encode("GET", path, client.netloc, {"x-user-id": f"user-{n}"}) for n in range(identities)]
    turn = 0

    def make(done: Answered) -> Job:
        nonlocal turn
        turn += 1
        return Job(wires[turn % identities], f"GET {path}", lambda job, reply: done(job, reply, _wrong(reply)))

    return make


def _wrong(reply: Reply) -> str:
    if reply.status == 200:
        return ""
    return f"status {reply.status}" if reply.status else reply.body.decode("utf-8", "replace")


def of_crowd(client: LoadClient, crowd: Crowd) -> Source:
    """The requests of the app's users."""

    def make(done: Answered) -> Job | None:
        visitor = crowd.take()
        if visitor is None:
            return None
        ask = visitor.next()

        def answered(job: Job, reply: Reply) -> None:
            # The weight may change at any time here, so the answering arm is counted but not judged.
            problem = visitor.judge(ask, reply)
            crowd.put(visitor)
            done(job, reply, "" if problem is None else problem.words)

        wire = encode(ask.method, ask.path, client.netloc, {"x-user-id": visitor.identity}, ask.body)
        return Job(wire, ask.operation, answered)

    return make


class Measured:
    """One address under an open loop: sends its requests and records the figures."""

    def __init__(self, url: str, client: LoadClient, schedule: Schedule, source: Source, users: int) -> None:
        self.url = url
        self.client = client
        self.figures = Figures()
        self._schedule = schedule
        self._source = source
        self._closed_loop = ClosedLoop(users)

    def send(self, k: int, due_ns: int) -> None:
        """Send request ``k`` and count its outcome."""
        figures = self.figures
        second = figures.second(int(self._schedule.due(k)))
        figures.sent += 1
        second.sent += 1
        closed = self._closed_loop.sends(k)

        def done(job: Job, reply: Reply, problem: str) -> None:
            if reply.failure == "unsent":
                unsent(job.operation)
                return
            now = monotonic_ns()
            latency, service = (now - job.due_ns) // 1000, (now - job.sent_ns) // 1000
            if closed:
                self._closed_loop.answered(k)
                figures.closed.record(service)
            figures.latency.record(latency)
            figures.service.record(service)
            figures.late.record((job.sent_ns - job.due_ns) // 1000)
            figures.operations.setdefault(job.operation, Histogram()).record(latency)
            second.latency.record(latency)
            figures.statuses[reply.status] += 1
            if reply.status:
                figures.answered += 1
            if reply.repeated:
                figures.repeated += 1
            source = reply.fields.get("x-data-source")
            if source is not None:
                figures.sources[source] += 1
                second.sources[source] += 1
                figures.last_start_ns[source] = max(figures.last_start_ns.get(source, 0), job.sent_ns)
            if "x-data-fallback" in reply.fields:
                figures.fallbacks[reply.fields["x-data-fallback"]] += 1
                second.fallbacks += 1
            if problem:
                second.failed += 1
                figures.fail(job.operation, problem)

        def unsent(operation: str) -> None:
            if closed:
                self._closed_loop.answered(k)
            second.failed += 1
            figures.fail(operation, UNSENT.body.decode())

        job = self._source(done)
        if job is None:
            unsent("any")
            return
        job.due_ns = due_ns
        self.client.send(job)

    def result(self) -> dict[str, Any]:
        """All figures, for JSON."""
        figures, loop = self.figures, self._closed_loop
        operations = {
            name: {"count": h.count, "failed": figures.operations_failed[name], **h.percentiles_ms((50, 95, 99))}
            for name, h in sorted(figures.operations.items())
        }
        return {
            "url": self.url,
            "rate": self._schedule.rate,
            **figures.counts(),
            "latency_ms": figures.latency.percentiles_ms(),
            "service_ms": figures.service.percentiles_ms(),
            "late_ms": figures.late.percentiles_ms(),
            "closed_loop_ms": figures.closed.percentiles_ms(),
            "closed_loop": {"users": loop.users, "left_out": loop.omitted},
            "operations": operations,
            "histogram": figures.latency.to_json(),
            "seconds": [second.to_json(number) for number, second in sorted(figures.seconds.items())],
        }
