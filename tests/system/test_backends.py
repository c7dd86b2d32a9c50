"""Both arms of a migration over the real emulator: they answer alike, and a target in trouble fails no reader."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from backends.adapters.analytics import GRAINS, SHARDS, _digest
from backends.adapters.registry import operations, specs
from backends.adapters.shapes import Error
from backends.arm import GAUGES, SOURCE, TARGET, Outcome
from backends.documents.port import Context, Filter, Query, Reason, Rejected
from backends.durations import Duration
from backends.errors import FaultKind
from backends.kinds.firestore.emulator import Emulator
from backends.kinds.firestore.settings import EMULATOR, Firestore
from backends.kinds.mock.settings import Mock
from backends.operations import Answer, Call
from backends.pair.manager import Source, build_source
from backends.resilience.breaker import MIN_CALLS
from tests.support.fault_proxy import FaultProxy

BY_NAME = {operation.name: operation for operation in operations()}
NOW = 1_790_000_000.0  # when requests of these tests are made, if it matters


@pytest.fixture
def no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """What trends is read anew each time, and not up to 5 s behind the events."""
    monkeypatch.setattr("backends.adapters.analytics.TRENDING_AGE_S", 0.0)


def call(name: str, body: Any = None, query: dict[str, str] | None = None, **params: str) -> Call:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    target = f"{name}?{query}{params}".encode()
    return Call(BY_NAME[name], target, params, query or {}, content, time.time(), secrets.token_hex(16))


def empty(folder: Path) -> str:
    """Fixtures that say that there is nothing."""
    folder.mkdir(exist_ok=True)
    (folder / "dashboard_snapshots.json").write_text("{}")
    return str(folder)


@asynccontextmanager
async def source(
    tmp_path: Path, project: str, mode: str = "hybrid", deadline: float = 30.0, view_max_age: float = 90.0
) -> AsyncIterator[Source]:
    mock = Mock(fixtures=empty(tmp_path / "fixtures"))
    firestore = Firestore(project=project, deadline_s=Duration(deadline), view_max_age_s=Duration(view_max_age))
    built = build_source(mock, firestore, run_dir=tmp_path / "run", name="m", mode=mode)
    await built.start()
    try:
        yield built
    finally:
        await built.close()


async def until(
    condition: Callable[[], Any], within: float = 15.0, what: Callable[[], str] = lambda: "it did not come"
) -> None:
    """Wait for the condition, which may be a coroutine function, a bounded time; ``what`` says what was instead."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(0.02)


def gauges(built: Source) -> dict[str, int]:
    return dict(zip(GAUGES, built.gauges(), strict=True))


class Both:
    """Asks both arms the same, demands the same answer, and that it is of the published shape."""

    def __init__(self, built: Source) -> None:
        self._built = built
        self.asked = 0
        self.statuses: Counter[int] = Counter()

    async def __call__(self, name: str, body: Any = None, query: dict[str, str] | None = None, **params: str) -> Any:
        request = call(name, body, query, **params)
        answers = [(await self._built.answer(arm, request)) for arm in (SOURCE, TARGET)]
        mine, theirs = (outcome.answer for outcome in answers)
        assert (mine.status, mine.body) == (theirs.status, theirs.body), f"{name} {body!r} {query}"
        assert [outcome.arm for outcome in answers] == [SOURCE, TARGET], answers
        self.asked += 1
        self.statuses[mine.status] += 1
        spec = specs()[name]
        assert mine.status in {spec.status, 400, *spec.refuses}, f"{name}: {mine.status} is not published"
        return msgspec.to_builtins(
            msgspec.json.decode(mine.body, type=spec.answer if mine.status == spec.status else Error)
        )


@pytest.mark.usefixtures("no_lag")
async def test_every_request_is_answered_alike_by_both_arms(emulated: str, tmp_path: Path) -> None:
    async with source(tmp_path, emulated, mode="target") as built:
        both = Both(built)
        await dashboard(both)
        await scans(both)
        await analytics(both)
        assert both.asked > 90
        assert both.statuses[400] > 25
        assert both.statuses[409] >= 5
        assert both.statuses[404] >= 8


