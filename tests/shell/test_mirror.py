"""The mirror on the event loop: changes get to the other store, however it behaves; what waits is known."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic_ns
from typing import Any

import pytest

from backends.adapters import registry
from backends.adapters.analytics import Ingest, _path
from backends.documents import changes
from backends.documents.changes import All, Change, Newest, Once, Put, StateRule
from backends.documents.port import (
    COMMIT_LIMIT,
    Context,
    Document,
    Mutation,
    Precondition,
    Query,
    Reason,
    Rejected,
    Transform,
    merge,
    put,
)
from backends.errors import Fault, FaultKind
from backends.kinds.mock.memory import MemoryStore
from backends.pair.logged import BATCH, NAMED, TRIES
from backends.pair.mirror import Mirror, WriteAhead
from backends.pair.sending import SENDERS, SPEAKS_FOR
from tests.support.patience import WITHIN_S


def soon(seconds: float = WITHIN_S) -> float:
    return asyncio.get_running_loop().time() + seconds


def down() -> Fault:
    return Fault(FaultKind.UNAVAILABLE, "down", may_retry=True, may_have_applied=True)


class Scripted(MemoryStore):
    """A store that suspends, and fails as told: whole, or for the documents that are named."""

    def __init__(self) -> None:
        super().__init__()
        self.down: Exception | None = None
        self.bad: dict[str, Exception] = {}  # by path, for ever
        self.faults: dict[str, list[Exception]] = {}  # by path, one a try
        self.commits: list[Sequence[Mutation]] = []
        self.under_way = self.most = 0
        self.tries: defaultdict[str, int] = defaultdict(int)
        self.gate: asyncio.Event | None = None
        self.blind = False  # reads fail

    async def get_many(self, paths: Sequence[str], ctx: Context) -> list[Document | None]:
        await asyncio.sleep(0)
        if self.blind:
            raise down()
        return await super().get_many(paths, ctx)

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        self.commits.append(mutations)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
            for mutation in mutations:
                self.tries[mutation.path] += 1
            if self.down is not None:
                raise self.down
            for mutation in mutations:
                if mutation.path in self.bad:
                    raise self.bad[mutation.path]
                if self.faults.get(mutation.path):
                    raise self.faults[mutation.path].pop()
            return await super().commit(mutations, ctx)
        finally:
            self.under_way -= 1

    async def arrives(self, path: str) -> None:
        """A commit arrives that nobody waits for any more."""
        await MemoryStore.commit(self, (put(path, {}),), Context(soon()))

    async def paths(self) -> set[str]:
        return {document.path for document in self.documents()}


def one(path: str, **fields: Any) -> Put:
    return Put((put(path, fields),))


async def tell(mirror: Mirror, change: Change) -> None:
    """A handler has applied the change to its own store, and answered."""
    await WriteAhead(mirror).finish(change)


async def until(condition: Callable[[], object]) -> None:
    deadline = soon()
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


async def drained(mirror: Mirror) -> None:
    await until(lambda: not mirror.pending)


Made = Callable[..., Awaitable[tuple[Mirror, Scripted]]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a thousandth."""
    monkeypatch.setattr("backends.pair.logged.BASE_S", 0.001)
    monkeypatch.setattr("backends.pair.logged.CAP_S", 0.002)
    monkeypatch.setattr("backends.pair.mirror.DRAIN_S", 0.05)
    monkeypatch.setattr("backends.pair.doubting.AGAIN_S", 0.02)


@pytest.fixture
def ruled() -> Iterator[None]:
    """A rule for the collection ``a``: the higher ``r`` is newer."""
    rule = StateRule.of_newer(lambda mine, stored: int(str(mine["r"])) > int(str(stored["r"])))
    changes.install((Ingest,), {"a": rule})
    yield
    registry.install(registry.adapters())


def begun(*, at_once: bool = False, own: MemoryStore | None = None) -> tuple[Mirror, Scripted]:
    store = Scripted()
    mirror = Mirror(own or MemoryStore(), store, at_once=at_once)
    mirror.start()
    return mirror, store


