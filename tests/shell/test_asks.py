"""What adapters say that they ask, against what their handlers do ask; and what follows from it."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from backends.adapters import registry
from backends.adapters.adapter import Adapter, AdapterError, Spec
from backends.adapters.replies import OperationRefused
from backends.copy.fixtures import made_up
from backends.documents.port import Context, Count, Document, Filter, Query
from backends.documents.shape import Ask, ReadShape, composite, pattern_of, shape_of
from backends.kinds.firestore.indexes import index_file
from backends.kinds.firestore.settings import EMULATOR, Firestore
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.registry import KINDS
from backends.operations import Call
from control.checks.check import Check, failed
from control.checks.indexed import indexed
from tests.support.refusing_server import INDEX_LINK, MISSING_DATABASE, MISSING_INDEX, RefusingServer

# Values for the parameters whose value decides what is asked; None: without the parameter.
VALUES: dict[str, tuple[str | None, ...]] = {
    "from": (None, "2025-01-01T00:00:00Z"),
    "to": (None, "2027-01-01T00:00:00Z"),
    "limit": (None, "1"),
    "status": (None, "completed"),
    "window": (None, "1d", "9d"),
    "cursor": (None,),  # taken from the answers
}


class Recording(MemoryStore):
    """Remembers the shapes of what it is asked."""

    def __init__(self) -> None:
        super().__init__(lambda: made_up(1))
        self.asked: set[ReadShape] = set()

    async def query(self, query: Query, ctx: Context, max_age: float = 0.0, min_age: float = 0.0) -> list[Document]:
        self.asked.add(Ask(query).shape)
        return await super().query(query, ctx, max_age, min_age)

    async def count(
        self, query: Query, ctx: Context, total: str | None = None, max_age: float = 0.0, min_age: float = 0.0
    ) -> Count:
        self.asked.add(Ask(query, True, total).shape)
        return await super().count(query, ctx, total, max_age, min_age)


def combinations(spec: Spec) -> Iterator[dict[str, str]]:
    """Every combination of the parameters' values."""
    names = [parameter.name for parameter in spec.parameters]
    for values in itertools.product(*(VALUES[name] for name in names)):
        yield {name: value for name, value in zip(names, values, strict=True) if value is not None}


async def asked_by(adapter: Adapter) -> set[ReadShape]:
    store = Recording()
    await store.start()
    handlers = adapter.handlers(store)
    scan = next(
        found.id for found in store.documents() if found.path.count("/") == 1 and "completed" in str(found.fields)
    )
    for spec in adapter.serves:
        operation = next(each for each in adapter.operations if each.call == spec.call)
        for query in combinations(spec):
            cursors: list[str | None] = [None]
            while cursors:
                cursor = cursors.pop()
                asking = query | ({"cursor": cursor} if cursor else {})
                params = {**dict.fromkeys(spec.placeholders, scan), **spec.example.params}
                body = spec.example.body.encode()
                call = Call(operation, b"", params, asking, body, time.time(), secrets.token_hex(16))
                try:
                    answer = await getattr(handlers, spec.call)(call, Context(0.0))
                except OperationRefused:
                    continue
                if spec.kind == "read" and cursor is None and (more := json.loads(answer.body).get("next_cursor")):
                    cursors.append(more)
    return store.asked


@pytest.mark.parametrize("adapter", registry.BUILT_IN, ids=lambda adapter: adapter.name)
async def test_an_adapter_declares_exactly_what_its_handlers_ask(adapter: Adapter) -> None:
    declared = {ask.shape for ask in adapter.asks}
    asked = await asked_by(adapter)
    assert asked == declared
    assert {Ask(view).shape for view in adapter.views} <= declared


async def test_what_is_asked_and_not_declared_is_seen() -> None:
    scans = next(adapter for adapter in registry.BUILT_IN if adapter.name == "scans")
    assert len(await asked_by(scans)) == 5


def test_what_an_adapter_asks_is_in_its_collections() -> None:
    adapter = registry.BUILT_IN[0]
    parts: dict[str, Any] = {
        name: getattr(adapter, name) for name in ("name", "handlers", "serves", "collections", "views")
    }
    with pytest.raises(AdapterError, match="others is not in one of its collections"):
        Adapter(**parts, asks=(Ask(Query("others")),))
    with pytest.raises(AdapterError, match="others is not in one of its collections"):
        Adapter(**parts, unindexed=(("others", "x"),))


