"""Connections to an origin: a pool of idle ones, and one request's answer on its way back.

The pool is a stack: the connection used last is used next, so the others grow old and are dropped. What is open is an
integer and what is idle a deque; nothing is scanned on a request's path.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

from proxy.http1.body import ByLength, Chunked, Decoder, UntilClose
from proxy.http1.head import HEAD_END, Heads, Response
from proxy.http1.refusal import BAD_GATEWAY, Refused

_HEAD_MAX: Final = 64 * 1024
_INTERIM_MAX: Final = 16  # 1xx answers before a final one


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no answer came. ``repeatable``: a reused connection was found dead (RFC 9112 section 9.3.1)."""

    status: int
    code: str
    message: str
    repeatable: bool = False


class Sink(Protocol):
    """Who waits for an upstream's answer. Each call is the upstream's last but for ``interim`` and ``payload``."""

    expects_head_only: bool

    def interim(self, response: Response) -> None:
        """A 1xx answer; a final one follows."""

    def whole(self, response: Response, tail: bytes) -> None:
        """The answer came in one piece; ``tail`` is the empty line and the body as they were sent."""

    def head(self, response: Response, size: int) -> None:
        """An answer begins whose body follows; ``size`` in bytes or ``NO_LENGTH``."""

    def payload(self, data: bytes) -> None:
        """A piece of the body."""

    def end(self, trailers: bytes) -> None:
        """The body is complete."""

    def failed(self, failure: Failure) -> None:
        """No answer will come, or no more of it."""

    def tunnel(self, response: Response, data: bytes) -> None:
        """The upstream changed protocols (101); ``data`` is what it already sent in the new one."""

    def upstream_closed(self) -> None:
        """The tunnel's far end went away."""

    def pause_upload(self) -> None:
        """The upstream takes no more of the request's body for now."""

    def resume_upload(self) -> None:
        """It does again."""


class Upstream(asyncio.Protocol):
    """One connection to an origin."""

    __slots__ = (
        "_answered",
        "_decoder",
        "_held",
        "_interims",
        "_paused",
        "_pool",
        "_response",
        "_sink",
        "_tunnel",
        "closed",
        "idle_since",
        "sending",
        "transport",
        "uses",
    )

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sink: Sink | None = None
        self._decoder: Decoder | None = None
        self._response: Response | None = None
        self._held = b""
        self._answered = False  # a byte of the answer has come
        self._interims = 0
        self._tunnel = False
        self._paused = False
        self.closed = False
        self.idle_since = 0.0
        self.uses = 0
        self.sending = False  # the request's body is still on its way: an answer now is an early one

    def begin(self, sink: Sink, wire: bytes, *, sending: bool) -> None:
        """Send a request's head and what there is of its body, for ``sink``; ``sending``: more of it will come."""
        self._sink = sink
        self.sending = sending
        self._answered = False
        self._interims = 0
        self.uses += 1
        self.transport.write(wire)

    def abandon(self) -> None:
        """Whoever waited is gone: what this connection still carries belongs to nobody, so it ends."""
        self._sink = None
        self.abort()

    def abort(self) -> None:
        """Close now. Idempotent."""
        if not self.closed:
            self.closed = True
            self._pool.lost(self)
            self.transport.abort()

    def pause_reading(self) -> None:
        """The client takes no more for now."""
        if not (self._paused or self.closed):
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """It does again."""
        if self._paused and not self.closed:
            self._paused = False
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self.abort()  # bytes that nobody asked for: its next answer would be taken for another's
        elif self._decoder is not None:
            self._body(sink, data)
        elif self._tunnel:
            sink.payload(data)
        else:
            self._answered = True
            if self._held:
                data, self._held = self._held + data, b""
            self._head(sink, data)

    def eof_received(self) -> bool:
        return False  # the transport closes, and connection_lost tells the rest

    def connection_lost(self, exc: Exception | None) -> None:
        sink, self._sink = self._sink, None
        if not self.closed:
            self.closed = True
            self._pool.lost(self)
        if sink is None:
            return
        if self._tunnel:
            sink.upstream_closed()
        elif isinstance(self._decoder, UntilClose) and exc is None:
            self._decoder = None
            sink.end(b"")
        else:
            sink.failed(
                Failure(
                    502,
                    BAD_GATEWAY,
                    "the upstream closed the connection before its answer was complete",
                    repeatable=self.uses > 1 and not self._answered,
                )
            )

    def pause_writing(self) -> None:
        if self._sink is not None:
            self._sink.pause_upload()

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.resume_upload()

    # One answer

    def _head(self, sink: Sink, data: bytes) -> None:
        end = data.find(HEAD_END)
        if end < 0:
            if len(data) > _HEAD_MAX:
                self._fail(sink, "the upstream's head is too large")
            else:
                self._held = data
            return
        try:
            response = self._pool.heads.response(data[: end + 2])
        except Refused as refused:
            self._fail(sink, refused.message)
            return
        status = response.status
        if status < 200:
            if status == 101:
                self._tunnel = True
                sink.tunnel(response, data[end + 4 :])
            elif self._interims >= _INTERIM_MAX:
                self._fail(sink, "the upstream sent too many interim answers")
            else:
                self._interims += 1
                sink.interim(response)
                rest = data[end + 4 :]
                if rest and self._sink is sink:
                    self._head(sink, rest)
            return
        length = response.length
        size = len(data) - end - 4
        if sink.expects_head_only or status == 204 or status == 304:
            length = 0
        if length == size:  # the common answer: all of it is here
            self._sink = None
            self._pool.put(self, response)
            sink.whole(response, data[end + 2 :])
            return
        if 0 <= length < size:
            self._fail(sink, "the upstream sent more than its answer")
            return
        if length > 0:
            self._decoder = ByLength(length)
        elif response.chunked:
            self._decoder = Chunked()
        else:
            self._decoder = UntilClose()
        self._response = response
        sink.head(response, length)
        if size and self._sink is sink:
            self._body(sink, data[end + 4 :])

    def _body(self, sink: Sink, data: bytes) -> None:
        decoder = self._decoder
        assert decoder is not None
        try:
            payload, rest = decoder.feed(data)
        except Refused as refused:
            self._fail(sink, refused.message)
            return
        if payload:
            sink.payload(payload)
        if decoder.done and self._sink is sink:
            self._decoder = None
            self._sink = None
            if rest:
                self.abort()
            else:
                assert self._response is not None
                self._pool.put(self, self._response)
            sink.end(decoder.trailers)

    def _fail(self, sink: Sink, message: str) -> None:
        self._sink = None
        self.abort()
        sink.failed(Failure(502, BAD_GATEWAY, message))