class Copied:
    """What a mirror tells of its copies: by operation, those taken and those that failed."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def __call__(self, operation: str, failed: bool) -> None:
        (self.failed if failed else self.taken)[operation] += 1


# ------------------------------------------------------------------------------------------------------ as it goes


async def test_a_store_at_hand_is_told_before_the_write_is_answered() -> None:
    store = MemoryStore()
    mirror = Mirror(MemoryStore(), store, at_once=True)
    with pytest.raises(StopIteration):
        WriteAhead(mirror).finish(one("a/1")).send(None)
    assert await store.get("a/1", Context(soon())) is not None
    assert (mirror.mirrored, mirror.pending, mirror.lost) == (1, 0, 0)


async def test_a_store_that_is_down_is_told_when_it_is_back() -> None:
    mirror, store = begun()
    store.down = down()
    before = monotonic_ns()
    await tell(mirror, one("a/0"))
    first = monotonic_ns()
    for nth in range(1, 100):
        await tell(mirror, one(f"a/{nth}"))
    await until(lambda: len(store.commits) >= 5)
    assert mirror.pending == 100
    assert before < mirror.behind_since() < first, "the oldest, however often it failed"
    store.down = None
    await drained(mirror)
    assert mirror.behind_since() == 0
    assert len(await store.query(Query("a"), Context(soon()))) == 100
    assert (mirror.mirrored, mirror.lost) == (100, 0)
    await mirror.close()


async def test_what_waits_while_a_commit_is_under_way_goes_together_in_the_next(quick: None) -> None:
    mirror, store = begun()
    store.gate = asyncio.Event()
    for nth in range(SENDERS + 2 * BATCH):
        await tell(mirror, one(f"a/{nth}"))
    await until(lambda: store.under_way == SENDERS)
    store.gate.set()
    await drained(mirror)
    assert [len(commit) for commit in store.commits] == [1] * SENDERS + [BATCH, BATCH]
    assert store.most == SENDERS
    assert mirror.mirrored == SENDERS + 2 * BATCH
    await mirror.close()


async def test_waiting_events_are_counted_by_few_commits_and_once(quick: None) -> None:
    """Ten thousand single events, over eight shards: the hottest counter sets the pace, so it is written seldom."""
    mirror, store = begun()
    store.down = down()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for nth in range(10_000):
        event = {"id": f"e{nth}", "user": "u", "type": "t", "item": f"i{nth % 50}", "at": at}
        await tell(mirror, Ingest((event,), nth % 8))
    store.down = None
    before = len(store.commits)
    await drained(mirror)
    made = store.commits[before:]
    hottest = sum(any(write.path == "analytics_totals/0" for write in commit) for commit in made)
    assert hottest <= len(made) <= 60
    assert all(len(commit) <= COMMIT_LIMIT for commit in made)
    totals = await store.query(Query("analytics_totals"), Context(soon()))
    assert sum(int(str(total.fields["events"])) for total in totals) == 10_000
    await mirror.close()


async def test_states_of_one_document_and_what_is_there_already_need_no_more(quick: None, ruled: None) -> None:
    mirror, store = begun()
    mark = Once("a/m", {"r": 0}, (merge("a/n", {}, [Transform(("x",), "increment", 5)]),))
    await mark.apply(store, Context(soon()))
    store.down = down()
    for r in (1, 2, 3, 2):
        await tell(mirror, Newest("a/1", {"r": r}))
        await tell(mirror, mark)
    await until(lambda: len(store.commits) > SENDERS)
    store.down = None
    await drained(mirror)
    found = {path: document.fields for document in store.documents() for path in (document.path,)}
    assert found == {"a/m": {"r": 0}, "a/n": {"x": 5}, "a/1": {"r": 3}}
    await mirror.close()


# ------------------------------------------------------------------------------------------------------ what fails


@pytest.mark.parametrize("kind", FaultKind)
async def test_changes_that_never_pass_stop_no_other_and_only_the_hopeless_are_given_up(
    quick: None, kind: FaultKind
) -> None:
    mirror, store = begun()
    store.bad = {f"a/bad{nth}": Fault(kind, "always") for nth in range(20)}
    for path in store.bad:
        await tell(mirror, one(path))
    first = mirror.behind_since()
    for nth in range(100):
        await tell(mirror, one(f"a/good{nth}"))
    await until(lambda: mirror.mirrored == 100 and all(store.tries[path] >= TRIES for path in store.bad))
    if kind is FaultKind.CORRUPT:
        await drained(mirror)
        assert (mirror.lost, mirror.behind_since()) == (20, 0)
    else:
        assert (mirror.pending, mirror.lost, mirror.behind_since()) == (20, 0, first)
        store.bad = {}
        await drained(mirror)
        assert mirror.lost == 0
    await mirror.close()


@pytest.mark.parametrize("trouble", [Rejected(Reason.INVALID, "no such field"), ZeroDivisionError("ours")])
async def test_one_change_that_the_store_refuses_is_found_among_hundreds(quick: None, trouble: Exception) -> None:
    mirror, store = begun()
    store.down = down()
    for nth in range(250):
        await tell(mirror, one(f"a/{nth}"))
    store.bad = {"a/77": trouble}
    store.down = None
    await drained(mirror)
    assert (mirror.mirrored, mirror.lost) == (249, 1)
    assert await store.paths() == {f"a/{nth}" for nth in range(250) if nth != 77}
    await mirror.close()


async def test_an_outage_before_does_not_make_a_change_hopeless(quick: None) -> None:
    mirror, store = begun()
    damaged = [Fault(FaultKind.CORRUPT, "for once") for _ in range(TRIES - 1)]
    gone = [Rejected(Reason.MISSING, "the database is not there") for _ in range(TRIES)]
    store.faults = {"a/1": [*damaged, *gone, *(down() for _ in range(3 * TRIES))]}
    await tell(mirror, one("a/1"))
    await drained(mirror)
    assert (mirror.mirrored, mirror.lost) == (1, 0)
    await mirror.close()


async def test_a_change_whose_document_is_missing_waits_for_it_and_holds_up_no_other(quick: None) -> None:
    mirror, store = begun()
    counted = merge("a/late", {}, (Transform(("n",), "increment", 1),), Precondition(exists=True))
    await tell(mirror, Once("a/marker", {}, (counted,)))
    await until(lambda: store.tries["a/late"] > 2 * TRIES)
    for nth in range(100):
        await tell(mirror, one(f"a/{nth}"))
    await until(lambda: mirror.pending == 1)
    assert "a/late" not in await store.paths()
    assert "a/marker" not in await store.paths()
    await tell(mirror, one("a/late", n=1))
    await drained(mirror)
    late = await store.get("a/late", Context(soon()))
    assert late is not None
    assert late.fields == {"n": 2}
    assert mirror.lost == 0
    await mirror.close()


async def test_a_change_that_is_there_is_not_missed_though_its_document_was_deleted_since(quick: None) -> None:
    mirror, store = begun()
    await store.arrives("a/marker")
    store.faults = {
        "a/late": [Rejected(Reason.MISSING, "a/late does not exist")]
    }  # told before the marker is looked at
    counted = merge("a/late", {}, (Transform(("n",), "increment", 1),), Precondition(exists=True))
    await tell(mirror, Once("a/marker", {}, (counted,)))
    await drained(mirror)
    assert (mirror.mirrored, mirror.lost) == (1, 0)
    assert await store.paths() == {"a/marker"}
    await mirror.close()


async def test_a_store_that_is_down_is_asked_by_one_change_at_a_time_and_by_more_when_it_is_back(quick: None) -> None:
    mirror, store = begun()
    store.down = Fault(FaultKind.EXHAUSTED, "quota")
    for nth in range(5 * BATCH):
        await tell(mirror, one(f"a/{nth}"))
    await until(lambda: mirror.sending.probes > 2 and not store.under_way)
    store.commits.clear()
    store.most = 0
    await until(lambda: len(store.commits) > 30 and not store.under_way)
    assert {len(commit) for commit in store.commits} == {1}
    assert store.most == 1
    store.commits.clear()
    store.down = None
    await drained(mirror)
    sizes = [len(commit) for commit in store.commits]
    assert mirror.mirrored == 5 * BATCH
    assert 1 < store.most <= SENDERS
    assert sizes[:2] == [1, 2], "more with each success, not everything at once"
    assert max(sizes) > 100
    await mirror.close()


async def test_a_change_that_passes_is_not_kept_waiting_by_all_those_that_failed_alone(quick: None) -> None:
    mirror, store = begun()
    store.bad = {f"a/bad{nth}": Fault(FaultKind.INTERNAL, "always") for nth in range(100)}
    for path in store.bad:
        await tell(mirror, one(path))
    await until(lambda: all(store.tries[path] > 9 for path in store.bad))
    store.commits.clear()
    await tell(mirror, one("a/good"))
    await until(lambda: mirror.mirrored)
    turn = next(nth for nth, commit in enumerate(store.commits) if commit[0].path == "a/good")
    assert turn <= SENDERS, "all that failed were tried again first"
    await mirror.close()


@pytest.mark.parametrize("seed", range(5))
async def test_the_oldest_that_is_pending_is_known_at_any_time_and_all_arrive(quick: None, seed: int) -> None:
    dice = random.Random(seed)
    mirror, store = begun()
    told: dict[str, int] = {}
    for nth in range(1000):
        kinds = dice.choices(
            (FaultKind.ABORTED, FaultKind.UNAVAILABLE, FaultKind.CORRUPT), k=dice.choice((0, 0, 1, 3))
        )
        path = f"a/{nth}"
        store.faults[path] = [Fault(kind, "for once") for kind in kinds]
        told[path] = monotonic_ns()
        await tell(mirror, one(path))
        for _ in range(dice.choice((0, 0, 0, 1, 2, 9))):
            await asyncio.sleep(0)
        there = await store.paths()
        waiting = [path for path in told if path not in there]
        since = mirror.behind_since()
        assert mirror.pending >= len(waiting)
        if waiting:
            assert since > 0
            later = [made for made in told.values() if made > told[waiting[0]]]
            assert since <= (later[0] if later else monotonic_ns())
    await drained(mirror)
    assert await store.paths() == set(told)
    assert (mirror.mirrored, mirror.lost, mirror.behind_since()) == (len(told), 0, 0)
    await mirror.close()


async def test_each_lost_change_is_logged_with_its_documents_and_what_the_store_said(
    quick: None, logged: list[Any]
) -> None:
    def told(nth: int) -> Any:
        assert len(logged) == nth + 1
        line = logged[nth]
        assert (line["event"], line["log_level"]) == ("change_not_mirrored", "error")
        assert line["backend"] == "mock"
        return line["cause"], line["fault"], line["reason"], line["documents"]

    mirror, store = begun()
    for nth, (trouble, expected) in enumerate(
        (
            (Rejected(Reason.INVALID, "no such field"), ("refused", "", "no such field")),
            (Fault(FaultKind.CORRUPT, "not to be read"), ("hopeless", "corrupt", "not to be read")),
            (ZeroDivisionError("ours"), ("mistake", "", "a mistake of phasegate's: the exception says which")),
        )
    ):
        store.bad = {"a/told": trouble}
        await tell(mirror, one("a/told"))
        await drained(mirror)
        assert told(nth) == (*expected, ("a/told",))
    assert logged[2]["exc_info"] is store.bad["a/told"]
    store.bad = {"a/told": Fault(FaultKind.PERMISSION, "not yours")}
    await tell(mirror, one("a/told"))
    await until(lambda: len(logged) == 4)
    late = logged.pop()
    assert (late["event"], late["tries"], late["documents"]) == ("change_not_mirrored_yet", TRIES, ("a/told",))
    assert (late["fault"], late["reason"]) == ("permission", "not yours")
    await mirror.close()
    assert told(3) == ("ended", "permission", "not yours", ("a/told",)), "without a log it ends with the process"
    assert mirror.lost == 4


async def test_at_once_or_not_a_refused_change_is_logged_alike(logged: list[Any]) -> None:
    mirror, store = begun(at_once=True)
    for trouble in (Rejected(Reason.INVALID, "no such field"), ZeroDivisionError()):
        store.bad = {"a/1": trouble}
        await tell(mirror, one("a/1"))
    assert [(line["event"], line["cause"]) for line in logged] == [
        ("change_not_mirrored", "refused"),
        ("change_not_mirrored", "mistake"),
    ]
    assert (mirror.lost, mirror.pending) == (2, 0)
    await mirror.close()


async def test_what_a_store_at_hand_does_not_take_at_once_waits(quick: None) -> None:
    mirror, store = begun(at_once=True)
    store.down = down()
    await tell(mirror, one("a/1"))
    await tell(mirror, one("a/2"))
    assert mirror.pending == 2
    store.down = None
    await drained(mirror)
    await tell(mirror, one("a/3"))
    assert await store.paths() == {"a/1", "a/2", "a/3"}
    await mirror.close()


async def test_of_many_documents_the_log_names_the_first_and_counts_all(logged: list[Any]) -> None:
    mirror, _ = begun()
    await tell(mirror, Put((*(put(f"a/{nth}", {}) for nth in range(9)), put("no path", {}))))
    await drained(mirror)
    (line,) = logged
    assert line["documents"] == tuple(f"a/{nth}" for nth in range(NAMED))
    assert line["document_count"] == 10
    await mirror.close()


def test_a_change_names_the_documents_it_writes() -> None:
    paths = tuple(f"a/{nth}" for nth in range(9))
    puts = Put(tuple(put(path, {}) for path in paths))
    assert puts.documents == paths
    assert Once("marks/1", {}, puts.mutations).documents == (*paths, "marks/1")
    assert All((Newest("a/n", {}), puts)).documents == ("a/n", *paths)
    assert Ingest(({"id": "e"},), 0).documents == (_path({"id": "e"}),)


# ------------------------------------------------------------------------------------------------------ in doubt


async def write(mirror: Mirror, own: Scripted, change: Change) -> Exception | None:
    """A handler's write to its own store, which fails as that is told."""
    ahead = WriteAhead(mirror)
    try:
        await changes.write(change, own, Context(soon(), ahead.intend))
    except Exception as error:
        ahead.leave()
        return error
    except asyncio.CancelledError:
        ahead.leave()
        raise
    await ahead.finish(change)
    return None


