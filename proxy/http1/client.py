"""A client's connection as those see it who answer its requests: ``Client``, and what it tells them.

``Downstream`` implements it. ``Forwarder`` and the services of data requests are written against it, so that they
need not know how requests are taken from the wire. All are bases, for calls at C's cost.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.http1.head import Fields, Line, Response
from proxy.http1.nexthop import Peer
from proxy.http1.pool import Pool
from proxy.http1.states import CLOSED
from proxy.http1.upstream import Failure

APP: Final = b"app"  # the access log's word for an answer that came from no data source


class Forwarded:
    """A data request that is forwarded to an origin: what whoever sent it there is told, and may decide."""

    __slots__ = ("extra", "source")

    extra: bytes  # fields added to the answer's head
    source: bytes  # who answers, for the access log

    def judged(self, response: Response) -> bool:
        """The answer's head is here. False: it is not to be passed on, another answer has been seen to."""
        raise NotImplementedError

    def failed(self, failure: Failure) -> bool:
        """No answer will come. True: another answer has been seen to."""
        raise NotImplementedError

    def broke_off(self) -> None:
        """The answer ended before its end."""
        raise NotImplementedError

    def done(self) -> None:
        """The answer is written whole."""
        raise NotImplementedError

    def gone(self) -> None:
        """The client went away before the answer was written whole."""
        raise NotImplementedError


class Waiting:
    """A data request whose answer is still being worked out here."""

    __slots__ = ()

    def gone(self) -> None:
        """The client went away."""
        raise NotImplementedError

    def pause(self) -> None:
        """The client takes no more for now."""
        raise NotImplementedError

    def resume(self) -> None:
        """It does again."""
        raise NotImplementedError


class Client(asyncio.Protocol):
    """A client's connection with its current request, and the ways to answer it.

    ``state`` is one of ``states``; only ``Downstream`` changes it. One ``deadline`` stands for whatever it waits for.
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
    place: str | None  # what its address is counted under, if it is
    state: int
    deadline: float  # on the worker's clock
    paused: bool  # the client is not read
    writing_paused: bool  # it takes no more for now
    eof: bool  # it has sent its FIN

    line: Line
    fields: Fields
    invited: bool  # the client knows that its body is wanted, or did not ask
    begun: bool  # a byte of the answer has been written
    forwarded: Forwarded | None  # the current request, where it is a data request that an origin answers
    waiting: Waiting | None  # the current request, where it is a data request that is worked out here

    @property
    def closed(self) -> bool:
        """The connection is gone."""
        return self.state == CLOSED

    def client_address(self) -> str:
        """Who asks, behind proxies that are trusted."""
        return self.peer.client_address(self.fields)

    # Where the current request goes

    def gather(self, rest: bytes) -> None:
        """Gather the body, of which ``rest`` has come; the service's ``ready`` is called when it is whole."""
        raise NotImplementedError

    def forward(self, pool: Pool, rest: bytes) -> None:
        """Send the request to an origin; ``rest`` is what has come of its body."""
        raise NotImplementedError

    def forward_gathered(self, pool: Pool, body: bytes) -> None:
        """Send the request to an origin, with its whole body as it was gathered."""
        raise NotImplementedError

    def recall(self) -> None:
        """Take the request back from the origin that it was sent to."""
        raise NotImplementedError

    def fail(self, failure: Failure) -> None:
        """Answer the request as one that its origin failed."""
        raise NotImplementedError

    # Its answer. ``source`` is who answers, for the access log.

    def write(self, status: int, source: bytes, head: bytes, body: bytes) -> None:
        """Answer with ``head``, all of it up to its empty line, and ``body``."""
        raise NotImplementedError

    def pass_on(self, response: Response, source: bytes, extra: bytes, tail: bytes) -> None:
        """Answer with an origin's answer that came whole; ``tail`` is its empty line and its body."""
        raise NotImplementedError

    def begin_answer(self, status: int, source: bytes, head: bytes, sized: bool) -> None:
        """Begin an answer whose body follows piece by piece; ``sized``: the head says how long it is."""
        raise NotImplementedError

    def payload(self, data: bytes) -> None:
        """A piece of its body, which must not be empty."""
        raise NotImplementedError

    def end_answer(self, trailers: bytes) -> None:
        """Its body is complete."""
        raise NotImplementedError

    def answer_error(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        """Answer with an error of phasegate's own; the connection goes on where it can."""
        raise NotImplementedError

    def switch(self, source: bytes, head: bytes, data: bytes) -> bytes:
        """Answer 101 with ``data`` behind it: this is a tunnel now. Returns what the client has sent ahead."""
        raise NotImplementedError

    # The connection

    def pause_reading(self) -> None:
        """Read the client no further."""
        raise NotImplementedError

    def read_on(self) -> None:
        """Read it again, unless it has sent too far ahead."""
        raise NotImplementedError

    def give_up(self, more: bool) -> None:
        """Take no further request; ``more``: the client may be sending one still."""
        raise NotImplementedError

    def reset(self) -> None:
        """Break off what was begun: a FIN would be the proper end of an answer that goes on until close."""
        raise NotImplementedError

    # Its time

    def expire(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError

    def end_if_reset(self) -> bool:
        """Notice a reset though nothing is read. True: there was one."""
        raise NotImplementedError

    def close_when_idle(self, grace_s: float) -> None:
        """The worker is leaving: the request under way is the last; one on its way has ``grace_s`` to come."""
        raise NotImplementedError
