"""The guard, single flight, the cache and the mirror, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from backends.documents.port import Count, Document, Reason, Rejected
from backends.errors import Fault, FaultKind
from backends.resilience.breaker import MIN_CALLS, BreakerState
from backends.resilience.cache import KEYS, Cache
from backends.resilience.flight import Flights
from backends.resilience.guard import Guard
from tests.support.patience import WITHIN_S


def soon(seconds: float = WITHIN_S) -> float:
    return asyncio.get_running_loop().time() + seconds


def unavailable() -> Fault:
    return Fault(FaultKind.UNAVAILABLE, "down", may_retry=True, may_have_applied=True)


def failing_first(times: int, fault: Callable[[], Exception] = unavailable) -> Callable[[float], Awaitable[str]]:
    left = [times]

    async def call(timeout: float) -> str:
        assert 0 < timeout <= WITHIN_S
        left[0] -= 1
        if left[0] >= 0:
            raise fault()
        return "done"

    return call


async def test_a_failed_call_is_made_once_more() -> None:
    guard = Guard()
    assert await guard.run(failing_first(1), soon()) == "done"
    assert (guard.attempts, guard.retries) == (2, 1)
    with pytest.raises(Fault):
        await guard.run(failing_first(2), soon())
    assert (guard.attempts, guard.retries) == (4, 2)


async def test_what_repeating_will_not_cure_is_not_repeated() -> None:
    guard = Guard()
    with pytest.raises(Fault):
        await guard.run(failing_first(1, lambda: Fault(FaultKind.DEADLINE, "late")), soon())
    with pytest.raises(Rejected):
        await guard.run(failing_first(1, lambda: Rejected(Reason.EXISTS, "there")), soon())
    assert (guard.attempts, guard.retries) == (2, 0)


async def test_a_call_whose_time_is_over_is_not_made() -> None:
    guard = Guard()
    with pytest.raises(Fault) as fault:
        await guard.run(failing_first(0), soon(0))
    assert fault.value.kind is FaultKind.DEADLINE
    assert guard.attempts == 0


async def test_a_backend_that_fails_is_left_alone_and_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.resilience.breaker.OPEN_S", 0.05)
    guard = Guard()
    for _ in range(MIN_CALLS):
        with pytest.raises(Fault):
            await guard.run(failing_first(9), soon())
        if guard.breaker.state is BreakerState.OPEN:
            break
    attempts = guard.attempts
    with pytest.raises(Fault) as fault:
        await guard.run(failing_first(0), soon())
    assert fault.value.kind is FaultKind.BREAKER
    assert guard.attempts == attempts
    deadline = soon()
    while guard.breaker.state is not BreakerState.CLOSED:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
        with contextlib.suppress(Fault):
            await guard.run(failing_first(0), soon())
    assert guard.attempts > attempts


async def test_refusals_say_nothing_against_the_backend() -> None:
    guard = Guard()
    for _ in range(3 * MIN_CALLS):
        with pytest.raises(Rejected):
            await guard.run(failing_first(1, lambda: Rejected(Reason.EXISTS, "there")), soon())
    assert guard.breaker.state is BreakerState.CLOSED


async def test_of_many_who_ask_the_same_one_asks_the_backend() -> None:
    flights, asked, answer = Flights(), [0], asyncio.Event()

    async def ask() -> int:
        asked[0] += 1
        await answer.wait()
        return 7

    askers = [asyncio.create_task(flights.share("key", ask, soon())) for _ in range(200)]
    await asyncio.sleep(0)
    askers[0].cancel()  # the one who asked first goes away
    await asyncio.sleep(0)
    answer.set()
    assert await asyncio.gather(*askers[1:]) == [7] * 199
    assert asked == [1]
    assert len(flights) == 0
    assert await flights.share("key", ask, soon()) == 7
    assert asked == [2]


async def test_a_failure_is_shared_and_a_late_one_leaves_the_others_alone() -> None:
    flights, answer = Flights(), asyncio.Event()

    async def ask() -> int:
        await answer.wait()
        raise unavailable()

    late = asyncio.create_task(flights.share("key", ask, soon(0.02)))
    patient = asyncio.create_task(flights.share("key", ask, soon()))
    with pytest.raises(Fault) as fault:
        await late
    assert fault.value.kind is FaultKind.DEADLINE
    answer.set()
    with pytest.raises(Fault) as fault:
        await patient
    assert fault.value.kind is FaultKind.UNAVAILABLE


async def test_a_cache_forgets_after_its_time_and_keeps_a_bounded_number() -> None:
    cache = Cache("memory", seed=1)
    documents = [Document("a/1", {"x": 1}, 1, 2)]
    expires, result = await cache.put("key", documents, 0.05)
    assert await cache.get("key") == (expires, result)
    deadline = soon()
    while await cache.get("key") is not None:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    for nth in range(KEYS + 10):
        await cache.put(str(nth), documents, 60)
    assert await cache.get("0") is None
    assert await cache.get(str(KEYS + 9)) is not None
    assert len(cache._cache._cache) == KEYS
    assert cache.hits >= 2
    assert cache.misses >= 2
    await cache.close()


async def test_a_cache_that_cannot_be_reached_is_as_good_as_none(free_port: Callable[[], int]) -> None:
    cache = Cache(f"redis://127.0.0.1:{free_port()}/0")
    assert await cache.get("key") is None
    await cache.put("key", [], 1)
    await cache.close()


async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much of Redis as a cache needs: a table that all its clients share. Keys live as long as the test."""

    async def word() -> bytes:
        length = int((await reader.readuntil(b"\r\n"))[1:])
        return (await reader.readexactly(length + 2))[:-2]

    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            words = [await word() for _ in range(int((await reader.readuntil(b"\r\n"))[1:]))]
            match words:
                case [b"GET", key]:
                    found = TABLE.get(key)
                    writer.write(b"$-1\r\n" if found is None else b"$%d\r\n%b\r\n" % (len(found), found))
                case [b"PSETEX", key, _, value]:
                    TABLE[key] = value
                    writer.write(b"+OK\r\n")
                case _:
                    writer.write(b"+OK\r\n")
    writer.close()


