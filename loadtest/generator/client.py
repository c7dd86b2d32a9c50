"""The HTTP/1.1 client of every load: keep-alive connections, one request at a time on each, no redirects followed.

It reports exactly what became of each request (``Reply.failure``). If a keep-alive connection turns out to be closed
before any byte of the answer, an idempotent request is sent once more on a fresh connection, as browsers do (RFC 9112
section 9.3.1); ``Reply.repeated`` says so. Nothing else is hidden from the caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import Final, Literal, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

_SWEEP_S: Final = 0.1  # interval of the check for timeouts; timeouts are many times longer
_IDEMPOTENT: Final = frozenset({b"GET", b"PUT", b"DELETE"})  # of the methods that a load uses

Failure = Literal["", "refused", "broken", "timeout", "unsent"]


class Reply(NamedTuple):
    """The answer; field names in lower case. ``repeated``: the request was sent a second time.

    ``status`` 0: no complete answer. Then ``body`` says why, and ``failure`` is refused (no connection), broken (the
    connection ended, or carried invalid HTTP), timeout, or unsent (all connections and places in the queue are
    taken).
    """

    status: int
    fields: Mapping[str, str]
    body: bytes
    failure: Failure = ""
    repeated: bool = False


UNSENT: Final = Reply(0, {}, b"not sent: everything that may be open waits for its answer", "unsent")


def _failed(failure: Failure, why: str, job: Job) -> Reply:
    return Reply(0, {}, f"connection: {why}".encode(), failure, job.repeated)


class Job:
    """One request; ``answered`` is called once, whatever becomes of it. Times are CLOCK_MONOTONIC's.

    ``due_ns`` belongs to the owner: when it was due. ``sent_ns``: when it was sent, the first time if it was
    repeated.
    """

    __slots__ = ("answered", "due_ns", "operation", "repeated", "sent_ns", "until_ns", "wire")

    def __init__(self, wire: bytes, operation: str, answered: Callable[[Job, Reply], None], due_ns: int = 0) -> None:
        self.wire = wire
        self.operation = operation
        self.answered = answered
        self.due_ns = due_ns
        self.sent_ns = 0
        self.until_ns = 0
        self.repeated = False


class ClientConnection(asyncio.Protocol):
    """One connection; also httptools's observer of its answers."""

    __slots__ = (
        *("_body", "_client", "_fields", "_head_read", "_parser", "_transport"),
        *("closed", "given_up", "heard", "job", "kept"),
    )

    def __init__(self, client: LoadClient) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._fields: dict[str, str] = {}
        self._body: list[bytes] = []
        self._head_read = False
        self.job: Job | None = None
        self.closed = False
        self.given_up: Failure = ""  # why this client closed it, with an incomplete answer
        self.heard = False  # a byte has arrived since the request was sent
        self.kept = False  # it was open before this request

    def send(self, job: Job, kept: bool) -> None:
        """Send a job's request."""
        self.job = job
        self.kept = kept
        self.heard = False
        if not job.repeated:
            job.sent_ns = monotonic_ns()
        self._transport.write(job.wire)

    def give_up(self, why: Failure) -> None:
        """Close now, without waiting for the answer's end."""
        self.given_up = why
        self._transport.abort()

    def whole_at_the_end(self) -> bool:
        """Whether the answer ends with the connection (RFC 9112 section 6.3, the last rule)."""
        fields = self._fields
        return self._head_read and "content-length" not in fields and "transfer-encoding" not in fields

    def answer(self) -> Reply:
        """The answer received so far; resets for the next one."""
        job = self.job
        assert job is not None, "called only while a request waits"
        reply = Reply(self._parser.get_status_code(), self._fields, b"".join(self._body), "", job.repeated)
        self._fields, self._body, self._head_read = {}, [], False
        return reply

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self.job is None:
            self.give_up("broken")  # an answer without a request
            return
        self.heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a callback failed, not the answer
        except httptools.HttpParserError as error:
            self.give_up("broken")
            if self.job is not None:
                self._end(_failed("broken", f"not HTTP/1.1: {error}", self.job))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._client.lost(self, exc)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._head_read = True

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        parser = self._parser
        if parser.get_status_code() < 200:
            self._fields, self._head_read = {}, False  # an interim answer
            return
        if self.job is None:
            self.give_up("broken")  # a second answer
            return
        keep = parser.should_keep_alive()
        self._end(self.answer())
        if self.closed or self.given_up:
            return
        if keep:
            self._client.put(self)
        else:
            self._transport.close()

    def _end(self, reply: Reply) -> None:
        job, self.job = self.job, None
        if job is not None:
            job.answered(job, reply)


