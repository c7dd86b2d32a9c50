"""What rehearsals are made of: the relay, the cable, the checks of a soak and the planted bugs do as they say."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from loadtest.rehearse import mutants
from loadtest.rehearse.acts import CONDITIONS, VERBS
from loadtest.rehearse.faults import BY_NAME, REHEARSALS
from loadtest.rehearse.soak import ClientCounts, ProcessSample, equal, flat
from loadtest.stage.errors import StageError
from loadtest.stage.processes import Process
from loadtest.stage.relay import Cable, GrpcRelay, Trouble
from tests.support.patience import WITHIN_S
from tests.support.served import Served


def test_every_row_names_acts_that_exist_and_allows_failures_only_with_a_reason() -> None:
    for row in REHEARSALS:
        assert {act.verb for act in (*row.begin, *row.end)} <= VERBS.keys(), row.name
        assert not row.until or row.until in CONDITIONS, row.name
        assert all(allowed.why and allowed.most > 0 for allowed in row.allowed), row.name
        assert row.proof or not row.begin, row.name
    assert len(BY_NAME) == len(REHEARSALS)


def test_growth_is_told_from_wear_and_a_missing_count_from_none() -> None:
    steady = [ProcessSample(100 + i % 3, 40, 20, 5) for i in range(30)]
    assert all(finding.held for finding in flat("worker", steady))
    for figure, step in (("rss_mb", 2.0), ("descriptors", 2), ("sockets", 2), ("threads", 1)):
        leak = [one._replace(**{figure: getattr(one, figure) + step * i}) for i, one in enumerate(steady)]
        assert not all(finding.held for finding in flat("worker", leak)), figure
    client = ClientCounts(sent=10, app=2, source=5, target=3, fallbacks=1)
    assert equal(client, {"source": 5, "target": 3, "fallbacks": 1, "app": 2}).held
    assert not equal(client, {"source": 5, "target": 2, "fallbacks": 1, "app": 2}).held


# The relay and the cable.


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers every call with what it was sent."""

    def service(self, handler_call_details: object) -> object:
        async def echo(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
            async for message in requests:
                yield message

        return grpc.stream_stream_rpc_method_handler(echo)


@pytest.fixture
async def target() -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def test_the_relay_meets_exactly_its_share_of_the_calls(target: str) -> None:
    async with GrpcRelay(target) as relay, grpc.aio.insecure_channel(f"127.0.0.1:{relay.port}") as channel:
        call = channel.unary_unary("/a.Service/Get")
        assert await call(b"hello", timeout=WITHIN_S) == b"hello"
        relay.begin(Trouble(share=0.2, status="RESOURCE_EXHAUSTED"))
        failed = []
        for number in range(20):
            try:
                await call(b"hello", timeout=WITHIN_S)
            except grpc.aio.AioRpcError as error:
                failed.append((number, error.code().name))
        assert failed == [(number, "RESOURCE_EXHAUSTED") for number in (4, 9, 14, 19)]
        assert relay.met == 4
        relay.begin(Trouble(corrupt=True))
        assert {await call(b"hello", timeout=WITHIN_S) for _ in range(2)} == {b"he", b"\xff\xfe\x00garbage\x07"}
        relay.end()
        assert await call(b"hello", timeout=WITHIN_S) == b"hello"


async def _to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_an_open_stream_ends_when_the_trouble_begins(target: str) -> None:
    async with GrpcRelay(target) as relay, grpc.aio.insecure_channel(f"127.0.0.1:{relay.port}") as channel:
        stream = channel.stream_stream("/google.firestore.v1.Firestore/Listen")(timeout=WITHIN_S)
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        relay.begin(Trouble(status="UNAVAILABLE"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await _to_the_end(stream)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_cut_cable_passes_nothing_and_tells_nobody_until_it_is_mended() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async with Served(handler) as address, Cable(address) as cable:
        reader, writer = await asyncio.open_connection("127.0.0.1", cable.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        cable.cut()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)
        cable.mend()
        assert await reader.readexactly(3) == b"two"
        assert cable.held
        writer.close()
        await writer.wait_closed()


# Processes.


def test_a_process_is_read_line_by_line_and_its_end_is_told(tmp_path: Path) -> None:
    code = "import json, sys; print(json.dumps({'port': 7}), flush=True); sys.exit('gone')"
    process = Process("one", [sys.executable, "-c", code], tmp_path / "log", read=True)
    process.start()
    try:
        assert process.line() == {"port": 7}
        with pytest.raises(StageError, match="gone"):
            process.line()
    finally:
        process.end()


def test_a_process_that_ends_before_it_is_ready_is_told_with_what_it_said(tmp_path: Path) -> None:
    process = Process("one", [sys.executable, "-c", "raise SystemExit('no such file')"], tmp_path / "log")
    process.start()
    try:
        with pytest.raises(StageError, match="no such file"):
            process.ready(lambda: False)
    finally:
        process.end()
    lives = Process("two", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    lives.start()
    try:
        lives.ready(lambda: True)
        assert lives.running
    finally:
        lives.end()
    assert not lives.running


# The planted bugs.


@pytest.mark.parametrize("bug", mutants.BUGS, ids=lambda bug: bug.name)
def test_every_bug_still_fits_the_code_and_is_watched_for(bug: mutants.Bug, tmp_path: Path, repository: Path) -> None:
    place = tmp_path / bug.file
    place.parent.mkdir(parents=True)
    before = (repository / bug.file).read_text()
    place.write_text(before)
    mutants.plant(bug, tmp_path)
    after = place.read_text()
    assert after != before
    compile(after, bug.file, "exec")
    assert mutants.watchers(bug.name)


def test_a_bug_that_fits_no_more_is_said_to(tmp_path: Path) -> None:
    bug = mutants.BUGS[0]
    (tmp_path / "proxy" / "migration").mkdir(parents=True)
    (tmp_path / bug.file).write_text("# something else\n")
    with pytest.raises(mutants.NotPlantedError):
        mutants.plant(bug, tmp_path)


def test_every_watch_is_for_a_bug_that_exists() -> None:
    assert {name for row in REHEARSALS for name in row.watches} == {bug.name for bug in mutants.BUGS}
