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

from backends.arm import SOURCE, TARGET, DataSource
from backends.backend import Backend
from backends.durations import Duration
from backends.kinds.registry import decode_hook
from backends.pair.alone import build_alone
from backends.pair.manager import build_source
from proxy.board import board
from proxy.http1.pool import Pool
from proxy.migration.answering import Answering
from proxy.migration.mixing import Mixing
from proxy.migration.relay import Relaying
from proxy.migration.routes import layout
from proxy.migration.sticky import Stickiness
from proxy.process import logs
from proxy.process.child import die_with_parent, raise_descriptor_limit, read_orders
from proxy.process.doors import Door
from proxy.process.gateway import Gateway
from proxy.settings import App, Plan, reach_of

_TICK_S = 0.02
_SWEEP_S = 1.0
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


class Orders(msgspec.Struct, frozen=True):
    """What the supervisor tells a worker. ``rows`` is how many the board has; ``slot`` is this worker's."""

    slot: int
    rows: int
    fds: tuple[int, ...]
    board: str
    boot: int
    plan: Plan


class Worker:
    """Everything of one worker process, from its orders to its end."""

    def __init__(self, orders: Orders) -> None:
        plan = orders.plan
        self._layout = layout(plan, orders.rows)
        self._board = board.Board.open(Path(orders.board), self._layout, orders.boot)
        self._cells = self._board.cells
        self._row = self._layout.worker(orders.slot)
        self._orders = orders
        self._drain_s = plan.proxy.drain_timeout_s
        self._leaving = asyncio.Event()
        self.gateway = Gateway(plan, self._cells, self._row)
        listeners = zip(plan.proxy.doors(), orders.fds, strict=True)
        self._doors = [Door(self.gateway, listener, socket.socket(fileno=fd)) for listener, fd in listeners]
        stickiness = Stickiness(plan.proxy.sticky, [route.name for route in plan.migrations])
        run_dir = Path(plan.proxy.run_dir)
        self._sources: list[DataSource] = []
        for m, route in enumerate(plan.migrations):
            place = (self.gateway, self._cells, self._layout, orders.slot, m, stickiness)
            pair = (plan.backends[route.source], plan.backends[route.target])
            pools = tuple(self._pool(backend, plan.app) for backend in pair)
            match pools:
                case (Pool() as old, Pool() as new):
                    self.gateway.shares.append(Relaying(*place, (old, new)))
                case (None, None):
                    source = build_source(*pair, run_dir=run_dir, name=route.name, mode=route.mode)
                    self._sources.append(source)
                    self.gateway.shares.append(Answering(*place, source))
                case _:
                    origin = SOURCE if pools[SOURCE] is not None else TARGET
                    alone = build_alone(pair, 1 - origin, run_dir=run_dir, name=route.name)
                    self._sources.append(alone)
                    pool = pools[origin]
                    assert pool is not None
                    self.gateway.shares.append(Mixing(*place, alone, origin, pool))

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
        for door in self._doors:
            await door.open()
        # What lives from here on lives as long as the process: the collector need not walk it again.
        gc.collect()
        gc.freeze()
        self._cells[self._row + board.W_STARTED_AT] = monotonic_ns()
        self._cells[self._row + board.W_PID] = os.getpid()
        await self._leaving.wait()
        for door in self._doors:
            door.close()  # this process's hold on the sockets; their queues are the supervisor's
        await self._drain()
        for source in self._sources:
            await source.close()
        for share in self.gateway.shares:
            share.gauge()  # what could not be handed on to the end is lost, and counted so
        self._cells[self._row + board.W_PID] = 0

    async def _drain(self) -> None:
        self.gateway.drain()
        end = monotonic() + self._drain_s
        while self._is_occupied() and monotonic() < end:
            await asyncio.sleep(_TICK_S)
            self.gateway.sweep()
        for door in self._doors:
            door.clear()
        self.gateway.close()

    def _is_occupied(self) -> bool:
        """Whether somebody is served, or about to be."""
        return bool(self.gateway.clients) or any(door.entering for door in self._doors)

    def _tick(self) -> None:
        asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        gateway = self.gateway
        gateway.tick()
        self._cells[self._row + board.W_HEARTBEAT] = monotonic_ns()
        if gateway.now >= self._sweep_at:
            self._sweep_at = gateway.now + _SWEEP_S
            gateway.sweep()
            for door in self._doors:
                door.refresh()
            self._cells[self._row + board.W_CONNECTIONS] = len(gateway.clients)
            self._cells[self._row + board.W_RSS_KB] = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_KB
            times = os.times()
            self._cells[self._row + board.W_CPU_MS] = int((times.user + times.system) * 1000)


def main() -> None:
    """The process: ``python -m proxy.process.worker``, orders on standard input."""
    orders = msgspec.json.decode(read_orders(), type=Orders, dec_hook=decode_hook)
    logs.configure(f"worker-{orders.slot}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    raise_descriptor_limit()
    uvloop.run(_serve(orders))


async def _serve(orders: Orders) -> None:
    worker = Worker(orders)
    await worker.run()
    structlog.get_logger().info("worker_left", slot=orders.slot)


if __name__ == "__main__":
    main()