async def test_a_write_that_was_surely_refused_gets_nowhere(quick: None) -> None:
    own = Scripted()
    mirror, store = begun(own=own)
    for trouble in (Rejected(Reason.INVALID, "no"), Fault(FaultKind.EXHAUSTED, "quota")):
        own.bad = {"a/1": trouble}
        assert await write(mirror, own, one("a/1")) is trouble
        assert mirror.pending == 0
    assert store.commits == []
    await mirror.close()


@pytest.mark.parametrize("arrives", ["at once", "later", "never"])
async def test_of_a_write_in_doubt_the_other_side_gets_what_its_own_holds(quick: None, arrives: str) -> None:
    own = Scripted()
    mirror, store = begun(own=own)
    own.bad = {"a/1": down()}
    own.blind = True
    assert await write(mirror, own, one("a/1", x=1)) is own.bad["a/1"]
    assert mirror.pending == 1
    own.bad = {}
    if arrives == "at once":
        await own.commit((put("a/1", {"x": 1}),), Context(soon()))
    own.blind = False
    if arrives == "later":
        await until(lambda: any(logged.asked for logged in mirror.doubting.doubts))
        assert await store.paths() == set()
        await own.commit((put("a/1", {"x": 1}),), Context(soon()))
    await drained(mirror)
    assert await store.paths() == (set() if arrives == "never" else {"a/1"})
    assert mirror.lost == 0
    await mirror.close()