async def dashboard(both: Both) -> None:
    await both("dashboard.current")
    for nth in range(5):
        await both("dashboard.publish", {"metrics": {"b": nth, "a": {"é": [1, 2.5, None, {"x": True}]}, "c": 1e300}})
    newest = await both("dashboard.current")
    first = await both("dashboard.history", None, {"limit": "2"})
    assert [found["metrics"]["b"] for found in first["snapshots"]] == [3, 2]
    rest = await both("dashboard.history", None, {"limit": "2", "cursor": first["next_cursor"]})
    assert [found["metrics"]["b"] for found in rest["snapshots"]] == [1, 0]
    assert rest["next_cursor"] is None
    await both("dashboard.publish", newest)  # as it was read
    middle = first["snapshots"][1]["published_at"]
    upto = await both("dashboard.history", None, {"to": str(middle)})
    assert [found["metrics"]["b"] for found in upto["snapshots"]] == [2, 1, 0]
    since = await both("dashboard.history", None, {"from": str(middle), "limit": "500"})
    assert [found["metrics"]["b"] for found in since["snapshots"]] == [4, 3, 2]
    for query in (
        {"limit": "0"},
        {"limit": "501"},
        {"limit": "-1"},
        {"limit": "x"},
        {"from": "yesterday"},
        {"from": "2026-01-01"},
        {"from": "2", "to": "1"},
        {"from": "1e999"},
        {"cursor": "x"},
        {"cursor": "WzFd"},
        {"cursor": "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5LCJhIl0"},
    ):
        await both("dashboard.history", None, query)
    bodies: tuple[Any, ...] = (
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        {},
        {"metrics": {}},
        {"metrics": 1},
        {"metrics": {"a": 1}, "x": 1},
        b'{"metrics": {"a": "\xff"}}',
        {"metrics": {"": 1}},
        {"metrics": {"__a__": 1}},
        {"metrics": {"a": [[1]]}},
        {"metrics": {"a": 2**63}},
        b'{"metrics": ' + b'{"a":' * 25 + b"1" + b"}" * 26,
        b'{"metrics": ' + b"[" * 100_000,
    )
    for body in bodies:
        await both("dashboard.publish", body)


async def scans(both: Both) -> None:
    for name in ("get", "results", "duplicates"):
        await both(f"scans.{name}", None, None, id="none")
        await both(f"scans.{name}", None, None, id="a/b")
    await both("scans.update", {"progress": 1}, None, id="none")
    await both("scans.add_results", {"files": [{"path": "a", "size": 1, "hash": "h"}]}, None, id="none")
    scan = (await both("scans.create", {"root": "/home", "name": "weekly"}))["id"]
    bodies: tuple[Any, ...] = ({"root": 1}, {"root": ""}, {"rot": "/"}, b"x")
    for body in bodies:
        await both("scans.create", body)
    files: list[dict[str, Any]] = [
        {"path": f"/f{nth}", "size": nth % 7 * 10, "hash": f"h{nth % 50}"} for nth in range(500)
    ]
    await both("scans.update", {"status": "completed"}, None, id=scan)  # not from queued
    bodies = ({"status": "flying"}, {"progress": 101}, {"progress": "5"}, {}, b"", b"{")
    for body in bodies:
        await both("scans.update", body, None, id=scan)
    await both("scans.update", {"status": "running", "progress": 40, "message": "half"}, None, id=scan)
    await both("scans.add_results", {"files": files}, None, id=scan)
    await both("scans.add_results", {"files": files}, None, id=scan)  # again: nothing changes
    await both("scans.add_results", {"files": files[:3]}, None, id=scan)
    for body in (
        {"files": []},
        {"files": files + files[:1]},
        {"files": [{"path": "x"}]},
        {"files": [{**files[0], "size": -1}]},
    ):
        await both("scans.add_results", body, None, id=scan)
    found = await both("scans.get", None, None, id=scan)
    assert (found["files"], found["bytes"]) == (503, sum(f["size"] for f in files + files[:3]))
    await duplicates(both, scan, files + files[:3])
    paged: list[Any] = []
    query = {"limit": "150"}
    while True:
        page = await both("scans.results", None, query, id=scan)
        paged += page["files"]
        if page["next_cursor"] is None:
            break
        query = {"limit": "150", "cursor": page["next_cursor"]}
    assert paged == files + files[:3]
    assert (await both("scans.results", None, {"limit": "500"}, id=scan))["files"] == files
    await both("scans.results", None, {"cursor": "WyJub25lIiwwXQ"}, id=scan)
    await both("scans.update", {"status": "completed"}, None, id=scan)
    for body in ({"progress": 1}, {"status": "running"}, {"status": "completed"}):
        await both("scans.update", body, None, id=scan)
    await both("scans.add_results", {"files": files}, None, id=scan)
    for _ in range(5):
        await both("scans.create")
    page = await both("scans.list", None, {"limit": "2"})
    await both("scans.list", None, {"limit": "2", "cursor": page["next_cursor"]})
    assert len((await both("scans.list", None, {"status": "completed"}))["scans"]) == 1
    assert len((await both("scans.list", None, {"status": "queued"}))["scans"]) == 5
    assert (await both("scans.list", None, {"status": "failed"}))["scans"] == []
    await both("scans.list", None, {"status": "x"})


