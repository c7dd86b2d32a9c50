"""One client's connection: requests in, in order; each forwarded or answered; answers out, in order.

    HEAD    a request's head is awaited; what has come of it lies in ``_held``
    BODY    the head is dealt with, the body is passing through (or gathered, for a data request)
    BUSY    the request is complete, its answer is on the way; what comes meanwhile is the next request, and waits
    TUNNEL  another protocol: bytes pass both ways until one side ends
    LINGER  the last answer is written; what still comes is thrown away until the client has seen the end
    CLOSED

Both directions have back-pressure: a side that takes no more stops the other side's reading, so a connection holds a
few write buffers at most, whatever the bodies' size.
"""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING, Final, Protocol, cast

from proxy.http1 import forwarding
from proxy.http1.body import ByLength, Chunked, Decoder, chunk, last_chunk
from proxy.http1.head import CRLF, HEAD_END, NO_LENGTH, Fields, Line, Response
from proxy.http1.refusal import Refused, encode
from proxy.http1.upstream import Failure, OverloadedError, Pool, Upstream
from proxy.routes import Endpoint, NotAllowed

if TYPE_CHECKING:
    from proxy.gateway import Gateway

HEAD, BODY, BUSY, TUNNEL, LINGER, CLOSED = range(6)

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_HELD_MAX: Final = 64 * 1024  # of pipelined requests; beyond it the client is not read
_LINGER_S: Final = 2.0
_TCP_CLOSE: Final = 7  # linux/include/net/tcp_states.h
_NEVER: Final = float("inf")


class Forwarded(Protocol):
    """What an exchange wants to know of a request that it has forwarded to an arm."""

    extra: bytes  # fields added to the answer's head

    def judged(self, response: Response) -> bool:
        """The answer's head is here. False: it is not to be passed on, another answer has been seen to."""

    def failed(self, failure: Failure) -> bool:
        """No answer. True: another answer has been seen to."""

    def done(self) -> None:
        """The answer is written whole."""

    def gone(self) -> None:
        """The client went away before the answer."""


class Waiting(Protocol):
    """A data request whose answer is still being worked out."""

    def gone(self) -> None:
        """The client went away."""

    def pause(self) -> None:
        """The client takes no more for now."""

    def resume(self) -> None:
        """It does again."""