def test_a_shape_has_no_values_and_says_what_is_asked() -> None:
    query = Query(
        "scans/7/groups", (Filter("wasted", ">", 5), Filter("kind", "==", "secret")), "wasted", True, 9, (3, "x")
    )
    assert str(shape_of(query)) == "scans/*/groups where kind == and wasted > order by wasted desc"
    assert str(shape_of(query, counted=True, total="wasted")).startswith("count and sum of wasted of scans/*/groups")
    assert str(shape_of(Query("a"))) == "a"
    assert [pattern_of(path) for path in ("a", "a/1", "a/1/b", "a/1/b/2")] == ["a", "a/*", "a/*/b", "a/*/b/*"]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (Query("a"), None),
        (Query("a", (Filter("x", "==", 1),)), None),
        (Query("a", (Filter("x", ">", 1),), "x"), None),
        (Query("a", (Filter("x", "==", 1),), "x"), None),
        (Query("a", (Filter("x", "==", 1),), "y"), (("x", "ASCENDING"), ("y", "ASCENDING"))),
        (Query("a", (Filter("x", "in", [1]),), "y", True), (("x", "ASCENDING"), ("y", "DESCENDING"))),
    ],
)
def test_a_composite_index_is_for_an_order_beside_an_equality(query: Query, index: object) -> None:
    assert composite(query) == index


def test_the_file_of_indexes_has_the_prefix_everywhere() -> None:
    plain, prefixed = (
        json.loads(index_file(registry.asks(), registry.unindexed(), prefix)) for prefix in ("", "pg_")
    )
    assert len(plain["indexes"]) == 2
    for part in ("indexes", "fieldOverrides"):
        assert [entry["collectionGroup"] for entry in prefixed[part]] == [
            f"pg_{entry['collectionGroup']}" for entry in plain[part]
        ]
    assert {"collectionGroup": "pg_results", "fieldPath": "files", "indexes": []} in prefixed["fieldOverrides"]


# ------------------------------------------------------------------------------------------------- the check


async def checks_at(server: RefusingServer, monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    monkeypatch.setenv(EMULATOR, await server.start())
    try:
        backend = Firestore(project="secret-1")
        return await indexed("backend new", backend, KINDS[backend.kind])
    finally:
        await server.stop()


async def test_every_query_is_asked_once_and_its_cost_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    server = RefusingServer(MISSING_INDEX, only=frozenset())
    checks = await checks_at(server, monkeypatch)
    assert failed(checks) == []
    assert sorted(server.asked) == ["RunAggregationQuery"] * 2 + ["RunQuery"] * 10
    assert [(check.name, check.ok, check.found) for check in checks] == [
        ("backend new, queries", True, "12 of 12 queries asked, 12 answered (12 reads)"),
        ("backend new, exemptions", None, "the emulator cannot be asked which fields it indexes"),
    ]


async def test_each_missing_index_is_named_with_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = await checks_at(RefusingServer(MISSING_INDEX, only=frozenset({"RunQuery"})), monkeypatch)
    missing = [check for check in failed(checks) if check.name == "backend new, query"]
    assert len(missing) == 10
    assert all(INDEX_LINK in check.mend for check in missing)
    assert "scans where status == order by created_at desc" in missing[1].found
    assert checks[-2].found == "12 of 12 queries asked, 2 answered (12 reads)"


async def test_where_nothing_can_work_only_one_query_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    server = RefusingServer(MISSING_DATABASE)
    checks = await checks_at(server, monkeypatch)
    assert len(server.asked) == 1
    assert "gcloud firestore databases create" in failed(checks)[0].mend


# ------------------------------------------------------------------------------- the exemptions that are deployed


def listed(*names: str) -> bytes:
    """An answer to ListFields: these fields have no index; one more has."""
    from google.cloud.firestore_admin_v1.types import field, firestore_admin

    root = "projects/secret-1/databases/(default)/collectionGroups/"
    config = field.Field.IndexConfig
    fields = [field.Field(name=root + name, index_config=config(indexes=[])) for name in names]
    indexed_once = config(indexes=[{"query_scope": "COLLECTION"}])
    fields.append(field.Field(name=f"{root}groups/fields/hash", index_config=indexed_once))
    return bytes(firestore_admin.ListFieldsResponse.serialize(firestore_admin.ListFieldsResponse(fields=fields)))


async def test_exemptions_that_are_not_deployed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends.kinds.firestore import deployed
    from backends.kinds.firestore.channel import Channel

    server = RefusingServer(MISSING_DATABASE, only=frozenset())
    address = await server.start()

    async def real(project: str, database: str, prefix: str = "") -> Channel:
        return Channel(lambda: grpc.aio.insecure_channel(address), project, database, prefix=prefix, emulated=False)

    monkeypatch.setattr(deployed, "open_channel", real)
    try:
        wanted = [("scans/*/results", "files"), ("scans/*/groups", "hash")]
        server.answers["ListFields"] = listed("results/fields/files")
        assert await deployed.still_indexed(Firestore(project="secret-1"), wanted) == ["groups.hash"]
        assert await deployed.still_indexed(Firestore(project="secret-1", prefix="pg_"), wanted) == [
            *("pg_results.files", "pg_groups.hash"),
        ]
        server.answers["ListFields"] = listed("pg_results/fields/files", "pg_groups/fields/`hash`")
        assert await deployed.still_indexed(Firestore(project="secret-1", prefix="pg_"), wanted) == []
    finally:
        await server.stop()
