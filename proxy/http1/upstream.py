"""One connection to an origin, which carries one request and answer at a time. ``pool`` keeps idle connections."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from typing import Final, cast

from proxy.http1.body import ByLength, Chunked, Decoder, UntilClose
from proxy.http1.head import HEAD_END, Response
from proxy.http1.headcache import HeadCache
from proxy.http1.refusal import BAD_GATEWAY, Refused

_HEAD_MAX: Final = 64 * 1024  # bytes of an answer's head
_FINISH_S: Final = 2.0  # for sending the rest after both sides of a tunnel have ended
_LEFT_MAX: Final = 64 * 1024  # bytes of an early answer that are read after sending the request's body failed
_INTERIM_MAX: Final = 16  # 1xx answers before a final one


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no answer came. ``repeatable``: a reused connection was found dead (RFC 9112 section 9.3.1)."""

    status: int
    code: str
    message: str
    repeatable: bool = False


class Sink:
    """Receives an upstream's answer. A base class, so that compiled code calls it as cheaply as C.

    ``whole``, ``end``, ``failed`` and ``upstream_closed`` are the last call for a request.
    """

    __slots__ = ()

    def interim(self, response: Response) -> None:
        """A 1xx answer; a final one follows."""
        raise NotImplementedError

    def whole(self, response: Response, tail: bytes) -> None:
        """The whole answer arrived at once; ``tail`` is its empty line and its body."""
        raise NotImplementedError

    def head(self, response: Response, size: int) -> None:
        """An answer begins whose body follows; ``size`` in bytes or ``NO_LENGTH``."""
        raise NotImplementedError

    def payload(self, data: bytes) -> None:
        """A piece of the body."""
        raise NotImplementedError

    def end(self, trailers: bytes) -> None:
        """The body is complete."""
        raise NotImplementedError

    def failed(self, failure: Failure) -> None:
        """No answer will come, or no more of it."""
        raise NotImplementedError

    def tunnel(self, response: Response, data: bytes) -> None:
        """The upstream changed protocols (101); ``data`` is what it already sent in the new one."""
        raise NotImplementedError

    def upstream_eof(self) -> bool:
        """The tunnel's origin has sent FIN. True: data may still be sent to it."""
        raise NotImplementedError

    def upstream_closed(self, broken: bool) -> None:
        """The tunnel's origin closed; ``broken``: by an error."""
        raise NotImplementedError

    def pause_upload(self) -> None:
        """Back-pressure: the buffer of the request's body is full."""
        raise NotImplementedError

    def resume_upload(self) -> None:
        """More of the body may be sent."""
        raise NotImplementedError


class Owner:
    """The owner of connections to an origin. A base class, so that compiled code calls it as cheaply as C."""

    __slots__ = ("heads",)

    heads: HeadCache

    def put(self, upstream: Upstream, response: Response) -> None:
        """An answer is complete: the connection may serve another request, or is closed."""
        raise NotImplementedError

    def lost(self) -> None:
        """A connection has ended; called once for each."""
        raise NotImplementedError


