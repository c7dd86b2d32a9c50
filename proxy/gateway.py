"""What all connections of one worker share: the pools, the migrations' shares, the clock, the limits, the counts."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from time import monotonic, monotonic_ns, time
from typing import Protocol

from proxy import board
from proxy.http1 import forwarding
from proxy.http1.downstream import Downstream
from proxy.http1.head import Heads
from proxy.http1.upstream import Pool
from proxy.routes import Endpoint, Router
from proxy.settings import App, Plan
from proxy.sticky import Stickiness


class Service(Protocol):
    """Who answers the data requests of one migration."""

    def begin(self, client: Downstream, endpoint: Endpoint, rest: bytes) -> None:
        """A data request's head is here, and ``rest`` of its body."""

    def ready(self, client: Downstream, endpoint: Endpoint, body: bytes) -> None:
        """A data request whose body was gathered is here whole."""

    def tick(self, now_ns: int) -> None:
        """The weight and a rollback's deadlines: called every tick."""

    def gauge(self) -> None:
        """Figures onto the board: called every second."""


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
        self.head_timeout_s = proxy.head_timeout_s
        self.body_timeout_s = proxy.body_timeout_s
        self.idle_timeout_s = proxy.idle_timeout_s
        self.heads = Heads(Stickiness.wanted(proxy.sticky), Router(plan).resolve)
        self.pools: list[Pool] = []
        self.app = self.pool(plan.app)
        self._cells = cells
        self._app_requests = row + board.W_APP_REQUESTS
        self._app_errors = row + board.W_APP_ERRORS
        self._refused = row + board.W_REFUSED
        self.tick()

    def pool(self, app: App) -> Pool:
        """A pool of connections to an origin, swept with the others."""
        pool = Pool(
            app.origin,
            self.heads,
            lambda: self.now,
            connect_timeout_s=app.connect_timeout_s,
            timeout_s=app.timeout_s,
            max_idle=app.max_idle,
            max_connections=app.max_connections,
        )
        self.pools.append(pool)
        return pool

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
        """Once a second: what has waited too long ends, and figures go onto the board."""
        now = self.now
        for client in [client for client in self.clients if client.deadline < now]:
            client.expire()
        for pool in self.pools:
            pool.sweep(now)
        for share in self.shares:
            share.gauge()

    def drain(self) -> None:
        """Begin no other request on any connection."""
        self.draining = True
        for client in list(self.clients):
            client.close_when_idle()

    def close(self, clients: Sequence[Downstream] | None = None) -> None:
        """Close what is left."""
        for client in list(self.clients if clients is None else clients):
            client.transport.abort()
        for pool in self.pools:
            pool.close()

    def count_app(self) -> None:
        """A request for the app."""
        self._cells[self._app_requests] += 1

    def count_app_error(self) -> None:
        """The app gave no answer."""
        self._cells[self._app_errors] += 1

    def count_refused(self) -> None:
        """A request that was none."""
        self._cells[self._refused] += 1