TABLE: dict[bytes, bytes] = {}


async def test_machines_share_results_through_redis() -> None:
    TABLE.clear()
    server = await asyncio.start_server(redis, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    one, two = Cache(f"redis://{host}:{port}/0"), Cache(f"redis://{host}:{port}/0")
    documents = [Document("a/1", {"x": 1, "at": datetime(2026, 1, 1, tzinfo=UTC), "b": b"\x00"}, 1, 2)]
    deadline = soon()  # a cache that is slow to connect does not say so, it only does not cache
    while True:
        expires, _ = await one.put("documents", documents, 60)
        await one.put("count", Count(3, 4), 60)
        if await two.get("documents") is not None and await two.get("count") is not None:
            break
        assert asyncio.get_running_loop().time() < deadline
    assert await two.get("documents") == (expires, documents)
    counted = await two.get("count")
    assert counted is not None
    assert counted[1] == Count(3, 4)
    assert await two.get("nothing") is None
    await one.close()
    await two.close()
    server.close()
    await server.wait_closed()


async def test_a_cache_that_fails_is_logged_once_until_it_answers_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int], logged: list[Any]
) -> None:
    cache = Cache(f"redis://:hunter2@127.0.0.1:{free_port()}")
    for _ in range(3):
        assert await cache.get("key") is None

    async def answers(key: str) -> None:
        return None

    monkeypatch.setattr(cache._cache, "get", answers)
    for _ in range(3):
        await cache.get("key")
    assert [line["event"] for line in logged] == ["cache_unreachable", "cache_reached_again"]
    assert logged[0]["cache"].startswith("127.0.0.1:")
    assert logged[0]["reason"] == "ConnectionError"
    assert "hunter2" not in str(logged)
