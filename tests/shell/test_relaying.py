"""A migration between two HTTP origins: split, streamed, recorded, and saved by the source where the target fails."""

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
from backends.errors import FaultKind
from backends.kinds.http.settings import Http
from proxy.board.board import Board
from proxy.migration.relaying import Relaying
from proxy.migration.routes import layout
from proxy.migration.split import Split
from proxy.migration.sticky import Stickiness
from proxy.process.gateway import Gateway
from proxy.settings import App, Plan, Proxy, Route
from tests.support.origin import Behave, Origin, answering, half_an_answer, hang_up, silent
from tests.support.patience import WITHIN_S


@dataclass
class Bench:
    """A worker's data plane in this process, between two origins."""

    board: Board
    service: Relaying
    gateway: Gateway
    port: int

    def weigh(self, weight_bp: int, **deadlines: int) -> None:
        self.board.publish(0, weight_bp, pinned=True, now_ns=monotonic_ns(), **deadlines)

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), WITHIN_S)
        writer.close()
        return answer


@asynccontextmanager
async def running(
    source: Origin, target: Origin, path: Path, kinds: tuple[str, str] = ("http", "http")
) -> AsyncIterator[Bench]:
    servers = []
    for origin in (source, target):
        server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
        origin.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    backends = {
        name: Http(f"http://127.0.0.1:{origin.port}", Duration(WITHIN_S))
        for name, origin in (("old", source), ("new", target))
    }
    route = Route("move", ("/api/*",), "old", "new")
    plan = Plan(App("http://127.0.0.1:1"), Proxy(), dict(backends), (route,))
    shape = layout(plan, 1)
    board = Board.create(path / "board", shape, 1)
    gateway = Gateway(plan, board.cells, shape.worker(0))
    pools = [gateway.pool(App(b.origin, b.deadline_s, b.deadline_s)) for b in backends.values()]
    stickiness = Stickiness(plan.proxy.sticky, ["move"])
    service = Relaying(Split(board.cells, shape, 0, 0, stickiness), (pools[0], pools[1]), kinds)
    gateway.shared.services.append(service)

    async def ticking() -> None:
        while True:
            gateway.tick()
            gateway.sweep()
            await asyncio.sleep(0.01)

    ticks = asyncio.create_task(ticking())
    server = await asyncio.get_running_loop().create_server(gateway.client, "127.0.0.1", 0)
    try:
        yield Bench(board, service, gateway, server.sockets[0].getsockname()[1])
    finally:
        ticks.cancel()
        gateway.close()
        for each in (server, *servers):
            each.close()


GET = b"GET /api/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-user-id: u\r\n\r\n"
POST = b"POST /api/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-user-id: u\r\ncontent-length: 2\r\n\r\nhi"


async def test_a_request_goes_to_the_arm_of_its_weight_and_is_counted_there(tmp_path: Path) -> None:
    source, target = Origin(answering(200, b"old")), Origin(answering(200, b"new"))
    async with running(source, target, tmp_path) as bench:
        before = await bench.ask(GET)
        bench.weigh(10_000)
        after = await bench.ask(GET)
        assert before.endswith(b"\r\n\r\nold")
        assert after.endswith(b"\r\n\r\nnew")
        assert b"x-data-source: http\r\n" in after
        assert [bench.board.series(0, arm).requests for arm in (SOURCE, TARGET)] == [1, 1]
        assert bench.board.shares(0) == [] or bench.board.share(0, 0).inflight_target == 0
        assert [len(origin.heads) for origin in (source, target)] == [1, 1]


async def test_the_kind_of_the_origin_that_answers_is_told(tmp_path: Path) -> None:
    source, target = Origin(answering(200, b"old")), Origin(answering(200, b"new"))
    async with running(source, target, tmp_path, ("http", "shop")) as bench:
        assert b"x-data-source: http\r\n" in await bench.ask(GET)
        bench.weigh(10_000)
        assert b"x-data-source: shop\r\n" in await bench.ask(GET)
        target.behave = answering(500, b"no")
        answer = await bench.ask(GET)
        assert answer.endswith(b"\r\n\r\nold")
        assert answer.count(b"x-data-source: ") == 1
        assert b"x-data-source: http\r\nx-data-fallback: internal\r\n" in answer


