"""An arm over a store, and two behind one door: what is remembered, and what happens when the target fails."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.adapters.analytics import SHARDS, _digest
from backends.adapters.registry import operations
from backends.arm import GAUGES, SOURCE, TARGET
from backends.copy import fixtures
from backends.documents.port import DOCUMENT_BYTES, Context, Document, Mutation, Query, Reason, Rejected
from backends.documents.semantics import size_of
from backends.durations import Duration
from backends.errors import Fault, FaultKind
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.mock.settings import Mock
from backends.operations import Answer, Call
from backends.pair.manager import Source, build_arm
from backends.pair.storearm import MEMO_ANSWER_BYTES, MEMO_BYTES, MEMO_LIMIT, StoreArm
from tests.support.patience import WITHIN_S

BY_NAME = {operation.name: operation for operation in operations()}


def call(name: str, body: Any = None, target: bytes | None = None, query: Any = None, **params: str) -> Call:
    content = b"" if body is None else json.dumps(body).encode()
    return Call(
        BY_NAME[name], target or name.encode(), params, query or {}, content, time.time(), secrets.token_hex(16)
    )


class Troubled(MemoryStore):
    """A store that fails as told; ``after`` it has applied what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Exception | None = None
        self.after = False
        self.hang = False

    async def query(self, query: Query, ctx: Context, max_age: float = 0.0, min_age: float = 0.0) -> list[Document]:
        if self.hang:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        return await super().query(query, ctx, max_age, min_age)

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        if self.hang:
            await asyncio.sleep(0.05)
        when = await super().commit(mutations, ctx) if self.fault is None or self.after else 0
        if self.fault is not None:
            raise self.fault
        return when


def down(*, may_have_applied: bool = True) -> Fault:
    return Fault(FaultKind.UNAVAILABLE, "down", may_retry=True, may_have_applied=may_have_applied)


async def pair(*, hybrid: bool = True) -> tuple[Source, Troubled, Troubled]:
    source, target = Troubled(), Troubled()
    built = Source(StoreArm(source, WITHIN_S), StoreArm(target, WITHIN_S), hybrid=hybrid)
    await built.start()
    return built, source, target


def immediate(coroutine: Any) -> Any:
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value


PUBLISH = {"metrics": {"n": 1}}


# ------------------------------------------------------------------------------------------------------ memory


async def test_an_answer_is_given_again_until_what_it_was_read_from_changes() -> None:
    arm = StoreArm(MemoryStore(), WITHIN_S)
    request = call("dashboard.current")
    assert arm.peek(request.operation, request.key) is None
    immediate(arm.answer(call("dashboard.publish", PUBLISH)))
    answer: Answer = immediate(arm.answer(request))
    assert arm.peek(request.operation, request.key) is answer
    immediate(arm.answer(call("scans.create")))  # another collection
    assert arm.peek(request.operation, request.key) is answer
    immediate(arm.answer(call("dashboard.publish", PUBLISH)))
    assert arm.peek(request.operation, request.key) is None


async def test_a_write_to_the_same_address_is_not_answered_by_what_a_read_was() -> None:
    arm = StoreArm(MemoryStore(), WITHIN_S)
    immediate(arm.answer(call("scans.create", target=b"/api/scans")))
    immediate(arm.answer(call("scans.list", target=b"/api/scans")))
    assert arm.peek(BY_NAME["scans.list"], b"/api/scans") is not None
    assert arm.peek(BY_NAME["scans.create"], b"/api/scans") is None


async def test_an_answer_that_depends_on_the_time_is_not_given_again_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arm = StoreArm(MemoryStore(), WITHIN_S)
    immediate(arm.answer(call("analytics.ingest", {"user": "u", "type": "t"})))
    request = call("analytics.trending")
    immediate(arm.answer(request))
    assert arm.peek(request.operation, request.key) is not None
    later = time.monotonic() + 301  # a bucket of time
    monkeypatch.setattr("backends.pair.storearm.time.monotonic", lambda: later)
    assert arm.peek(request.operation, request.key) is None


async def test_what_is_remembered_is_bounded() -> None:
    arm = StoreArm(MemoryStore(), WITHIN_S)
    immediate(arm.answer(call("dashboard.publish", PUBLISH)))
    for nth in range(MEMO_LIMIT + 10):
        immediate(arm.answer(call("dashboard.current", target=b"%d" % nth)))
    assert len(arm._memos) == MEMO_LIMIT
    assert arm.peek(BY_NAME["dashboard.current"], b"0") is None
    immediate(arm.answer(call("dashboard.current", target=b"x" * 10_000)))
    assert arm.peek(BY_NAME["dashboard.current"], b"x" * 10_000) is None


