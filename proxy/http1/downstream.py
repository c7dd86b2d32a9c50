"""One client's requests, in order: heads and bodies in; each request forwarded, gathered or answered.

Both directions have back-pressure: a side that takes no more stops the other side's reading, so a connection holds a
few write buffers at most, whatever the bodies' size. What comes while an answer is on its way is the next request and
waits; a client that sends ahead without end is not read, and one that is answered from memory takes its turn.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from proxy.http1 import forwarding
from proxy.http1.body import ByLength, Chunked, chunk, last_chunk
from proxy.http1.connection import BODY, BUSY, CLOSED, HEAD, LINGER, NEVER, TUNNEL
from proxy.http1.head import CRLF, HEAD_END, Fields, Line
from proxy.http1.passage import Passage
from proxy.http1.pool import Pool
from proxy.http1.refusal import Refused
from proxy.http1.upstream import Failure
from proxy.migration.routes import Endpoint, NotAllowed, Options

if TYPE_CHECKING:
    from proxy.process.gateway import Gateway

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_BEGINS_REQUEST: Final = re.compile(rb"[\r!#$%&'*+\-.^_`|~0-9A-Za-z]")


class Downstream(Passage):
    """A client's connection."""

    __slots__ = ("_block", "_body", "_received", "_taking")

    def __init__(self, gateway: Gateway, scheme: bytes = b"http", address: str = "") -> None:
        super().__init__(gateway, scheme, address)
        self._taking = False
        self._block: bytes | None = None  # the fields of the last request, which a client repeats to the byte
        self._body: list[bytes] | None = None  # gathered for a data request; None: the body goes on
        self._received = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._trusted = forwarding.is_trusted(self.address, self.gateway.trusted)
        self._own_forwarding = forwarding.replaced(self.address, self.scheme)
        turned_away = self.gateway.admit(self)
        if turned_away is not None:
            self.refuse(*turned_away)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == HEAD:
            if self._held or self._taking:
                self._more(data)
            else:
                self._take(data)
        elif state == BODY:
            self._upload(data)
        elif state == BUSY:
            self._held += data
            if len(self._held) > self.gateway.max_head:
                self._pause_reading()
        elif state == TUNNEL and self._up is not None:
            self.deadline = self.gateway.now + self._pool.quiet_s
            self._up.transport.write(data)

    def eof_received(self) -> bool:
        if not self.transport.can_write_eof():
            return False  # TLS ends both ways at once
        state = self._state
        if state == BUSY or (state == HEAD and (self._taking or self._writing_paused)):
            # Either the client will send no more and waits for its answer, or it is gone: the FIN is the same.
            self._eof = True
            if state == BUSY:
                self._probe(self.line.http10)
            return True
        if state == TUNNEL and self._up is not None:
            self._eof = True
            if not self._up_eof:
                return self._up.send_eof()
            self._up.finish()
            self._up = None
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = CLOSED
        self.gateway.left(self)
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
        self._watch_sending()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._state == LINGER:
            return  # its deadline is about what is left
        self.deadline = NEVER
        if self._up is not None:
            self.deadline = self.gateway.now + self._pool.quiet_s
            self._up.resume_reading()
        if self.waiting is not None:
            self.waiting.resume()
        if self._state == HEAD:
            self.deadline = self.gateway.now + self.gateway.idle_timeout_s
            self._next()

    # Heads

    def _take(self, data: bytes) -> None:
        """Deal with the requests in ``data``: whole heads while each is answered at once, the rest is held."""
        gateway = self.gateway
        heads = gateway.heads
        turns = gateway.pipeline
        self._taking = True
        while data:
            end = data.find(HEAD_END)
            if end < 0 or end > gateway.max_head:
                self._partial(data, end)
                break
            if not turns:
                self._held = data
                if len(data) > gateway.max_head:
                    self._pause_reading()
                asyncio.get_running_loop().call_soon(self._turn)
                return
            turns -= 1
            eol = data.find(CRLF)
            if eol == 0:  # RFC 9112 section 2.2: an empty line before a request is ignored; one, and no flood of them
                if data.startswith(CRLF, 2):
                    self.expects_head_only = False
                    self.refuse(400, "bad_request_line", "expected a request, found empty lines")
                    break
                data = data[2:]
                continue
            line = None
            try:
                raw = data[:eol]
                line = heads.lines.get(raw)
                if line is None:
                    line = heads.line(raw)
                block = data[eol + 2 : end + 2]
                if line.http10:
                    self._block = None
                    fields = heads.fields_http10(block)
                elif block == self._block:
                    fields = self.fields
                else:
                    known = heads.blocks.get(block)
                    fields = heads.fields(block) if known is None else known
                    self._block = block
                self._close = fields.close
                if line.authority is not None or fields.host is None or line.http10:
                    self._unusual(line, fields)
            except Refused as refused:
                self._block = None
                self.expects_head_only = line is not None and line.is_head
                self.refuse(refused.status, refused.code, refused.message)
                break
            self.line = line
            self.fields = fields
            self.expects_head_only = line.is_head
            self.deadline = NEVER
            self._begin(line, fields, data[end + 4 :])
            if self._state != HEAD or self._writing_paused:
                if len(self._held) > gateway.max_head:
                    self._pause_reading()
                break
            data, self._held = self._held, b""
        self._taking = False

    def _unusual(self, line: Line, fields: Fields) -> None:
        """An absolute-form, a request without a Host, or HTTP/1.0. Raises ``Refused``."""
        if line.http10:
            self._close = not fields.keep_alive or fields.close
        if fields.host is None:
            if not line.http10:
                raise Refused(400, "missing_host", "expected a Host field")
        elif line.authority is not None and line.authority.lower() != fields.host.lower():
            raise Refused(400, "bad_host", "Host and the target's authority differ")

    def _partial(self, data: bytes, end: int) -> None:
        """The beginning of a head, or one that is too large."""
        self.expects_head_only = False  # that was the request before
        if end > 0 or len(data) > self.gateway.max_head:
            self.refuse(431, "head_too_large", f"expected a head of at most {self.gateway.max_head} bytes")
        elif _BARE_LF.search(data):
            self.refuse(400, "bad_line_end", "expected every line to end in CRLF")
        elif not _BEGINS_REQUEST.match(data):
            self.refuse(400, "bad_request_line", "expected a method")
        else:
            self.deadline = self.gateway.now + self.gateway.head_timeout_s
            self._held = data

    def _more(self, data: bytes) -> None:
        """Bytes behind a head that is not whole: only where they meet is searched, however small the pieces are."""
        held = self._held
        self._held = held + data
        if self._taking:
            if len(self._held) > self.gateway.max_head:
                self._pause_reading()
            return
        seam = held[-3:] + data
        if HEAD_END in seam:
            data, self._held = self._held, b""
            self._take(data)
        elif len(self._held) > self.gateway.max_head or _BARE_LF.search(seam, min(3, len(held))):
            data, self._held = self._held, b""
            self._partial(data, -1)

    def _turn(self) -> None:
        """Others have had their turn."""
        self._taking = False
        if self._state == HEAD:
            self._next()

    def _next(self) -> None:
        if self._taking or self._writing_paused:
            return
        if self.paused:
            self._resume_reading()
        if self._held:
            data, self._held = self._held, b""
            self._take(data)
        if self._eof and self._state == HEAD and not (self._taking or self._writing_paused):
            self._give_up(more=False)  # what is left of its requests can never become whole

    def _begin(self, line: Line, fields: Fields, rest: bytes) -> None:
        """A request's head is here, with ``rest`` behind it: send it where it belongs."""
        route = line.route
        if fields.has_body:
            self._decoder = Chunked() if fields.chunked else ByLength(fields.length)
            self._state = BODY
            self._received = 0
            self._invited = not fields.expects_continue or bool(rest)
            self.deadline = self.gateway.now + self.gateway.body_timeout_s
        else:
            self._held = rest
            self._state = BUSY
        if route is None:
            self.gateway.count_app()
            self.forward(self.gateway.app, rest)
        elif isinstance(route, Endpoint):
            self.gateway.shares[route.migration].begin(self, route, rest)
        elif isinstance(route, NotAllowed):
            message = f"{line.method.decode()} is not allowed here"
            self.answer_error(405, "method_not_allowed", message, b"allow: %b\r\n" % route.allow)
        else:
            assert isinstance(route, Options)
            beyond = route.beyond
            if beyond is None:
                self.gateway.count_app()
            if fields.max_forwards == 0:  # RFC 9110 section 7.6.2: it was to reach this hop and no other
                self.write(b"HTTP/1.1 204 No Content\r\n%b" % self.gateway.date, b"")
            elif beyond is None:
                self.forward(self.gateway.app, rest)
            else:
                self.gateway.shares[beyond.migration].begin(self, beyond, rest)

    # Bodies

    def forward(self, pool: Pool, rest: bytes) -> None:
        """Send the current request to an origin; ``rest`` is what has come of its body."""
        if self._decoder is None:
            self._send(pool, b"")
            return
        if pool.max_body and self.fields.length > pool.max_body:
            self._too_large(pool.max_body)
            return
        body = self._decode(rest, pool.max_body)
        if body is None:
            return
        self._send(pool, self._framed(body))
        if self._state == BODY and not self._invited:
            self.deadline = self.gateway.now + pool.timeout_s

    def forward_gathered(self, pool: Pool, body: bytes) -> None:
        """Send the current request to an origin, with its whole body as it was gathered."""
        if self.fields.chunked:
            body = (chunk(body) if body else b"") + last_chunk(b"")
        self._send(pool, body)

    def gather(self, rest: bytes) -> None:
        """Gather the body; the share's ``ready`` is called when it is whole."""
        limit = self.gateway.max_body
        if limit and self.fields.length > limit:
            self._too_large(limit)
            return
        self._body = []
        if not self._invited:
            self._invited = True
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._upload(rest)

    def _upload(self, data: bytes) -> None:
        """More of a request's body."""
        gathered = self._body
        payload = self._decode(data, self._pool.max_body if gathered is None else self.gateway.max_body)
        if payload is None:
            return
        if gathered is None:
            body = self._framed(payload)
            up = self._up
            if up is None:
                self._early += body  # still connecting: reading is paused, so this is one buffer at most
                return
            up.sending = self._decoder is not None
            if body:
                up.transport.write(body)
            return
        gathered.append(payload)
        if self._state == BUSY:
            self._decoder = None
            self._body = None
            self.deadline = NEVER
            route = self.line.route
            assert isinstance(route, Endpoint)
            self.gateway.shares[route.migration].ready(self, route, b"".join(gathered))

    def _decode(self, data: bytes, limit: int) -> bytes | None:
        """What of ``data`` belongs to the request's body; None where it was refused. ``limit`` in bytes; 0: none."""
        decoder = self._decoder
        assert decoder is not None
        payload = b""
        if data:
            self._invited = True
            try:
                payload, rest = decoder.feed(data)
            except Refused as refused:
                self.refuse(refused.status, refused.code, refused.message)
                return None
            self._received += len(payload)
            if limit and self._received > limit:
                self._too_large(limit)
                return None
            gateway = self.gateway
            now = gateway.now
            if decoder.done:
                self._state = BUSY
                self._held = rest
                if len(rest) > gateway.max_head:
                    self._pause_reading()
                if not self._begun and self._up is not None:
                    self.deadline = now + self._pool.timeout_s
            elif not self._begun:
                # Each piece earns time at the least rate, so a trickle runs out of it and a slow line does not.
                earned = len(payload) / gateway.min_rate if gateway.min_rate else gateway.body_timeout_s
                self.deadline = min(now + gateway.body_timeout_s, self.deadline + earned)
        return payload

    def _framed(self, payload: bytes) -> bytes:
        """The payload as the next hop gets it, with the end where it has come."""
        decoder = self._decoder
        assert decoder is not None
        if self.fields.chunked:
            payload = chunk(payload) if payload else b""
            if decoder.done:
                payload += last_chunk(decoder.trailers)
        if decoder.done:
            self._decoder = None
        return payload

    def _too_large(self, limit: int) -> None:
        self.refuse(413, "body_too_large", f"expected a body of at most {limit} bytes")

    # Time

    def expire(self) -> None:
        """The deadline passed."""
        state = self._state
        if state == LINGER:
            self._end_lingering()
        elif self._writing_paused:
            if not self._still_sending():
                self.reset()
        elif state == HEAD:
            if self._held:
                self.refuse(408, "request_timeout", "the request's head did not come in time")
            else:
                self._give_up(more=False)
        elif self._begun or state == CLOSED:
            self.reset()
        elif state == BODY and self._invited and not self.paused:
            self.refuse(408, "request_timeout", "the request's body did not come in time")
        else:
            self.recall()
            self.failed(Failure(504, "gateway_timeout", "the upstream did not answer in time"))

    def close_when_idle(self, grace_s: float) -> None:
        """The worker is leaving: the request under way is the last; one on its way has ``grace_s`` to come."""
        if self._state == HEAD and not (self._held or self._writing_paused):
            self.deadline = min(self.deadline, self.gateway.now + grace_s)
