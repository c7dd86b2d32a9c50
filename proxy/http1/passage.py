"""One request's way to an origin and its answer's way back; and the answers that phasegate gives by itself.

``Passage`` is the ``Sink`` of the upstream that answers its current request. An answer begun is ended as it should be
or broken off with a reset: what was cut short never looks complete.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from proxy.http1 import forwarding
from proxy.http1.body import Decoder, last_chunk
from proxy.http1.connection import BODY, BUSY, HEAD, NEVER, TUNNEL, Connection
from proxy.http1.head import CRLF, NO_LENGTH, Fields, Line, Response
from proxy.http1.pool import Pool
from proxy.http1.upstream import Failure, Upstream

if TYPE_CHECKING:
    from proxy.process.gateway import Gateway


class Forwarded:
    """What an exchange wants to know of a request that it has forwarded to an arm: a base, for calls at C's cost."""

    __slots__ = ("extra",)

    extra: bytes  # fields added to the answer's head

    def judged(self, response: Response) -> bool:
        """The answer's head is here. False: it is not to be passed on, another answer has been seen to."""
        raise NotImplementedError

    def failed(self, failure: Failure) -> bool:
        """No answer. True: another answer has been seen to."""
        raise NotImplementedError

    def broke_off(self) -> None:
        """The answer ended before its end."""
        raise NotImplementedError

    def done(self) -> None:
        """The answer is written whole."""
        raise NotImplementedError

    def gone(self) -> None:
        """The client went away before the answer."""
        raise NotImplementedError


class Waiting(Protocol):
    """A data request whose answer is still being worked out."""

    def gone(self) -> None:
        """The client went away."""

    def pause(self) -> None:
        """The client takes no more for now."""

    def resume(self) -> None:
        """It does again."""


