"""A gateway between a client and an origin with fake transports: no sockets, and no time passes."""

from __future__ import annotations

import asyncio
from typing import Any

from backends.kinds.firestore.settings import Firestore
from backends.kinds.mock.settings import Mock
from proxy.http1.pool import Pool
from proxy.http1.upstream import Upstream
from proxy.migration.routes import layout
from proxy.process.gateway import Gateway
from proxy.settings import App, Plan, Proxy


class Transport:
    """A transport that records what is written and makes no callbacks."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False
        self.eof = False
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if not self.closing:
            assert not self.eof, "nothing may be written after the end"
            self.written += data

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Stage:
    """A gateway with one client and, once needed, connections to the origin."""

    def __init__(self) -> None:
        plan = Plan(App("http://127.0.0.1:1"), Proxy(), {"mock": Mock(), "firestore": Firestore("demo")}, ())
        shape = layout(plan, 1)
        self.gateway = Gateway(plan, memoryview(bytearray(8 * shape.cells())).cast("Q"), shape.worker(0))
        shared = self.gateway.shared
        shared.date = b"date: x\r\n"
        self.ups: list[Upstream] = []
        self.gateway.shared.app = Pool(
            plan.app, self.gateway.shared.heads, lambda: self.gateway.shared.now, self.dial
        )
        self.gateway.pools = [self.gateway.shared.app]
        self.client = Transport()
        self.down = self.gateway.client()
        self.client.protocol = self.down
        self.down.connection_made(self.client)  # type: ignore[arg-type] # has the methods of a transport that are used
        self.fin = False

    async def dial(self, up: Upstream) -> None:
        """Open a fake connection."""
        transport = Transport()
        transport.protocol = up
        up.connection_made(transport)  # type: ignore[arg-type] # has the methods of a transport that are used
        self.ups.append(up)

    def send(self, data: bytes) -> None:
        """Send the client's bytes, unless its connection is closing or it has sent FIN."""
        if not (self.client.closing or self.fin):
            self.down.data_received(data)

    def answer(self, data: bytes) -> None:
        """Send the origin's bytes on its newest connection, unless that is closing or the origin has ended."""
        if self.ups and not self.ups[-1].transport.is_closing() and not self.ups[-1]._ended:
            self.ups[-1].data_received(data)

    @property
    def reached(self) -> list[bytes]:
        return [up.transport.written for up in self.ups]  # type: ignore[attr-defined] # it is a fake Transport

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """The client leaves: no connection and no task may remain."""
        if not self.client.closing:
            self.client.abort()
        await self.settle()
        pool = self.gateway.shared.app
        idle = [up for up in pool._idle if not up.closed]
        assert not self.gateway.clients
        assert pool.opened == len(idle)
        assert asyncio.all_tasks() == {asyncio.current_task()}
