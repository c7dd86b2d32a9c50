"""How old a result of Firestore's may be: the same question is asked once within its age, whatever is written."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from backends.adapters.analytics import GRAINS, TRENDING_AGE_S, Analytics
from backends.adapters.dashboard import Dashboard
from backends.adapters.pages import MOMENT_CURSOR
from backends.adapters.registry import operations
from backends.adapters.scans import Scans
from backends.adapters.times import from_unix
from backends.documents.port import Context, Document, Mutation, Query, put
from backends.kinds.firestore.channel import EMULATOR
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.store import AGAIN_S, BURST_S, FirestoreStore
from backends.operations import Call
from tests.support.patience import WITHIN_S

BY_NAME = {operation.name: operation for operation in operations()}
NOON = 1_790_078_400.0  # the first moment of an hour, and in the middle of a day
LIST = Query("scans", order="created_at", descending=True, limit=51)
WRITE = (put("scans/a", {}),)


class Clock:
    """Unix time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class Asked(FirestoreStore):
    """A store that is asked instead of the service, and says what for; a query may be held up."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Firestore(project="demo-ages"), clock=clock)
        self.queries: list[Query] = []
        self.times: list[float] = []  # by the event loop, of each query
        self.writes = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def _query(self, query: Query, timeout: float) -> list[Document]:
        self.queries.append(query)
        self.times.append(asyncio.get_running_loop().time())
        writes = self.writes
        await self.gate.wait()
        return [Document("scans/a", {"writes": writes}, 1, writes)]

    async def _commit(self, mutations: Sequence[Mutation], timeout: float) -> int:
        self.writes += 1
        return self.writes


def context() -> Context:
    return Context(asyncio.get_running_loop().time() + WITHIN_S)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asked]:
    monkeypatch.setenv(EMULATOR, "127.0.0.1:1")  # nobody; nothing here connects
    made = Asked(clock)
    await made.start()
    yield made
    await made.close()


async def seen(store: Asked, **ages: float) -> Any:
    """Up to which write the result of the list goes."""
    return (await store.query(LIST, context(), **ages))[0].fields["writes"]


# ------------------------------------------------------------------------------------------------------ ages


async def test_a_result_is_asked_for_once_within_its_age(store: Asked, clock: Clock) -> None:
    for _ in range(50):
        assert await seen(store, max_age=4.0) == 0
    assert len(store.queries) == 1
    clock.now += 4.0
    await seen(store, max_age=4.0)
    assert len(store.queries) == 2


async def test_a_result_older_than_this_machines_write_is_not_used(store: Asked) -> None:
    await seen(store, max_age=4.0)
    await store.commit(WRITE, context())
    assert await seen(store, max_age=4.0) == 1


async def test_a_result_younger_than_the_least_age_is_used_whatever_is_written(store: Asked, clock: Clock) -> None:
    for _ in range(50):
        assert await seen(store, max_age=8.0, min_age=2.0) == 0
        await store.commit(WRITE, context())
    assert len(store.queries) == 1
    clock.now += 2.0
    assert await seen(store, max_age=8.0, min_age=2.0) == 50


async def test_an_answer_from_such_a_result_is_memorable_only_until_then(store: Asked) -> None:
    settled, fresh = context(), context()
    await store.query(LIST, settled, max_age=8.0, min_age=2.0)
    await store.query(LIST, fresh, max_age=8.0)
    assert settled.basis == []
    assert len(fresh.basis) == 1
    assert settled.until < fresh.until


async def test_a_call_that_was_sent_before_a_readers_write_is_not_its_answer(store: Asked) -> None:
    store.gate.clear()
    early = asyncio.create_task(seen(store, max_age=4.0))
    while not store.queries:
        await asyncio.sleep(0)
    await store.commit(WRITE, context())
    late = asyncio.create_task(seen(store, max_age=4.0))
    await asyncio.sleep(0)
    store.gate.set()
    assert await early == 0
    assert await late == 1


async def test_however_much_is_written_a_question_is_asked_a_few_times_a_second(store: Asked, clock: Clock) -> None:
    async def session() -> None:
        for _ in range(9):
            await store.commit(WRITE, context())
            mine = store.writes
            assert await seen(store, max_age=4.0) >= mine

    await asyncio.gather(*(session() for _ in range(40)))
    assert store.writes == 360
    at_once = round(BURST_S / AGAIN_S)
    paced = store.times[at_once:]
    gaps = [later - earlier for earlier, later in itertools.pairwise(paced)]
    assert len(gaps) > 0
    assert min(gaps) > 0.9 * AGAIN_S  # timers may be early by their resolution
    assert len(store.queries) <= at_once + 6


async def test_who_writes_and_reads_in_turn_does_not_wait(
    store: Asked, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        clock.now += max(0.0, seconds)
        await sleep(0)

    monkeypatch.setattr("backends.kinds.firestore.store.asyncio.sleep", noted)

    async def turns(count: int, pause_s: float) -> bool:
        """Whether one of them waits."""
        waits.clear()
        for _ in range(count):
            await store.commit(WRITE, context())
            assert await seen(store, max_age=4.0) == store.writes
            clock.now += pause_s
        return any(wait > 0 for wait in waits)

    assert not await turns(60, AGAIN_S)
    assert not await turns(round(BURST_S / AGAIN_S), 0.0)
    assert await turns(2, 0.0)
    clock.now += BURST_S + AGAIN_S
    assert not await turns(round(BURST_S / AGAIN_S), 0.0)


# ------------------------------------------------------------------------------------------------------ questions


def trending(window: str, now: float) -> Call:
    return Call(BY_NAME["analytics.trending"], b"", {}, {"window": window}, b"", now, secrets.token_hex(10))


async def test_everybody_who_asks_what_trends_within_a_bucket_asks_the_same(
    store: Asked, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Query] = []

    async def query(question: Query, ctx: Context, max_age: float = 0.0, min_age: float = 0.0) -> list[Document]:
        assert max_age == min_age == TRENDING_AGE_S
        asked.append(question)
        return []

    monkeypatch.setattr(store, "query", query)
    handler = Analytics(store).trending
    for second in range(299):  # a bucket has 300
        await handler(trending("1h", NOON + second + 0.123), context())
    assert len(set(asked)) == 1
    await handler(trending("1h", NOON + 300), context())
    assert len(set(asked)) == 2


async def test_the_windows_that_a_client_can_think_of_are_seven_questions(
    store: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Query] = []

    async def query(question: Query, ctx: Context, max_age: float = 0.0, min_age: float = 0.0) -> list[Document]:
        asked.append(question)
        return []

    monkeypatch.setattr(store, "query", query)
    windows = (*(f"{minutes}m" for minutes in range(1, 361)), *(f"{hours}h" for hours in range(1, 2161)))
    for window in windows:
        await Analytics(store).trending(trending(window, NOON), context())
    assert len(set(asked)) == sum(len(grain.reaches) for grain in GRAINS) == 7


def reaches() -> Iterator[tuple[timedelta, timedelta]]:
    for grain in GRAINS:
        yield from ((grain.size, reach) for reach in grain.reaches)


def test_a_reach_is_a_whole_number_of_buckets_and_each_is_wider_than_the_one_before() -> None:
    assert all(not reach % size for size, reach in reaches())
    wide = [reach for _, reach in reaches()]
    assert wide == sorted(set(wide))


async def test_a_first_page_shows_a_sessions_own_writes_and_a_later_one_may_lag(
    store: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    least: list[float] = []

    async def query(question: Query, ctx: Context, max_age: float = 0.0, min_age: float = 0.0) -> list[Document]:
        assert max_age > 0
        least.append(min_age)
        return []

    monkeypatch.setattr(store, "query", query)
    for parameters in ({}, {"cursor": MOMENT_CURSOR.write(1, "a")}):
        asked = Call(BY_NAME["scans.list"], b"", {}, parameters, b"", NOON, "id")
        await Scans(store).list(asked, context())
    assert least[0] == 0.0
    assert least[1] > 0.0


async def test_a_page_of_history_newer_than_the_cached_current_snapshot_does_not_list_the_current_one(
    store: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (
        Document(f"dashboard_snapshots/{name}", {"published_at": from_unix(NOON + at), "metrics": {}}, 1, 1)
        for at, name in enumerate(("old", "new"))
    )

    async def query(question: Query, ctx: Context, max_age: float = 0.0, min_age: float = 0.0) -> list[Document]:
        return [old] if question.limit == 1 else [new, old]

    monkeypatch.setattr(store, "query", query)
    answer = await Dashboard(store).history(
        Call(BY_NAME["dashboard.history"], b"", {}, {}, b"", NOON, "id"), context()
    )
    assert [snapshot["id"] for snapshot in json.loads(answer.body)["snapshots"]] == ["old"]