async def test_a_cancelled_write_is_in_doubt(quick: None) -> None:
    own = Scripted()
    mirror, store = begun(own=own)
    own.gate = asyncio.Event()
    writing = asyncio.create_task(write(mirror, own, one("a/1")))
    await until(lambda: own.under_way)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert mirror.pending == 1
    await own.arrives("a/1")
    await drained(mirror)
    assert await store.paths() == {"a/1"}
    await mirror.close()


async def test_a_change_of_two_commits_gets_over_as_far_as_it_came(quick: None) -> None:
    own = Scripted()
    mirror, store = begun(own=own)
    own.bad = {"a/2": Fault(FaultKind.EXHAUSTED, "quota")}
    assert await write(mirror, own, All((one("a/1"), one("a/2")))) is own.bad["a/2"]
    await drained(mirror)
    assert await store.paths() == {"a/1"}
    await mirror.close()


# ------------------------------------------------------------------------------------------------------ changes alone


async def test_increments_with_a_marker_count_once_however_often_they_are_applied() -> None:
    store = MemoryStore()
    change = Once("marks/1", {}, (merge("a/n", {}, [Transform(("x",), "increment", 5)]),))
    for _ in range(3):
        await change.apply(store, Context(soon()))
    found = await store.get("a/n", Context(soon()))
    assert found is not None
    assert found.fields == {"x": 5}


