"""One data request forwarded to one of two HTTP origins, streamed both ways and recorded by its time to the head.

A read whose target cannot be reached, is too slow or answers 5xx is sent to the source instead, as long as nothing of
an answer has gone to the client. Anything with a body, or that is no safe method, has the arm's own answer.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from backends.arm import SOURCE
from backends.errors import FaultKind
from proxy import board
from proxy.http1.downstream import Downstream
from proxy.http1.head import Response
from proxy.http1.pool import Pool
from proxy.http1.upstream import Failure
from proxy.routes import Endpoint
from proxy.share import Share
from proxy.sticky import Stickiness

if TYPE_CHECKING:
    from proxy.gateway import Gateway

_KINDS: Final = {502: FaultKind.UNAVAILABLE, 503: FaultKind.EXHAUSTED, 504: FaultKind.DEADLINE}


def fault_of(status: int) -> FaultKind | None:
    """The fault that an origin's status stands for; None where it answered."""
    return _KINDS.get(status, FaultKind.INTERNAL) if status >= 500 else None


class Relaying:
    """A migration between HTTP origins, as one worker serves it."""

    def __init__(
        self,
        gateway: Gateway,
        cells: memoryview[int],
        layout: board.Layout,
        slot: int,
        migration: int,
        stickiness: Stickiness,
        pools: tuple[Pool, Pool],
    ) -> None:
        self.gateway = gateway
        self.share = Share(cells, layout, slot, migration, stickiness)
        self.pools = pools

    def begin(self, client: Downstream, endpoint: Endpoint, rest: bytes) -> None:
        """A data request's head is here, and ``rest`` of its body."""
        began = monotonic_ns()
        arm, cookie = self.share.choose(client, began)
        client.exchange = Relay(self, client, endpoint, arm, began, cookie)
        client.forward(self.pools[arm], rest)

    def ready(self, client: Downstream, endpoint: Endpoint, body: bytes) -> None:
        """Never called: a relayed body is not gathered."""
        raise AssertionError("a relayed body is not gathered")

    def tick(self, now_ns: int) -> None:
        """The weight and a rollback's deadlines."""
        self.share.tick(now_ns)

    def gauge(self) -> None:
        """An HTTP origin has no figures of its own."""


class Relay:
    """A forwarded data request: a ``Flight`` of its share and the ``Forwarded`` of its client."""

    __slots__ = (
        "_began",
        "_client",
        "_cookie",
        "_endpoint",
        "_recorded",
        "_service",
        "arm",
        "extra",
        "generation",
        "on",
    )

    def __init__(
        self, service: Relaying, client: Downstream, endpoint: Endpoint, arm: int, began: int, cookie: bytes
    ) -> None:
        self._service = service
        self._client = client
        self._endpoint = endpoint
        self._began = began
        self._cookie = cookie
        self._recorded = False
        self.arm = self.on = arm
        self.generation = service.share.generation
        self.extra = b"x-data-source: http\r\n" + cookie
        service.share.enter(self)

    def judged(self, response: Response) -> bool:
        fault = fault_of(response.status)
        if fault is not None and self._fall_back(fault):
            return False
        self._record(response.status, fault, False)
        return True

    def failed(self, failure: Failure) -> bool:
        fault = fault_of(failure.status)
        if fault is not None and self._fall_back(fault):
            return True
        self._record(failure.status, fault, False)
        return False

    def done(self) -> None:
        self._service.share.leave(self)

    def gone(self) -> None:
        self._record(499, None, False)
        self._service.share.leave(self)

    def cut_over(self) -> None:
        """Hand it to the source where that is safe."""
        if not self._recorded:
            self._client.recall()
            if not self._fall_back(FaultKind.DEADLINE):
                self._client.failed(Failure(504, "gateway_timeout", "the target did not answer before its rollback"))

    def cancel(self) -> None:
        """Leave the target now: an answer half sent is broken off."""
        if self._recorded:
            self._client.transport.abort()
        else:
            self.cut_over()

    def _fall_back(self, fault: FaultKind) -> bool:
        """Send a safe read to the source; False where it cannot be, or has been."""
        client, service = self._client, self._service
        if self.on == SOURCE or client.fields.has_body or client.line.method not in (b"GET", b"HEAD"):
            return False
        service.share.leave(self)
        self._record(502, fault, True)
        self.on = SOURCE
        service.share.enter(self)
        self.extra += b"x-data-fallback: %b\r\n" % fault.label.encode()
        client.forward(service.pools[SOURCE], b"")
        return True

    def _record(self, status: int, fault: FaultKind | None, fell_back: bool) -> None:
        if not self._recorded:
            self._recorded = True
            self._service.share.record(self._endpoint.number, self.arm, self._began, status, fault, fell_back)
