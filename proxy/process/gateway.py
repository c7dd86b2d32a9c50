"""One worker's data plane put together: what its connections share, the connections, the pools and the services."""

from __future__ import annotations

from time import monotonic_ns

from proxy.http1 import accesslog
from proxy.http1.clients import Clients
from proxy.http1.downstream import Downstream
from proxy.http1.headcache import HeadCache
from proxy.http1.logfile import LogFile
from proxy.http1.pool import Pool
from proxy.http1.shared import Shared
from proxy.migration.routes import Router
from proxy.migration.sticky import Stickiness
from proxy.settings import App, Plan


class Gateway:
    """Makes a protocol for each connection, and sees to what happens by time."""

    def __init__(self, plan: Plan, cells: memoryview[int], row: int) -> None:
        proxy = plan.proxy
        settings = proxy.access_log
        self._log = None if settings is None else LogFile(settings.path)
        self._sample = 0.0 if settings is None else settings.sample
        wanted = Stickiness.wanted(proxy.sticky)
        if settings is not None:
            wanted |= accesslog.WANTED
        shared = self.shared = Shared(proxy, plan.app, HeadCache(wanted, Router(plan).resolve), cells, row)
        self.clients = Clients(shared, proxy.max_connections, proxy.max_connections_per_address)
        self.pools: list[Pool] = [shared.app]
        self.tick()

    def pool(self, app: App) -> Pool:
        """A pool of connections to an origin, swept with the others."""
        shared = self.shared
        pool = Pool(app, shared.heads, lambda: shared.now)
        self.pools.append(pool)
        return pool

    def client(self, scheme: bytes = b"http", address: str = "") -> Downstream:
        """The protocol of a new connection; ``address`` where somebody else told who is behind it."""
        entry = None if self._log is None else accesslog.AccessEntry(self._log, self._sample)
        return Downstream(self.shared, self.clients, entry, scheme, address)

    def tick(self) -> None:
        """Read the clocks and let every service see its weight."""
        self.shared.read_clock()
        now_ns = monotonic_ns()
        for service in self.shared.services:
            service.tick(now_ns)

    def sweep(self) -> None:
        """Once a second: what has waited too long ends, lines and figures go where they are read."""
        self.clients.sweep()
        for pool in self.pools:
            pool.sweep(self.shared.now)
        for service in self.shared.services:
            service.gauge()
        if self._log is not None:
            self._log.flush()

    def close(self) -> None:
        """Close what is left."""
        self.clients.close()
        for pool in self.pools:
            pool.close()
        if self._log is not None:
            self._log.close()
