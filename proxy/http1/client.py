"""The interfaces between a client's connection and what answers its requests: ``Client``, and what it calls back.

``Downstream`` implements ``Client``. ``Forwarder`` and the services of data requests use it, so that they do not
depend on how requests are read from the wire. All are base classes, so that compiled code calls them as cheaply as C.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.http1.head import Fields, Line, Response
from proxy.http1.nexthop import Peer
from proxy.http1.pool import Pool
from proxy.http1.states import CLOSED
from proxy.http1.upstream import Failure

APP: Final = b"app"  # the access log's source of an answer that came from no data source


class Forwarded:
    """The callbacks of a data request that is forwarded to an origin."""

    __slots__ = ("extra", "source")

    extra: bytes  # fields added to the answer's head
    source: bytes  # what answers, for the access log

    def judged(self, response: Response) -> bool:
        """The answer's head has arrived. False: do not pass it on, another answer is being made."""
        raise NotImplementedError

    def failed(self, failure: Failure) -> bool:
        """No answer will come. True: another answer is being made."""
        raise NotImplementedError

    def broke_off(self) -> None:
        """The answer broke off before its end."""
        raise NotImplementedError

    def done(self) -> None:
        """The whole answer is written."""
        raise NotImplementedError

    def gone(self) -> None:
        """The client went away before the whole answer was written."""
        raise NotImplementedError


class Waiting:
    """The callbacks of a data request whose answer is still being made in this worker."""

    __slots__ = ()

    def gone(self) -> None:
        """The client went away."""
        raise NotImplementedError

    def pause(self) -> None:
        """Back-pressure: the client's write buffer is full."""
        raise NotImplementedError

    def resume(self) -> None:
        """The client accepts data again."""
        raise NotImplementedError


class Client(asyncio.Protocol):
    """A client's connection with its current request, and the ways to answer it.

    ``state`` is one of ``states``; only ``Downstream`` changes it. The one ``deadline`` is for whatever it waits for.
    """

    __slots__ = (
        "address",
        "begun",
        "deadline",
        "eof",
        "fields",
        "forwarded",
        "invited",
        "line",
        "paused",
        "peer",
        "place",
        "state",
        "transport",
        "waiting",
        "writing_paused",
    )

    transport: asyncio.Transport
    address: str  # the peer's
    peer: Peer
    place: str | None  # the key under which its address is counted; None: not counted
    state: int
    deadline: float  # on the worker's clock
    paused: bool  # reading from the client is paused
    writing_paused: bool  # the write buffer is full
    eof: bool  # the client has sent FIN

    line: Line
    fields: Fields
    invited: bool  # the client did not send "Expect: 100-continue", or was answered 100, or sends its body anyway
    begun: bool  # a byte of the answer has been written
    forwarded: Forwarded | None  # set if the current request is a data request that an origin answers
    waiting: Waiting | None  # set if the current request is a data request that this worker answers

    @property
    def closed(self) -> bool:
        """The connection is gone."""
        return self.state == CLOSED

    def client_address(self) -> str:
        """The client's address, behind trusted proxies."""
        return self.peer.client_address(self.fields)

    # Where the current request goes

    def gather(self, rest: bytes) -> None:
        """Collect the body, of which ``rest`` has arrived; when it is complete, the service's ``ready`` is called."""
        raise NotImplementedError

    def forward(self, pool: Pool, rest: bytes) -> None:
        """Send the request to an origin; ``rest`` is what has arrived of its body."""
        raise NotImplementedError

    def forward_gathered(self, pool: Pool, body: bytes) -> None:
        """Send the request to an origin with its whole body, which was collected before."""
        raise NotImplementedError

    def recall(self) -> None:
        """Cancel the request at the origin that it was sent to."""
        raise NotImplementedError

    def fail(self, failure: Failure) -> None:
        """Answer as if the origin had failed the request."""
        raise NotImplementedError

    # Its answer. ``source`` is what answers, for the access log.

    def write(self, status: int, source: bytes, head: bytes, body: bytes) -> None:
        """Answer with ``head``, without its final empty line, and ``body``."""
        raise NotImplementedError

    def pass_on(self, response: Response, source: bytes, extra: bytes, tail: bytes) -> None:
        """Answer with a complete answer of an origin; ``tail`` is its empty line and its body."""
        raise NotImplementedError

    def begin_answer(self, status: int, source: bytes, head: bytes, sized: bool) -> None:
        """Begin an answer whose body follows in pieces; ``sized``: the head gives its length."""
        raise NotImplementedError

    def payload(self, data: bytes) -> None:
        """A piece of its body, which must not be empty."""
        raise NotImplementedError

    def end_answer(self, trailers: bytes) -> None:
        """Its body is complete."""
        raise NotImplementedError

    def answer_error(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        """Answer with an error of phasegate's own; the connection stays open if possible."""
        raise NotImplementedError

    def switch(self, source: bytes, head: bytes, data: bytes) -> bytes:
        """Answer 101 followed by ``data``, and become a tunnel. Returns what the client has already sent."""
        raise NotImplementedError

    # The connection

    def pause_reading(self) -> None:
        """Stop reading from the client."""
        raise NotImplementedError

    def read_on(self) -> None:
        """Resume reading, unless the client has sent too far ahead."""
        raise NotImplementedError

    def give_up(self, more: bool) -> None:
        """Accept no further request; ``more``: the client may still be sending."""
        raise NotImplementedError

    def reset(self) -> None:
        """End with a reset: after a FIN, an answer that lasts until close would look complete."""
        raise NotImplementedError

    # Its time

    def expire(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError

    def end_if_reset(self) -> bool:
        """Detect a reset although reading is paused. True: there was one."""
        raise NotImplementedError

    def close_when_idle(self, grace_s: float) -> None:
        """The worker is leaving: the current request is the last; one on its way has ``grace_s`` to arrive."""
        raise NotImplementedError
