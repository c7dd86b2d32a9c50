"""Documents that this app did not write: left out of every answer, counted, named; and none half-written by us."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backends.adapters.registry import operations
from backends.arm import SOURCE, TARGET
from backends.documents import foreign
from backends.documents.foreign import Foreign
from backends.documents.port import Context, Document, Fields, Mutation, delete, put
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.mock.settings import Mock
from backends.operations import Answer, Call
from backends.pair.manager import Source, build_source
from backends.pair.storearm import StoreArm

BY_NAME = {operation.name: operation for operation in operations()}
AT = datetime(2026, 1, 1, tzinfo=UTC)
JOB: Fields = {
    **dict.fromkeys(("root", "name", "message"), "x"),
    "status": "queued",
    "progress": 0.0,
    "created_at": AT,
    "updated_at": AT,
    "revision": 1,
    "change": "c",
}


def call(name: str, body: Any = None, query: Any = None, **params: str) -> Call:
    content = b"" if body is None else json.dumps(body).encode()
    return Call(
        BY_NAME[name], secrets.token_bytes(8), params, query or {}, content, time.time(), secrets.token_hex(16)
    )


class Shop:
    """An arm over a memory store with these documents."""

    def __init__(self, *documents: Mutation) -> None:
        self.store = MemoryStore()
        if documents:
            self.store._commit(documents)
        self.arm = StoreArm(self.store, 5.0)

    async def ask(self, name: str, body: Any = None, query: Any = None, **params: str) -> Any:
        answer: Answer = await self.arm.answer(call(name, body, query, **params))
        return answer.status, json.loads(answer.body)

    def named(self, logged: list[Any]) -> list[str]:
        return [line["document"] for line in logged if line["event"] == "foreign_document"]


def job(doc_id: str, minutes: int, without: str = "", **changed: Any) -> Mutation:
    fields = JOB | {"created_at": AT + timedelta(minutes=minutes)} | changed
    return put(f"scans/{doc_id}", {name: value for name, value in fields.items() if name != without})


FOREIGN_JOBS = [
    *({"without": name} for name in ("status", "progress", "root", "name", "message", "updated_at")),
    *({"status": found} for found in ("done", 7, None, ["queued"], {"a": 1})),
    {"updated_at": "yesterday"},
    {"progress": "half"},
]


@pytest.mark.parametrize("odd", FOREIGN_JOBS, ids=str)
async def test_a_scan_that_is_none_of_ours_is_left_out(odd: Any, logged: list[Any]) -> None:
    shop = Shop(job("a", 1), job("odd", 2, **odd), job("b", 3))
    for _ in range(3):
        status, page = await shop.ask("scans.list")
        assert (status, [scan["id"] for scan in page["scans"]]) == (200, ["b", "a"])
    for name, body in (
        ("scans.get", None),
        ("scans.results", None),
        ("scans.duplicates", None),
        ("scans.stream", None),
        ("scans.update", {"status": "running"}),
        ("scans.add_results", {"files": [{"path": "/a", "size": 1, "hash": "h"}]}),
    ):
        assert (await shop.ask(name, body, id="odd"))[0] == 404
    assert shop.named(logged) == ["scans/odd"]
    assert shop.arm.gauges()["foreign_documents"] == 1
    assert [line for line in logged if line["event"] == "handler_failed"] == []


async def test_pages_are_full_and_go_on_over_foreign_documents() -> None:
    documents = [job(f"{nth:03}", nth, **({"without": "status"} if nth % 3 else {})) for nth in range(90)]
    shop = Shop(*documents)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "7"} | ({"cursor": cursor} if cursor else {})
        _, page = await shop.ask("scans.list", query=query)
        cursor = page["next_cursor"]
        assert len(page["scans"]) == 7 or cursor is None
        seen += [scan["id"] for scan in page["scans"]]
    assert seen == [f"{nth:03}" for nth in reversed(range(0, 90, 3))]


async def test_a_collection_of_foreign_documents_alone_is_an_empty_list() -> None:
    shop = Shop(*(job(f"{nth}", nth, without="status") for nth in range(200)))
    assert await shop.ask("scans.list", query={"limit": "5"}) == (200, {"scans": [], "next_cursor": None})


@pytest.mark.parametrize(
    ("name", "document", "params", "expected"),
    [
        ("dashboard.current", put("dashboard_snapshots/x", {"published_at": AT}), {}, 404),
        ("dashboard.history", put("dashboard_snapshots/x", {"published_at": "now", "metrics": {}}), {}, 200),
        ("analytics.user", put("analytics_events/x", {"user": "u", "at": AT}), {"uid": "u"}, 200),
        ("analytics.system", put("analytics_totals/x", {"events": "many"}), {}, 200),
        (
            "analytics.trending",
            put("analytics_minutes/x", {"start": datetime.now(UTC) - timedelta(minutes=6), "items": {"a": "b"}}),
            {},
            200,
        ),
        ("analytics.trending", put("analytics_minutes/x", {"start": datetime.now(UTC)}), {}, 200),
    ],
)
async def test_no_handler_fails_over_a_document_with_missing_fields(
    name: str, document: Mutation, params: dict[str, str], expected: int
) -> None:
    shop = Shop(document)
    assert (await shop.ask(name, **params))[0] == expected
    assert shop.store.foreign.count == 1


async def test_results_and_groups_of_others_are_left_out() -> None:
    shop = Shop(
        job("a", 1),
        put("scans/a/results/1", {"posted_at": AT}),
        put("scans/a/results/2", {"posted_at": AT, "files": [{"path": "/a", "size": 1, "hash": "h"}]}),
        put("scans/a/groups/1", {"wasted": 5}),
    )
    assert [file["path"] for file in (await shop.ask("scans.results", id="a"))[1]["files"]] == ["/a"]
    assert (await shop.ask("scans.duplicates", id="a"))[1]["groups"] == []
    assert shop.store.foreign.count == 2


def test_what_is_remembered_of_foreign_documents_is_bounded(logged: list[Any]) -> None:
    known = Foreign("firestore")
    for nth in range(2 * foreign.NAMED):
        for _ in range(2):
            known.note(f"scans/{nth}" + "x" * 5000, "why" * 5000)
    assert known.count == foreign.NAMED
    assert len(logged) == foreign.NAMED + 1
    assert logged[-1]["event"] == "foreign_documents_unnamed"
    longest = max(len(line.get("document", "")) + len(line.get("reason", "")) for line in logged)
    assert longest == foreign.PATH_LENGTH + foreign.WHY_LENGTH


# ------------------------------------------------------------------------------- nothing is half-written by us


FILES = {"files": [{"path": "/a", "size": 10, "hash": "h"}, {"path": "/b", "size": 10, "hash": "h"}]}


class Racing(MemoryStore):
    """A store in which somebody deletes a document right before a commit."""

    victim = ""

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        if self.victim:
            self._commit((delete(self.victim),))
            self.victim = ""
        return await super().commit(mutations, ctx)


async def test_results_of_a_scan_that_is_deleted_meanwhile_leave_nothing_behind() -> None:
    store = Racing()
    arm = StoreArm(store, 5.0)
    made = json.loads((await arm.answer(call("scans.create"))).body)["id"]
    store.victim = f"scans/{made}"
    assert (await arm.answer(call("scans.add_results", FILES, id=made))).status == 404
    assert list(store.documents()) == []


async def _pair() -> Source:
    source = build_source(Mock(), Mock(), run_dir=None, name="m", mode="hybrid")
    await source.start()
    return source


def _documents(source: Source, arm: int, below: str) -> dict[str, Document]:
    store = source.arms[arm].store
    assert isinstance(store, MemoryStore)
    return {found.path: found for found in store.documents() if found.path.startswith(below)}


async def test_a_scan_deleted_on_the_target_is_whole_again_after_the_sources_next_write() -> None:
    source = await _pair()
    try:
        answer = (await source.answer(SOURCE, call("scans.create"))).answer
        made = json.loads(answer.body)["id"]
        await source.answer(SOURCE, call("scans.update", {"status": "running", "progress": 20}, id=made))
        target = source.arms[TARGET].store
        assert isinstance(target, MemoryStore)
        target._commit((delete(f"scans/{made}"),))
        outcome = await source.answer(SOURCE, call("scans.add_results", FILES, id=made))
        assert outcome.answer.status == 201
        here = _documents(source, SOURCE, f"scans/{made}")
        there = _documents(source, TARGET, f"scans/{made}")
        assert there.keys() == here.keys()
        assert there[f"scans/{made}"].fields == here[f"scans/{made}"].fields
        assert (await source.answer(TARGET, call("scans.get", id=made))).answer.status == 200
    finally:
        await source.close()


async def test_a_scan_that_is_on_both_sides_is_not_written_anew_for_its_results() -> None:
    source = await _pair()
    try:
        made = json.loads((await source.answer(SOURCE, call("scans.create"))).answer.body)["id"]
        await source.answer(TARGET, call("scans.update", {"status": "running"}, id=made))
        before = _documents(source, TARGET, f"scans/{made}")[f"scans/{made}"].fields
        await source.answer(SOURCE, call("scans.add_results", FILES, id=made))
        after = _documents(source, TARGET, f"scans/{made}")[f"scans/{made}"].fields
        assert after == {**before, "files": 2, "bytes": 20}
    finally:
        await source.close()
