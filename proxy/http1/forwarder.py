"""Forwards a client's requests to origins, one at a time, and their answers back.

``Forwarder`` is the ``Sink`` of the upstream connection that has the current request. Back-pressure passes through: a
client with a full write buffer stops reading from the origin, and a full buffer to the origin stops reading from the
client. An answer that has begun is completed, or broken off with a reset.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.http1.client import APP, Client
from proxy.http1.head import CRLF, NO_LENGTH, Fields, Response
from proxy.http1.pool import Pool
from proxy.http1.refusal import BAD_GATEWAY
from proxy.http1.shared import NEVER, Shared
from proxy.http1.states import BODY, BUSY
from proxy.http1.upstream import Failure, Sink, Upstream

_OVERLOADED: Final = 503
_RETRY_AFTER: Final = b"retry-after: 1\r\n"


class Forwarder(Sink):
    """Forwards one request of a client's connection at a time."""

    __slots__ = (
        "_client",
        "_connecting",
        "_early",
        "_onward",
        "_onward_of",
        "_pool",
        "_retried",
        "_shared",
        "_up",
        "_up_eof",
    )

    _pool: Pool  # where the current request went

    def __init__(self, client: Client, shared: Shared) -> None:
        self._client = client
        self._shared = shared
        self._up: Upstream | None = None
        self._up_eof = False  # the tunnel's origin has sent FIN
        self._connecting: asyncio.Task[None] | None = None
        self._early = b""  # the part of the request's body that waits for a connection
        self._retried = False
        self._onward = b""  # the head after the request line, as the pool's origin receives it with ``_onward_of``
        self._onward_of: Fields | None = None

    # The request

    def send(self, pool: Pool, body: bytes) -> None:
        """Send the client's current request to an origin, with what has arrived of its body, framed."""
        client = self._client
        line = client.line
        fields = client.fields
        if fields is not self._onward_of or pool is not self._pool:
            self._pool = pool
            self._onward = client.peer.onward(line, fields, pool.host_asked, pool.host)
            self._onward_of = fields if fields.max_forwards is None else None
        self._retried = False
        up = pool.take()
        if up is None:
            self._early = body
            self._connect()
            return
        self._up = up
        state = client.state
        if state == BUSY:
            client.deadline = self._shared.now + pool.timeout_s
        up.begin(self, line.wire + self._onward + body, line.is_head, state == BODY)

    def send_more(self, body: bytes) -> None:
        """Send more of the request's body, framed; the client's state tells whether it is complete."""
        up = self._up
        if up is None:
            self._early += body  # still connecting: reading is paused, so this is one buffer at most
            return
        up.sending = self._client.state == BODY
        if body:
            up.transport.write(body)

    def expect_answer(self) -> None:
        """The request is complete: from now on the deadline is for the origin."""
        client = self._client
        if self._up is not None and not client.begun:
            client.deadline = self._shared.now + self._pool.timeout_s

    def recall(self) -> None:
        """Cancel the request at the origin. Idempotent."""
        up, self._up = self._up, None
        if up is not None:
            up.abandon()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._early = b""

    def _connect(self) -> None:
        """Open a connection for the current request."""
        client = self._client
        client.deadline = NEVER  # the pool has its own
        if client.state == BODY:
            client.pause_reading()
        self._connecting = asyncio.get_running_loop().create_task(self._send_on_new(self._pool))

    async def _send_on_new(self, pool: Pool) -> None:
        up = await pool.connect()
        self._connecting = None
        if isinstance(up, Failure):
            self.failed(up)
            return
        client, shared = self._client, self._shared
        state = client.state
        if state != BODY and state != BUSY:
            up.abort()
            return
        self._up = up
        early, self._early = self._early, b""
        whole = state == BUSY or not client.invited
        client.deadline = shared.now + (pool.timeout_s if whole else shared.body_timeout_s)
        line = client.line
        up.begin(self, line.wire + self._onward + early, line.is_head, state == BODY)
        if not up.choked:
            client.read_on()

    def pause_upload(self) -> None:
        client = self._client
        client.pause_reading()
        if not client.begun:
            client.deadline = self._shared.now + self._pool.timeout_s

    def resume_upload(self) -> None:
        client = self._client
        client.read_on()
        if client.state == BODY and not client.begun:
            client.deadline = self._shared.now + self._shared.body_timeout_s

    # The answer

    def pause_answer(self) -> None:
        """The client's write buffer is full."""
        if self._up is not None:
            self._up.pause_reading()

    def resume_answer(self) -> None:
        """The client accepts data again."""
        if self._up is not None:
            self._client.deadline = self._shared.now + self._pool.quiet_s
            self._up.resume_reading()

    def interim(self, response: Response) -> None:
        client = self._client
        if client.line.http10:
            return
        if response.status == 100 and not client.invited:
            client.invited = True
            client.deadline = self._shared.now + self._shared.body_timeout_s
        client.transport.write(response.wire + CRLF)

    def whole(self, response: Response, tail: bytes) -> None:
        self._up = None
        client = self._client
        forwarded = client.forwarded
        if forwarded is None:
            client.pass_on(response, APP, b"", tail)
        elif forwarded.judged(response):
            client.pass_on(response, forwarded.source, forwarded.extra, tail)

    def head(self, response: Response, size: int) -> None:
        client = self._client
        source, extra = APP, b"" if response.dated else self._shared.date
        forwarded = client.forwarded
        if forwarded is not None:
            up, self._up = self._up, None
            if not forwarded.judged(response):
                if up is not None:
                    up.abandon()
                return
            self._up = up
            source = forwarded.source
            extra += forwarded.extra
        client.deadline = self._shared.now + self._pool.quiet_s
        client.begin_answer(response.status, source, response.wire + extra, size != NO_LENGTH)

    def payload(self, data: bytes) -> None:
        client = self._client
        if not client.writing_paused:
            client.deadline = self._shared.now + self._pool.quiet_s
        client.payload(data)

    def end(self, trailers: bytes) -> None:
        self._up = None
        self._client.end_answer(trailers)

    def failed(self, failure: Failure) -> None:
        self._up = None
        client = self._client
        if client.state != BODY and client.state != BUSY:
            return
        forwarded = client.forwarded
        if client.begun:
            if forwarded is not None:
                forwarded.broke_off()
            client.reset()
            return
        if failure.repeatable and client.line.idempotent and not client.fields.has_body and not self._retried:
            self._retried = True
            self._connect()
            return
        if forwarded is None:
            self._shared.count_app_error()
        elif forwarded.failed(failure):
            return
        extra = _RETRY_AFTER if failure.status == _OVERLOADED else b""
        client.answer_error(failure.status, failure.code, failure.message, extra)

    # A tunnel (RFC 9110 section 7.8)

    def tunnel(self, response: Response, data: bytes) -> None:
        client = self._client
        offered = {name.strip().lower() for name in client.fields.upgrade.split(b",")}
        if client.state != BUSY or response.upgrade.lower() not in offered - {b""}:
            self.recall()
            self.failed(Failure(502, BAD_GATEWAY, "the upstream changed protocols without being asked"))
            return
        source, extra = APP, b""
        forwarded = client.forwarded
        if forwarded is not None:
            forwarded.judged(response)
            source, extra = forwarded.source, forwarded.extra
        up = self._up
        assert up is not None
        client.deadline = self._shared.now + self._pool.quiet_s
        upgrade = b"connection: upgrade\r\nupgrade: %b\r\n\r\n" % response.upgrade
        ahead = client.switch(source, response.wire + extra + upgrade, data)
        if ahead:
            up.transport.write(ahead)
        if not up.choked:
            client.read_on()
        if client.eof:
            up.send_eof()

    def send_tunnelled(self, data: bytes) -> None:
        """The client's bytes in a tunnel."""
        if self._up is not None:
            self._client.deadline = self._shared.now + self._pool.quiet_s
            self._up.transport.write(data)

    def send_eof(self) -> bool:
        """The client has sent FIN in a tunnel. True: data may still be sent to the client."""
        up = self._up
        if up is None:
            return False
        if not self._up_eof:
            return up.send_eof()
        up.finish()
        self._up = None
        return False

    def upstream_eof(self) -> bool:
        self._up_eof = True
        client = self._client
        if client.eof or not client.transport.can_write_eof():
            return False
        client.transport.write_eof()
        return True

    def upstream_closed(self, broken: bool) -> None:
        self._up = None
        if broken:
            self._client.reset()
        else:
            self._client.give_up(more=False)
