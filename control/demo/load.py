"""The demo's stream of data and app requests; it counts every answer. ``python -m control.demo.load``.

Open loop: request k is sent at time k/rate whether or not earlier requests were answered, so a stall of the server is
not hidden. The process reads its parameters as one JSON document from standard input and writes its counts as a JSON
line every half second. On SIGTERM it waits for the requests in flight and writes a last line with ``"final": true``.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from proxy.process.child import die_with_parent, read_orders

TIMEOUT_S: Final = 30.0  # for one request
INFLIGHT_MAX: Final = 256  # requests, each with a connection; above it a due request is counted as held back
EXAMPLES_MAX: Final = 8  # failures that are described in words
REPORT_EVERY_S: Final = 0.5
USERS: Final = [f"user-{i}" for i in range(20)]

Body = dict[str, Any] | list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """One request of the stream. ``data`` is true for a data request, which a migration answers, not the app."""

    method: str
    path: str
    data: bool
    body: Body = None


@dataclass(slots=True)
class ClientCounts:
    """The client's counts since its start. ``sources`` counts data answers by ``x-data-source``."""

    sent: int = 0
    held_back: int = 0
    answered: int = 0
    failed: int = 0
    failed_reads: int = 0
    app: int = 0
    reads: int = 0
    writes: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    last_start_ns: dict[str, int] = field(default_factory=dict)  # by source: CLOCK_MONOTONIC of the newest start
    examples: list[str] = field(default_factory=list)  # the first failures, in words

    def fail(self, request: DemoRequest, why: str) -> None:
        """Count a failed request."""
        self.failed += 1
        self.failed_reads += request.method == "GET"
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(f"{request.method} {request.path}: {why}")

    def line(self, final: bool) -> str:
        """All counts as one line of JSON."""
        counts = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(counts | {"final": final, "at_ns": time.monotonic_ns()})


def mixture(scans: list[str]) -> list[tuple[int, Callable[[random.Random], DemoRequest]]]:
    """The kinds of requests: a relative weight, and a function that makes one such request."""

    def get(path: str) -> Callable[[random.Random], DemoRequest]:
        return lambda chance: DemoRequest("GET", path, True)

    def of_scan(tail: str) -> Callable[[random.Random], DemoRequest]:
        return lambda chance: DemoRequest("GET", f"/api/scans/{chance.choice(scans)}{tail}", True)

    def publish(chance: random.Random) -> DemoRequest:
        metrics = {"active_users": chance.randrange(500, 1500), "revenue": chance.randrange(10**6) / 100}
        return DemoRequest("PUT", "/api/dashboard/metrics", True, {"metrics": metrics})

    def events(chance: random.Random) -> DemoRequest:
        event = {"user": chance.choice(USERS), "type": "view", "item": f"product-{chance.randrange(50)}"}
        return DemoRequest("POST", "/api/analytics/events", True, [event])

    def scan(chance: random.Random) -> DemoRequest:
        return DemoRequest("POST", "/api/scans", True, {"root": f"/home/{chance.choice(USERS)}", "name": "demo"})

    def history(chance: random.Random) -> DemoRequest:
        return DemoRequest("GET", f"/api/dashboard/metrics/history?limit={chance.choice((5, 10, 20))}", True)

    table: list[tuple[int, Callable[[random.Random], DemoRequest]]] = [
        (40, get("/api/dashboard/metrics")),
        (8, history),
        (1, publish),
        (6, get("/api/scans?limit=10")),
        (1, scan),
        (1, events),
        (3, lambda chance: DemoRequest("GET", f"/api/analytics/users/{chance.choice(USERS)}", True)),
        (2, get("/api/analytics/system")),
        (3, get("/api/analytics/trending?window=1h&limit=10")),
        (6, lambda chance: DemoRequest("GET", "/", False)),
        (4, lambda chance: DemoRequest("GET", "/static/app.css", False)),
        (3, lambda chance: DemoRequest("GET", "/app/clock", False)),
        (1, lambda chance: DemoRequest("GET", "/app/download?bytes=20000", False)),
        (2, lambda chance: DemoRequest("POST", "/app/digest", False, {"text": "x" * chance.randrange(4000)})),
    ]
    if scans:
        table += [(6, of_scan("")), (2, of_scan("/results?limit=20")), (1, of_scan("/duplicates"))]
    return table