# ------------------------------------------------------------------------------------------------------ its counting


async def test_each_copy_that_is_taken_is_told_by_its_operation() -> None:
    store, copied = Scripted(), Copied()
    mirror = Mirror(MemoryStore(), store, at_once=False, copied=copied)
    mirror.start()
    for nth in range(5):
        await WriteAhead(mirror, "scans.create").finish(one(f"a/{nth}"))
    await WriteAhead(mirror, "scans.update").finish(one("a/1", n=1))
    await drained(mirror)
    assert (copied.taken, copied.failed) == ({"scans.create": 5, "scans.update": 1}, {})
    await mirror.close()


async def test_a_store_at_hand_is_counted_too() -> None:
    store, copied = Scripted(), Copied()
    store.bad["a/bad"] = Rejected(Reason.INVALID, "no")
    mirror = Mirror(MemoryStore(), store, at_once=True, copied=copied)
    mirror.start()
    for name in ("good", "bad"):
        await WriteAhead(mirror, name).finish(one(f"a/{name}"))
    assert (copied.taken, copied.failed) == ({"good": 1}, {"bad": 1})
    await mirror.close()


async def test_a_store_that_is_down_fails_with_new_writes_and_not_with_each_retry(quick: None) -> None:
    store, copied = Scripted(), Copied()
    store.down = down()
    mirror = Mirror(MemoryStore(), store, at_once=False, copied=copied)
    mirror.start()
    await WriteAhead(mirror, "first").finish(one("a/first"))
    await until(lambda: store.tries["a/first"] > 50)
    assert (copied.taken, copied.failed) == ({}, {"first": 1})
    for nth in range(8):
        await WriteAhead(mirror, "other").finish(one(f"b/{nth}"))
        await until(lambda nth=nth: store.tries[f"b/{nth}"] > 1)  # type: ignore[misc] # the lambda has a default
    assert copied.failed == {"first": 1, "other": 8}
    store.down = None
    await drained(mirror)
    assert copied.taken == {"first": 1, "other": 8}
    await mirror.close()


