"""Data requests that must be waited for: recorded, handed over, cancelled, abandoned; nothing left in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns

import pytest

from backends.arm import SOURCE, TARGET
from backends.errors import Fault, FaultKind
from backends.kinds.mock.settings import Mock
from proxy.board.board import Board
from proxy.migration.answering import Answering
from proxy.migration.routes import layout
from proxy.migration.split import Split
from proxy.migration.sticky import Stickiness
from proxy.process.gateway import Gateway
from proxy.settings import App, Plan, Proxy, Route
from tests.support.patience import WITHIN_S
from tests.support.scripted import Scripted


@dataclass
class Bench:
    board: Board
    source: Scripted
    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def weigh(self, weight_bp: int, cut_over_at: int = 0, cancel_at: int = 0) -> None:
        now = monotonic_ns()
        self.board.publish(0, weight_bp, pinned=True, now_ns=now, cut_over_at=cut_over_at, cancel_at=cancel_at)

    async def open(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(request)
        return reader, writer

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.sleep(0.005)

    @property
    def inflight(self) -> tuple[int, int, int]:
        share = self.board.share(0, 0)
        return share.inflight_source, share.inflight_target, share.inflight_old


@asynccontextmanager
async def running(path: Path, *, one_writer: bool = False) -> AsyncIterator[Bench]:
    plan = Plan(
        App("http://127.0.0.1:1"),
        Proxy(),
        {"mock": Mock(), "other": Mock()},
        (Route("phase6", ("/api/dashboard/*",), "mock", "other"),),
    )
    shape = layout(plan, 1)
    board = Board.create(path / "board", shape, 1)
    gateway = Gateway(plan, board.cells, shape.worker(0))
    source = Scripted()
    gateway.shared.services.append(
        Answering(
            gateway.shared,
            Split(board.cells, shape, 0, 0, Stickiness(plan.proxy.sticky, ["phase6"])),
            source,
            one_writer,
        )
    )

    async def ticking() -> None:
        while True:
            gateway.tick()
            await asyncio.sleep(0.005)

    ticks = asyncio.create_task(ticking())
    server = await asyncio.get_running_loop().create_server(gateway.client, "127.0.0.1", 0)
    bench = Bench(board, source, server.sockets[0].getsockname()[1])
    try:
        yield bench
    finally:
        for writer in bench.writers:
            writer.transport.abort()
        ticks.cancel()
        gateway.close()
        server.close()
        await asyncio.sleep(0)


HEAD = b"%b HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\nconnection: close\r\n"
READ = HEAD % b"GET /api/dashboard/metrics" + b"\r\n"
WRITE = HEAD % b"PUT /api/dashboard/metrics" + b"content-length: 2\r\n\r\n{}"
STREAM = HEAD % b"GET /api/dashboard/metrics/stream" + b"\r\n"


async def test_an_answer_waited_for_is_in_flight_until_it_is_written(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        reader, _ = await bench.open(READ)
        await bench.until(lambda: bench.inflight == (0, 1, 0))
        bench.source.gates[TARGET].set()
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"x-data-source: firestore\r\n" in answer
        assert bench.inflight == (0, 0, 0)
        assert bench.board.series(0, TARGET).requests == 1


async def test_a_write_that_the_target_took_is_read_there_though_others_are_on_their_way(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        bench.source.gates[TARGET].set()
        bench.source.behind = monotonic_ns()
        for request in (WRITE, READ):
            reader, _ = await bench.open(request)
            assert b"x-data-source: firestore" in await reader.read()


async def test_a_write_that_fell_back_is_followed_to_the_source_until_the_target_has_it(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        for gate in bench.source.gates:
            gate.set()
        bench.source.faults.append(Fault(FaultKind.DEADLINE, "silent"))
        bench.source.behind = monotonic_ns()
        for request, arm in ((WRITE, TARGET), (READ, SOURCE), (WRITE, SOURCE), (READ, SOURCE)):
            reader, _ = await bench.open(request)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
            assert bench.source.asked[-1][0] == arm
        bench.source.behind = 0

        async def asked() -> int:
            reader, _ = await bench.open(READ)
            await reader.read()
            return bench.source.asked[-1][0]

        async with asyncio.timeout(WITHIN_S):
            while await asked() == SOURCE:
                await asyncio.sleep(0.005)


async def test_with_one_writer_a_session_is_on_the_source_until_the_target_has_its_write(tmp_path: Path) -> None:
    async with running(tmp_path, one_writer=True) as bench:

        async def asked(request: bytes) -> int:
            reader, _ = await bench.open(request)
            await reader.read()
            return bench.source.asked[-1][0]

        bench.weigh(9_999)  # every visitor but one in ten thousand reads from the target
        for gate in bench.source.gates:
            gate.set()
        assert await asked(READ) == TARGET
        bench.source.behind = monotonic_ns()
        assert [await asked(request) for request in (WRITE, READ, WRITE)] == [SOURCE] * 3
        bench.source.behind = 0
        async with asyncio.timeout(WITHIN_S):
            while await asked(READ) == SOURCE:
                await asyncio.sleep(0.005)
        assert await asked(WRITE) == SOURCE
        bench.weigh(10_000)  # completed: the bench pins every weight
        assert [await asked(request) for request in (WRITE, READ)] == [TARGET, TARGET]
        bench.weigh(5_000)
        assert await asked(WRITE) == SOURCE


async def test_a_fallback_says_so_and_counts_against_the_target(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        bench.source.faults.append(Fault(FaultKind.ABORTED, "contention"))
        bench.source.gates[TARGET].set()
        reader, _ = await bench.open(READ)
        answer = await reader.read()
        assert b"x-data-source: mock\r\n" in answer
        assert b"x-data-fallback: aborted\r\n" in answer
        counted = bench.board.series(0, TARGET)
        assert (counted.requests, counted.errors, counted.fallbacks) == (1, 1, 1)
        assert bench.board.series(0, SOURCE).requests == 0


@pytest.mark.parametrize("late", ["cut_over_at", "cancel_at"])
async def test_a_rollback_hands_an_open_read_to_the_source(tmp_path: Path, late: str) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        reader, _ = await bench.open(READ)
        await bench.until(lambda: bench.inflight == (0, 1, 0))
        bench.weigh(0)
        await bench.until(lambda: bench.inflight == (0, 0, 1))
        bench.weigh(0, **{late: monotonic_ns()})
        await bench.until(lambda: bench.inflight == (1, 0, 0))
        bench.source.gates[SOURCE].set()
        answer = await reader.read()
        assert answer.endswith(b'"source"')
        assert b"x-data-fallback: deadline\r\n" in answer
        assert (bench.inflight, bench.source.cancelled) == ((0, 0, 0), 1)
        assert bench.board.series(0, TARGET).fallbacks == 1


async def test_a_write_outlives_the_cut_over_and_is_told_the_truth_at_the_deadline(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        reader, _ = await bench.open(WRITE)
        await bench.until(lambda: bench.inflight == (0, 1, 0))
        bench.weigh(0, cut_over_at=monotonic_ns())
        await bench.until(lambda: bench.inflight == (0, 0, 1))
        await asyncio.sleep(0.03)
        assert bench.inflight == (0, 0, 1), "a write cannot be handed over: it may have been applied"
        bench.weigh(0, cancel_at=monotonic_ns())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"write_uncertain" in answer
        assert bench.inflight == (0, 0, 0)
        assert bench.board.series(0, TARGET).faults[FaultKind.DEADLINE] == 1


async def test_a_rollback_ends_a_stream_so_that_its_client_comes_back_to_the_source(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        bench.source.gates[TARGET].set()
        reader, _ = await bench.open(STREAM)
        seen = await reader.readuntil(b"data: 1\n\n")
        assert b"transfer-encoding: chunked\r\n" in seen
        bench.weigh(0, cut_over_at=monotonic_ns())
        rest = await reader.read()
        assert rest.endswith(b"0\r\n\r\n"), "ended whole, not broken off"
        await bench.until(lambda: bench.inflight == (0, 0, 0))


async def test_a_read_whose_client_leaves_is_given_up_and_its_wait_recorded(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        _, writer = await bench.open(READ)
        await bench.until(lambda: bench.inflight == (0, 1, 0))
        writer.transport.abort()
        await bench.until(lambda: bench.inflight == (0, 0, 0))
        assert bench.source.cancelled == 1
        counted = bench.board.series(0, TARGET)
        assert (counted.requests, counted.client_errors) == (1, 1)


async def test_a_write_whose_client_leaves_runs_to_its_end(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        _, writer = await bench.open(WRITE)
        await bench.until(lambda: bench.inflight == (1, 0, 0))
        writer.transport.abort()
        await asyncio.sleep(0.02)
        assert bench.inflight == (1, 0, 0)
        bench.source.gates[SOURCE].set()
        await bench.until(lambda: bench.inflight == (0, 0, 0))
        assert bench.source.cancelled == 0
        assert bench.board.series(0, SOURCE).requests == 1


async def test_a_bug_costs_one_request_and_counts_as_the_arms_failure(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        bench.source.crash = True
        reader, _ = await bench.open(READ)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"ZeroDivision" not in answer
        assert bench.board.series(0, TARGET).faults[FaultKind.INTERNAL] == 1
        assert bench.inflight == (0, 0, 0)


async def test_a_target_without_a_lease_is_not_asked(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.source.gates[SOURCE].set()
        bench.source.gates[TARGET].set()
        bench.board.publish(0, 10_000, pinned=False, now_ns=monotonic_ns())
        answers = []
        for until in (monotonic_ns() + 10**11, monotonic_ns() - 1):
            bench.board.renew_lease(0, until)
            reader, _ = await bench.open(READ)
            answers.append((await reader.read()).rpartition(b"\r\n")[2])
        assert answers == [b'"target"', b'"source"']


async def test_a_stream_that_is_left_before_its_head_is_in_flight_no_longer(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        _, writer = await bench.open(STREAM)
        await bench.until(lambda: bench.inflight == (0, 1, 0))
        writer.transport.abort()
        await bench.until(lambda: bench.inflight == (0, 0, 0))
        assert bench.source.cancelled == 1


async def test_a_stream_without_a_head_yet_is_taken_over_by_the_source(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.weigh(10_000)
        reader, _ = await bench.open(STREAM)
        await bench.until(lambda: bench.inflight == (0, 1, 0))
        bench.weigh(0, cut_over_at=1)
        await bench.until(lambda: bench.inflight == (1, 0, 0))
        bench.source.gates[SOURCE].set()
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        assert b"x-data-source: mock\r\n" in await reader.readuntil(b"\r\n\r\n")


async def test_head_of_a_stream_is_its_head(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.source.gates[SOURCE].set()
        reader, _ = await bench.open(STREAM.replace(b"GET", b"HEAD"))
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        assert answer.endswith(b"\r\n\r\n")
        assert answer.count(b"\r\n\r\n") == 1, "and nothing behind it"
        assert bench.inflight == (0, 0, 0)