class Pool:
    """The connections to one origin, of one worker."""

    __slots__ = (
        "_address",
        "_connect_timeout_s",
        "_idle",
        "_max_connections",
        "_max_idle",
        "_now",
        "heads",
        "host",
        "idle_timeout_s",
        "opened",
        "origin",
        "timeout_s",
    )

    def __init__(
        self,
        origin: str,
        heads: Heads,
        now: Callable[[], float],
        *,
        connect_timeout_s: float,
        timeout_s: float,
        max_idle: int,
        max_connections: int,
    ) -> None:
        parts = urlsplit(origin)
        self.origin = origin
        self.host = parts.netloc.encode()
        self._address = (parts.hostname or "", parts.port or 80)
        self.heads = heads
        self.timeout_s = timeout_s
        self.idle_timeout_s = 55.0  # below the minute after which most servers hang up
        self._connect_timeout_s = connect_timeout_s
        self._now = now
        self._max_idle = max_idle
        self._max_connections = max_connections
        self._idle: deque[Upstream] = deque()
        self.opened = 0

    def take(self) -> Upstream | None:
        """An idle connection, the one used last; None where there is none."""
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if not (upstream.closed or upstream.transport.is_closing()):
                return upstream
        return None

    def put(self, upstream: Upstream, response: Response) -> None:
        """An answer is complete: keep its connection where both sides can go on."""
        if response.close or upstream.sending or upstream.closed or len(self._idle) >= self._max_idle:
            upstream.abort()
            return
        upstream.resume_reading()
        upstream.idle_since = self._now()
        self._idle.append(upstream)

    def lost(self, upstream: Upstream) -> None:
        """A connection of this pool ended."""
        self.opened -= 1

    def sweep(self, now: float) -> None:
        """Close what has been idle too long. The stack's bottom is the oldest: the look ends at the first young."""
        idle = self._idle
        while idle and (idle[0].closed or idle[0].idle_since + self.idle_timeout_s < now):
            idle.popleft().abort()

    async def connect(self) -> Upstream:
        """Open a connection. Raises ``ConnectionError`` with words for a person."""
        if self.opened >= self._max_connections:
            raise OverloadedError(f"{self.opened} connections to {self.origin} are open")
        self.opened += 1  # counted before it is open, or a burst would overrun the limit
        loop = asyncio.get_running_loop()
        host, port = self._address
        upstream: Upstream
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, upstream = await loop.create_connection(lambda: Upstream(self), host, port)
        except TimeoutError:
            self.opened -= 1
            raise ConnectionError(f"{self.origin} did not accept a connection in time") from None
        except OSError as error:
            self.opened -= 1
            raise ConnectionError(f"{self.origin} cannot be reached: {error.strerror or error}") from None
        except BaseException:
            self.opened -= 1
            raise
        return upstream

    def close(self) -> None:
        """Close the idle connections; those in use end with their requests."""
        self._max_idle = 0
        while self._idle:
            self._idle.pop().abort()


class OverloadedError(ConnectionError):
    """Everything that may be open is: the client should come back later."""