class LoadClient:
    """Connections to one origin, used in turn; more are opened as needed, at most ``most``.

    If all are busy, up to ``waiting_most`` requests wait for one. A request times out ``timeout_s`` after ``send``.
    Create, use and close it within one running event loop.
    """

    def __init__(self, url: str, *, most: int, timeout_s: float, waiting_most: int = 0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected an address such as http://127.0.0.1:8080, found {url!r}")
        self.host = parts.hostname
        self.port = parts.port or 80
        self.netloc = parts.netloc
        self._loop = asyncio.get_running_loop()
        self._open = 0
        self._most = most
        self._timeout_ns = round(timeout_s * 1e9)
        self._waiting_most = waiting_most
        self._idle: deque[ClientConnection] = deque()
        self._busy: set[ClientConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Job] = deque()
        self._sweeping = False
        self._idling = asyncio.Event()  # set while nothing is under way, as of the last sweep
        self._idling.set()
        self._none_open = asyncio.Event()
        self._none_open.set()

    async def fill(self, count: int) -> None:
        """Open ``count`` connections beforehand. Raises ``OSError``."""
        for _ in range(count):
            self._count(1)
            try:
                self._idle.append(await self._connected())
            except BaseException:
                self._count(-1)
                raise

    def send(self, job: Job) -> None:
        """Send it on an idle or a new connection, or queue it."""
        job.sent_ns = monotonic_ns()
        job.until_ns = job.sent_ns + self._timeout_ns
        if not self._sweeping:
            self._sweeping = True
            self._idling.clear()
            self._loop.call_later(_SWEEP_S, self._sweep)
        if not self._start(job):
            if len(self._waiting) < self._waiting_most:
                self._waiting.append(job)
            else:
                job.answered(job, UNSENT)

    async def ask(self, wire: bytes) -> Reply:
        """Send one request and wait for its outcome."""
        answered: asyncio.Future[Reply] = self._loop.create_future()

        def resolve(_: Job, reply: Reply) -> None:
            if not answered.done():  # the caller may have been cancelled
                answered.set_result(reply)

        self.send(Job(wire, "", resolve))
        return await answered

    def _start(self, job: Job) -> bool:
        """Send it now; returns whether there is a connection for it."""
        while self._idle:
            connection = self._idle.popleft()
            if not connection.closed and not connection.given_up:
                self._busy.add(connection)
                connection.send(job, True)
                return True
        if self._open >= self._most:
            return False
        self._count(1)
        self._open_for(job)
        return True

    def _count(self, more: int) -> None:
        self._open += more
        if self._open:
            self._none_open.clear()
        else:
            self._none_open.set()

    def _open_for(self, job: Job) -> None:
        task = self._loop.create_task(self._connect(job))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, job: Job) -> None:
        """Open a connection, which is counted already, and send the job on it."""
        try:
            async with asyncio.timeout((job.until_ns - monotonic_ns()) / 1e9):
                connection = await self._connected()
        except asyncio.CancelledError:  # by ``close``
            self._count(-1)
            raise
        except OSError as error:  # TimeoutError is one
            self._count(-1)
            failure: Failure = "timeout" if isinstance(error, TimeoutError) else "refused"
            job.answered(job, _failed(failure, str(error.strerror or error or "timed out"), job))
            self._next()
            return
        if connection.closed:  # closed right after opening; ``lost`` has counted that
            job.answered(job, _failed("broken", "closed as soon as it was opened", job))
            return
        self._busy.add(connection)
        connection.send(job, False)

    async def _connected(self) -> ClientConnection:
        _, connection = await self._loop.create_connection(lambda: ClientConnection(self), self.host, self.port)
        return connection

    def put(self, connection: ClientConnection) -> None:
        """Called by a connection: its answer is complete, and it can be reused."""
        self._busy.discard(connection)
        self._idle.append(connection)
        if self._waiting:
            self._next()

    def lost(self, connection: ClientConnection, exc: Exception | None) -> None:
        """Called by a connection: it has ended."""
        self._busy.discard(connection)
        job = connection.job
        if job is not None and connection.kept and not connection.heard and _may_repeat(connection, job):
            connection.job = None
            job.repeated = True
            self._open_for(job)  # counted in place of the lost one
            return
        self._count(-1)
        if job is not None:
            if connection.given_up:
                why = "timed out" if connection.given_up == "timeout" else "more came than was asked for"
                reply = _failed(connection.given_up, why, job)
            elif exc is None and connection.whole_at_the_end():
                reply = connection.answer()
            else:
                reply = _failed("broken", str(exc or "closed before the answer's end"), job)
            connection.job = None
            job.answered(job, reply)
        self._next()

    def _next(self) -> None:
        while self._waiting and self._start(self._waiting[0]):
            self._waiting.popleft()

    def _sweep(self) -> None:
        """Time out requests; runs again as long as anything is under way."""
        now = monotonic_ns()
        for connection in [c for c in self._busy if c.job is not None and c.job.until_ns < now]:
            connection.give_up("timeout")
        while self._waiting and self._waiting[0].until_ns < now:
            job = self._waiting.popleft()
            job.answered(job, _failed("timeout", "timed out before there was a connection for it", job))
        self._sweeping = bool(self._busy or self._opening or self._waiting)
        if self._sweeping:
            self._loop.call_later(_SWEEP_S, self._sweep)
        else:
            self._idling.set()

    async def drain(self) -> None:
        """Wait until every request is answered or has timed out."""
        await self._idling.wait()

    async def close(self) -> None:
        """Close every connection and wait until all are closed."""
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in [*self._busy, *self._idle]:
            connection.give_up("broken")
        await self._none_open.wait()


def _may_repeat(connection: ClientConnection, job: Job) -> bool:
    return not connection.given_up and not job.repeated and job.wire.partition(b" ")[0] in _IDEMPOTENT


def encode(method: str, path: str, netloc: str, fields: Mapping[str, str], body: bytes | None = None) -> bytes:
    """A request's bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {netloc}", *(f"{name}: {value}" for name, value in fields.items())]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")