async def test_one_change_that_is_retried_for_an_hour_is_a_few_dozen_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied = Copied()
    mirror = Mirror(MemoryStore(), Scripted(), at_once=False, copied=copied)
    logged = mirror.backlog.log_afterwards(one("a/1"), "first")
    for second in range(3600):
        mirror.sending.tell_failing(logged, logged.made + second * 10**9)
    assert 60 < copied.failed["first"] < 70


async def test_a_probe_that_fails_speaks_for_what_has_waited_behind_it(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a store that lets every call run out would be seen to fail once in five seconds."""
    monkeypatch.setattr("backends.pair.sending.LATE_S", 0.0)
    monkeypatch.setattr("backends.pair.logged.CAP_S", 1000.0)
    monkeypatch.setattr("backends.pair.logged.BASE_S", 1000.0)
    store, copied = Scripted(), Copied()
    store.down, store.gate = down(), asyncio.Event()
    mirror = Mirror(MemoryStore(), store, at_once=False, copied=copied)
    mirror.start()
    for nth in range(SENDERS + 50):
        await WriteAhead(mirror, "any").finish(one(f"a/{nth}"))
        await asyncio.sleep(0)
    await until(lambda: store.under_way == SENDERS)
    store.gate.set()
    await until(lambda: not store.under_way)
    assert SENDERS + SPEAKS_FOR <= copied.failed["any"] < SENDERS + 50
    await mirror.close()


async def test_what_the_next_try_gets_over_is_not_the_failure_of_a_whole_batch(quick: None) -> None:
    store, copied = Scripted(), Copied()
    mirror = Mirror(MemoryStore(), store, at_once=False, copied=copied)
    for nth in range(100):
        await WriteAhead(mirror, "many").finish(one(f"a/{nth}"))
    store.faults["a/0"] = [down()]
    mirror.start()
    await drained(mirror)
    assert (copied.taken, copied.failed) == ({"many": 100}, {"many": 1})
    await mirror.close()


async def test_two_writers_that_meet_are_no_failure_and_what_is_given_up_is_one(quick: None) -> None:
    store, copied = Scripted(), Copied()
    store.faults["a/met"] = [Fault(FaultKind.ABORTED, "contention") for _ in range(5)]
    store.bad["a/bad"] = Rejected(Reason.INVALID, "no")
    mirror = Mirror(MemoryStore(), store, at_once=False, copied=copied)
    mirror.start()
    for name in ("met", "bad"):
        await WriteAhead(mirror, name).finish(one(f"a/{name}"))
    await drained(mirror)
    assert (copied.taken, copied.failed) == ({"met": 1}, {"bad": 1})
    await mirror.close()


async def test_an_older_state_does_not_take_the_place_of_a_newer_one(ruled: None) -> None:
    store = MemoryStore()
    for revision in (2, 1, 3, 3, 2):
        await Newest("a/1", {"r": revision}).apply(store, Context(soon()))
    found = await store.get("a/1", Context(soon()))
    assert found is not None
    assert found.fields == {"r": 3}


async def test_losing_every_race_is_a_fault_that_may_be_retried(ruled: None) -> None:
    class Contended(MemoryStore):
        async def commit(self, mutations: object, ctx: Context) -> int:
            raise Rejected(Reason.CHANGED, "somebody was faster")

    with pytest.raises(Fault) as fault:
        await Newest("a/1", {"r": 1}).apply(Contended(), Context(soon()))
    assert fault.value.kind is FaultKind.ABORTED
    assert fault.value.may_retry
    assert not fault.value.may_have_applied


# ------------------------------------------------------------------------------------------------------ grouped


def events(count: int, shards: int) -> list[Ingest]:
    """Single events of one hour, whose shards alternate."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Ingest(({"id": f"e{nth}", "user": "u", "type": "view", "item": f"i{nth % 9}", "at": at},), nth % shards)
        for nth in range(count)
    ]