async def duplicates(both: Both, scan: str, files: list[dict[str, Any]]) -> None:
    copies = Counter((f["hash"], f["size"]) for f in files)
    wasted = {key: (count - 1) * key[1] for key, count in copies.items() if count > 1 and key[1]}
    groups: list[Any] = []
    query = {"limit": "50"}
    while True:
        page = await both("scans.duplicates", None, query, id=scan)
        groups += page["groups"]
        assert page["total_groups"] == len(wasted)
        assert page["total_bytes_wasted"] == sum(wasted.values())
        if page["next_cursor"] is None:
            break
        query = {"limit": "50", "cursor": page["next_cursor"]}
    assert {(g["hash"], g["size"]): g["bytes_wasted"] for g in groups} == wasted
    assert all(g["copies"] == copies[g["hash"], g["size"]] for g in groups)
    order = [g["bytes_wasted"] for g in groups]
    assert order == sorted(order, reverse=True)


async def analytics(both: Both) -> None:
    await both("analytics.system")
    await both("analytics.ingest", {"user": "u1", "type": "view", "item": "p1"})
    twice = [
        {"user": "u1", "type": "view", "id": "e1"},
        {"user": "u2", "type": "buy", "id": "e2", "properties": {"b": {"a": [1]}}},
    ]
    await both("analytics.ingest", twice)
    await both("analytics.ingest", [*twice, {"user": "u2", "type": "__odd__", "id": "e3"}])
    spread = [
        {
            "user": f"u{n % 9}",
            "type": "a.b",
            "item": f"i{n % 40}",
            "at": f"2026-{n % 12 + 1:02}-11T10:{n % 60:02}:00+02:00",
        }
        for n in range(500)
    ]
    await both("analytics.ingest", spread)  # more buckets than one commit holds
    one = {"user": "u", "type": "t"}
    for body in (
        [],
        [one] * 501,
        {"user": "u"},
        {"user": "", "type": "t"},
        {"user": "u", "type": "t" * 65},
        [one, {**one, "at": "2026-01-01"}],
        {**one, "at": "0001-01-01T00:00:00+14:00"},
        {**one, "x": 1},
        {**one, "properties": {"": 1}},
        b"[",
    ):
        await both("analytics.ingest", body)
    found = await both("analytics.user", None, None, uid="u2")
    assert found["events"] == 2 + len([n for n in range(500) if n % 9 == 2])
    page = await both("analytics.user", None, {"limit": "3"}, uid="u2")
    await both("analytics.user", None, {"limit": "3", "cursor": page["next_cursor"]}, uid="u2")
    await both("analytics.user", None, None, uid="nobody/here")
    totals = await both("analytics.system")
    assert totals["events"] == 504
    assert totals["types"] == {"(other)": 1, "a.b": 500, "buy": 1, "view": 2}
    for window in ("1h", "15m", "3d", "90d"):
        await both("analytics.trending", None, {"window": window, "limit": "5"})
    for window in ("91d", "0h", "1w", "h", ""):
        await both("analytics.trending", None, {"window": window})


def cursor(*parts: int | str) -> dict[str, str]:
    return {"cursor": base64.urlsafe_b64encode(json.dumps(parts).encode()).rstrip(b"=").decode()}


