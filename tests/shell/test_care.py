"""The guard, single flight, the cache and the mirror, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import monotonic_ns
from typing import Any

import pytest

from backends.adapters.analytics import Ingest, _path
from backends.documents.changes import ATTEMPTS, All, Newest, Once, Put
from backends.documents.port import Context, Count, Document, Query, Reason, Rejected, Transform, merge, put
from backends.errors import Fault, FaultKind
from backends.kinds.mock.memory import MemoryStore
from backends.pair.mirror import NAMED, QUEUE, SENDERS, TRIES, Mirror
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


class Moody(MemoryStore):
    """A store that fails when told."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.calls = 0

    async def commit(self, mutations: object, ctx: Context) -> int:
        self.calls += 1
        if self.down:
            raise unavailable()
        return await super().commit(mutations, ctx)  # type: ignore[arg-type]


async def drained(mirror: Mirror) -> None:
    deadline = soon()
    while mirror.pending:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_a_store_at_hand_is_told_before_the_write_is_answered() -> None:
    store = Moody()
    mirror = Mirror(store, at_once=True)
    with pytest.raises(StopIteration):
        mirror.tell(Put((put("a/1", {}),))).send(None)
    assert await store.get("a/1", Context(soon())) is not None
    assert (mirror.mirrored, mirror.pending, mirror.lost) == (1, 0, 0)


async def test_a_store_that_is_down_is_told_when_it_is_back() -> None:
    store = Moody()
    mirror = Mirror(store, at_once=False)
    mirror.start()
    store.down = True
    before = monotonic_ns()
    await mirror.tell(Put((put("a/0", {}),)))
    first = monotonic_ns()
    for nth in range(1, 100):
        await mirror.tell(Put((put(f"a/{nth}", {}),)))
    while store.calls < 20:
        await asyncio.sleep(0.01)
    assert mirror.pending == 100
    assert before < mirror.behind_since() < first, "the oldest, however often it failed"
    store.down = False
    await drained(mirror)
    assert mirror.behind_since() == 0
    assert len(await store.query(Query("a"), Context(soon()))) == 100
    assert (mirror.mirrored, mirror.lost) == (100, 0)
    await mirror.close()


