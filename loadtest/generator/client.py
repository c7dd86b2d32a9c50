"""An HTTP/1.1 client for load: connections of its own, one request at a time on each, nothing followed or kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from loadtest.generator.visitors import Answer

_SWEEP_S: Final = 0.1
_NO_STATUS: Final = 0


class Job:
    """One request on its way. ``due_ns`` is when it was to be sent, ``sent_ns`` when it was (CLOCK_MONOTONIC)."""

    __slots__ = ("answered", "due_ns", "head_only", "k", "operation", "sent_ns", "wire")

    def __init__(self, wire: bytes, operation: str, answered: Callable[[Job, Answer], None]) -> None:
        self.wire = wire
        self.operation = operation
        self.answered = answered
        self.k = 0
        self.due_ns = 0
        self.sent_ns = 0


class Connection(asyncio.Protocol):
    """One connection; also httptools's observer of its answers."""

    __slots__ = ("_body", "_fields", "_parser", "_pool", "_transport", "closed", "job")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.job: Job | None = None
        self.closed = False
        self._renew()

    def _renew(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._fields: dict[str, str] = {}
        self._body: list[bytes] = []

    def send(self, job: Job) -> None:
        """Send a job's request."""
        self.job = job
        job.sent_ns = monotonic_ns()
        self._transport.write(job.wire)

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self.job is None:
            self.abort()  # an answer that nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(Answer(_NO_STATUS, {}, f"not HTTP/1.1: {error}".encode()))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        why = "timed out" if self._pool.expired(self) else str(exc or "closed before the answer's end")
        self._end(Answer(_NO_STATUS, {}, f"connection: {why}".encode()))
        self._pool.lost(self)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            self._fields = {}  # an interim answer
            return
        answer = Answer(status, self._fields, b"".join(self._body))
        keep = parser.should_keep_alive()
        if keep:
            self._fields, self._body = {}, []
        self._end(answer)
        if keep and not self.closed:
            self._pool.put(self)
        elif not self.closed:
            self._transport.close()

    def _end(self, answer: Answer) -> None:
        job, self.job = self.job, None
        if job is not None:
            job.answered(job, answer)


class Pool:
    """The connections to one origin: all in turn, more as they are needed, never above ``most``."""

    def __init__(self, url: str, *, most: int, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected an address such as http://127.0.0.1:8080, found {url!r}")
        self.host = parts.hostname
        self.port = parts.port or 80
        self.netloc = parts.netloc
        self.open = 0
        self._most = most
        self._timeout_ns = round(timeout_s * 1e9)
        self._timeout_s = timeout_s
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._expired: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    async def fill(self, count: int) -> None:
        """Open so many connections beforehand. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            self.open += 1
            _, connection = await loop.create_connection(lambda: Connection(self), self.host, self.port)
            self._idle.append(connection)

    def send(self, job: Job) -> bool:
        """Send it on an idle connection or a new one; False where all that may be open are waiting."""
        while self._idle:
            connection = self._idle.popleft()
            if not connection.closed:
                self._begin(connection, job)
                return True
        if self.open >= self._most:
            return False
        self.open += 1
        job.sent_ns = monotonic_ns()
        task = asyncio.get_running_loop().create_task(self._connect(job))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    def _begin(self, connection: Connection, job: Job) -> None:
        self._busy.add(connection)
        connection.send(job)

    async def _connect(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _, connection = await loop.create_connection(lambda: Connection(self), self.host, self.port)
        except OSError as error:  # TimeoutError is one
            self.open -= 1
            job.answered(
                job, Answer(_NO_STATUS, {}, f"connection: {error.strerror or error or 'timed out'}".encode())
            )
            return
        self._begin(connection, job)

    def put(self, connection: Connection) -> None:
        """Its answer is complete."""
        self._busy.discard(connection)
        self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """It ended."""
        self.open -= 1
        self._busy.discard(connection)
        self._expired.discard(connection)

    def expired(self, connection: Connection) -> bool:
        """Whether it was ended because its answer did not come in time."""
        return connection in self._expired

    def sweep(self) -> None:
        """End what has waited too long. To be called every ``_SWEEP_S``."""
        limit = monotonic_ns() - self._timeout_ns
        for connection in [c for c in self._busy if c.job is not None and c.job.sent_ns < limit]:
            self._expired.add(connection)
            connection.abort()

    async def drain(self) -> None:
        """Wait for what is under way, at most as long as a request may take; then close everything."""
        end = monotonic_ns() + self._timeout_ns + 500_000_000
        while (self._busy or self._opening) and monotonic_ns() < end:
            await asyncio.sleep(_SWEEP_S)
            self.sweep()
        for connection in [*self._busy, *self._idle]:
            connection.abort()


def encode(method: str, path: str, netloc: str, fields: dict[str, str], body: bytes | None) -> bytes:
    """A request as it is sent."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {netloc}", *(f"{name}: {value}" for name, value in fields.items())]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")