def odd_questions(scan: str) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """What anybody may send: operation, path's parameters, query."""
    now = int(NOW * 1e6)
    listings: tuple[tuple[str, dict[str, str]], ...] = (
        ("scans.list", {}),
        ("dashboard.history", {}),
        ("analytics.user", {"uid": "u"}),
    )
    ids = ("x", "a/b", "", "__x__", "__", ".", "..", "a\x00b", "é" * 800, "x" * 1501, "x" * 1500, "/", "__id7__")
    for odd in ids:
        for name, params in listings:
            yield name, params, cursor(now, odd)
        yield "scans.duplicates", {"id": scan}, cursor(5, odd)
        yield "scans.results", {"id": scan}, cursor(odd, 0)
    numbers = (0, -1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), -(2**63) - 1, 253402300799999999, -62135596800000000)
    for number in numbers:
        for name, params in listings:
            yield name, params, cursor(number, "x")
        yield "scans.duplicates", {"id": scan}, cursor(number, "x")
        yield "scans.results", {"id": scan}, cursor("x", number)
    names = ("a\x00b", "%", "x" * 128, "x" * 129, "x" * 3000, "\U0001f600" * 128, "é" * 800, "\ufffd", "..", "__x__")
    for odd in names:
        yield "analytics.user", {"uid": odd}, {}
        for name in ("scans.get", "scans.results", "scans.duplicates", "scans.stream"):
            yield name, {"id": odd}, {}
    for query in ({"from": "0001-01-01T00:00:00Z"}, {"to": "9999-12-31T23:59:59Z"}, {"from": "0"}, {"from": "1e3"}):
        yield "dashboard.history", {}, query


def odd_writes(scan: str) -> Iterator[tuple[str, dict[str, str], Any]]:
    """Operation, path's parameters, body."""

    def nested(levels: int) -> bytes:
        return b'{"metrics":{"a":' + b'{"a":' * levels + b"1" + b"}" * levels + b"}}"

    event = {"user": "u", "type": "v"}
    yield "scans.create", {}, {"root": "a\0b", "name": "\0"}
    for metrics in (
        {"a.b": 1, "`": 2, "\\": 3},
        {"a.b": 1, "`x`": 2, "\\": 3, "\0": 4},
        {"": 1},
        {"__": 1, "___": 2},
        {"____": 1},
        {"n": -0.0, "b": 1e308, "d": 5e-324, "i": 2**63 - 1},
        {"a": "x" * 1_048_000},
        {"a": "x" * 1_048_487},
        *({"x" * length: 1} for length in (1491, 1492, 1493, 1500, 1501)),
        {"a": {"é" * 746: {}}},
        {"a": [{"x" * 1490: 1}]},
        {"a": [{"x" * 1491: 1}]},
    ):
        yield "dashboard.publish", {}, {"metrics": metrics}
    for levels in (17, 18, 19, 20):
        yield "dashboard.publish", {}, nested(levels)
    for more in (
        {"type": "a.b`\\", "item": "__x__"},
        {"type": "\0"},
        {"at": "0001-01-01T00:00:00Z"},
        {"at": "9999-12-31T23:59:59.999999Z"},
        {"id": "__x__/.."},
        {"user": "\U0001f600" * 128},
        {"user": "x" * 129},
        {"properties": {"x" * 1490: 1}},
    ):
        yield "analytics.ingest", {}, {**event, **more}
    yield "scans.add_results", {"id": scan}, {"files": [{"path": "/c\0", "size": 2**53, "hash": "\0"}]}


@pytest.mark.usefixtures("no_lag")
async def test_whatever_is_asked_both_arms_answer_alike_and_neither_is_to_blame(
    emulated: str, tmp_path: Path, logged: list[Any]
) -> None:
    async with source(tmp_path, emulated, mode="target") as built:
        both = Both(built)
        scan = (await both("scans.create", {"root": "/"}))["id"]
        files = [{"path": path, "size": 1, "hash": "x"} for path in "ab"]
        await both("scans.add_results", {"files": files}, None, id=scan)
        await both("analytics.ingest", {"user": "u", "type": "v"})
        await both("dashboard.publish", {"metrics": {"n": 1}})
        for name, params, body in odd_writes(scan):
            await both(name, body, None, **params)
        for name, params, query in odd_questions(scan):
            await both(name, None, query, **params)
        assert both.asked > 170
        assert both.statuses[400] > 60
        # An honest client's last page is among them, and is not refused.
        assert both.statuses[200] > 40
        # No read came as far as the service's own refusal.
        assert [line for line in logged if line["log_level"] == "error"] == []
        assert gauges(built)["breaker_state"] == 0


