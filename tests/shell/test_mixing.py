"""A migration between a document store and an HTTP origin, either way round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns

import pytest

from backends.arm import SOURCE, TARGET
from backends.durations import Duration
from backends.errors import Fault, FaultKind
from backends.kinds.http.settings import Http
from backends.kinds.mock.settings import Mock
from proxy.board.board import Board
from proxy.migration.mixing import Mixing
from proxy.migration.routes import layout
from proxy.migration.split import Split
from proxy.migration.sticky import Stickiness
from proxy.process.gateway import Gateway
from proxy.settings import App, Plan, Proxy, Route
from tests.support.origin import Origin, answering, hang_up
from tests.support.patience import WITHIN_S
from tests.support.scripted import Named, Scripted


@dataclass
class Bench:
    board: Board
    store: Scripted
    port: int

    def weigh(self, weight_bp: int, cut_over_at: int = 0) -> None:
        self.board.publish(0, weight_bp, pinned=True, now_ns=monotonic_ns(), cut_over_at=cut_over_at)

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(), WITHIN_S)
        finally:
            writer.close()

    @property
    def inflight(self) -> tuple[int, int, int]:
        share = self.board.share(0, 0)
        return share.inflight_source, share.inflight_target, share.inflight_old


@asynccontextmanager
async def running(origin: Origin, at: int, path: Path) -> AsyncIterator[Bench]:
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    backends = {"store": Mock(), "web": Http(f"http://127.0.0.1:{port}", Duration(WITHIN_S))}
    names = ("web", "store") if at == SOURCE else ("store", "web")
    plan = Plan(App("http://127.0.0.1:1"), Proxy(), dict(backends), (Route("move", ("/api/dashboard/*",), *names),))
    shape = layout(plan, 1)
    board = Board.create(path / "board", shape, 1)
    gateway = Gateway(plan, board.cells, shape.worker(0))
    store = Scripted(arms=(Named("http"), Named("firestore")) if at == SOURCE else (Named("mock"), Named("http")))
    for gate in store.gates:
        gate.set()
    pool = gateway.pool(App(f"http://127.0.0.1:{port}", Duration(WITHIN_S), Duration(WITHIN_S)))
    stickiness = Stickiness(plan.proxy.sticky, ["move"])
    gateway.shared.services.append(
        Mixing(gateway.shared, Split(board.cells, shape, 0, 0, stickiness), store, at, pool)
    )

    async def ticking() -> None:
        while True:
            gateway.tick()
            gateway.sweep()
            await asyncio.sleep(0.005)

    ticks = asyncio.create_task(ticking())
    proxy = await asyncio.get_running_loop().create_server(gateway.client, "127.0.0.1", 0)
    try:
        yield Bench(board, store, proxy.sockets[0].getsockname()[1])
    finally:
        ticks.cancel()
        gateway.close()
        server.close()
        proxy.close()
        await asyncio.sleep(0)


HEAD = b"%b HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\nconnection: close\r\n"
READ = HEAD % b"GET /api/dashboard/metrics" + b"\r\n"
WRITE = HEAD % b"PUT /api/dashboard/metrics" + b"content-length: 2\r\n\r\n{}"
CHUNKED = HEAD % b"PUT /api/dashboard/metrics" + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"


@pytest.mark.parametrize("at", [SOURCE, TARGET])
@pytest.mark.parametrize("request_bytes", [READ, WRITE, CHUNKED], ids=["read", "write", "chunked"])
async def test_each_arm_answers_by_the_weight(at: int, request_bytes: bytes, tmp_path: Path) -> None:
    origin = Origin(answering(200, b"web"))
    async with running(origin, at, tmp_path) as bench:
        for arm, weight in ((SOURCE, 0), (TARGET, 10_000)):
            bench.weigh(weight)
            answer = await bench.ask(request_bytes)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"web" if arm == at else (b'"source"', b'"target"')[arm])
            assert bench.board.series(0, arm).requests == 1
        assert origin.bodies in ([b""], [b"{}"], [b"2\r\n{}\r\n0\r\n\r\n"])
        assert bench.inflight == (0, 0, 0)


async def test_a_read_that_the_store_fails_is_answered_by_the_origin(tmp_path: Path) -> None:
    async with running(Origin(answering(200, b"web")), SOURCE, tmp_path) as bench:
        bench.weigh(10_000)
        bench.store.faults.append(Fault(FaultKind.EXHAUSTED, "quota"))
        answer = await bench.ask(READ)
        assert answer.endswith(b"web")
        assert b"x-data-source: http\r\n" in answer
        assert b"x-data-fallback: exhausted\r\n" in answer
        counted = bench.board.series(0, TARGET)
        assert (counted.requests, counted.faults[FaultKind.EXHAUSTED], counted.fallbacks) == (1, 1, 1)
        assert bench.board.series(0, SOURCE).requests == 0
        assert bench.inflight == (0, 0, 0)


async def test_a_read_that_falls_back_to_the_origin_takes_its_body_along(tmp_path: Path) -> None:
    """Else the origin would take the next request on that connection for the body that the head announces."""
    origin = Origin(answering(200, b"web"))
    async with running(origin, SOURCE, tmp_path) as bench:
        bench.weigh(10_000)
        bench.store.faults.append(Fault(FaultKind.EXHAUSTED, "quota"))
        answer = await bench.ask(HEAD % b"GET /api/dashboard/metrics" + b"content-length: 5\r\n\r\nabcde")
        assert answer.endswith(b"web")
        assert origin.bodies == [b"abcde"]


async def test_a_read_that_the_origin_fails_is_answered_by_the_store(tmp_path: Path) -> None:
    async with running(Origin(hang_up), TARGET, tmp_path) as bench:
        bench.weigh(10_000)
        answer = await bench.ask(READ)
        assert answer.endswith(b'"source"')
        assert b"x-data-source: mock\r\n" in answer
        assert b"x-data-fallback: unavailable\r\n" in answer
        counted = bench.board.series(0, TARGET)
        assert (counted.requests, counted.errors, counted.fallbacks) == (1, 1, 1)
        assert bench.board.series(0, SOURCE).requests == 0
        assert bench.inflight == (0, 0, 0)


async def test_a_rollback_hands_a_waiting_read_to_the_origin(tmp_path: Path) -> None:
    async with running(Origin(answering(200, b"web")), SOURCE, tmp_path) as bench:
        bench.weigh(10_000)
        bench.store.gates[TARGET].clear()
        asked = asyncio.create_task(bench.ask(READ))
        async with asyncio.timeout(WITHIN_S):
            while bench.inflight != (0, 1, 0):
                await asyncio.sleep(0.005)
        bench.weigh(0, cut_over_at=monotonic_ns())
        assert (await asked).endswith(b"web")
        assert bench.inflight == (0, 0, 0)
        assert bench.board.series(0, TARGET).fallbacks == 1


async def test_a_write_that_the_origin_fails_is_not_repeated_elsewhere(tmp_path: Path) -> None:
    async with running(Origin(answering(500, b"broken")), TARGET, tmp_path) as bench:
        bench.weigh(10_000)
        answer = await bench.ask(WRITE)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert bench.store.asked == []
        assert bench.board.series(0, TARGET).errors == 1
