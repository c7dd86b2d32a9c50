"""A database that is shared with another app, on the real emulator: foreign documents, and a prefix."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from backends.adapters.registry import operations, views
from backends.arm import SOURCE, TARGET
from backends.copy.marker import MARKER
from backends.copy.seed import first_document, seed
from backends.documents.port import Context, Document, Fields, Query, delete, put
from backends.durations import Duration
from backends.kinds.firestore.codec import PbValue, PbWrite, fill_value
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.store import FirestoreStore, _Commit
from backends.kinds.mock.settings import Mock
from backends.operations import Call
from backends.pair.manager import build_source

BY_NAME = {operation.name: operation for operation in operations()}
BIG: dict[str, Any] = {"deadline_s": Duration(30.0)}
POINT = PbValue(geo_point_value={"latitude": 51.0, "longitude": 7.0})


def soon() -> Context:
    return Context(asyncio.get_running_loop().time() + 30)


def call(name: str, body: Any = None, query: dict[str, str] | None = None, **params: str) -> Call:
    content = b"" if body is None else json.dumps(body).encode()
    return Call(
        BY_NAME[name], secrets.token_bytes(8), params, query or {}, content, time.time(), secrets.token_hex(16)
    )


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(project: str, *, prefix: str = "", live: bool = False) -> AsyncIterator[FirestoreStore]:
    store = FirestoreStore(Firestore(project=project, prefix=prefix, **BIG), views() if live else ())
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def write_foreign(store: FirestoreStore, path: str, fields: Fields, **more: Any) -> None:
    """Write a document with values of types that phasegate does not write."""
    channel = store._open()
    write = PbWrite()
    write.update.name = channel.names.name(path)
    for name, value in fields.items():
        fill_value(write.update.fields[name], value)
    for name, raw in more.items():
        write.update.fields[name].CopyFrom(raw)
    await channel.commit(_Commit(database=channel.database, writes=[write]), timeout=30, metadata=channel.metadata)


async def all_of(store: FirestoreStore, collection: str) -> list[Document]:
    return await store.query(Query(collection), soon())


async def test_a_page_goes_on_behind_documents_that_cannot_be_decoded(emulated: str) -> None:
    async with opened(emulated) as store:
        for nth in range(20):
            if nth % 4 == 0:
                await store.commit((put(f"things/{nth:02}", {"n": nth}),), soon())
            elif nth % 4 == 1:
                await write_foreign(store, f"things/{nth:02}", {"n": nth}, where=POINT)
            elif nth % 4 == 2:
                await write_foreign(store, f"things/{nth:02}", {}, n=POINT)  # the ordered field itself
            else:
                reference = PbValue(reference_value=store._open().names.name("things/00"))
                await write_foreign(store, f"things/{nth:02}", {"n": nth}, of=reference)
        mine = ["00", "04", "08", "12", "16"]
        assert [found.id for found in await store.query(Query("things", order="n", limit=4), soon())] == mine[:4]
        assert [found.id for found in await store.query(Query("things", limit=5), soon())] == mine
        assert [found.id for found in await store.query(Query("things", limit=6), soon())] == mine
        down = Query("things", order="n", descending=True, limit=3)
        assert [found.id for found in await store.query(down, soon())] == mine[:1:-1]
        assert [found.id for found in await store.query(Query("things"), soon())] == mine
        assert store.gauges()["foreign_documents"] == 15


async def test_lists_and_views_go_on_without_foreign_documents(emulated: str, tmp_path: Path) -> None:
    target = Firestore(project=emulated, **BIG)
    source = build_source(Mock(), target, run_dir=tmp_path, name="m", mode="target")
    await source.start()
    try:
        made = json.loads((await source.answer(TARGET, call("scans.create"))).answer.body)
        store = source.arms[TARGET].store
        assert isinstance(store, FirestoreStore)
        job = (await store.get(f"scans/{made['id']}", soon())).fields  # type: ignore[union-attr]
        await write_foreign(store, "scans/point", job, where=POINT)
        await store.commit((put("scans/odd", {"created_at": job["created_at"]}),), soon())
        view = store._views["scans"]
        await until(lambda: view.fresh and view._state is not None and view._state.unread == {"point"})
        opened_streams = view.restarts
        for _ in range(20):
            outcome = await source.answer(TARGET, call("scans.list"))
            assert outcome.fault is None
            assert [scan["id"] for scan in json.loads(outcome.answer.body)["scans"]] == [made["id"]]
            for foreign in ("point", "odd"):
                outcome = await source.answer(TARGET, call("scans.get", id=foreign))
                assert (outcome.fault, outcome.answer.status) == (None, 404)
        assert view.restarts == opened_streams
        assert store.gauges()["foreign_documents"] == 2
    finally:
        await source.close()


async def test_a_prefix_is_before_every_collection_and_nothing_else_is_touched(emulated: str, tmp_path: Path) -> None:
    async with opened(emulated) as plain, opened(emulated, prefix="pg_") as ours:
        theirs: Fields = {"owner": "another app"}
        for path in (
            "scans/a",
            "scans/a/results/b",
            "analytics_totals/0",
            "dashboard_snapshots/x",
            "phasegate/seeded",
        ):
            await plain.commit((put(path, theirs),), soon())
        target = Firestore(project=emulated, prefix="pg_", **BIG)
        assert (await seed(target, data=Mock(), run_dir=tmp_path, name="s")).written > 0
        source = build_source(Mock(), target, run_dir=tmp_path, name="m", mode="hybrid")
        await source.start()
        try:
            made = json.loads((await source.answer(TARGET, call("scans.create"))).answer.body)["id"]
            files = {"files": [{"path": "/a", "size": 1, "hash": "h"}]}
            assert (await source.answer(TARGET, call("scans.add_results", files, id=made))).answer.status == 201
            event = {"user": "u", "type": "view"}
            assert (await source.answer(TARGET, call("analytics.ingest", event))).answer.status == 202
            for name, params in (
                *(("scans.get", {"id": made}), ("scans.results", {"id": made}), ("scans.duplicates", {"id": made})),
                *(("analytics.user", {"uid": "u"}), ("analytics.system", {}), ("analytics.trending", {})),
                *(("scans.list", {}), ("dashboard.current", {}), ("dashboard.history", {})),
            ):
                here, there = [await source.answer(arm, call(name, **params)) for arm in (SOURCE, TARGET)]
                assert there.fault is None, name
                assert (here.answer.status, here.answer.body) == (there.answer.status, there.answer.body), name
            store = source.arms[TARGET].store
            assert isinstance(store, FirestoreStore)
            await until(lambda: all(view.fresh for view in store._views.values()))
            assert made in store._views["scans"].collection.documents
        finally:
            await source.close()
        assert len(await all_of(plain, f"pg_scans/{made}/pg_results")) == 1
        assert len(await all_of(plain, f"pg_scans/{made}/pg_groups")) == 1
        assert [found.path for found in await all_of(ours, f"scans/{made}/results")] == [
            path.path.replace("pg_", "") for path in await all_of(plain, f"pg_scans/{made}/pg_results")
        ]
        assert await plain.get(f"pg_{MARKER}", soon()) is not None
        assert [found.fields for found in await all_of(plain, "scans")] == [theirs]
        for collection in ("scans/a/results", "analytics_totals", "dashboard_snapshots", "phasegate"):
            assert [found.fields for found in await all_of(plain, collection)] == [theirs], collection
        for collection in ("analytics_events", "analytics_minutes", "analytics_hours", "analytics_days"):
            assert await all_of(plain, collection) == []
            assert await all_of(plain, f"pg_{collection}")


FILES = {"files": [{"path": "/a", "size": 10, "hash": "h"}, {"path": "/b", "size": 10, "hash": "h"}]}


async def test_a_scan_deleted_on_the_target_is_whole_again_or_not_there(emulated: str, tmp_path: Path) -> None:
    target = Firestore(project=emulated, **BIG)
    source = build_source(Mock(), target, run_dir=tmp_path, name="m", mode="hybrid")
    await source.start()
    try:
        made = json.loads((await source.answer(SOURCE, call("scans.create"))).answer.body)["id"]
        store = source.arms[TARGET].store
        assert isinstance(store, FirestoreStore)
        async with opened(emulated) as other:  # another program

            async def there() -> Document | None:
                return await other.get(f"scans/{made}", soon())

            async def mirrored() -> None:
                deadline = time.monotonic() + 30
                while source.behind_since():
                    assert time.monotonic() < deadline, "it is not mirrored"
                    await asyncio.sleep(0.02)

            await mirrored()
            assert (await there()) is not None
            await other.commit((delete(f"scans/{made}"),), soon())
            # The target's own write finds no scan, though a view may not know yet.
            outcome = await source.answer(TARGET, call("scans.add_results", FILES, id=made))
            assert (outcome.fault, outcome.answer.status) == (None, 404)
            assert (await there()) is None
            # The source still has it: its next write makes the target's whole.
            assert (await source.answer(SOURCE, call("scans.add_results", FILES, id=made))).answer.status == 201
            await mirrored()
            whole = await there()
            assert whole is not None
            mine = await source.arms[SOURCE].store.get(f"scans/{made}", soon())
            assert mine is not None
            assert whole.fields == mine.fields
            assert len(await all_of(other, f"scans/{made}/results")) == 1
    finally:
        await source.close()


async def test_many_foreign_documents_before_ours_cost_few_calls(emulated: str) -> None:
    async with opened(emulated) as store:
        for nth in range(60):
            await write_foreign(store, f"things/{nth:03}", {"n": nth}, where=POINT)
        await store.commit((put("things/999", {"n": 999}),), soon())
        before = store.gauges()["attempts"]
        (found,) = await store.query(Query("things", order="n", limit=1), soon())
        assert found.id == "999"
        assert store.gauges()["attempts"] == before + 1  # one call to the guard; its pages are 1, 4, 16 and 64
        assert await store.query(Query("things", order="n", limit=3), soon()) == [found]
        assert await first_document(store, ["things"]) == "things/999"


async def test_a_collection_of_foreign_documents_is_not_empty(emulated: str) -> None:
    async with opened(emulated) as store:
        assert await first_document(store, ["things"]) is None
        await write_foreign(store, "things/a", {}, where=POINT)
        assert (await first_document(store, ["things"]) or "").startswith("things/")
