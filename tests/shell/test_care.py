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
from backends.resilience.cache import BYTES, KEYS, STAY, Cache, CachedResult, Result
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


def entry(result: Result) -> CachedResult:
    return CachedResult(1000.0, 1060.0, 1000.2, 7, result)


async def keep(cache: Cache, group: str, key: str, result: Result) -> None:
    await cache.put(group, key, entry(result), keep_s=60.0)


async def test_a_cache_keeps_a_bounded_number_and_not_all_for_the_same_time() -> None:
    cache = Cache("memory", seed=1)
    documents = [Document("a/1", {"x": 1}, 1, 2)]
    for nth in range(KEYS + 10):
        await keep(cache, "a", str(nth), documents)
    assert await cache.get("0") is None
    assert await cache.get(str(KEYS + 9)) == entry(documents)
    assert len(cache._cache._cache) == KEYS
    lifetimes = [cache.lifetime(4.0) for _ in range(100)]
    assert 3.0 <= min(lifetimes) < 3.2
    assert 3.8 < max(lifetimes) <= 4.0
    await cache.close()


def large(share: float) -> list[Document]:
    """A result of about so much of what a group may have."""
    return [Document("a/1", {"x": "y" * 10_000}, 1, 2)] * int(BYTES * share / 10_000)


async def kept(cache: Cache, count: int) -> list[int]:
    return [nth for nth in range(count) if await cache.get(str(nth)) is not None]


async def test_a_cache_keeps_a_bounded_number_of_bytes() -> None:
    cache = Cache("memory")
    for nth in range(20):
        await keep(cache, "a", str(nth), large(0.18))
    assert await kept(cache, 20) == [15, 16, 17, 18, 19]
    await keep(cache, "a", "19", [])  # in its own place
    await keep(cache, "a", "20", large(0.18))
    assert await kept(cache, 21) == [15, 16, 17, 18, 19, 20]
    await cache.close()


async def test_results_that_everybody_asks_for_are_kept_however_large_and_whoever_asks_for_others() -> None:
    cache = Cache("memory")
    for nth in range(STAY):
        await keep(cache, "a", str(nth), large(0.9))
    for nth in range(2 * KEYS):
        await keep(cache, "b", f"b{nth}", large(0.01))
    assert await kept(cache, STAY) == list(range(STAY))
    await cache.close()


async def test_a_cache_that_cannot_be_reached_is_as_good_as_none(free_port: Callable[[], int]) -> None:
    cache = Cache(f"redis://127.0.0.1:{free_port()}/0")
    assert await cache.get("key") is None
    await keep(cache, "a", "key", [])
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
        await keep(one, "a", "documents", documents)
        await keep(one, "a", "count", Count(3, 4))
        if await two.get("documents") is not None and await two.get("count") is not None:
            break
        assert asyncio.get_running_loop().time() < deadline
    assert await two.get("documents") == entry(documents)
    assert await two.get("count") == entry(Count(3, 4))
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
