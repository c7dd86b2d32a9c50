"""The load's client: it reads every answer whole, and says exactly what became of each request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from loadtest.generator.client import Job, LoadClient, Reply, encode
from tests.support.patience import WITHIN_S
from tests.support.served import Served

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def ask(client: LoadClient, method: str = "GET", path: str = "/") -> Reply:
    return await client.ask(encode(method, path, client.netloc, {}, b"{}" if method == "POST" else None))


async def asked_once(address: str, method: str = "GET", timeout_s: float = WITHIN_S) -> Reply:
    client = LoadClient(f"http://{address}", most=4, timeout_s=timeout_s)
    try:
        return await ask(client, method)
    finally:
        await client.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ],
)
async def test_an_answer_is_read_whole_however_its_length_is_told(answer: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with Served(handler) as address:
        found = await asked_once(address)
    assert (found.status, found.body, found.failure) == (200, b"hello", "")


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\ncontent-",
        b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n",
        b"",
        b"nonsense\r\n\r\n",
    ],
)
async def test_an_answer_that_is_cut_short_is_no_answer(part: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(part)
        writer.close()

    async with Served(handler) as address:
        found = await asked_once(address)
    assert (found.status, found.failure) == (0, "broken")


async def test_nobody_listening_is_told_from_nobody_answering(free_port: Callable[[], int]) -> None:
    assert (await asked_once(f"127.0.0.1:{free_port()}")).failure == "refused"

    hold = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    async with Served(handler) as address:
        assert (await asked_once(address, timeout_s=0.1)).failure == "timeout"
        hold.set()


async def test_a_kept_connection_found_closed_is_repeated_for_a_read_and_told_for_a_write() -> None:
    served = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        served += 1
        writer.write(ANSWER)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")  # the second request is taken, and the connection closed on it
        writer.close()

    async with Served(handler) as address:
        client = LoadClient(f"http://{address}", most=1, timeout_s=WITHIN_S)
        first, second = await ask(client), await ask(client)
        assert [first.status, second.status] == [200, 200]
        assert [first.repeated, second.repeated] == [False, True]
        assert served == 2
        third = await ask(client, "POST")
        assert (third.failure, third.repeated) == ("broken", False)
        await client.close()


async def test_beyond_the_connections_some_wait_and_the_others_are_not_sent() -> None:
    go_on = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await go_on.wait()
            writer.write(ANSWER)

    async with Served(handler) as address:
        client = LoadClient(f"http://{address}", most=2, timeout_s=WITHIN_S, waiting_most=3)
        told: list[tuple[str, str]] = []
        for number in range(6):
            wire = encode("GET", f"/{number}", client.netloc, {})
            client.send(Job(wire, f"{number}", lambda job, found: told.append((job.operation, found.failure))))
        assert told == [("5", "unsent")]
        go_on.set()
        await client.drain()
        assert sorted(told) == [(f"{number}", "unsent" if number == 5 else "") for number in range(6)]
        await client.close()


async def test_what_waits_for_a_connection_runs_out_of_time_too() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Served(handler) as address:
        client = LoadClient(f"http://{address}", most=1, timeout_s=0.2, waiting_most=1)
        found = await asyncio.gather(ask(client), ask(client))
        assert [each.failure for each in found] == ["timeout", "timeout"]
        await client.close()


async def test_more_than_was_asked_for_ends_the_connection_and_no_later_request_takes_it() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER + ANSWER)
        await reader.read()

    async with Served(handler) as address:
        client = LoadClient(f"http://{address}", most=4, timeout_s=WITHIN_S)
        for _ in range(3):
            found = await ask(client, "POST")
            assert (found.status, found.body) == (200, b"ok")
        await client.close()