async def test_what_the_service_refuses_to_read_says_nothing_against_it(emulated: str, tmp_path: Path) -> None:
    async with source(tmp_path, emulated, mode="target") as built:
        store = built.arms[TARGET].store
        long = (Filter("user", "==", "x" * 1500),)
        for nth in range(2 * MIN_CALLS):
            ctx = Context(asyncio.get_running_loop().time() + 10)
            with pytest.raises(Rejected) as refusal:
                await store.query(Query("analytics_events", long, "at", True, nth + 1), ctx)
            assert refusal.value.reason is Reason.INVALID
        assert gauges(built)["breaker_state"] == 0
        assert (await built.arms[TARGET].health()).ok


async def test_a_project_that_cannot_be_is_no_healthy_backend(emulated: str, tmp_path: Path) -> None:
    async with source(tmp_path, "no/project", mode="target") as built:
        health = await built.arms[TARGET].health()
        assert not health.ok, health


@pytest.mark.usefixtures("no_lag")
async def test_a_counter_that_is_full_counts_the_rest_under_other_on_both_sides(
    emulated: str, tmp_path: Path
) -> None:
    """Names of 512 bytes, until some 2,000 of them fill a counter's document; then shorter ones and single events."""
    async with source(tmp_path, emulated, mode="target") as built:
        both = Both(built)
        sent = 0

        async def send(names: list[str]) -> list[Any]:
            nonlocal sent
            first = (nth for nth in itertools.count() if int(_digest(f"{sent}-{nth}"), 16) % SHARDS == 0)
            batch_id = f"{sent}-{next(first)}"  # all batches in one shard
            batch = [
                {"user": "u", "type": "t", "item": name, "id": f"{batch_id}-{n}"} for n, name in enumerate(names)
            ]
            batch[0]["id"] = batch_id
            await both("analytics.ingest", batch)
            sent += len(names)
            shown = await both("analytics.trending", None, {"window": "1h", "limit": "3"})
            assert shown["events"] == sent
            assert (await both("analytics.system"))["events"] == sent
            return [(item["item"], item["events"]) for item in shown["items"]]

        for nth in range(5):
            top = await send([f"{nth}{n:03}" + "\U0001f600" * 124 for n in range(400)])
            assert "(other)" not in dict(top)
        other = 0
        for names in ([f"a{n:03}" + "\U0001f600" * 124 for n in range(400)], ["b"], ["c" * 128] * 3):
            top = await send(names)
            if "(other)" in dict(top):
                other = dict(top)["(other)"]
                assert top[0] == ("(other)", other)
        assert other >= 400


EVENTS = 6_000


@pytest.mark.usefixtures("no_lag")
async def test_a_day_of_events_sums_up_exactly_on_both_sides(emulated: str, tmp_path: Path) -> None:
    """Each batch is sent to one arm or the other, some twice and to both; both sides must come to the same sums."""
    dice = random.Random(5)
    items: Counter[str] = Counter()
    types: Counter[str] = Counter()
    day = NOW - NOW % 86_400
    async with source(tmp_path, emulated) as built:

        async def send(arms: list[int], events: list[dict[str, str]]) -> None:
            for arm in arms:
                outcome = await built.answer(arm, call("analytics.ingest", events))
                assert (outcome.answer.status, outcome.arm) == (202, arm)

        sends = []
        for first in range(0, EVENTS, 500):
            events = [
                {
                    "id": f"event-{nth}",
                    "user": f"u{dice.randrange(100)}",
                    "type": dice.choice(("view", "click")),
                    "item": f"i{dice.randrange(200)}",
                    "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(day + nth * 86_400 // EVENTS)),
                }
                for nth in range(first, first + 500)
            ]
            items.update(event["item"] for event in events)
            types.update(event["type"] for event in events)
            sends.append(send(dice.choice(([SOURCE], [TARGET], [TARGET, TARGET], [SOURCE, TARGET])), events))
        for start in range(0, len(sends), 4):
            await asyncio.gather(*sends[start : start + 4])
        await until(lambda: gauges(built)["mirror_pending"] == 0, within=60)
        assert gauges(built)["mirror_lost"] == 0
        for arm in (SOURCE, TARGET):
            system = json.loads((await built.answer(arm, call("analytics.system"))).answer.body)
            assert (system["events"], system["types"]) == (EVENTS, types)
            for window in ("24h", "4d"):  # from buckets of an hour, and of a day
                request = call("analytics.trending", None, {"window": window, "limit": "100"})
                request.now = day + 86_399
                trending = json.loads((await built.answer(arm, request)).answer.body)
                assert trending["events"] == EVENTS
                ranked = sorted(items.items(), key=lambda entry: (-entry[1], entry[0]))[:100]
                assert [(entry["item"], entry["events"]) for entry in trending["items"]] == ranked
            shorter = [grain for grain in GRAINS if grain.collection == "analytics_minutes"]
            assert len(shorter) == 1