class Upstream(asyncio.Protocol):
    """One connection to an origin."""

    __slots__ = (
        "_answered",
        "_connected",
        "_decoder",
        "_ended",
        "_head_only",
        "_held",
        "_interims",
        "_owner",
        "_paused",
        "_response",
        "_sink",
        "_tunnel",
        "choked",
        "closed",
        "idle_since",
        "sending",
        "transport",
        "uses",
    )

    transport: asyncio.Transport

    def __init__(self, owner: Owner) -> None:
        self._connected = False
        self._owner = owner
        self._sink: Sink | None = None
        self._decoder: Decoder | None = None
        self._response: Response | None = None
        self._held = b""
        self._head_only = False  # the request is a HEAD, so the answer has no body whatever its fields say
        self._answered = False  # a byte of the answer has arrived
        self._interims = 0
        self._ended = False  # the origin has ended its side: by a FIN, or with TLS by a closing alert
        self._tunnel = False
        self._paused = False
        self.closed = False
        self.choked = False  # the write buffer is full
        self.idle_since = 0.0
        self.uses = 0
        self.sending = False  # the request's body is not complete yet: an answer now is early

    def begin(self, sink: Sink, wire: bytes, head_only: bool, sending: bool) -> None:
        """Send a request's head and what has arrived of its body, for ``sink``.

        ``head_only``: it is a HEAD request; ``sending``: more of the body will come.
        """
        self._sink = sink
        self._head_only = head_only
        self.sending = sending
        self._answered = False
        self._interims = 0
        self.uses += 1
        self.transport.write(wire)

    def abandon(self) -> None:
        """The answer is not needed any more. Close, so that its rest cannot be taken for the next answer."""
        self._sink = None
        self.abort()

    def abort(self) -> None:
        """Close now, also while connecting. Idempotent."""
        if not self.closed:
            self.closed = True
            self._owner.lost()
            if self._connected:
                self.transport.abort()

    def pause_reading(self) -> None:
        """Back-pressure: the client's write buffer is full."""
        if not (self._paused or self.closed):
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The client accepts data again."""
        if self._paused and not self.closed:
            self._paused = False
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._connected = True
        if self.closed:
            self.transport.abort()  # it was aborted while it was connecting

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self.abort()  # bytes that answer no request would be taken for the next request's answer
        elif self._decoder is not None:
            self._body(sink, data)
        elif self._tunnel:
            sink.payload(data)
        else:
            self._answered = True
            if self._held:
                data, self._held = self._held + data, b""
            self._head(sink, data)

    def send_eof(self) -> bool:
        """The client has sent FIN in a tunnel. False: this side has no half-close (TLS)."""
        if not self.transport.can_write_eof():
            return False
        self.transport.write_eof()
        return True

    def finish(self) -> None:
        """Both sides of the tunnel have ended: send the rest within ``_FINISH_S``, then abort."""
        self._sink = None
        self.transport.close()
        asyncio.get_running_loop().call_later(_FINISH_S, self.abort)

    def eof_received(self) -> bool:
        self._ended = True
        if self._tunnel and self._sink is not None:
            return self._sink.upstream_eof()
        return False  # the transport closes, and connection_lost does the rest

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._sink is not None and not self._tunnel:
            left = self._left()
            if left:
                self.data_received(left)
        sink, self._sink = self._sink, None
        if not self.closed:
            self.closed = True
            self._owner.lost()
        if sink is None:
            return
        if self._tunnel:
            sink.upstream_closed(exc is not None)
        elif isinstance(self._decoder, UntilClose) and self._ended and exc is None:
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

    def _left(self) -> bytes:
        """The answer, still unread in the socket, of an origin that closed while the request's body was being sent.

        The transport ended at the failed write and read no further. With TLS the bytes would be encrypted records.
        """
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.get_extra_info("sslcontext") is not None:
            return b""
        try:
            with socket.socket(fileno=os.dup(sock.fileno())) as own:  # the event loop's socket object allows no recv
                return own.recv(_LEFT_MAX, socket.MSG_DONTWAIT)
        except OSError:
            return b""

    def pause_writing(self) -> None:
        self.choked = True
        if self._sink is not None:
            self._sink.pause_upload()

    def resume_writing(self) -> None:
        self.choked = False
        if self._sink is not None:
            self._sink.resume_upload()

    # One answer

    def _head(self, sink: Sink, data: bytes) -> None:
        end = data.find(HEAD_END)
        if end < 0 or end > _HEAD_MAX:
            if len(data) > _HEAD_MAX:
                self._fail(sink, "the upstream's head is too large")
            else:
                self._held = data
            return
        try:
            response = self._owner.heads.response(data[: end + 2])
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
        if self._head_only or status == 204 or status == 304:
            length = 0
        if length == size:  # the common answer: all of it is here
            self._sink = None
            self._owner.put(self, response)
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
                self._owner.put(self, self._response)
            sink.end(decoder.trailers)

    def _fail(self, sink: Sink, message: str) -> None:
        self._sink = None
        self.abort()
        sink.failed(Failure(502, BAD_GATEWAY, message))
