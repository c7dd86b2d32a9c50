"""What all connections of one worker share: the pools, the migrations' shares, the clock, the limits, the counts."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from email.utils import formatdate
from time import monotonic, monotonic_ns, time
from typing import Final

from proxy.board import layout as at
from proxy.http1 import forwarding
from proxy.http1.access import LogFile, Logged
from proxy.http1.connection import LINGER_S
from proxy.http1.downstream import Downstream
from proxy.http1.heads import Heads
from proxy.http1.pool import Pool
from proxy.http1.refusal import Form
from proxy.migration.routes import Endpoint, Router
from proxy.migration.sticky import Stickiness
from proxy.settings import App, Plan

# What an idle client that is just sending its next request has, when the worker leaves; then it is closed.
_GRACE_S: Final = 0.5
_TURNED_AWAY_MAX: Final = 32  # how many at a time are told that there are too many; further ones are just closed
_AGAIN: Final = b"retry-after: 1\r\n"


class Service:
    """Who answers the data requests of one migration: a base, for calls at C's cost."""

    def begin(self, client: Downstream, endpoint: Endpoint, rest: bytes) -> None:
        """A data request's head is here, and ``rest`` of its body."""
        raise NotImplementedError

    def ready(self, client: Downstream, endpoint: Endpoint, body: bytes) -> None:
        """A data request whose body was gathered is here whole."""
        raise NotImplementedError

    def tick(self, now_ns: int) -> None:
        """The weight and a rollback's deadlines: called every tick."""
        raise NotImplementedError

    def gauge(self) -> None:
        """Figures onto the board: called every second."""
        raise NotImplementedError


class Gateway:
    """One worker's shared state. ``now`` is the monotonic clock in seconds, as of the last tick."""

    def __init__(self, plan: Plan, cells: memoryview[int], row: int) -> None:
        proxy = plan.proxy
        self.clients: set[Downstream] = set()
        self.shares: list[Service] = []
        self.draining = False
        self.now = monotonic()
        self.date = b""
        self._second = 0
        self.trusted = forwarding.networks(proxy.trusted)
        self.max_head = proxy.max_head
        self.max_body = proxy.max_body
        self.max_connections = proxy.max_connections
        self.pipeline = proxy.pipeline
        self.min_rate = proxy.min_rate
        self.head_timeout_s = proxy.head_timeout_s
        self.body_timeout_s = proxy.body_timeout_s
        self.idle_timeout_s: float = proxy.idle_timeout_s
        self.linger_s = LINGER_S
        self.form = Form() if proxy.errors is None else Form(proxy.errors.content_type, proxy.errors.template)
        self._per_address = proxy.max_connections_per_address
        self._by_address: dict[str, int] = {}
        self._log = None if proxy.access_log is None else LogFile(proxy.access_log)
        wanted = Stickiness.wanted(proxy.sticky)
        if self._log is not None:
            wanted |= {b"traceparent"}
        self.heads = Heads(wanted, Router(plan).resolve)
        self.pools: list[Pool] = []
        self.app = self.pool(plan.app)
        self._cells = cells
        self._app_requests = row + at.W_APP_REQUESTS
        self._app_errors = row + at.W_APP_ERRORS
        self._refused = row + at.W_REFUSED
        self.tick()

    def pool(self, app: App) -> Pool:
        """A pool of connections to an origin, swept with the others."""
        pool = Pool(app, self.heads, lambda: self.now)
        self.pools.append(pool)
        return pool

    # Clients

    def client(self, scheme: bytes = b"http", address: str = "") -> Downstream:
        """The protocol of a new connection; ``address`` where somebody else told who is behind it."""
        if self._log is None:
            return Downstream(self, scheme, address)
        return Logged(self, scheme, address, self._log)

    def admit(self, client: Downstream) -> tuple[int, str, str, bytes] | None:
        """Count a client. Returns how it is refused, where it is one too many."""
        self.clients.add(client)
        beyond = len(self.clients) - self.max_connections
        if beyond > _TURNED_AWAY_MAX:
            client.transport.abort()
            return None
        if beyond > 0:
            return 503, "overloaded", f"{self.max_connections} connections are open", _AGAIN
        if client.place is None and not self.count(client):
            message = f"expected at most {self._per_address} connections from one address"
            return 429, "too_many_connections", message, _AGAIN
        return None

    def left(self, client: Downstream) -> None:
        """A client is gone. Idempotent."""
        self.clients.discard(client)
        place, client.place = client.place, None
        if place is not None:  # one that was turned away before it was counted has none
            self._by_address[place] -= 1
            if not self._by_address[place]:
                del self._by_address[place]

    def count(self, client: Downstream) -> bool:
        """Count a client among those of its address, until it has ``left``. False: it is one too many there."""
        if not self._per_address:
            return True
        place = client.place = _household(client.address)
        count = self._by_address[place] = self._by_address.get(place, 0) + 1
        return count <= self._per_address

    # Time

    def tick(self) -> None:
        """Read the clocks and let every share see its weight."""
        self.now = monotonic()
        second = int(time())
        if second != self._second:
            self._second = second
            self.date = f"date: {formatdate(second, usegmt=True)}\r\n".encode()
        now_ns = monotonic_ns()
        for share in self.shares:
            share.tick(now_ns)

    def sweep(self) -> None:
        """Once a second: what has waited too long ends, lines and figures go where they are read."""
        now = self.now
        for client in [client for client in self.clients if client.deadline < now or client.paused]:
            if client.deadline < now:
                client.expire()
            else:
                client.end_if_reset()
        for pool in self.pools:
            pool.sweep(now)
        for share in self.shares:
            share.gauge()
        if self._log is not None:
            self._log.flush()

    def drain(self) -> None:
        """Begin no other request on any connection."""
        self.draining = True
        self.linger_s = _GRACE_S
        self.idle_timeout_s = min(self.idle_timeout_s, _GRACE_S)  # for answers that end from now on, too
        for client in list(self.clients):
            client.close_when_idle(_GRACE_S)

    def close(self, clients: Sequence[Downstream] | None = None) -> None:
        """Close what is left."""
        for client in list(self.clients if clients is None else clients):
            client.transport.abort()
        for pool in self.pools:
            pool.close()
        if self._log is not None:
            self._log.close()

    # Counts

    def count_app(self) -> None:
        """A request for the app."""
        self._cells[self._app_requests] += 1

    def count_app_error(self) -> None:
        """The app gave no answer."""
        self._cells[self._app_errors] += 1

    def count_refused(self) -> None:
        """A request that was none."""
        self._cells[self._refused] += 1


def _household(address: str) -> str:
    """What counts as one address: of IPv6 a /64, which is what one customer is given."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))
    except ValueError:
        return address