async def test_what_one_arm_was_told_the_other_answers(emulated: str, tmp_path: Path) -> None:
    async with source(tmp_path, emulated) as built:
        await until(lambda: gauges(built)["view_age_ms"] < 60_000)
        for arm, other in ((SOURCE, TARGET), (TARGET, SOURCE)):
            scan = json.loads((await built.answer(arm, call("scans.create"))).answer.body)["id"]
            step = {"status": "running", "progress": 7}
            assert (await built.answer(arm, call("scans.update", step, None, id=scan))).answer.status == 200
            await built.answer(arm, call("dashboard.publish", {"metrics": {"by": arm}}))
            await until(lambda: gauges(built)["mirror_pending"] == 0)
            seen = await built.answer(other, call("scans.get", None, None, id=scan))
            assert json.loads(seen.answer.body)["progress"] == 7.0
            assert json.loads((await built.answer(other, call("dashboard.current"))).answer.body)["metrics"] == {
                "by": arm
            }


async def test_a_session_reads_its_own_write_on_whichever_worker(emulated: str, tmp_path: Path) -> None:
    async with source(tmp_path, emulated) as one, source(tmp_path, emulated) as two:
        for nth in range(60):
            await one.answer(TARGET, call("dashboard.publish", {"metrics": {"nth": nth}}))
            request = call("dashboard.current")
            answer = two.peek(TARGET, request.operation, request.key)
            answer = answer or (await two.answer(TARGET, request)).answer
            assert json.loads(answer.body)["metrics"] == {"nth": nth}
            await one.answer(TARGET, call("analytics.ingest", {"user": "u", "type": "t"}))
            assert json.loads((await two.answer(TARGET, call("analytics.system"))).answer.body)["events"] == nth + 1


async def test_sessions_that_write_all_at_once_each_find_their_own_on_the_first_page(
    emulated: str, tmp_path: Path
) -> None:
    """No live view has a user's events or a scan's duplicates: they are read through, and shared by all readers."""
    async with source(tmp_path, emulated) as one, source(tmp_path, emulated) as two:
        scan = json.loads((await one.answer(TARGET, call("scans.create"))).answer.body)["id"]
        writing = asyncio.Lock()

        async def session(nth: int) -> None:
            for step in range(6):
                mine = f"{nth}-{step}"
                here, there = (one, two) if step % 2 else (two, one)
                event = {"user": "all", "type": "t", "id": mine}
                files = [{"path": f"/{mine}{copy}", "size": 10**9 + nth * 100 + step, "hash": mine} for copy in "ab"]
                async with writing:  # or they contend for the scan's document, and the source answers
                    outcomes = [
                        await here.answer(TARGET, call("analytics.ingest", event)),
                        await here.answer(TARGET, call("scans.add_results", {"files": files}, id=scan)),
                    ]
                assert [(outcome.arm, outcome.answer.status) for outcome in outcomes] == [
                    (TARGET, 202),
                    (TARGET, 201),
                ]
                asked = call("analytics.user", None, {"limit": "100"}, uid="all")
                user = json.loads((await there.answer(TARGET, asked)).answer.body)
                assert mine in {event["id"] for event in user["recent"]}
                asked = call("scans.duplicates", None, {"limit": "500"}, id=scan)
                groups = json.loads((await there.answer(TARGET, asked)).answer.body)["groups"]
                assert mine in {group["hash"] for group in groups}

        await asyncio.gather(*(session(nth) for nth in range(12)))