class Downstream(asyncio.Protocol):
    """A client's connection; also the ``Sink`` of the upstream that answers its current request."""

    __slots__ = (
        "_begun",
        "_body",
        "_chunking",
        "_close",
        "_connecting",
        "_decoder",
        "_eof",
        "_forward_for",
        "_forward_wire",
        "_held",
        "_own_forwarding",
        "_paused",
        "_pool",
        "_received",
        "_retried",
        "_state",
        "_taking",
        "_trusted",
        "_up",
        "_wire",
        "_writing_paused",
        "address",
        "deadline",
        "exchange",
        "expects_head_only",
        "fields",
        "gateway",
        "line",
        "transport",
        "waiting",
    )

    transport: asyncio.Transport
    line: Line
    fields: Fields

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.exchange: Forwarded | None = None
        self.waiting: Waiting | None = None
        self.deadline = _NEVER  # when the gateway's sweep calls ``expire``
        self.address = ""
        self.expects_head_only = False
        self._state = HEAD
        self._held = b""
        self._taking = False
        self._decoder: Decoder | None = None
        self._body: list[bytes] | None = None  # gathered for a data request; None: the body goes on
        self._received = 0
        self._up: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._wire = b""  # the request as begun: kept until it is sent, and for a repetition
        self._retried = False
        self._close = False
        self._begun = False  # a byte of the answer has been written
        self._chunking = False
        self._paused = False
        self._writing_paused = False
        self._eof = False  # the client has sent its FIN
        self._pool: Pool | None = None  # where the current request went
        self._own_forwarding = b""
        self._trusted = False
        self._forward_for: Fields | None = None
        self._forward_wire = b""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        gateway = self.gateway
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        self._trusted = forwarding.is_trusted(self.address, gateway.trusted)
        self._own_forwarding = forwarding.replaced(self.address, b"http")
        self.deadline = gateway.now + gateway.head_timeout_s
        gateway.clients.add(self)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == HEAD:
            if self._held:
                data, self._held = self._held + data, b""
            self._take(data)
        elif state == BODY:
            self._upload(data)
        elif state == BUSY:
            self._held += data
            if len(self._held) > _HELD_MAX:
                self._pause_reading()
        elif state == TUNNEL:
            assert self._up is not None
            self._up.transport.write(data)

    def eof_received(self) -> bool:
        if self._state == BUSY:
            # Either the client will send no more and waits for its answer, or it is gone: the FIN is the same.
            self._close = True
            self._eof = True
            self._probe()
            return True
        if self._state == TUNNEL and self._up is not None and self._up.transport.can_write_eof():
            self._up.transport.write_eof()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = CLOSED
        self.gateway.clients.discard(self)
        self._held = b""
        self.recall()
        if self.waiting is not None:
            self.waiting.gone()
            self.waiting = None
        if self.exchange is not None:
            self.exchange.gone()
            self.exchange = None

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._up is not None:
            self._up.pause_reading()
        if self.waiting is not None:
            self.waiting.pause()
        self.deadline = self.gateway.now + self.gateway.idle_timeout_s

    def resume_writing(self) -> None:
        self._writing_paused = False
        self.deadline = _NEVER if self._state in (BODY, BUSY, TUNNEL) else self.gateway.now + _LINGER_S
        if self._up is not None:
            self._up.resume_reading()
        if self.waiting is not None:
            self.waiting.resume()
        if self._state == HEAD:
            self.deadline = self.gateway.now + self.gateway.idle_timeout_s
            self._next()

    # Requests

    def _take(self, data: bytes) -> None:
        """Deal with the requests in ``data``: whole heads while each is answered at once, the rest is held."""
        gateway = self.gateway
        heads = gateway.heads
        self._taking = True
        while data:
            end = data.find(HEAD_END)
            if end < 0 or end > gateway.max_head:
                self._partial(data, end)
                break
            eol = data.find(CRLF)
            if eol == 0:  # RFC 9112 section 2.2: an empty line before a request is ignored
                data = data[2:]
                continue
            try:
                raw = data[:eol]
                line = heads.lines.get(raw)
                if line is None:
                    line = heads.line(raw)
                block = data[eol + 2 : end + 2]
                fields = heads.blocks.get(block)
                if fields is None:
                    fields = heads.fields(block)
                host = fields.host
                if host is None:
                    if not line.http10:
                        raise Refused(400, "missing_host", "expected a Host field")
                elif line.authority is not None and line.authority.lower() != host.lower():
                    raise Refused(400, "bad_host", "Host and the target's authority differ")
                if line.http10:
                    if fields.chunked:
                        raise Refused(400, "ambiguous_length", "HTTP/1.0 knows no Transfer-Encoding")
                    self._close = not fields.keep_alive or fields.close
                else:
                    self._close = fields.close
            except Refused as refused:
                self.refuse(refused.status, refused.code, refused.message)
                break
            self.line = line
            self.fields = fields
            self.expects_head_only = line.is_head
            rest = data[end + 4 :]
            self.deadline = _NEVER
            self._begin(line, fields, rest)
            if self._state != HEAD or self._writing_paused:
                break
            data, self._held = self._held, b""
        self._taking = False

    def _partial(self, data: bytes, end: int) -> None:
        if end > 0 or len(data) > self.gateway.max_head:
            self.refuse(431, "head_too_large", f"expected a head of at most {self.gateway.max_head} bytes")
        elif _BARE_LF.search(data):
            self.refuse(400, "bad_line_end", "expected every line to end in CRLF")
        else:
            if not self._held:
                self.deadline = self.gateway.now + self.gateway.head_timeout_s
            self._held = data

    def _begin(self, line: Line, fields: Fields, rest: bytes) -> None:
        """A request's head is here, with ``rest`` behind it: send it where it belongs."""
        route = line.route
        if fields.has_body:
            self._decoder = Chunked() if fields.chunked else ByLength(fields.length)
            self._state = BODY
        else:
            self._held = rest
            self._state = BUSY
        if route is None:
            self.gateway.count_app()
            self.forward(self.gateway.app, rest)
        elif isinstance(route, Endpoint):
            self.gateway.shares[route.migration].begin(self, route, rest)
        else:
            assert isinstance(route, NotAllowed)
            message = f"{line.method.decode()} is not allowed here"
            self.answer_error(405, "method_not_allowed", message, b"allow: %b\r\n" % route.allow)

    def _next(self) -> None:
        """The answer is complete: go on with what was held, or wait for the next request."""
        if not self._taking and not self._writing_paused:
            if self._paused:
                self._resume_reading()
            if self._held:
                data, self._held = self._held, b""
                self._take(data)

    # Gathering a data request's body

    def gather(self, rest: bytes) -> None:
        """Gather the body; the share's ``ready`` is called when it is whole."""
        fields = self.fields
        if fields.length > self.gateway.max_body:
            self.refuse(413, "body_too_large", f"expected a body of at most {self.gateway.max_body} bytes")
            return
        self._body = []
        self._received = 0
        self.deadline = self.gateway.now + self.gateway.body_timeout_s
        if fields.expects_continue and not rest:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._upload(rest)

    def _gathered(self, payload: bytes) -> bool:
        assert self._body is not None
        self._received += len(payload)
        if self._received > self.gateway.max_body:
            self.refuse(413, "body_too_large", f"expected a body of at most {self.gateway.max_body} bytes")
            return False
        if payload:
            self._body.append(payload)
        return True

    # Forwarding

    def forward(self, pool: Pool, rest: bytes) -> None:
        """Send the current request to an origin; ``rest`` is what has come of its body."""
        fields = self.fields
        if fields is self._forward_for:
            suffix = self._forward_wire
        else:
            suffix = self._suffix(fields)
            self._forward_for = fields
            self._forward_wire = suffix
        wire = self.line.wire + suffix
        if self._decoder is not None:
            body = self._decode(rest)
            if body is None:
                return
            wire += body
        self._retried = False
        self._wire = wire
        self._pool = pool
        up = pool.take()
        if up is not None:
            self._up = up
            self.deadline = self.gateway.now + pool.timeout_s
            up.begin(self, wire, sending=self._decoder is not None)
        else:
            self._open(pool)

    def _suffix(self, fields: Fields) -> bytes:
        """Everything behind the request line, up to the body: the same for each request with these fields."""
        if self._trusted:
            told = forwarding.appended(self.address, b"http", fields)
        else:
            told = forwarding.complete(self._own_forwarding, fields)
        if fields.chunked:
            told += b"transfer-encoding: chunked\r\n"
        if fields.upgrade:
            told += b"connection: upgrade\r\nupgrade: %b\r\n" % fields.upgrade
        return fields.kept + told + CRLF

    def recall(self) -> None:
        """Take the current request back from the origin it was sent to."""
        up, self._up = self._up, None
        if up is not None:
            up.abandon()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    def _open(self, pool: Pool) -> None:
        """Open a connection for the request in ``_wire``."""
        if self._state == BODY:
            self._pause_reading()
        self._connecting = asyncio.get_running_loop().create_task(self._connect(pool))

    async def _connect(self, pool: Pool) -> None:
        try:
            up = await pool.connect()
        except OverloadedError as error:
            self._connecting = None
            self.failed(Failure(503, "overloaded", str(error)))
            return
        except ConnectionError as error:
            self._connecting = None
            self.failed(Failure(502, "bad_gateway", str(error)))
            return
        self._connecting = None
        if self._state not in (BODY, BUSY):
            up.abort()
            return
        self._up = up
        self.deadline = self.gateway.now + pool.timeout_s
        up.begin(self, self._wire, sending=self._decoder is not None)
        if self._paused:
            self._resume_reading()

    def _decode(self, data: bytes) -> bytes | None:
        """What of ``data`` belongs to the request's body, framed for the next hop; None where it was refused."""
        decoder = self._decoder
        assert decoder is not None
        try:
            payload, rest = decoder.feed(data) if data else (b"", b"")
        except Refused as refused:
            self.refuse(refused.status, refused.code, refused.message)
            return None
        if self.fields.chunked:
            payload = chunk(payload) if payload else b""
            if decoder.done:
                payload += last_chunk(decoder.trailers)
        if decoder.done:
            self._decoder = None
            self._state = BUSY
            self._held = rest
        return payload

    def _upload(self, data: bytes) -> None:
        """More of a request's body."""
        if self._body is None:
            payload = self._decode(data)
            up = self._up
            if up is not None and self._pool is not None:
                self.deadline = self.gateway.now + self._pool.timeout_s
                up.sending = self._decoder is not None
                if payload:
                    up.transport.write(payload)
            elif payload:
                self._wire += payload  # still connecting: reading is paused, so this is one buffer at most
            return
        decoder = self._decoder
        assert decoder is not None
        try:
            payload, rest = decoder.feed(data) if data else (b"", b"")
        except Refused as refused:
            self.refuse(refused.status, refused.code, refused.message)
            return
        if self._gathered(payload) and decoder.done:
            body = b"".join(self._body)
            self._decoder = None
            self._body = None
            self._state = BUSY
            self._held = rest
            route = self.line.route
            assert isinstance(route, Endpoint)
            self.gateway.shares[route.migration].ready(self, route, body)

    # Sink

    def interim(self, response: Response) -> None:
        if not self.line.http10:
            self.transport.write(response.wire + CRLF)

    def whole(self, response: Response, tail: bytes) -> None:
        self._up = None
        if self.exchange is not None:
            if not self.exchange.judged(response):
                return
            tail = self.exchange.extra + tail
        close = self._connection_field()
        self._begun = True
        self.transport.write(response.wire + close + tail if close else response.wire + tail)
        self.complete()

    def head(self, response: Response, size: int) -> None:
        extra = b""
        if self.exchange is not None:
            up, self._up = self._up, None
            if not self.exchange.judged(response):
                if up is not None:
                    up.abandon()
                return
            self._up = up
            extra = self.exchange.extra
        self._chunking = size == NO_LENGTH and not self.line.http10
        if size == NO_LENGTH:
            if self.line.http10:
                self._close = True
            else:
                extra += b"transfer-encoding: chunked\r\n"
        self._begun = True
        self.deadline = _NEVER
        self.transport.write(response.wire + extra + self._connection_field() + CRLF)

    def payload(self, data: bytes) -> None:
        if self._chunking:
            self.transport.writelines((b"%x\r\n" % len(data), data, CRLF))
        else:
            self.transport.write(data)

    def end(self, trailers: bytes) -> None:
        self._up = None
        if self._chunking:
            self._chunking = False
            self.transport.write(last_chunk(trailers))
        self.complete()

    def failed(self, failure: Failure) -> None:
        self._up = None
        if self._state not in (BODY, BUSY):
            return
        if self._begun:
            self.transport.abort()  # a reset: what was sent must not look like a complete answer
            return
        if failure.repeatable and self.line.idempotent and not self.fields.has_body and not self._retried:
            assert self._pool is not None
            self._retried = True
            self._open(self._pool)
            return
        if self.exchange is not None:
            if self.exchange.failed(failure):
                return
        else:
            self.gateway.count_app_error()
        extra = b"retry-after: 1\r\n" if failure.status == 503 else b""
        self.answer_error(failure.status, failure.code, failure.message, extra)

    def tunnel(self, response: Response, data: bytes) -> None:
        if not self.fields.upgrade or not response.upgrade or self._state != BUSY:
            self.recall()
            self.failed(Failure(502, "bad_gateway", "the upstream changed protocols unasked"))
            return
        self._state = TUNNEL
        self.deadline = _NEVER
        self._begun = True
        upgrade = b"connection: upgrade\r\nupgrade: %b\r\n\r\n" % response.upgrade
        self.transport.write(response.wire + upgrade + data)
        if self._held:
            assert self._up is not None
            self._up.transport.write(self._held)
            self._held = b""

    def upstream_closed(self) -> None:
        self._up = None
        self.transport.close()

    def pause_upload(self) -> None:
        self._pause_reading()

    def resume_upload(self) -> None:
        self._resume_reading()

    # Answers of phasegate's own

    def write(self, head: bytes, body: bytes) -> None:
        """Answer the current request: ``head`` up to its empty line without it, and the body."""
        close = self._connection_field()
        if self.expects_head_only:
            body = b""
        self.transport.write(b"%b%b\r\n%b" % (head, close, body))
        self.complete()

    def stream_head(self, head: bytes) -> None:
        """Begin an answer whose length is not known."""
        self._chunking = not self.line.http10
        if self._chunking:
            head += b"transfer-encoding: chunked\r\n"
        else:
            self._close = True
        self._begun = True
        self.transport.write(head + self._connection_field() + CRLF)

    def answer_error(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        """Answer the current request with an error of phasegate's; the connection goes on where it can."""
        head = self.expects_head_only
        extra += self._connection_field()
        self.transport.write(encode(status, code, message, extra=extra, close=False, head=head))
        self.complete()

    def refuse(self, status: int, code: str, message: str) -> None:
        """What came is no request that can be passed on: say so and close, for what follows cannot be trusted."""
        self.gateway.count_refused()
        self.recall()
        if self._begun:
            self.transport.abort()
            return
        self.transport.write(encode(status, code, message))
        self._linger()

    def complete(self) -> None:
        """The answer is written whole."""
        self._begun = False
        if self.exchange is not None:
            self.exchange.done()
            self.exchange = None
        self.waiting = None
        if self._state == BODY or self._close:
            self._linger()
            return
        self._state = HEAD
        gateway = self.gateway
        self.deadline = gateway.now + gateway.idle_timeout_s
        if self._held or self._paused:
            self._next()

    def expire(self) -> None:
        """The deadline passed."""
        if self._state == HEAD and self._held:
            self.refuse(408, "request_timeout", "the request's head did not come in time")
        elif self._state in (BODY, BUSY) and not self._begun and not self._writing_paused:
            self.recall()
            self.failed(Failure(504, "gateway_timeout", "the upstream did not answer in time"))
        else:
            self.transport.abort() if self._state != HEAD else self.transport.close()

    def close_when_idle(self) -> None:
        """The worker is leaving: finish the answer under way, begin no other."""
        if self._state == HEAD and not self._held:
            self.transport.close()
        else:
            self._close = True

    @property
    def closed(self) -> bool:
        """The connection is gone."""
        return self._state == CLOSED

    # Parts

    def _connection_field(self) -> bytes:
        """What the answer's head says of the connection, decided now."""
        if self._state == BODY or self.gateway.draining:
            self._close = True  # the request's body is not wanted any more, so no next request can be found
        if self._close:
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if self.line.http10 else b""

    def _linger(self) -> None:
        """Close without a reset that would take the answer away from the client's buffer (RFC 9112 section 9.6)."""
        self._state = LINGER
        self._held = b""
        self._decoder = None
        self.deadline = self.gateway.now + _LINGER_S
        if self._paused:
            self._resume_reading()
        if self._eof or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()

    def _pause_reading(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def _probe(self) -> None:
        """Find out whether a client that sent FIN still reads: an interim answer makes a closed socket reset.

        RFC 9110 section 15.2: a client must be able to take 1xx answers, even those it did not ask for.
        """
        if self._begun or self.line.http10:
            return
        self.transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        asyncio.get_running_loop().call_later(0.05, self._abort_if_reset)

    def _abort_if_reset(self) -> None:
        if self._state != BUSY or self.transport.is_closing():
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            self.transport.abort()
