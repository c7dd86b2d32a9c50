"""A client's connection: reads its requests in order, passes each to what answers it, and writes the answers.

The table in ``states`` says which state may follow which. Both directions have back-pressure, so a connection buffers
little, whatever the bodies' size. Bytes that arrive during an answer belong to the next request and are held; reading
pauses when a client has sent too far ahead. A client whose pipelined requests are all answered from memory yields to
other connections after a few of them.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from proxy.http1 import liveness
from proxy.http1.accesslog import AccessEntry
from proxy.http1.addresses import address_of
from proxy.http1.body import RequestBody, chunk, last_chunk, too_large
from proxy.http1.client import APP, Client
from proxy.http1.clients import Clients
from proxy.http1.forwarder import Forwarder
from proxy.http1.head import CRLF, Response
from proxy.http1.headreader import HeadReader
from proxy.http1.nexthop import Peer
from proxy.http1.pool import Pool
from proxy.http1.refusal import Refused
from proxy.http1.service import Endpoint, NotAllowed, Options
from proxy.http1.shared import NEVER, Shared
from proxy.http1.states import (
    ANSWERED,
    BODY,
    BODY_ENDED,
    BUSY,
    CLOSED,
    GAVE_UP,
    HEAD,
    LINGER,
    LOST,
    NEXT,
    REQUEST,
    REQUEST_BEGUN,
    SWITCHED,
    TUNNEL,
)
from proxy.http1.upstream import Failure

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = b"connection: close\r\n"


class Downstream(Client):
    """A client's connection."""

    __slots__ = (
        "_body",
        "_chunking",
        "_clients",
        "_close",
        "_forwarder",
        "_gathered",
        "_held",
        "_log",
        "_reader",
        "_scheme",
        "_shared",
        "_taking",
        "_unsent",
    )

    def __init__(
        self,
        shared: Shared,
        clients: Clients,
        log: AccessEntry | None = None,
        scheme: bytes = b"http",
        address: str = "",
    ) -> None:
        """``address``: the client's, if a PROXY header named it; ``log`` is None if the log is off."""
        self._shared = shared
        self._clients = clients
        self._log = log
        self._scheme = scheme
        self.address = address
        self.place = None
        self.state = HEAD
        self.deadline = NEVER
        self.paused = False
        self.writing_paused = False
        self.eof = False
        self._unsent = 0  # bytes in the write buffer when it was last checked
        # Requests.
        self._taking = False  # ``_take`` is running, or has yielded to other connections
        self._held = b""  # what follows the current request, or an incomplete head
        self._reader = HeadReader(shared.heads, shared.max_head)
        self._body: RequestBody | None = None  # of the current request, until it has ended
        self._gathered: list[bytes] | None = None  # the body, for a data request; None: the body goes to an origin
        self._forwarder = Forwarder(self, shared)
        self.invited = True
        # The current answer.
        self.forwarded = None
        self.waiting = None
        self.begun = False
        self._chunking = False  # the body is sent in chunks
        self._close = False  # the connection ends after it

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self._shared
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        if not self.address:
            name = transport.get_extra_info("peername")
            self.address = address_of(name[0]) if isinstance(name, tuple) else ""
        self.peer = Peer(self.address, self._scheme, shared.trusted)
        self.deadline = shared.now + shared.head_timeout_s
        refusal = self._clients.admit(self)
        if refusal is not None:
            self._refuse(*refusal)

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state == HEAD:
            if self._held or self._taking:
                self._more(data)
            else:
                self._take(data)
        elif state == BODY:
            body = self._body
            assert body is not None
            self._upload(body, data)
        elif state == BUSY:
            self._held += data
            self._pause_if_far_ahead()
        elif state == TUNNEL:
            self._forwarder.send_tunnelled(data)

    def eof_received(self) -> bool:
        if not self.transport.can_write_eof():
            return False  # TLS ends both ways at once
        state = self.state
        if state == BUSY or (state == HEAD and (self._taking or self.writing_paused)):
            # After a FIN the client may still wait for its answer, or be gone: both look the same.
            self.eof = True
            if state == BUSY:
                self._probe()
            return True
        if state == TUNNEL:
            self.eof = True
            return self._forwarder.send_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        log = self._log
        if log is not None and log.under_way:
            log.end(self.address, self.line, self.fields, "ended" if log.status == 101 else "client gone")
        self.state = NEXT[self.state + LOST]
        self._clients.left(self)
        self._held = b""
        self._forwarder.recall()
        if self.waiting is not None:
            self.waiting.gone()
            self.waiting = None
        self._end_forwarded()

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._forwarder.pause_answer()
        if self.waiting is not None:
            self.waiting.pause()
        self._watch_sending()

    def resume_writing(self) -> None:
        self.writing_paused = False
        state = self.state
        if state == LINGER:
            return  # in this state the deadline is for what is still unsent
        self.deadline = NEVER
        self._forwarder.resume_answer()
        if self.waiting is not None:
            self.waiting.resume()
        if state == HEAD:
            self.deadline = self._shared.now + self._shared.idle_timeout_s
            self._next()

    # Heads

    def _take(self, data: bytes) -> None:
        """Handle the requests in ``data``, as long as each is answered at once; the rest is held."""
        shared = self._shared
        reader = self._reader
        turns = shared.pipeline
        self._taking = True
        while data:
            try:
                size = reader.read(data)
            except Refused as refused:
                self._refuse(refused.status, refused.code, refused.message)
                break
            if not size:
                self._held = data
                self.deadline = shared.now + shared.head_timeout_s
                break
            if not turns:
                self._held = data
                self._pause_if_far_ahead()
                asyncio.get_running_loop().call_soon(self._turn)
                return
            turns -= 1
            self.line = reader.line
            self.fields = reader.fields
            self._close = reader.close
            self.deadline = NEVER
            self._begin(data[size:])
            if self.state != HEAD or self.writing_paused:
                if self._held:
                    self._pause_if_far_ahead()
                break
            data, self._held = self._held, b""
        self._taking = False

    def _more(self, data: bytes) -> None:
        """More bytes arrive while an incomplete head is held, or while ``_take`` has yielded."""
        held = self._held
        self._held = held + data
        if self._taking:
            self._pause_if_far_ahead()
        elif self._reader.is_decided(held, data):
            data, self._held = self._held, b""
            self._take(data)

    def _turn(self) -> None:
        """Continue after yielding to other connections."""
        self._taking = False
        if self.state == HEAD:
            self._next()

    def _next(self) -> None:
        """No request is current: continue with held bytes, or wait for the next request."""
        if self._taking or self.writing_paused:
            return
        self._resume_reading()
        if self._held:
            data, self._held = self._held, b""
            self._take(data)
        if self.eof and self.state == HEAD and not (self._taking or self.writing_paused):
            self.give_up(more=False)  # after the FIN an incomplete request cannot be completed

    def _begin(self, rest: bytes) -> None:
        """A request's head is complete and ``rest`` follows it: pass the request on."""
        shared, line, fields = self._shared, self.line, self.fields
        if self._log is not None:
            self._log.begin()
        if fields.has_body:
            self.state = NEXT[self.state + REQUEST_BEGUN]
            self._body = RequestBody(fields)
            self.invited = not fields.expects_continue or bool(rest)
            self.deadline = shared.now + shared.body_timeout_s
        else:
            self.state = NEXT[self.state + REQUEST]
            self._held = rest
        route = line.route
        if route is None:
            shared.count_app()
            self.forward(shared.app, rest)
        elif isinstance(route, Endpoint):
            shared.services[route.migration].begin(self, route, rest)
        elif isinstance(route, NotAllowed):
            message = f"{line.method.decode()} is not allowed here"
            self.answer_error(405, "method_not_allowed", message, b"allow: %b\r\n" % route.allow)
        else:
            assert isinstance(route, Options)
            beyond = route.beyond
            if beyond is None:
                shared.count_app()
            if fields.max_forwards == 0:  # RFC 9110 section 7.6.2: this hop is its final recipient
                self.write(204, APP, b"HTTP/1.1 204 No Content\r\n%b" % shared.date, b"")
            elif beyond is None:
                self.forward(shared.app, rest)
            else:
                shared.services[beyond.migration].begin(self, beyond, rest)

    # Bodies

    def forward(self, pool: Pool, rest: bytes) -> None:
        body = self._body
        if body is None:
            self._forwarder.send(pool, b"")
            return
        if not self._limit_body(body, pool.max_body):
            return
        payload = self._decode(body, rest)
        if payload is None:
            return
        self._forwarder.send(pool, body.framed(payload))
        if self.state == BODY and not self.invited:
            self.deadline = self._shared.now + pool.timeout_s

    def forward_gathered(self, pool: Pool, body: bytes) -> None:
        if self.fields.chunked:
            body = (chunk(body) if body else b"") + last_chunk(b"")
        self._forwarder.send(pool, body)

    def gather(self, rest: bytes) -> None:
        body = self._body
        assert body is not None
        if not self._limit_body(body, self._shared.max_body):
            return
        self._gathered = []
        if not self.invited:
            self.invited = True
            self.transport.write(_CONTINUE)
        self._upload(body, rest)

    def _upload(self, body: RequestBody, data: bytes) -> None:
        """More of a request's body arrived."""
        payload = self._decode(body, data)
        if payload is None:
            return
        gathered = self._gathered
        if gathered is None:
            self._forwarder.send_more(body.framed(payload))
            return
        gathered.append(payload)
        if self.state == BUSY:
            self._gathered = None
            self.deadline = NEVER
            route = self.line.route
            assert isinstance(route, Endpoint)
            self._shared.services[route.migration].ready(self, route, b"".join(gathered))

    def _decode(self, body: RequestBody, data: bytes) -> bytes | None:
        """The payload in ``data``; None if the body was refused."""
        if not data:
            return data
        self.invited = True
        try:
            payload = body.feed(data)
        except Refused as refused:
            self._refuse(refused.status, refused.code, refused.message)
            return None
        if body.ended:
            self.state = NEXT[self.state + BODY_ENDED]
            self._body = None
            self._held = body.rest
            self._pause_if_far_ahead()
            self._forwarder.expect_answer()
        elif not self.begun:
            # Each piece extends the deadline by its size at the minimum rate: a slow line keeps up, a trickle does
            # not.
            shared = self._shared
            earned = len(payload) / shared.min_rate if shared.min_rate else shared.body_timeout_s
            self.deadline = min(shared.now + shared.body_timeout_s, self.deadline + earned)
        return payload

    def _limit_body(self, body: RequestBody, limit: int) -> bool:
        """Limit the body to ``limit`` bytes, 0 for any. False: its length exceeds that, and it was refused."""
        body.limit = limit
        if not limit or self.fields.length <= limit:
            return True
        refused = too_large(limit)
        self._refuse(refused.status, refused.code, refused.message)
        return False

    # Answers

    def write(self, status: int, source: bytes, head: bytes, body: bytes) -> None:
        if self._log is not None:
            self._log.answered(status, source, len(body))
        close = self._connection_field()
        if self._reader.head_only:
            body = b""
        self.transport.write(b"%b%b\r\n%b" % (head, close, body))
        self._complete()

    def pass_on(self, response: Response, source: bytes, extra: bytes, tail: bytes) -> None:
        if self._log is not None:
            self._log.answered(response.status, source, len(tail) - len(CRLF))
        if not response.dated:
            extra = self._shared.date + extra
        close = self._connection_field()
        if close:
            extra = close + extra
        self.begun = True
        self.transport.write(response.wire + extra + tail if extra else response.wire + tail)
        self._complete()

    def begin_answer(self, status: int, source: bytes, head: bytes, sized: bool) -> None:
        if self._log is not None:
            self._log.answered(status, source, 0)
        if not sized:
            if self.line.http10:
                self._close = True  # HTTP/1.0 knows no chunks: the body ends with the connection
            else:
                self._chunking = True
                head += b"transfer-encoding: chunked\r\n"
        self.begun = True
        self.transport.write(head + self._connection_field() + CRLF)

    def payload(self, data: bytes) -> None:
        if self._log is not None:
            self._log.add(len(data))
        if self._chunking:
            self.transport.writelines((b"%x\r\n" % len(data), data, CRLF))
        else:
            self.transport.write(data)

    def end_answer(self, trailers: bytes) -> None:
        if self._chunking:
            self.transport.write(last_chunk(trailers))
        self._complete()

    def answer_error(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        if self._log is not None:
            self._log.answered(status, APP, 0)
        extra += self._shared.date + self._connection_field()
        self.transport.write(self._shared.form.encode(status, code, message, extra, bodiless=self._reader.head_only))
        self._complete()

    def switch(self, source: bytes, head: bytes, data: bytes) -> bytes:
        if self._log is not None:
            self._log.answered(101, source, 0)
        self.state = NEXT[self.state + SWITCHED]
        self.begun = True
        self.transport.write(head + data)
        ahead, self._held = self._held, b""
        return ahead

    def recall(self) -> None:
        self._forwarder.recall()

    def fail(self, failure: Failure) -> None:
        self._forwarder.failed(failure)

    def _refuse(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        """The request cannot be passed on: answer with an error and close, because what follows cannot be trusted."""
        self._shared.count_refused()
        self._forwarder.recall()
        log = self._log
        if log is not None:
            log.refused(status)
            if log.under_way:
                log.end(self.address, self.line, self.fields, "refused")
            else:
                log.unreadable(self.address)
        if self.begun:
            self.reset()
            return
        extra += self._shared.date + _CLOSE
        self.transport.write(self._shared.form.encode(status, code, message, extra, bodiless=self._reader.head_only))
        self.give_up(more=True)

    def _complete(self) -> None:
        """The whole answer is written."""
        log = self._log
        if log is not None:
            log.end(self.address, self.line, self.fields)
        self.begun = False
        self._chunking = False
        if self.forwarded is not None:
            self.forwarded.done()
            self.forwarded = None
        self.waiting = None
        state = self.state
        if state == BODY or self._close:
            self.give_up(more=state == BODY)
            return
        self.state = NEXT[self.state + ANSWERED]
        if not self.writing_paused:
            self.deadline = self._shared.now + self._shared.idle_timeout_s
        if self._held or self.paused or self.eof:
            self._next()

    def _connection_field(self) -> bytes:
        """Decide whether the connection stays open; returns the Connection field for the answer's head."""
        if self.state == BODY or self._shared.draining:
            self._close = True  # in BODY the rest of the request is not read, so the next one cannot be found
        if self._close:
            return _CLOSE
        return b"connection: keep-alive\r\n" if self.line.http10 else b""

    def _end_forwarded(self) -> None:
        """Tell the service that forwarded the request that the client no longer waits."""
        if self.forwarded is not None:
            self.forwarded.gone()
            self.forwarded = None

    # Reading and writing

    def pause_reading(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        if len(self._held) <= self._shared.max_head:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self.paused and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    def _pause_if_far_ahead(self) -> None:
        """Stop reading when the client has sent more ahead than the maximum size of a head."""
        if len(self._held) > self._shared.max_head:
            self.pause_reading()

    def _watch_sending(self) -> None:
        """From now on the client must receive at the minimum rate."""
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = self._shared.now + self._shared.body_timeout_s

    def _still_sending(self) -> bool:
        """Whether something is unsent and the client received enough since the last check."""
        shared = self._shared
        left = self.transport.get_write_buffer_size()
        if not left or left > self._unsent - shared.min_rate * shared.body_timeout_s:
            return False
        self._unsent = left
        self.deadline = shared.now + shared.body_timeout_s
        return True

    # The end

    def give_up(self, more: bool) -> None:
        """Accept no further request, and close without a reset, which could destroy the last answer before it is
        read.

        If the client may still be sending, a FIN tells it to stop. TLS has no half-close: there the client closes the
        connection when it has read the answer, or the deadline does.
        """
        self._held = b""
        self._body = None
        self._end_forwarded()
        self.state = NEXT[self.state + GAVE_UP]
        self._resume_reading()
        if self.transport.can_write_eof():
            if self.eof:
                self.transport.close()
            else:
                self.transport.write_eof()
        elif not more:
            self.transport.close()
        shared = self._shared
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = shared.now + (shared.body_timeout_s if self._unsent else shared.linger_s)

    def reset(self) -> None:
        liveness.reset(self.transport)

    def end_if_reset(self) -> bool:
        return liveness.end_if_reset(self.transport)

    def _probe(self) -> None:
        """Find out whether a client that sent FIN still reads: harmless bytes make a closed socket answer with a
        reset.

        Before an answer that is an interim answer, which every client must accept (RFC 9110 section 15.2); within a
        chunked answer a leading zero of the next chunk's size, of which any number is allowed. In all other cases
        only TCP keepalive probes, which notice it when the client's kernel has forgotten the connection: after a
        minute.
        """
        if self._chunking:
            self.transport.write(b"0")
        elif not self.begun and not self.line.http10:
            self.transport.write(_CONTINUE)
        liveness.keep_asking(self.transport)

    # Time

    def expire(self) -> None:
        state = self.state
        if state == LINGER:
            self._end_lingering()
        elif self.writing_paused:
            if not self._still_sending():
                self.reset()
        elif state == HEAD:
            if self._held:
                self._refuse(408, "request_timeout", "the request's head did not come in time")
            else:
                self.give_up(more=False)
        elif self.begun or state == CLOSED:
            self.reset()
        elif state == BODY and self.invited and not self.paused:
            self._refuse(408, "request_timeout", "the request's body did not come in time")
        else:
            self._forwarder.recall()
            self._forwarder.failed(Failure(504, "gateway_timeout", "the upstream did not answer in time"))

    def _end_lingering(self) -> None:
        """Stay open as long as the client receives its answer, and ``linger_s`` beyond."""
        if self._still_sending():
            return
        if self._unsent and not self.transport.get_write_buffer_size():
            self._unsent = 0
            self.deadline = self._shared.now + self._shared.linger_s
            return
        self.transport.abort()

    def close_when_idle(self, grace_s: float) -> None:
        if self.state == HEAD and not (self._held or self.writing_paused):
            self.deadline = min(self.deadline, self._shared.now + grace_s)