@pytest.mark.parametrize(
    ("behave", "kind"),
    [
        (answering(500, b"no"), FaultKind.INTERNAL),
        (answering(503, b"no"), FaultKind.EXHAUSTED),
        (hang_up, FaultKind.UNAVAILABLE),
        (silent, FaultKind.DEADLINE),
    ],
    ids=["500", "503", "hangs up", "silent"],
)
async def test_a_failing_targets_read_is_answered_by_the_source(
    behave: Behave, kind: FaultKind, tmp_path: Path
) -> None:
    source, target = Origin(answering(200, b"old")), Origin(behave)
    async with running(source, target, tmp_path) as bench:
        if behave is silent:
            bench.service.pools[TARGET].timeout_s = 0.3
        bench.weigh(10_000)
        answer = await bench.ask(GET)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nold")
        assert b"x-data-fallback: %b\r\n" % kind.label.encode() in answer
        counted = bench.board.series(0, TARGET)
        assert (counted.requests, counted.faults[kind], counted.fallbacks) == (1, 1, 1)
        assert bench.board.series(0, SOURCE).requests == 0, "a fallback is the target's request, not the source's"
        share = bench.board.share(0, 0)
        assert (share.inflight_source, share.inflight_target, share.inflight_old) == (0, 0, 0)


async def test_options_that_must_go_no_further_reach_no_origin(tmp_path: Path) -> None:
    source, target = Origin(answering(200, b"old")), Origin(answering(200, b"new"))
    async with running(source, target, tmp_path) as bench:
        head = GET.replace(b"GET", b"OPTIONS").replace(b"\r\n\r\n", b"\r\nmax-forwards: %d\r\n\r\n")
        assert (await bench.ask(head % 0)).startswith(b"HTTP/1.1 204 ")
        assert source.heads == target.heads == []
        assert (await bench.ask(head % 1)).endswith(b"old")
        assert b"\r\nmax-forwards: 0\r\n" in source.heads[0]


async def test_a_write_is_never_sent_twice(tmp_path: Path) -> None:
    source, target = Origin(answering(200, b"old")), Origin(answering(500, b"broken"))
    async with running(source, target, tmp_path) as bench:
        bench.weigh(10_000)
        answer = await bench.ask(POST)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert source.heads == []
        assert bench.board.series(0, TARGET).errors == 1


async def test_an_answer_that_breaks_off_never_looks_complete(tmp_path: Path) -> None:
    source, target = Origin(answering(200, b"old")), Origin(half_an_answer)
    async with running(source, target, tmp_path) as bench:
        bench.weigh(10_000)
        try:
            answer = await bench.ask(GET)
        except ConnectionResetError:
            answer = b""
        assert b"\r\n\r\nold" not in answer
        assert len(answer.partition(b"\r\n\r\n")[2]) < 100
        counted = bench.board.series(0, TARGET)
        assert (counted.requests, counted.faults[FaultKind.UNAVAILABLE], counted.errors) == (1, 1, 1)


async def test_a_rollback_hands_a_waiting_read_to_the_source(tmp_path: Path) -> None:
    source, target = Origin(answering(200, b"old")), Origin(silent)
    async with running(source, target, tmp_path) as bench:
        bench.weigh(10_000)
        asked = asyncio.create_task(bench.ask(GET))
        while not bench.board.share(0, 0).inflight_target:
            await asyncio.sleep(0.005)
        bench.weigh(0, cut_over_at=monotonic_ns(), cancel_at=monotonic_ns() + 10**10)
        answer = await asked
        assert answer.endswith(b"\r\n\r\nold")
        assert b"x-data-fallback: deadline\r\n" in answer
        share = bench.board.share(0, 0)
        assert (share.generation, share.inflight_target, share.inflight_old) == (2, 0, 0)


async def test_a_client_that_leaves_frees_the_origin_and_its_wait_is_counted(tmp_path: Path) -> None:
    source, target = Origin(answering(200, b"old")), Origin(silent)
    async with running(source, target, tmp_path) as bench:
        bench.weigh(10_000)
        _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(GET)
        while not bench.board.share(0, 0).inflight_target:
            await asyncio.sleep(0.005)
        writer.transport.abort()
        while bench.board.share(0, 0).inflight_target:
            await asyncio.sleep(0.005)
        assert bench.board.series(0, TARGET).requests == 1
        assert bench.service.pools[TARGET].opened == 0