async def test_a_stream_shows_every_change_it_has_time_for(emulated: str, tmp_path: Path) -> None:
    async with source(tmp_path, emulated) as built:
        for arm in (SOURCE, TARGET):
            scan = json.loads((await built.answer(arm, call("scans.create"))).answer.body)["id"]
            stream = (await built.answer(arm, call("scans.stream", None, None, id=scan))).answer.stream
            assert stream is not None
            assert (await anext(stream)).startswith(b"retry:")
            for status in ("queued", "running", "completed"):
                if status != "queued":
                    await built.answer(arm, call("scans.update", {"status": status}, None, id=scan))
                lines = (await anext(stream)).decode().splitlines()
                assert lines[0] == "event: progress"
                assert json.loads(lines[2].removeprefix("data: "))["status"] == status
            with pytest.raises(StopAsyncIteration):  # a finished scan changes no more
                await anext(stream)


# ------------------------------------------------------------------------------------------------------ in trouble

READS = (
    "dashboard.current",
    "dashboard.history",
    "scans.list",
    "analytics.system",
    "analytics.trending",
    "analytics.user",
)


class Readers:
    """200 readers of everything, who note what became of their requests."""

    def __init__(self, built: Source) -> None:
        self._built = built
        self._stop = asyncio.Event()
        self.failed = 0
        self.stall = 0.0
        self.took: list[float] = []
        self.faults: Counter[FaultKind] = Counter()
        self.by_target = 0

    async def _read(self, nth: int) -> None:
        name = READS[nth % len(READS)]
        while not self._stop.is_set():
            params = {"uid": secrets.token_hex(4)} if name == "analytics.user" else {}
            request = call(name, None, None, **params)
            began = time.perf_counter()
            outcome = self._ask(request) or await self._built.answer(TARGET, request)
            self.took.append(time.perf_counter() - began)
            self.failed += outcome.answer.status != 200
            if outcome.fault is not None:
                self.faults[outcome.fault.kind] += 1
            self.by_target += outcome.arm == TARGET
            await asyncio.sleep(0.05)

    def _ask(self, request: Call) -> Outcome | None:
        answer: Answer | None = self._built.peek(TARGET, request.operation, request.key)
        return None if answer is None else Outcome(answer, TARGET)

    async def _tick(self) -> None:
        """How long the machine kept this process from running, which no deadline of ours can help."""
        while not self._stop.is_set():
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            self.stall = max(self.stall, time.perf_counter() - began - 0.01)

    def check_waits(self) -> None:
        """Nobody waited for more than the one deadline, but for what the machine itself took."""
        assert sorted(self.took)[int(len(self.took) * 0.99)] < DEADLINE + 0.1 + 2 * self.stall

    async def run(self, seconds: float) -> None:
        ticking = asyncio.create_task(self._tick())
        readers = [asyncio.create_task(self._read(nth)) for nth in range(200)]
        await asyncio.sleep(seconds)
        self._stop.set()
        await asyncio.gather(ticking, *readers)


async def seeded(built: Source) -> None:
    """Something to read on both sides."""
    await built.answer(TARGET, call("dashboard.publish", {"metrics": {"n": 1}}))
    await built.answer(TARGET, call("scans.create"))
    await built.answer(TARGET, call("analytics.ingest", {"user": "u", "type": "t"}))


async def recovered(built: Source) -> None:
    """A request that goes through to the target is answered by it again, and the breaker is closed."""

    async def well() -> bool:
        outcome = await built.answer(TARGET, call("analytics.user", None, None, uid=secrets.token_hex(4)))
        return outcome.arm == TARGET and gauges(built)["breaker_state"] == 0

    await until(well, within=5)


DEADLINE = 1.0


