"""One data request forwarded to one of two HTTP origins, streamed both ways and recorded by its time to the head.

A read whose target cannot be reached, is too slow or answers 5xx is sent to the source instead, as long as nothing of
an answer has gone to the client. Anything with a body, or that is no safe method, has the arm's own answer.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Final, Protocol

from backends.arm import SOURCE
from backends.errors import FaultKind
from proxy.http1.client import Client, Forwarded
from proxy.http1.head import Response
from proxy.http1.pool import Pool
from proxy.http1.service import Endpoint, Service
from proxy.http1.upstream import Failure
from proxy.migration.split import Split

_CLIENT_GONE: Final = 499  # never sent: the status by which a request is counted whose client went away first
_FELL_BACK: Final = 502  # never sent: the status by which the target is counted when the source answered instead
_KINDS: Final = {502: FaultKind.UNAVAILABLE, 503: FaultKind.EXHAUSTED, 504: FaultKind.DEADLINE}


def fault_of(status: int) -> FaultKind | None:
    """The fault that an origin's status stands for; None where it answered."""
    return _KINDS.get(status, FaultKind.INTERNAL) if status >= 500 else None


class Relaying(Service):
    """A migration between HTTP origins, as one worker serves it. ``kinds`` are the names of its backends' kinds."""

    def __init__(self, split: Split, pools: tuple[Pool, Pool], kinds: tuple[str, str]) -> None:
        self.split = split
        self.pools = pools
        self.kinds = tuple(kind.encode() for kind in kinds)

    def begin(self, client: Client, endpoint: Endpoint, rest: bytes) -> None:
        """A data request's head is here, and ``rest`` of its body."""
        began = monotonic_ns()
        arm, _, cookie = self.split.choose(client, began)
        client.forwarded = Relay(self, client, endpoint, arm, began, cookie)
        client.forward(self.pools[arm], rest)

    def ready(self, client: Client, endpoint: Endpoint, body: bytes) -> None:
        """Never called: a relayed body is not gathered."""
        raise AssertionError("a relayed body is not gathered")

    def from_source(self, client: Client, endpoint: Endpoint, relay: Relay, fault: FaultKind) -> None:
        """Send a read that the target failed to the source."""
        relay.turn_to_source(fault)
        client.forward(self.pools[SOURCE], b"")

    def tick(self, now_ns: int) -> None:
        """The weight and a rollback's deadlines."""
        self.split.tick(now_ns)

    def gauge(self) -> None:
        """An HTTP origin has no figures of its own."""


class Origins(Protocol):
    """The migration that a relay serves. ``kinds``: what ``x-data-source`` says of each arm."""

    split: Split
    kinds: tuple[bytes, ...]

    def from_source(self, client: Client, endpoint: Endpoint, relay: Relay, fault: FaultKind) -> None:
        """Have a read that the target failed answered by the source."""


class Relay(Forwarded):
    """A forwarded data request: a ``Flight`` of its split and the ``Forwarded`` of its client.

    ``fault``: why the target, a document store, has failed it already; then it goes to the source.
    """

    __slots__ = (
        "_client",
        "_endpoint",
        "_fault",
        "_recorded",
        "_service",
        "_split",
        "arm",
        "began",
        "cookie",
        "generation",
        "on",
    )

    def __init__(
        self,
        service: Origins,
        client: Client,
        endpoint: Endpoint,
        arm: int,
        began: int,
        cookie: bytes,
        fault: FaultKind | None = None,
    ) -> None:
        self._service = service
        split = self._split = service.split
        self._client = client
        self._endpoint = endpoint
        self._fault = fault
        self._recorded = False
        self.arm = arm
        self.on = arm if fault is None else SOURCE
        self.began = began
        self.cookie = cookie
        self.generation = split.generation
        self._announce()
        split.enter(self)

    def judged(self, response: Response) -> bool:
        fault = fault_of(response.status)
        if fault is not None and self._fall_back(fault):
            return False
        self._record(response.status, fault)
        return True

    def failed(self, failure: Failure) -> bool:
        fault = fault_of(failure.status)
        if fault is not None and self._fall_back(fault):
            return True
        self._record(failure.status, fault)
        return False

    def broke_off(self) -> None:
        if self._fault is None:  # else the source answered in the target's place, and it is no fault of the target's
            self._fault = FaultKind.UNAVAILABLE
            self._split.spoil(self._endpoint.number, self.arm, self._fault)

    def done(self) -> None:
        self._split.leave(self)

    def gone(self) -> None:
        self._record(_CLIENT_GONE, None)
        self._split.leave(self)

    def cut_over(self) -> None:
        """Hand a read to the source whose answer has not begun."""
        if not self._recorded and self._is_safe():
            self._client.recall()
            self._fall_back(FaultKind.DEADLINE)

    def cancel(self) -> None:
        """Leave the target now: an answer half sent is broken off, a write is told that nothing is known of it."""
        if self._recorded:
            self._client.reset()
        elif self._is_safe():
            self.cut_over()
        else:
            self._client.recall()
            message = "a rollback cancelled this request before the target answered: look before you repeat it"
            self._client.fail(Failure(504, "write_uncertain", message))

    def turn_to_source(self, fault: FaultKind) -> None:
        """From now on it waits for the source, an origin too."""
        split = self._split
        split.leave(self)
        self._fault = fault
        self._record(_FELL_BACK, fault)
        self.on = SOURCE
        self._announce()
        split.enter(self)

    def release(self) -> None:
        """Give the request up to somebody who records it."""
        self._recorded = True
        self._split.leave(self)
        self._client.forwarded = None

    def _announce(self) -> None:
        """Say in the answer's head who answers, and why the source does for the target."""
        self.source = self._service.kinds[self.on]
        self.extra = b"x-data-source: %b\r\n%b" % (self.source, self.cookie)
        if self._fault is not None:
            self.extra += b"x-data-fallback: %b\r\n" % self._fault.label.encode()

    def _is_safe(self) -> bool:
        """Whether the source may answer in the target's place."""
        client = self._client
        return self.on != SOURCE and not client.fields.has_body and client.line.method in (b"GET", b"HEAD")

    def _fall_back(self, fault: FaultKind) -> bool:
        """Have the source answer; False where it may not, or already does."""
        if not self._is_safe():
            return False
        self._service.from_source(self._client, self._endpoint, self, fault)
        return True

    def _record(self, status: int, fault: FaultKind | None) -> None:
        if not self._recorded:
            self._recorded = True
            fell_back = self._fault is not None
            counted = self._fault = self._fault if fell_back else fault
            self._split.record(self._endpoint.number, self.arm, self.began, status, counted, fell_back)