async def test_what_waited_writes_a_hot_counter_once_for_each_full_commit(quick: None, ruled: None) -> None:
    count, shards = 4000, 4
    mirror, store = begun()
    store.down = down()
    for event in events(count, shards):
        await tell(mirror, event)
    await until(lambda: mirror.sending.probes > 1 and not store.under_way)
    store.down, before = None, len(store.commits)
    await drained(mirror)
    made = store.commits[before:]
    hottest = Counter(write.path for commit in made for write in commit if "analytics_totals" in write.path)
    # A shard's thousand events fill three commits. Small commits come first, after the outage, and what had failed.
    growing = BATCH.bit_length() + SENDERS
    assert max(hottest.values()) <= count / shards // BATCH + 1 + growing, hottest
    assert sum(hottest.values()) <= len(made) + shards, "a commit writes the counters of one shard, or of two"
    totals = [await store.get(f"analytics_totals/{shard}", Context(soon())) for shard in range(shards)]
    assert [total.fields["events"] for total in totals if total is not None] == [count // shards] * shards
    await mirror.close()


async def test_a_group_keeps_its_order_and_none_waits_for_ever(quick: None) -> None:
    """The last of a group is behind its first, whatever is sent beside it; what comes later waits for one round."""
    mirror, store = begun()
    store.gate = asyncio.Event()
    for nth in range(SENDERS):
        await tell(mirror, one(f"first/{nth}"))
    await until(lambda: store.under_way == SENDERS)
    for nth in range(3 * BATCH):
        await tell(mirror, Once(f"scans/{nth % 7}/results/{nth // 7:04}", {}, ()))
    store.gate.set()
    await until(lambda: mirror.mirrored > SENDERS)
    await tell(mirror, Once("scans/0/results/9999", {}, ()))
    await drained(mirror)
    sent = [write.path for commit in store.commits[SENDERS:] for write in commit]
    assert len(sent) == len(set(sent)) == 3 * BATCH + 1
    for scan in range(7):
        of_one = [path for path in sent if path.startswith(f"scans/{scan}/")]
        assert of_one == sorted(of_one)
    await mirror.close()


@pytest.mark.parametrize(
    ("path", "top"),
    [("scans/7/results/3", "scans/7"), ("scans/7", "scans/7"), ("a/b/c/d/e/f", "a/b"), ("odd", "odd")],
)
def test_changes_below_one_document_are_a_group(path: str, top: str) -> None:
    assert changes.root(path) == top
    assert Newest(path, {}).group == Once(path, {}, ()).group == top


# ------------------------------------------------------------------------------------------------- what has arrived


async def test_what_was_made_before_has_arrived_where_nothing_waits_and_no_call_is_open() -> None:
    mirror, _ = begun()
    before = monotonic_ns()
    assert before <= mirror.arrived() <= monotonic_ns()
    await tell(mirror, one("a/1"))
    await drained(mirror)
    assert mirror.arrived() > before
    await mirror.close()


@pytest.mark.parametrize("end", ["answered", "refused"])
async def test_a_call_that_has_not_ended_may_have_written_already(end: str) -> None:
    mirror, _ = begun()
    before = monotonic_ns()
    ahead = WriteAhead(mirror)
    began = monotonic_ns()
    assert before <= mirror.arrived() <= began
    await tell(mirror, one("a/1"))
    await drained(mirror)
    assert before <= mirror.arrived() <= began, "another call says nothing of this one"
    if end == "answered":
        await ahead.finish(one("a/2"))
        await drained(mirror)
    else:
        ahead.leave()
    assert mirror.arrived() > began
    await mirror.close()


async def test_a_change_whose_call_took_long_waits_behind_younger_ones_and_is_the_oldest() -> None:
    mirror, store = begun()
    store.down = down()
    slow = WriteAhead(mirror)
    began = monotonic_ns()
    await tell(mirror, one("a/fast"))
    await slow.finish(one("a/slow"))
    assert mirror.arrived() <= began
    await until(lambda: store.commits)
    assert mirror.arrived() <= began
    store.down = None
    await drained(mirror)
    assert mirror.arrived() > began
    await mirror.close()


async def test_a_call_whose_changes_cannot_be_handed_over_is_not_open_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirror, _ = begun()

    def breaks(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(mirror.backlog, "log_afterwards", breaks)
    before = monotonic_ns()
    with pytest.raises(ZeroDivisionError):
        await WriteAhead(mirror).finish(one("a/1"))
    assert mirror.arrived() > before
    await mirror.close()
