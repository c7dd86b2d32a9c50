"""A worker process: one event loop, its listening sockets, its row of the board."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from pathlib import Path
from time import monotonic, monotonic_ns

import msgspec
import structlog
import uvloop

from backends import extensions
from backends.arm import SOURCE, TARGET, DataSource
from backends.backend import Backend
from backends.disk import use as use_disk
from backends.durations import Duration
from backends.kinds.registry import decode_hook
from backends.pair.alone import build_alone
from backends.pair.manager import build_source
from proxy.board import layout as at
from proxy.board.board import Board
from proxy.http1.pool import Pool
from proxy.migration.answering import Answering
from proxy.migration.mixing import Mixing
from proxy.migration.relaying import Relaying
from proxy.migration.routes import layout
from proxy.migration.split import Split
from proxy.migration.sticky import Stickiness
from proxy.process import logs
from proxy.process.accepting import Acceptor
from proxy.process.child import die_with_parent, raise_descriptor_limit, read_orders
from proxy.process.gateway import Gateway
from proxy.settings import App, Plan, reach_of

_TICK_S = 0.02  # how old the clock may be, and how late a new weight is seen where no request comes
_SWEEP_S = 1.0  # how late a deadline of a client's may be noticed
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


class WorkerOrders(msgspec.Struct, frozen=True):
    """What the supervisor tells a worker. ``rows`` is how many the board has; ``slot`` is this worker's.

    ``log`` is the descriptor to log to: what is written to standard error reaches the log a moment later.

    ``plan`` is a ``Plan``, decoded only once ``extensions`` are loaded: it may hold settings of a kind among them.
    """

    slot: int
    rows: int
    fds: tuple[int, ...]
    board: str
    boot: int
    extensions: tuple[str, ...]
    plan: msgspec.Raw
    log: int


class Worker:
    """Everything of one worker process, from its orders to its end."""

    def __init__(self, orders: WorkerOrders, plan: Plan) -> None:
        self._layout = layout(plan, orders.rows)
        self._board = Board.open(Path(orders.board), self._layout, orders.boot)
        self._cells = self._board.cells
        self._row = self._layout.worker(orders.slot)
        self._drain_s = plan.proxy.drain_timeout_s
        self._leaving = asyncio.Event()
        self.gateway = Gateway(plan, self._cells, self._row)
        listeners = zip(plan.proxy.all_listeners(), orders.fds, strict=True)
        self._acceptors = [Acceptor(self.gateway, listener, socket.socket(fileno=fd)) for listener, fd in listeners]
        stickiness = Stickiness(plan.proxy.sticky, [route.was or route.name for route in plan.migrations])
        run_dir = Path(plan.proxy.run_dir)
        self._disk = use_disk(plan.proxy.sync)
        shared, services = self.gateway.shared, self.gateway.shared.services
        self._sources: list[DataSource] = []
        for m, route in enumerate(plan.migrations):
            split = Split(self._cells, self._layout, orders.slot, m, stickiness)
            pair = (plan.backends[route.source], plan.backends[route.target])
            pools = tuple(self._pool(backend, plan.app) for backend in pair)
            match pools:
                case (Pool() as old, Pool() as new):
                    services.append(Relaying(split, (old, new), (pair[SOURCE].kind, pair[TARGET].kind)))
                case (None, None):
                    one_writer = route.writes == "source"
                    copied = split.copied if one_writer else None
                    source = build_source(*pair, run_dir=run_dir, name=route.name, mode=route.mode, copied=copied)
                    self._sources.append(source)
                    services.append(Answering(shared, split, source, one_writer))
                case _:
                    origin = SOURCE if pools[SOURCE] is not None else TARGET
                    alone = build_alone(pair, 1 - origin, run_dir=run_dir, name=route.name)
                    self._sources.append(alone)
                    pool = pools[origin]
                    assert pool is not None
                    services.append(Mixing(shared, split, alone, origin, pool))

    def _pool(self, backend: Backend, app: App) -> Pool | None:
        """The connections to a backend that is an HTTP origin."""
        reach = reach_of(backend, app)
        if reach is None:
            return None
        return self.gateway.pool(App(reach.url, timeout_s=Duration(reach.timeout_s), tls=reach.tls))

    async def run(self) -> None:
        """Serve until told to leave, then finish what is under way."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leaving.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is the supervisor's to act on
        for source in self._sources:
            await source.start()
        self._sweep_at = monotonic() + _SWEEP_S
        self._tick()
        for acceptor in self._acceptors:
            await acceptor.open()
        # All that was made so far lives as long as the process: keep the garbage collector from walking it again.
        gc.collect()
        gc.freeze()
        self._cells[self._row + at.W_STARTED_AT] = monotonic_ns()
        self._cells[self._row + at.W_PID] = os.getpid()
        await self._leaving.wait()
        for acceptor in self._acceptors:
            acceptor.close()  # the supervisor holds the sockets too, so what waits in their queues is not lost
        await self._drain()
        for source in self._sources:
            await source.close()
        await self._disk.close()
        for service in self.gateway.shared.services:
            service.gauge()
        self._cells[self._row + at.W_PID] = 0

    async def _drain(self) -> None:
        self.gateway.clients.drain()
        end = monotonic() + self._drain_s
        while self._is_occupied() and monotonic() < end:
            await asyncio.sleep(_TICK_S)
            self.gateway.sweep()
        for acceptor in self._acceptors:
            acceptor.end_entering()
        self.gateway.close()

    def _is_occupied(self) -> bool:
        """Whether somebody is served, or about to be."""
        return len(self.gateway.clients) > 0 or any(acceptor.entering for acceptor in self._acceptors)

    def _tick(self) -> None:
        asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        gateway = self.gateway
        gateway.tick()
        self._cells[self._row + at.W_HEARTBEAT] = monotonic_ns()
        if gateway.shared.now >= self._sweep_at:
            self._sweep_at = gateway.shared.now + _SWEEP_S
            gateway.sweep()
            for acceptor in self._acceptors:
                acceptor.refresh()
            self._cells[self._row + at.W_CONNECTIONS] = len(gateway.clients)
            self._cells[self._row + at.W_RSS_KB] = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_KB
            times = os.times()
            self._cells[self._row + at.W_CPU_MS] = int((times.user + times.system) * 1000)


def main() -> None:
    """The process: ``python -m proxy.process.worker``, orders on standard input."""
    orders = msgspec.json.decode(read_orders(), type=WorkerOrders)
    logs.configure(f"worker-{orders.slot}", orders.log)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    raise_descriptor_limit()
    extensions.use(orders.extensions)
    plan = msgspec.json.decode(orders.plan, type=Plan, dec_hook=decode_hook)
    uvloop.run(_serve(orders, plan))


async def _serve(orders: WorkerOrders, plan: Plan) -> None:
    worker = Worker(orders, plan)
    await worker.run()
    structlog.get_logger().info("worker_left", slot=orders.slot)


if __name__ == "__main__":
    main()