async def test_what_is_remembered_is_bounded_in_bytes() -> None:
    """Pages of a few hundred KiB that differ by a parameter must not fill a worker's memory."""
    arm = StoreArm(MemoryStore(), WITHIN_S)
    immediate(arm.answer(call("dashboard.publish", {"metrics": {"n": "x" * 400_000}})))
    for nth in range(240):
        immediate(arm.answer(call("dashboard.current", target=b"%d" % nth)))
    held = [len(memo.answer.body) for memo in arm._memos.values()]
    assert MEMO_BYTES / 2 < sum(held) < MEMO_BYTES
    assert arm.peek(BY_NAME["dashboard.current"], b"239") is not None
    immediate(arm.answer(call("dashboard.publish", {"metrics": {"n": "\x01" * (MEMO_ANSWER_BYTES // 6)}})))
    immediate(arm.answer(call("dashboard.current", target=b"large")))
    assert arm.peek(BY_NAME["dashboard.current"], b"large") is None
    assert arm._memo_bytes == sum(memo.size for memo in arm._memos.values())


async def test_a_rehearsal_is_late_and_fails_as_asked() -> None:
    arm = build_arm(Mock(latency_s=Duration(0.01), fault_rate=0.5, seed=3))
    await arm.start()
    faults = 0
    for _ in range(20):
        try:
            assert (await arm.answer(call("dashboard.current"))).status == 200
        except Fault as fault:
            faults += fault.kind is FaultKind.UNAVAILABLE
        assert arm.peek(BY_NAME["dashboard.current"], b"dashboard.current") is None
    assert 3 < faults < 17
    await arm.close()


async def test_a_handlers_own_error_is_a_fault_and_not_an_exception() -> None:
    built, _, target = await pair()
    target.fault = ZeroDivisionError()
    outcome = await built.answer(TARGET, call("dashboard.current"))
    assert outcome.arm == SOURCE
    assert outcome.fault is not None
    assert outcome.fault.kind is FaultKind.INTERNAL
    await built.close()


async def test_an_event_is_counted_where_a_counter_has_no_byte_left() -> None:
    store = MemoryStore()
    arm = StoreArm(store, WITHIN_S)
    sent = 0

    async def ask(name: str, body: Any = None) -> Any:
        request = call(f"analytics.{name}", body)
        request.now = 1_790_000_000.0  # all in one bucket
        answer = await arm.answer(request)
        assert answer.status in (200, 202), answer
        return json.loads(answer.body)

    async def send(*items: str) -> int:
        """How many bytes the fullest counter has left then."""
        nonlocal sent
        # One shard for all: it is chosen by the first event's id.
        first = next(f"{sent}-{nth}" for nth in range(1000) if int(_digest(f"{sent}-{nth}"), 16) % SHARDS == 0)
        events = [{"user": "u", "type": "t", "item": item} for item in items]
        await ask("ingest", [{**events[0], "id": first}, *events[1:]])
        sent += len(items)
        return DOCUMENT_BYTES - max(size_of(found) for found in store.documents() if "items" in found.fields)

    left = await send("first")
    while left > 1200:
        names = (f"{sent}-{n}-".ljust(128, "x") for n in range(min(480, left // 137 - 1)))
        left = await send(*names)
    for _ in range(20):
        if left:
            left = await send(str(sent).ljust(left - 9 if left <= 137 else 100, "y"))
    assert left == 0
    for item in ("of no name before", "first", "nor this"):
        assert await send(item) == 0
    assert (await ask("system"))["events"] == sent
    trending = await ask("trending")
    assert trending["events"] == sent
    assert [(item["item"], item["events"]) for item in trending["items"][:2]] == [("(other)", 2), ("first", 2)]


# ------------------------------------------------------------------------------------------------------ fallback


async def test_a_failing_targets_read_is_answered_by_the_source() -> None:
    built, _, target = await pair()
    await built.answer(SOURCE, call("dashboard.publish", PUBLISH))
    target.fault = down()
    outcome = await built.answer(TARGET, call("dashboard.current"))
    assert (outcome.arm, outcome.answer.status, outcome.fault) == (SOURCE, 200, target.fault)
    assert dict(zip(GAUGES, built.gauges(), strict=True))["fallbacks"] == 1
    await built.close()


async def test_what_the_client_did_wrong_is_no_fault() -> None:
    built, _, _ = await pair()
    for name, body, status in (
        ("dashboard.publish", {"metrics": 1}, 400),
        ("dashboard.current", None, 404),
        ("dashboard.publish", {"metrics": {"": 1}}, 400),
    ):
        outcome = await built.answer(TARGET, call(name, body))
        assert (outcome.arm, outcome.answer.status, outcome.fault) == (TARGET, status, None)
    await built.close()


async def test_a_question_that_the_store_refuses_is_answered_and_is_a_gap_told_once(
    logged: list[Any],
) -> None:
    built, _, target = await pair()
    target.fault = Rejected(Reason.INVALID, "projects/p/databases/d is not to be told")
    for _ in range(3):
        for name in ("dashboard.current", "scans.list"):
            outcome = await built.answer(TARGET, call(name))
            assert (outcome.arm, outcome.answer.status, outcome.fault) == (TARGET, 400, None)
            assert b"projects/" not in outcome.answer.body
            assert built.peek(TARGET, BY_NAME[name], name.encode()) is None
    told = [(line["operation"], line["reason"]) for line in logged if line["log_level"] == "error"]
    assert told == [(name, str(target.fault)) for name in ("dashboard.current", "scans.list")]
    await built.close()


async def test_where_both_fail_the_client_is_told() -> None:
    built, source, target = await pair()
    source.fault, target.fault = down(may_have_applied=False), down()
    outcome = await built.answer(TARGET, call("dashboard.current"))
    assert (outcome.answer.status, outcome.fault) == (503, target.fault)
    assert json.loads(outcome.answer.body)["error"]["code"] == "backend_unavailable"
    outcome = await built.answer(TARGET, call("dashboard.publish", PUBLISH))
    assert json.loads(outcome.answer.body)["error"]["code"] == "write_uncertain"
    target.fault = down(may_have_applied=False)
    outcome = await built.answer(TARGET, call("dashboard.publish", PUBLISH))
    assert json.loads(outcome.answer.body)["error"]["code"] == "backend_unavailable"
    await built.close()


async def test_outside_hybrid_mode_nobody_stands_in_and_nothing_is_mirrored() -> None:
    built, source, target = await pair(hybrid=False)
    await built.answer(TARGET, call("dashboard.publish", PUBLISH))
    assert (await built.answer(SOURCE, call("dashboard.current"))).answer.status == 404
    target.fault = down()
    outcome = await built.answer(TARGET, call("dashboard.current"))
    assert (outcome.arm, outcome.answer.status, outcome.fault) == (TARGET, 503, target.fault)
    assert [*source.documents()] == []
    await built.close()


@pytest.mark.parametrize("applied", [True, False])
async def test_a_write_that_may_have_been_applied_ends_on_both_sides_once(applied: bool) -> None:
    built, _, target = await pair()
    target.fault, target.after = down(), applied
    outcome = await built.answer(TARGET, call("analytics.ingest", [{"user": "u", "type": "t"}] * 2))
    assert (outcome.arm, outcome.answer.status) == (SOURCE, 202)
    target.fault = None
    deadline = time.monotonic() + WITHIN_S
    while dict(zip(GAUGES, built.gauges(), strict=True))["mirror_pending"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    for arm in (SOURCE, TARGET):
        answer = (await built.answer(arm, call("analytics.system"))).answer
        assert json.loads(answer.body)["events"] == 2
    await built.close()


async def test_a_write_abandoned_by_its_request_still_ends_on_both_sides() -> None:
    built, source, target = await pair()
    target.hang = True
    writing = asyncio.create_task(built.answer(TARGET, call("dashboard.publish", PUBLISH)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await built.close()
    assert len([*source.documents()]) == len([*target.documents()]) == 1


async def test_an_abandoned_read_leaves_the_target_at_once() -> None:
    built, _, target = await pair()
    target.hang = True
    reading = asyncio.create_task(built.answer(TARGET, call("dashboard.current")))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert built._writes == set()
    await built.close()


# ------------------------------------------------------------------------------------------------------ data


def test_made_up_data_is_the_same_every_time_and_seeds_differ() -> None:
    fixtures.documents.cache_clear()
    first = fixtures.made_up(1)
    fixtures.documents.cache_clear()
    assert fixtures.made_up(1) == first
    assert fixtures.made_up(2) != first
    assert {mutation.path.split("/")[0] for mutation in first} >= {"dashboard_snapshots", "scans", "analytics_events"}


async def test_fixtures_are_documents_by_collection(tmp_path: Path) -> None:
    (tmp_path / "dashboard_snapshots.json").write_text(
        '{"a": {"published_at": "2026-01-01T00:00:00Z", "metrics": {"n": 1}}}'
    )
    arm = build_arm(Mock(fixtures=str(tmp_path)))
    await arm.start()
    answer = json.loads((await arm.answer(call("dashboard.current"))).body)
    assert answer == {"id": "a", "metrics": {"n": 1}, "published_at": "2026-01-01T00:00:00Z"}
    await arm.close()


async def test_a_refusal_that_is_not_the_clients_doing_is_no_answer() -> None:
    built, _, target = await pair()
    target.fault = Rejected(Reason.MISSING, "gone")
    outcome = await built.answer(TARGET, call("dashboard.publish", PUBLISH))
    assert outcome.fault is not None
    assert outcome.arm == SOURCE
    await built.close()


async def test_what_is_left_at_its_end_has_not_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on to look, and to tell visitors and copies, until its process ends."""
    monkeypatch.setattr("backends.pair.mirror.DRAIN_S", 0.01)
    target = Troubled()
    arms = StoreArm(Troubled(), WITHIN_S), StoreArm(target, WITHIN_S)
    built = Source(*arms, hybrid=True, changes=tmp_path / "m.changes")
    await built.start()
    target.fault, target.kind = down(), "firestore"
    before = time.monotonic_ns()
    await built.answer(SOURCE, call("dashboard.publish", PUBLISH))
    left = built.behind_since(), built.arrived()
    assert all(before < each < time.monotonic_ns() for each in left)
    await built.close()
    assert (built.behind_since(), built.arrived()) == left