def visitor(k: int) -> str:
    """The k-th visitor's id. Every request has a new visitor, so its arm is chosen anew; every run has the same ids.

    With random ids, about one run in a hundred would have a phase whose share differs from its weight by more than
    three standard errors, and would fail by chance. With these ids no phase of a short demo does, so a demo that
    fails has a real fault.
    """
    return f"customer-{k}"


class RequestStream:
    """Sends the stream of requests to one address."""

    def __init__(self, url: str, rate: float, scans: list[str]) -> None:
        self.counts = ClientCounts()
        self._url = url.rstrip("/")
        self._rate = rate
        self._chance = random.Random(2026)  # noqa: S311 - the same stream every time; nothing is secret
        self._makers = mixture(scans)
        self._weights = [weight for weight, _ in self._makers]
        self._visitors = 0
        self._inflight: set[asyncio.Task[None]] = set()

    async def run(self, stopped: asyncio.Event) -> None:
        """Send until ``stopped``, then wait for what is in flight."""
        connector = aiohttp.TCPConnector(limit=INFLIGHT_MAX, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as http:
            due = time.monotonic()
            while not stopped.is_set():
                due += 1 / self._rate
                delay = due - time.monotonic()
                if delay > 0:
                    await asyncio.sleep(delay)
                self._send(http)
            if self._inflight:
                await asyncio.wait(self._inflight, timeout=TIMEOUT_S)

    def _send(self, http: aiohttp.ClientSession) -> None:
        (_, make) = self._chance.choices(self._makers, self._weights)[0]
        request = make(self._chance)
        if len(self._inflight) >= INFLIGHT_MAX:
            self.counts.held_back += 1
            return
        self.counts.sent += 1
        headers = {}
        if request.data:
            headers["x-user-id"] = visitor(self._visitors)
            self._visitors += 1
        task = asyncio.create_task(self._one(http, request, headers))
        self._inflight.add(task)
        task.add_done_callback(self._inflight.discard)

    async def _one(self, http: aiohttp.ClientSession, request: DemoRequest, headers: dict[str, str]) -> None:
        counts = self.counts
        started_ns = time.monotonic_ns()
        try:
            async with http.request(
                request.method, self._url + request.path, json=request.body, headers=headers
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            counts.fail(request, f"{type(error).__name__} {error}".strip())
            return
        counts.answered += 1
        if response.status >= 400:
            counts.fail(request, f"{response.status} {body[:200]!r}")
        if not request.data:
            counts.app += 1
            return
        source = response.headers.get("x-data-source")
        if source is None:
            if response.status < 400:
                counts.fail(request, "an answer without x-data-source")
            return
        counts.sources[source] += 1
        counts.last_start_ns[source] = max(counts.last_start_ns.get(source, 0), started_ns)
        if request.method == "GET":
            counts.reads += 1
        else:
            counts.writes += 1
        if (reason := response.headers.get("x-data-fallback")) is not None:
            counts.fallbacks[reason] += 1


async def main(orders: dict[str, Any]) -> None:
    """Run the stream that ``orders`` describes until SIGTERM."""
    stream = RequestStream(orders["url"], float(orders["rate"]), list(orders["scans"]))
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)

    async def report() -> None:
        while True:
            sys.stdout.write(stream.counts.line(final=False) + "\n")
            sys.stdout.flush()
            await asyncio.sleep(REPORT_EVERY_S)

    reporting = asyncio.create_task(report())
    await stream.run(stopped)
    reporting.cancel()
    sys.stdout.write(stream.counts.line(final=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(main(json.loads(read_orders())))