@pytest.mark.parametrize("trouble", ["killed", "hung"])
async def test_no_reader_is_failed_by_an_emulator_that_is(
    trouble: str, own_emulator: Emulator, tmp_path: Path
) -> None:
    async with source(tmp_path, "demo-trouble", deadline=DEADLINE) as built:
        await until(lambda: gauges(built)["view_age_ms"] < 60_000)
        await seeded(built)
        readers = Readers(built)
        reading = asyncio.create_task(readers.run(4))
        await asyncio.sleep(1)
        own_emulator.signal(signal.SIGKILL if trouble == "killed" else signal.SIGSTOP)
        await reading
        assert readers.failed == 0
        assert sum(readers.faults.values()) > 0
        readers.check_waits()
        publish = await built.answer(TARGET, call("dashboard.publish", {"metrics": {"n": 2}}))
        assert (publish.answer.status, publish.arm) == (200, SOURCE)
        assert publish.fault is not None
        assert json.loads((await built.answer(SOURCE, call("dashboard.current"))).answer.body)["metrics"] == {"n": 2}
        if trouble == "killed":
            own_emulator.stop()
            own_emulator.start()
        else:
            own_emulator.signal(signal.SIGCONT)
        await recovered(built)
        # What was written meanwhile reaches the target.
        await until(lambda: gauges(built)["mirror_pending"] == 0)

        last = [""]

        async def caught_up() -> bool:
            outcome = await built.answer(TARGET, call("dashboard.current"))
            last[0] = f"{outcome} {gauges(built)}"
            return outcome.arm == TARGET and b'"n":2' in outcome.answer.body

        await until(caught_up, what=lambda: last[0])


@asynccontextmanager
async def behind_a_proxy(emulator_address: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(emulator_address)
    monkeypatch.setenv(EMULATOR, await proxy.start())
    try:
        yield proxy
    finally:
        await proxy.stop()


@pytest.mark.parametrize("trouble", ["slow", 0.2, 0.5, 1.0])
async def test_no_reader_is_failed_by_a_service_that_is(
    trouble: str | float, emulated: str, emulator_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        behind_a_proxy(emulator_address, monkeypatch) as proxy,
        source(tmp_path, emulated, deadline=DEADLINE) as built,
    ):
        await until(lambda: gauges(built)["view_age_ms"] < 60_000)
        await seeded(built)
        if isinstance(trouble, float):
            proxy.fail = trouble
        else:
            proxy.delay_s = 2.0
        readers = Readers(built)
        await readers.run(3)
        assert readers.failed == 0
        assert sum(readers.faults.values()) > 0
        assert readers.by_target > 0
        readers.check_waits()
        expected = FaultKind.DEADLINE if trouble == "slow" else FaultKind.EXHAUSTED
        assert readers.faults[expected] > 0
        proxy.fail = proxy.delay_s = 0.0
        await recovered(built)


async def test_a_write_whose_answer_is_lost_is_applied_once_and_is_on_both_sides(
    emulated: str, emulator_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        behind_a_proxy(emulator_address, monkeypatch) as proxy,
        source(tmp_path, emulated) as built,
    ):
        await seeded(built)
        proxy.code, proxy.lose_answers = grpc.StatusCode.UNAVAILABLE, True
        written = await built.answer(TARGET, call("analytics.ingest", [{"user": "u", "type": "t"}] * 3))
        assert (written.answer.status, written.arm) == (
            202,
            SOURCE,
        )  # three events of one id are three: no id was given
        assert written.fault is not None
        assert written.fault.may_have_applied
        proxy.lose_answers = False
        await until(lambda: gauges(built)["mirror_pending"] == 0)
        for arm in (SOURCE, TARGET):
            system = json.loads((await built.answer(arm, call("analytics.system"))).answer.body)
            assert system["events"] == 4


async def test_without_a_source_a_lost_write_is_said_to_be_uncertain(
    emulated: str, emulator_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        behind_a_proxy(emulator_address, monkeypatch) as proxy,
        source(tmp_path, emulated, mode="target") as built,
    ):
        await seeded(built)
        for code, expected in (
            (grpc.StatusCode.UNAVAILABLE, "write_uncertain"),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "backend_unavailable"),
        ):
            proxy.code, proxy.fail = code, 1.0
            outcome = await built.answer(TARGET, call("dashboard.publish", {"metrics": {"n": 2}}))
            assert outcome.answer.status == 503
            assert json.loads(outcome.answer.body)["error"]["code"] == expected
            assert outcome.arm == TARGET
            assert outcome.fault is not None