class Told:
    """A change that does what it was told, and notes how many of its kind are on their way."""

    under_way = 0
    most = 0

    def __init__(self, *faults: Exception, forever: Exception | None = None) -> None:
        self.faults = list(faults)
        self.forever = forever
        self.made = self.tries = 0
        self.done = False

    @property
    def documents(self) -> tuple[str, ...]:
        return ("a/told",)

    async def apply(self, store: object, ctx: Context) -> None:
        Told.under_way += 1
        Told.most = max(Told.most, Told.under_way)
        self.tries += 1
        try:
            await asyncio.sleep(0)
            if self.forever is not None:
                raise self.forever
            if self.faults:
                raise self.faults.pop()
        finally:
            Told.under_way -= 1
        self.done = True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a thousandth."""
    monkeypatch.setattr("backends.pair.mirror.BASE_S", 0.001)
    monkeypatch.setattr("backends.pair.mirror.CAP_S", 0.002)
    monkeypatch.setattr("backends.pair.mirror.DRAIN_S", 0.05)
    monkeypatch.setattr(Told, "most", 0)


async def test_many_changes_are_on_their_way_at_once(quick: None) -> None:
    mirror = Mirror(MemoryStore(), at_once=False)
    mirror.start()
    for _ in range(3 * SENDERS):
        await mirror.tell(Told())
    await drained(mirror)
    assert (Told.most, mirror.mirrored) == (SENDERS, 3 * SENDERS)
    await mirror.close()


@pytest.mark.parametrize("kind", FaultKind)
async def test_changes_that_never_pass_stop_no_other_and_only_the_hopeless_are_given_up(
    quick: None, kind: FaultKind
) -> None:
    mirror = Mirror(MemoryStore(), at_once=False)
    mirror.start()
    bad = [Told(forever=Fault(kind, "always")) for _ in range(SENDERS)]
    for change in bad:
        await mirror.tell(change)
    first = mirror.behind_since()
    good = [Told() for _ in range(100)]
    for change in good:
        await mirror.tell(change)
    deadline = soon()
    while mirror.mirrored < len(good) or any(change.tries < TRIES for change in bad):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    if kind is FaultKind.CORRUPT:
        assert (mirror.pending, mirror.lost, mirror.behind_since()) == (0, SENDERS, 0)
        assert {change.tries for change in bad} == {TRIES}
    else:
        assert (mirror.pending, mirror.lost, mirror.behind_since()) == (SENDERS, 0, first)
        for change in bad:
            change.forever = None
        await drained(mirror)
        assert mirror.lost == 0
    await mirror.close()


async def test_an_outage_before_does_not_make_a_change_hopeless(quick: None) -> None:
    mirror = Mirror(MemoryStore(), at_once=False)
    mirror.start()
    damaged = [Fault(FaultKind.CORRUPT, "for once") for _ in range(TRIES - 1)]
    gone = [Rejected(Reason.MISSING, "the database is not there") for _ in range(TRIES)]
    await mirror.tell(Told(*damaged, *gone, *(unavailable() for _ in range(3 * TRIES))))
    await drained(mirror)
    assert (mirror.mirrored, mirror.lost) == (1, 0)
    await mirror.close()


async def test_a_store_that_is_down_is_asked_by_one_change_at_a_time_and_by_more_when_it_is_back(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(MemoryStore(), at_once=False)
    mirror.start()
    down = unavailable()
    changes = [Told(forever=down) for _ in range(10 * SENDERS)]
    for change in changes:
        await mirror.tell(change)
    while Told.under_way or sum(change.tries for change in changes) < SENDERS:
        await asyncio.sleep(0)
    burst = sum(change.tries for change in changes)
    assert burst <= SENDERS + 1
    monkeypatch.setattr(Told, "most", 0)
    while (probes := sum(change.tries for change in changes) - burst) < 30:
        await asyncio.sleep(0.001)
    assert (Told.most, probes) == (1, probes)
    for change in changes:
        change.forever = None
    await drained(mirror)
    assert mirror.mirrored == len(changes)
    assert SENDERS / 2 < Told.most <= SENDERS
    await mirror.close()


async def test_a_change_that_passes_is_not_kept_waiting_by_all_those_that_failed_alone(quick: None) -> None:
    mirror = Mirror(MemoryStore(), at_once=False)
    mirror.start()
    bad = [Told(forever=Fault(FaultKind.INTERNAL, "always")) for _ in range(3 * SENDERS)]
    for change in bad:
        await mirror.tell(change)
    while not all(change.tries for change in bad):
        await asyncio.sleep(0.001)
    before = sum(change.tries for change in bad)
    good = Told()
    await mirror.tell(good)
    while not good.done:
        await asyncio.sleep(0)
    assert sum(change.tries for change in bad) <= before + 2, "all that failed were tried again first"
    await mirror.close()


@pytest.mark.parametrize("seed", range(5))
async def test_the_oldest_that_is_pending_is_known_at_any_time_and_all_arrive(quick: None, seed: int) -> None:
    dice = random.Random(seed)
    mirror = Mirror(MemoryStore(), at_once=False)
    mirror.start()
    told: list[Told] = []
    for _ in range(1500):
        kinds = dice.choices(
            (FaultKind.ABORTED, FaultKind.UNAVAILABLE, FaultKind.CORRUPT), k=dice.choice((0, 0, 1, 3))
        )
        change = Told(*(Fault(kind, "for once") for kind in kinds))
        before = monotonic_ns()
        await mirror.tell(change)
        change.made = before
        told.append(change)
        for _ in range(dice.choice((0, 0, 0, 1, 2, 9))):
            await asyncio.sleep(0)
        waiting = [change for change in told if not change.done]
        since = mirror.behind_since()
        assert mirror.pending == len(waiting)
        if waiting:
            later = told[told.index(waiting[0]) + 1 :]
            assert waiting[0].made <= since <= (later[0].made if later else monotonic_ns())
        else:
            assert since == 0
    await drained(mirror)
    assert all(change.done for change in told)
    assert (mirror.mirrored, mirror.lost, mirror.behind_since()) == (len(told), 0, 0)
    await mirror.close()


async def test_what_the_queue_does_not_hold_and_what_is_refused_is_counted_as_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backends.pair.mirror.DRAIN_S", 0.05)
    store = Moody()
    mirror = Mirror(store, at_once=False)
    for nth in range(QUEUE + 5):
        await mirror.tell(Put((put(f"a/{nth}", {}),)))
    assert (mirror.pending, mirror.lost) == (QUEUE, 5)
    mirror = Mirror(store, at_once=False)
    mirror.start()
    await mirror.tell(Put((put("no path", {}),)))
    await drained(mirror)
    assert mirror.lost == 1
    store.down = True
    await mirror.tell(Put((put("a/1", {}),)))
    await mirror.close()
    assert mirror.lost == 2


async def test_each_lost_change_is_logged_with_its_documents_and_what_the_store_said(
    quick: None, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    monkeypatch.setattr("backends.pair.mirror.QUEUE", 1)

    def told(nth: int) -> Any:
        assert len(logged) == nth + 1
        line = logged[nth]
        assert (line["event"], line["log_level"]) == ("change_not_mirrored", "error")
        assert line["backend"] == "mock"
        return line["cause"], line["fault"], line["reason"], line["documents"]

    mirror = Mirror(MemoryStore(), at_once=False)
    for nth in range(2):
        await mirror.tell(Put((put(f"a/{nth}", {}),)))
    assert told(0) == ("queue_full", "", "more than 1 changes wait", ("a/0",))
    mirror.start()
    await drained(mirror)
    await mirror.tell(Told(forever=Rejected(Reason.INVALID, "no such field")))
    await drained(mirror)
    assert told(1) == ("refused", "", "no such field", ("a/told",))
    await mirror.tell(Told(forever=Fault(FaultKind.CORRUPT, "not to be read")))
    await drained(mirror)
    assert told(2) == ("hopeless", "corrupt", "not to be read", ("a/told",))
    mistake = ZeroDivisionError("ours")
    await mirror.tell(Told(forever=mistake))
    await drained(mirror)
    assert told(3)[:2] == ("mistake", "")
    assert logged[3]["exc_info"] is mistake
    await mirror.tell(Told(forever=Fault(FaultKind.PERMISSION, "not yours")))
    while len(logged) < 5:
        await asyncio.sleep(0.001)
    late = logged.pop()
    assert (late["event"], late["tries"], late["documents"]) == ("change_not_mirrored_yet", TRIES, ("a/told",))
    assert (late["fault"], late["reason"]) == ("permission", "not yours")
    await mirror.close()
    assert told(4) == ("ended", "permission", "not yours", ("a/told",))
    assert mirror.lost == 5


async def test_at_once_or_not_a_refused_change_is_logged_alike(logged: list[Any]) -> None:
    mirror = Mirror(MemoryStore(), at_once=True)
    await mirror.tell(Told(forever=Rejected(Reason.INVALID, "no such field")))
    await mirror.tell(Told(forever=ZeroDivisionError()))
    assert [(line["event"], line["cause"]) for line in logged] == [
        ("change_not_mirrored", "refused"),
        ("change_not_mirrored", "mistake"),
    ]
    assert mirror.lost == 2


def test_a_change_names_the_documents_it_writes_and_the_log_the_first_of_them() -> None:
    paths = tuple(f"a/{nth}" for nth in range(9))
    puts = Put(tuple(put(path, {}) for path in paths))
    assert puts.documents == paths
    assert Once("marks/1", {}, puts.mutations).documents == (*paths, "marks/1")
    newest = Newest("a/n", {}, lambda mine, stored: True)
    assert All((newest, puts)).documents == ("a/n", *paths)
    assert Ingest(({"id": "e"},), 0).documents == (_path({"id": "e"}),)


async def test_of_many_documents_the_log_names_the_first_and_counts_all(logged: list[Any]) -> None:
    mirror = Mirror(MemoryStore(), at_once=True)
    await mirror.tell(Put((*(put(f"a/{nth}", {}) for nth in range(9)), put("no path", {}))))
    (line,) = logged
    assert line["documents"] == tuple(f"a/{nth}" for nth in range(NAMED))
    assert line["document_count"] == 10


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


async def test_increments_with_a_marker_count_once_however_often_they_are_applied() -> None:
    store = MemoryStore()
    change = Once("marks/1", {}, (merge("a/n", {}, [Transform(("x",), "increment", 5)]),))
    for _ in range(3):
        await change.apply(store, Context(soon()))
    found = await store.get("a/n", Context(soon()))
    assert found is not None
    assert found.fields == {"x": 5}


async def test_an_older_state_does_not_take_the_place_of_a_newer_one() -> None:
    store = MemoryStore()

    def state(revision: int) -> Newest:
        def newer(mine: dict[str, object], stored: dict[str, object]) -> bool:
            return mine["r"] > stored["r"]  # type: ignore[operator]

        return Newest("a/1", {"r": revision}, newer)  # type: ignore[arg-type]

    for revision in (2, 1, 3, 3, 2):
        await state(revision).apply(store, Context(soon()))
    found = await store.get("a/1", Context(soon()))
    assert found is not None
    assert found.fields == {"r": 3}


async def test_losing_every_race_is_a_fault_that_may_be_retried() -> None:
    class Contended(MemoryStore):
        async def commit(self, mutations: object, ctx: Context) -> int:
            raise Rejected(Reason.CHANGED, "somebody was faster")

    with pytest.raises(Fault) as fault:
        await Newest("a/1", {}, lambda mine, stored: True).apply(Contended(), Context(soon()))
    assert fault.value.kind is FaultKind.ABORTED
    assert fault.value.may_retry
    assert str(ATTEMPTS) in str(fault.value)
