"""A migration between a document store and an HTTP origin: one arm answers here, the other is forwarded to.

The operations are those of the table, for the store knows no others. A body is gathered before the arm is chosen,
since only then is it known who gets it. A read that one arm fails as the target is answered by the other.
"""

from __future__ import annotations

from time import monotonic_ns

from backends.arm import SOURCE, TARGET, DataSource
from backends.errors import Fault, FaultKind
from proxy.http1.client import Client
from proxy.http1.pool import Pool
from proxy.http1.service import Endpoint
from proxy.http1.shared import Shared
from proxy.migration.answering import Answering, Exchange
from proxy.migration.relaying import Relay
from proxy.migration.split import Split


class Mixing(Answering):
    """Such a migration, as one worker serves it; ``origin`` is the arm that ``pool`` leads to."""

    def __init__(self, shared: Shared, split: Split, source: DataSource, origin: int, pool: Pool) -> None:
        super().__init__(shared, split, source)
        self._origin = origin
        self._pool = pool

    def ready(self, client: Client, endpoint: Endpoint, body: bytes) -> None:
        """A data request is here whole: answer it, or forward it."""
        began = monotonic_ns()
        arm, bucket, cookie = self.split.choose(client, began)
        if arm == self._origin:
            client.forwarded = Relay(self, client, endpoint, arm, began, cookie)
            client.forward_gathered(self._pool, body)
        else:
            self.ask(client, endpoint, body, arm, bucket, began, cookie)

    def from_source(self, client: Client, endpoint: Endpoint, relay: Relay, fault: FaultKind) -> None:
        """The origin failed a read, as the target: the store answers it."""
        relay.release()
        unmarked = 0  # only a write's bucket is marked
        exchange = Exchange(self, client, endpoint, TARGET, unmarked, relay.began, relay.cookie)
        exchange.start(b"", Fault(fault, "the origin failed"))

    def hand_over(self, exchange: Exchange, fault: Fault) -> bool:
        """The store failed a read, as the target: the origin answers it."""
        if self._origin != SOURCE or exchange.arm != TARGET or exchange.endpoint.operation.kind == "write":
            return False
        client, cookie = exchange.release()
        if client is not None:
            relay = Relay(self, client, exchange.endpoint, TARGET, exchange.began, cookie, fault.kind)
            client.forwarded = relay
            client.forward_gathered(self._pool, exchange.call.body)
        return True
