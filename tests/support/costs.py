"""What each data request costs on Firestore, counted on the wire: the tables of docs/firestore.md.

``python -m tests.support.costs`` measures them with an emulator of its own and writes them to the page;
tests/system/test_costs.py measures them again and fails where the page says something else.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from backends.adapters import analytics, dashboard, scans
from backends.adapters.pages import MOMENT_CURSOR
from backends.adapters.registry import operations, specs, views
from backends.arm import GAUGES, SOURCE, TARGET
from backends.documents.port import COMMIT_LIMIT, Context, Query, put
from backends.durations import Duration
from backends.kinds.firestore import prices
from backends.kinds.firestore.emulator import Emulator
from backends.kinds.firestore.settings import EMULATOR, Firestore
from backends.kinds.firestore.store import AGAIN_S, BURST_S, FirestoreStore
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.mock.settings import Mock
from backends.operations import Call
from backends.pair.manager import build_source
from backends.pair.storearm import StoreArm
from backends.resilience.cache import LEAST_SHARE
from loadtest.bench.page import with_figures
from tests.support.meter import Bill, Meter

PAGE: Final = Path(__file__).parents[2] / "docs" / "firestore.md"
NOW: Final = 1_790_078_400.0 + 150  # noon, and half of a bucket of five minutes
WITHIN_S: Final = 120.0  # for one request or one wait: the machine may be busy
MILLION: Final = 1_000_000
SNAPSHOTS: Final = 160  # the live view holds 100
JOBS: Final = 560  # the live view holds 500
FAILED: Final = 60  # of them, the oldest
NEWEST_JOB: Final = f"s{JOBS - 1:04}"
USER: Final = "u1"

BY_NAME: Final = {operation.name: operation for operation in operations()}


class Clock:
    """Unix time that passes only when told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def call(
    name: str,
    body: object = None,
    *,
    query: Mapping[str, str] | None = None,
    now: float = NOW,
    call_id: str = "id",
    **params: str,
) -> Call:
    """A request as the data plane passes it on."""
    content = b"" if body is None else json.dumps(body).encode()
    return Call(BY_NAME[name], b"", params, dict(query or {}), content, now, call_id)


# ------------------------------------------------------------------------------------------------------ the data


def _id_of_shard(shard: int, at: str) -> str:
    """An event's id whose batch is counted in this shard."""
    return next(
        name
        for name in (f"{at} {shard} {nth}" for nth in range(10_000))
        if int(analytics._digest(name), 16) % analytics.SHARDS == shard
    )


