"""The open loop against a server of the test's own: what it sends, what it counts, what a stall does to it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from loadtest.generator import openloop
from loadtest.generator.arrivals import Lane, OpenLoop
from loadtest.generator.pacing import Schedule
from tests.support.patience import WITHIN_S
from tests.support.served import Served

Handler = Callable[[bytes], Awaitable[bytes]]
HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-data-source: mock\r\n\r\nhello"


@asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[str]:
    """Answers each request with what ``handle`` makes of its head; b"" hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answer := await handle(await reader.readuntil(b"\r\n\r\n")):
            writer.write(answer)

    async with Served(serve) as address:
        yield f"http://{address}"


async def measured(url: str, *more: str) -> dict[str, Any]:
    result = await openloop.run(openloop.arguments([url, *more]))
    (target,) = result["targets"]
    return target


async def test_every_due_request_is_sent_once_and_counted() -> None:
    users = []

    async def handle(head: bytes) -> bytes:
        users.append(head.split(b"x-user-id: ")[1].split(b"\r\n")[0])
        return HELLO

    async with server(handle) as url:
        target = await measured(url, "--rate", "200", "--for", "0.5", "--identities", "4", "--connections", "3")
    assert (target["sent"], target["answered"], target["failed"]) == (100, 100, 0)
    assert len(users) == 100
    assert set(users) == {b"user-0", b"user-1", b"user-2", b"user-3"}
    assert target["sources"] == {"mock": 100}
    assert sum(second["sent"] for second in target["seconds"]) == 100
    assert target["histogram"]["count"] == 100


async def test_a_stall_is_felt_by_all_that_come_in_it_and_a_closed_loop_hides_most_of_them() -> None:
    began = monotonic()

    async def handle(head: bytes) -> bytes:
        now = monotonic() - began
        if 0.4 < now < 1.0:
            await asyncio.sleep(1.0 - now)
        return HELLO

    async with server(handle) as url:
        target = await measured(url, "--rate", "200", "--for", "1.4", "--users", "4", "--connections", "2")
    assert target["failed"] == 0
    slow = sum(count for bucket, count in target["histogram"]["buckets"] if openloop_ms(bucket) > 100)
    assert slow > 60  # 200 a second for the half second in which the wait is above 100 ms
    assert target["closed_loop"]["left_out"] > 60
    assert target["closed_loop_ms"]["p90"] < target["latency_ms"]["p90"]
    assert "A closed loop of 4 users would have left out" in openloop.difference(target)


async def test_a_send_that_fails_ends_the_loop_and_is_told() -> None:
    sent = []

    def send(k: int, due_ns: int) -> None:
        sent.append(k)
        if k == 3:
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        await OpenLoop([Lane(Schedule(1000, math.inf), send)]).run()
    assert sent == [0, 1, 2, 3]


async def test_an_endless_loop_ends_when_it_is_stopped() -> None:
    sent = []

    def send(k: int, due_ns: int) -> None:
        sent.append(due_ns - loop.start_ns)
        if k == 9:
            loop.stop()

    loop = OpenLoop([Lane(Schedule(1000, math.inf), send)])
    await loop.run()
    assert sent[:10] == [k * 1_000_000 for k in range(10)]


def openloop_ms(bucket: int) -> float:
    from loadtest.generator.histogram import upper

    return upper(bucket) / 1000


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "connection:"),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel", "timed out"),
        (b"nonsense\r\n\r\n", "not HTTP/1.1"),
    ],
)
async def test_what_is_no_good_answer_is_a_failure_with_an_example(answer: bytes, words: str) -> None:
    async def handle(head: bytes) -> bytes:
        return answer

    timeout = "0.5" if words == "timed out" else str(WITHIN_S)
    async with server(handle) as url:
        target = await measured(url, "--rate", "50", "--for", "0.1", "--timeout", timeout, "--connections", "1")
    assert (target["sent"], target["failed"]) == (5, 5)
    assert any(words in example for example in target["examples"]), target["examples"]


async def test_visitors_send_what_users_do_and_judge_every_answer() -> None:
    seen = set()

    async def handle(head: bytes) -> bytes:
        seen.add(head.split(b" ")[1].split(b"?")[0])
        return HELLO  # right for no data request

    async with server(handle) as url:
        target = await measured(url, "--rate", "200", "--for", "0.5", "--visitors", "v")
    assert b"/api/dashboard/metrics" in seen
    assert target["operations"]["dashboard.current"]["failed"] == target["operations"]["dashboard.current"]["count"]
    assert any("no JSON" in example or "x-data-source" in example for example in target["examples"])


def test_the_command_writes_json_and_its_exit_code_says_whether_answers_were_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: Callable[[], int]
) -> None:
    out = tmp_path / "out.json"
    nobody = f"http://127.0.0.1:{free_port()}"
    assert openloop.main([nobody, "--for", "0.1", "--json", str(out)]) == openloop.USAGE
    assert "refused" in capsys.readouterr().err.lower()
    assert not out.exists()
    assert openloop.main(["127.0.0.1:80"]) == openloop.USAGE
    with pytest.raises(SystemExit) as stopped:
        openloop.main([nobody, "--rate", "0"])
    assert stopped.value.code == openloop.USAGE


@pytest.mark.parametrize(
    ("cpu", "late", "words"), [(0.2, 0.1, None), (0.75, 0.1, "75% of a core"), (0.2, 9.0, "9.0 ms late")]
)
def test_what_the_generator_did_to_itself_is_told(cpu: float, late: float, words: str | None) -> None:
    result = {"generator_cpu": cpu, "targets": [{"late_ms": {"p99": late}}]}
    found = openloop.own_fault(json.loads(json.dumps(result)))
    assert found is None if words is None else words in str(found)