class Passage(Connection):
    """What ``Downstream`` does with a request that it has taken; taking the next one is ``_next``."""

    __slots__ = (
        "_close",
        "_connecting",
        "_decoder",
        "_early",
        "_forward_for",
        "_forward_wire",
        "_held",
        "_invited",
        "_own_forwarding",
        "_pool",
        "_retried",
        "_trusted",
        "_up",
        "_up_eof",
        "exchange",
        "expects_head_only",
        "fields",
        "line",
        "waiting",
    )

    line: Line
    fields: Fields
    _pool: Pool  # where the current request went
    _own_forwarding: bytes
    _trusted: bool

    def __init__(self, gateway: Gateway, scheme: bytes = b"http", address: str = "") -> None:
        super().__init__(gateway, scheme, address)
        self.exchange: Forwarded | None = None
        self.waiting: Waiting | None = None
        self.expects_head_only = False
        self._held = b""  # what came behind the current request, or of a head that is not whole
        self._decoder: Decoder | None = None  # of the request's body, until it is whole
        self._early = b""  # of it, what waits for a connection to the origin
        self._invited = True  # the client knows that its body is wanted, or did not ask
        self._up: Upstream | None = None
        self._up_eof = False  # the far end of a tunnel has sent its FIN
        self._connecting: asyncio.Task[None] | None = None
        self._retried = False
        self._close = False
        self._forward_for: Fields | None = None
        self._forward_wire = b""

    def _next(self) -> None:
        """The answer is complete: go on with what was held, or wait for the next request."""
        raise NotImplementedError

    @property
    def client_address(self) -> str:
        """Who asks: the peer, or whom a trusted peer names in X-Forwarded-For."""
        if not self._trusted:
            return self.address
        return forwarding.client_address(self.address, self.fields, self.gateway.trusted)

    # To the origin

    def _send(self, pool: Pool, body: bytes) -> None:
        """Send the current request's head and ``body``, framed, to an origin."""
        line = self.line
        fields = self.fields
        if fields is not self._forward_for or pool is not self._pool:
            self._pool = pool
            self._forward_wire = self._suffix(line, fields, pool)
            self._forward_for = fields if fields.max_forwards is None else None
        self._retried = False
        up = pool.take()
        if up is not None:
            self._up = up
            if self._state == BUSY:
                self.deadline = self.gateway.now + pool.timeout_s
            up.begin(self, line.wire + self._forward_wire + body, self._decoder is not None)
        else:
            self._early = body
            self._open(pool)

    def _suffix(self, line: Line, fields: Fields, pool: Pool) -> bytes:
        """Everything behind the request line, up to the body: the same for each request with these fields."""
        named = fields.host or line.authority or b""
        host = pool.host_told or named or pool.host
        if self._trusted:
            told = forwarding.appended(self.address, self.scheme, named, fields, line.http10)
        else:
            told = forwarding.complete(self._own_forwarding, named, line.http10)
        if fields.chunked:
            told += b"transfer-encoding: chunked\r\n"
        if fields.max_forwards is not None:
            hops = fields.max_forwards - (line.method == b"OPTIONS")  # RFC 9110 section 7.6.2
            told += b"max-forwards: %d\r\n" % hops
        if fields.upgrade:
            told += b"connection: upgrade\r\nupgrade: %b\r\n" % fields.upgrade
        return b"host: %b\r\n%b%b\r\n" % (host, fields.kept, told)

    def recall(self) -> None:
        """Take the current request back from the origin it was sent to."""
        up, self._up = self._up, None
        if up is not None:
            up.abandon()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._early = b""

    def _open(self, pool: Pool) -> None:
        """Open a connection for the current request."""
        self.deadline = NEVER  # the pool has its own
        if self._state == BODY:
            self._pause_reading()
        self._connecting = asyncio.get_running_loop().create_task(self._connect(pool))

    async def _connect(self, pool: Pool) -> None:
        up = await pool.connect()
        self._connecting = None
        if isinstance(up, Failure):
            self.failed(up)
            return
        if self._state not in (BODY, BUSY):
            up.abort()
            return
        self._up = up
        early, self._early = self._early, b""
        wait = pool.timeout_s if self._state == BUSY or not self._invited else self.gateway.body_timeout_s
        self.deadline = self.gateway.now + wait
        up.begin(self, self.line.wire + self._forward_wire + early, self._decoder is not None)
        if not up.choked:
            self._read_on()

    def _read_on(self) -> None:
        """Read the client again, unless it has sent too far ahead."""
        if self.paused and len(self._held) <= self.gateway.max_head:
            self._resume_reading()

    def pause_upload(self) -> None:
        self._pause_reading()
        if not self._begun:
            self.deadline = self.gateway.now + self._pool.timeout_s

    def resume_upload(self) -> None:
        self._read_on()
        if self._state == BODY and not self._begun:
            self.deadline = self.gateway.now + self.gateway.body_timeout_s

    # The answer

    def interim(self, response: Response) -> None:
        if self.line.http10:
            return
        if response.status == 100 and not self._invited:
            self._invited = True
            self.deadline = self.gateway.now + self.gateway.body_timeout_s
        self.transport.write(response.wire + CRLF)

    def whole(self, response: Response, tail: bytes) -> None:
        self._up = None
        exchange = self.exchange
        if exchange is not None:
            if not exchange.judged(response):
                return
            tail = exchange.extra + tail
        if not response.dated:
            tail = self.gateway.date + tail
        close = self._connection_field()
        self._begun = True
        self.transport.write(response.wire + close + tail if close else response.wire + tail)
        self.complete()

    def head(self, response: Response, size: int) -> None:
        extra = b"" if response.dated else self.gateway.date
        if self.exchange is not None:
            up, self._up = self._up, None
            if not self.exchange.judged(response):
                if up is not None:
                    up.abandon()
                return
            self._up = up
            extra += self.exchange.extra
        if size == NO_LENGTH:
            if self.line.http10:
                self._close = True
            else:
                self._chunking = True
                extra += b"transfer-encoding: chunked\r\n"
        self._begun = True
        self.deadline = self.gateway.now + self._pool.quiet_s
        self.transport.write(response.wire + extra + self._connection_field() + CRLF)

    def payload(self, data: bytes) -> None:
        if not self._writing_paused:
            self.deadline = self.gateway.now + self._pool.quiet_s
        if self._chunking:
            self.transport.writelines((b"%x\r\n" % len(data), data, CRLF))
        else:
            self.transport.write(data)

    def end(self, trailers: bytes) -> None:
        self._up = None
        if self._chunking:
            self.transport.write(last_chunk(trailers))
        self.complete()

    def failed(self, failure: Failure) -> None:
        self._up = None
        if self._state not in (BODY, BUSY):
            return
        if self._begun:
            if self.exchange is not None:
                self.exchange.broke_off()
            self.reset()
            return
        if failure.repeatable and self.line.idempotent and not self.fields.has_body and not self._retried:
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

    # Another protocol (RFC 9110 section 7.8)

    def tunnel(self, response: Response, data: bytes) -> None:
        offered = {name.strip().lower() for name in self.fields.upgrade.split(b",")}
        if self._state != BUSY or response.upgrade.lower() not in offered - {b""}:
            self.recall()
            self.failed(Failure(502, "bad_gateway", "the upstream changed protocols unasked"))
            return
        extra = b""
        if self.exchange is not None:
            self.exchange.judged(response)
            extra = self.exchange.extra
        up = self._up
        assert up is not None
        self._state = TUNNEL
        self._begun = True
        self.deadline = self.gateway.now + self._pool.quiet_s
        upgrade = b"connection: upgrade\r\nupgrade: %b\r\n\r\n" % response.upgrade
        self.transport.write(response.wire + extra + upgrade + data)
        held, self._held = self._held, b""
        if held:
            up.transport.write(held)
        if self.paused and not up.choked:
            self._resume_reading()
        if self._eof:
            up.send_eof()

    def upstream_eof(self) -> bool:
        """The tunnel's far end will send no more. True: it may go on being sent to."""
        self._up_eof = True
        if self._eof or not self.transport.can_write_eof():
            return False
        self.transport.write_eof()
        return True

    def upstream_closed(self, broken: bool) -> None:
        self._up = None
        if broken:
            self.reset()
        else:
            self._linger(more=False)

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
        if self.line.http10:
            self._close = True
        else:
            self._chunking = True
            head += b"transfer-encoding: chunked\r\n"
        self._begun = True
        self.transport.write(head + self._connection_field() + CRLF)

    def answer_error(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        """Answer the current request with an error of phasegate's; the connection goes on where it can."""
        extra += self.gateway.date + self._connection_field()
        form = self.gateway.form
        self.transport.write(form.encode(status, code, message, extra, bodiless=self.expects_head_only))
        self.complete()

    def refuse(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        """What came is no request that can be passed on: say so and close, for what follows cannot be trusted."""
        self.gateway.count_refused()
        self.recall()
        if self._begun:
            self.reset()
            return
        extra += self.gateway.date + b"connection: close\r\n"
        form = self.gateway.form
        self.transport.write(form.encode(status, code, message, extra, bodiless=self.expects_head_only))
        self._give_up(more=True)

    def complete(self) -> None:
        """The answer is written whole."""
        self._begun = False
        self._chunking = False
        exchange = self.exchange
        if exchange is not None:
            exchange.done()
            self.exchange = None
        self.waiting = None
        if self._state == BODY or self._close:
            self._give_up(more=self._state == BODY)
            return
        self._state = HEAD
        if not self._writing_paused:
            gateway = self.gateway
            self.deadline = gateway.now + gateway.idle_timeout_s
        if self._held or self.paused or self._eof:
            self._next()

    def _give_up(self, more: bool) -> None:
        """Take no other request."""
        self._held = b""
        self._decoder = None
        if self.exchange is not None:
            self.exchange.gone()
            self.exchange = None
        self._linger(more)

    def _connection_field(self) -> bytes:
        """What the answer's head says of the connection, decided now."""
        if self._state == BODY or self.gateway.draining:
            self._close = True  # the request's body is not wanted any more, so no next request can be found
        if self._close:
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if self.line.http10 else b""