def _moments() -> Iterator[datetime]:
    """One in each bucket that the widest window of its size needs."""
    now = datetime.fromtimestamp(NOW, UTC)
    for grain in analytics.GRAINS:
        for nth in range(grain.reaches[-1] // grain.size + 1):
            yield now - nth * grain.size


def _requests() -> Iterator[Call]:
    """As much of everything that every page is full and no live view holds all of it."""
    for nth in range(SNAPSHOTS):
        metrics = {"metrics": {"users": nth}}
        yield call("dashboard.publish", metrics, now=NOW - SNAPSHOTS + nth, call_id=f"p{nth:03}")
    for nth in range(JOBS):
        yield call("scans.create", {"name": str(nth)}, now=NOW - JOBS + nth, call_id=f"s{nth:04}")
    for nth in range(FAILED):
        yield call("scans.update", {"status": "failed"}, now=NOW, call_id=f"f{nth}", id=f"s{nth:04}")
    for first in (0, 300, 600):  # three copies of each file
        files = [{"path": f"/{first + nth}", "size": 10, "hash": f"h{nth}"} for nth in range(300)]
        yield call("scans.add_results", {"files": files}, now=NOW + first, call_id=f"r{first}", id=NEWEST_JOB)
    for at in _moments():
        for shard in range(analytics.SHARDS):
            moment = at.isoformat()
            event = {
                "id": _id_of_shard(shard, moment),
                "user": USER,
                "type": "view",
                "item": f"i{shard}",
                "at": moment,
            }
            yield call("analytics.ingest", event)


async def fill(store: FirestoreStore) -> None:
    """Put the data into the database: as the handlers write it, but in few commits."""
    memory = MemoryStore()
    arm = StoreArm(memory, WITHIN_S)
    for request in _requests():
        answer = await arm.answer(request)
        assert answer.status < 300, (request, answer)
    documents = [put(document.path, document.fields) for document in memory.documents()]
    for first in range(0, len(documents), COMMIT_LIMIT):
        await store.commit(documents[first : first + COMMIT_LIMIT], _context())


def _context() -> Context:
    return Context(asyncio.get_running_loop().time() + WITHIN_S)


# ------------------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Reading:
    """A read to be measured. ``age``: how old its result may be; ``lags``: also behind this machine's own writes."""

    operation: str
    what: str
    age: float = 0.0
    lags: bool = False
    view: bool = True  # the live views are open
    query: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadCost:
    """Documents read: by the first, by one more within the age, and by one after a write in the same collection."""

    first: int
    again: int
    after_write: int


def _below(doc_id: str, nth: int, of: int) -> dict[str, str]:
    moment = int((NOW - of + nth) * 1_000_000)
    return {"cursor": MOMENT_CURSOR.write(moment, doc_id)}


READS: Final = (
    Reading("dashboard.current", "from the live view"),
    Reading("dashboard.current", "no live view", dashboard.NEWEST_AGE_S, view=False),
    Reading("dashboard.history", "the first page: from the live view"),
    Reading("dashboard.history", "the first page: no live view", dashboard.HISTORY_AGE_S, view=False),
    Reading(
        "dashboard.history",
        "a page of 50 below the live view",
        dashboard.HISTORY_AGE_S,
        lags=True,
        query=_below("p060", 60, SNAPSHOTS),
    ),
    Reading("scans.get", "among the newest 500: from the live view", params={"id": NEWEST_JOB}),
    Reading("scans.get", "an older one", params={"id": "s0001"}),
    Reading("scans.list", "the first page: from the live view"),
    Reading("scans.list", "the first page of a rare status", scans.LIST_AGE_S, query={"status": "failed"}),
    Reading(
        "scans.list", "a page of 50 below the live view", scans.LIST_AGE_S, lags=True, query=_below("s0060", 60, JOBS)
    ),
    Reading("scans.results", "the first 100 files", scans.RESULTS_AGE_S, params={"id": NEWEST_JOB}),
    Reading("scans.duplicates", "the first 100 groups", scans.RESULTS_AGE_S, params={"id": NEWEST_JOB}),
    Reading("analytics.user", "the first 20 events", analytics.USER_AGE_S, params={"uid": USER}),
    Reading("analytics.system", "from the live view"),
    Reading("analytics.system", "no live view", analytics.TOTALS_AGE_S, view=False),
    *(
        Reading("analytics.trending", what, analytics.TRENDING_AGE_S, lags=True, query={"window": window})
        for what, window in (
            ("up to 1 h", "1h"),
            ("up to 6 h", "2h"),
            ("up to 24 h", "24h"),
            ("up to 3 d", "2d"),
            ("up to 7 d", "7d"),
            ("up to 30 d", "8d"),
            ("up to 90 d", "90d"),
        )
    ),
)


def _events(count: int, spread: timedelta, name: str) -> list[dict[str, object]]:
    now = datetime.fromtimestamp(NOW, UTC)
    return [
        {
            "id": f"{name} {nth}",
            "user": f"u{nth}",
            "type": "view",
            "item": f"i{nth % 20}",
            "at": (now - nth * spread / count).isoformat(),
        }
        for nth in range(count)
    ]


def _files(count: int) -> list[dict[str, object]]:
    return [{"path": f"/{nth}", "size": 10, "hash": f"new {nth}"} for nth in range(count)]


def writes(name: str) -> Iterator[tuple[str, Call]]:
    """The writes to be measured, in this order; ``name`` makes their ids differ."""
    yield "", call("dashboard.publish", {"metrics": {"users": 1}}, call_id=f"{name} p")
    yield "", call("scans.create", {}, call_id=f"{name} s")
    yield "among the newest 500", call("scans.update", {"status": "running"}, call_id=f"{name} u", id=f"{name} s")
    files = {"files": _files(1)}
    yield "1 file", call("scans.add_results", files, call_id=f"{name} r1", id=f"{name} s")
    files = {"files": _files(500)}
    yield "500 different files", call("scans.add_results", files, call_id=f"{name} r", id=f"{name} s")
    yield "1 event", call("analytics.ingest", _events(1, timedelta(0), f"{name} one")[0])
    for count, spread in ((10, timedelta(minutes=1)), (500, timedelta(hours=1))):
        words = f"{count} events within {'a minute' if spread < timedelta(hours=1) else 'an hour'}"
        yield words, call("analytics.ingest", _events(count, spread, f"{name} {count}"))


@dataclass(frozen=True)
class WriteCost:
    """One write: where Firestore answers it, and where the other side answers it and it is mirrored."""

    operation: str
    what: str
    answered: Bill
    mirrored: Bill


@dataclass(frozen=True)
class Costs:
    """All that was measured."""

    reads: tuple[tuple[Reading, ReadCost], ...]
    writes: tuple[WriteCost, ...]
    start: int  # documents that a worker reads when it starts
    change: int  # read by all workers when a document in a live view changes
    workers: int
    reopened: int  # when a live view's stream is opened again
    health: int  # of a health check


class Measuring:
    """A meter before the emulator, and stores behind it."""

    def __init__(self, meter: Meter, project: str) -> None:
        self.meter = meter
        self.clock = Clock()
        self._settings = Firestore(project=project, deadline_s=Duration(WITHIN_S))

    @asynccontextmanager
    async def store(self, live: Sequence[Query]) -> AsyncIterator[FirestoreStore]:
        store = FirestoreStore(self._settings, live, clock=self.clock)
        await store.start()
        try:
            await fresh(store, live)
            yield store
        finally:
            await store.close()

    async def cost(self, arm: StoreArm, request: Call) -> Bill:
        before = self.meter.bill
        answer = await arm.answer(request)
        assert answer.status < 300, (request, answer)
        return self.meter.bill - before

    async def read(self, reading: Reading, arm: StoreArm, live: Sequence[Query], nth: int) -> ReadCost:
        self.clock.now += 60  # whatever was cached for the row before has expired
        request = call(reading.operation, query=reading.query, **reading.params)  # type: ignore[arg-type] # no parameter is called now
        store = arm.store
        assert isinstance(store, FirestoreStore)
        await fresh(store, live)
        costs = [(await self.cost(arm, request)).reads for _ in range(2)]
        await arm.answer(_between(reading.operation, f"between {nth}"))
        await fresh(store, live)
        costs.append((await self.cost(arm, request)).reads)
        return ReadCost(*costs)


def _between(operation: str, name: str) -> Call:
    """A write in the collection that the operation reads."""
    adapter = operation.split(".")[0]
    if adapter == "dashboard":
        return call("dashboard.publish", {"metrics": {"users": 1}}, now=NOW + 1, call_id=name)
    if adapter == "scans":
        return call("scans.update", {"message": name}, now=NOW + 1, call_id=name, id=f"s{JOBS - 2:04}")
    return call("analytics.ingest", _events(1, timedelta(0), name)[0])


async def fresh(store: FirestoreStore, live: Sequence[Query]) -> None:
    """Wait until the live views show the newest write."""
    deadline = time.monotonic() + WITHIN_S
    while not all(store.watches(query.collection) for query in live):
        assert time.monotonic() < deadline, "the live views do not catch up"
        await asyncio.sleep(0.01)


async def _mirrored(meter: Meter, project: str, folder: Path) -> list[Bill]:
    """What each write costs on Firestore where a mock answers it."""
    fixtures = folder / "fixtures"
    fixtures.mkdir()
    (fixtures / "scans.json").write_text("{}")
    target = Firestore(project=project, deadline_s=Duration(WITHIN_S))
    pair = build_source(Mock(fixtures=str(fixtures)), target, run_dir=folder, name="m", mode="hybrid")
    await pair.start()
    bills = []
    try:
        store = pair.arms[TARGET].store
        assert isinstance(store, FirestoreStore)
        for _, request in writes("mirrored"):
            await fresh(store, views())
            before = meter.bill
            outcome = await pair.answer(SOURCE, request)
            assert outcome.answer.status < 300, outcome
            deadline = time.monotonic() + WITHIN_S
            while dict(zip(GAUGES, pair.gauges(), strict=True))["mirror_pending"]:
                assert time.monotonic() < deadline, "the change is not mirrored"
                await asyncio.sleep(0.01)
            bills.append(meter.bill - before)
    finally:
        await pair.close()
    return bills


async def measure(upstream: str, project: str, folder: Path) -> Costs:
    """All costs, by the emulator at ``upstream``. ``project`` must be new. Points EMULATOR at the meter meanwhile."""
    meter = Meter(upstream)
    was = os.environ.get(EMULATOR)
    os.environ[EMULATOR] = await meter.start()
    try:
        return await _measure(meter, project, folder)
    finally:
        if was is None:
            del os.environ[EMULATOR]
        else:
            os.environ[EMULATOR] = was
        await meter.stop()


async def _measure(meter: Meter, project: str, folder: Path) -> Costs:
    measuring = Measuring(meter, project)
    live = views()
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(measuring.store(()))
        await fill(bare)
        before = meter.bill
        store = await stack.enter_async_context(measuring.store(live))
        start = meter.bill - before
        arms = {True: (StoreArm(store, WITHIN_S), live), False: (StoreArm(bare, WITHIN_S), ())}
        reads = []
        for nth, reading in enumerate(READS):
            reads.append((reading, await measuring.read(reading, *arms[reading.view], nth)))
        before = meter.bill
        await store.health(WITHIN_S)
        health = meter.bill - before

        other = await stack.enter_async_context(measuring.store(live))
        before = meter.bill
        await arms[True][0].answer(_between("dashboard.publish", "seen by both"))
        for each in (store, other):
            await _shows(each, "dashboard_snapshots/seen by both", live)
        change = meter.bill - before

        before = meter.bill
        for view in store._views.values():
            restarts, snapshots = view.restarts, view.snapshots
            view._call.cancel()
            deadline = time.monotonic() + WITHIN_S
            while view.restarts == restarts or view.snapshots == snapshots:
                assert time.monotonic() < deadline, "the stream is not opened again"
                await asyncio.sleep(0.01)
        reopened = meter.bill - before

        written = []
        for _, request in writes("answered"):
            await fresh(store, live)
            written.append(await measuring.cost(arms[True][0], request))
    mirrored = await _mirrored(meter, f"{project}-m", folder)
    rows = [
        WriteCost(request.operation.name, what, answered, other_side)
        for (what, request), answered, other_side in zip(writes(""), written, mirrored, strict=True)
    ]
    return Costs(tuple(reads), tuple(rows), start.listened, change.listened, 2, reopened.listened, health.reads)


async def _shows(store: FirestoreStore, path: str, live: Sequence[Query]) -> None:
    """Wait until the store's live view has the document."""
    collection, _, doc_id = path.partition("/")
    deadline = time.monotonic() + WITHIN_S
    while not store.watches(collection, doc_id):
        assert time.monotonic() < deadline, f"{path} is in no live view"
        await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------------------------------ the tables


def most_a_minute(reading: Reading, cost: ReadCost) -> int | None:
    """The most documents that one question can cost a worker in a minute, whoever asks and however often.

    None: each request costs it anew.
    """
    if cost.again:
        return None
    times = math.ceil(60 / (LEAST_SHARE * reading.age)) if reading.lags else round((60 + BURST_S) / AGAIN_S)
    return times * max(cost.first, cost.after_write)


def _trending(costs: Costs) -> int:
    trending = [row for row in costs.reads if row[0].operation == "analytics.trending"]
    return sum(most_a_minute(*row) or 0 for row in trending)


def _dollars(bill: Bill) -> str:
    operations = bill.reads, bill.writes, bill.deletes
    each = (MILLION * prices.usd(*operations, location) for location in prices.PRICES)
    return " / ".join(f"${amount:,.2f}" for amount in each)


def _request(operation: str) -> str:
    spec = specs()[operation]
    return f"`{spec.method} {spec.path}`"


def tables(costs: Costs) -> str:
    """The page's tables, in Markdown."""
    lines = [
        "| read | | documents read | again within its age | after a write | at most a minute | a million, unshared |",
        "|---|---|---|---|---|---|---|",
    ]
    for reading, cost in costs.reads:
        most = most_a_minute(reading, cost)
        lines.append(
            f"| {_request(reading.operation)} | {reading.what} | {cost.first} | {cost.again} | {cost.after_write}"
            f" | {'each time' if most is None else f'{most:,}'} | {_dollars(Bill(reads=cost.first))} |"
        )
    lines += [
        "",
        "| write | | documents written | read | written if mirrored | read | a million |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in costs.writes:
        lines.append(
            f"| {_request(row.operation)} | {row.what} | {row.answered.writes} | {row.answered.reads}"
            f" | {row.mirrored.writes} | {row.mirrored.reads} | {_dollars(row.answered)} |"
        )
    lines += [
        "",
        "| beside requests | documents read |",
        "|---|---|",
        f"| all windows of `trending` together, in a minute and in each worker | at most {_trending(costs):,} |",
        f"| a worker starts: its live views, if they are full | {costs.start} |",
        f"| a document in a live view changes | {costs.change // costs.workers} in each worker |",
        f"| a live view's stream is opened again, as every 30 minutes | {costs.reopened} |",
        f"| a health check: before each raise of the weight, and by `phasegate check` | {costs.health} |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page."""
    with tempfile.TemporaryDirectory() as folder, Emulator() as emulator:
        costs = asyncio.run(measure(emulator.address, "demo-costs", Path(folder)))
    PAGE.write_text(with_figures(PAGE.read_text(), "costs", tables(costs)))


if __name__ == "__main__":
    main()
