"""A Firestore that is not right: what the caller gets, what the log says, and how often."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from backends.adapters.registry import operations
from backends.arm import SOURCE, TARGET
from backends.documents.port import Context, Filter, Query, put
from backends.errors import Fault, FaultKind
from backends.kinds.firestore import told
from backends.kinds.firestore.settings import EMULATOR, Firestore
from backends.kinds.firestore.store import FirestoreStore
from backends.kinds.mock.settings import Mock
from backends.operations import Call
from backends.pair.manager import build_source
from tests.support.patience import WITHIN_S
from tests.support.refusing_server import INDEX_LINK, MISSING_DATABASE, MISSING_INDEX, RefusingServer

BY_NAME = {operation.name: operation for operation in operations()}
BY_STATUS = Query("scans", (Filter("status", "==", "queued"),), "created_at", True, 2)


@asynccontextmanager
async def store_at(server: RefusingServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FirestoreStore]:
    monkeypatch.setenv(EMULATOR, await server.start())
    store = FirestoreStore(Firestore(project="secret-1"))
    await store.start()
    try:
        yield store
    finally:
        await store.close()
        await server.stop()


def soon() -> Context:
    return Context(asyncio.get_running_loop().time() + WITHIN_S)


def call(name: str, **params: str) -> Call:
    return Call(BY_NAME[name], name.encode(), params, {}, b"", time.time(), secrets.token_hex(16))


def said(logged: list[Any]) -> list[Any]:
    return [line for line in logged if line["event"] == "backend_not_right"]


async def test_a_missing_database_is_no_missing_document(monkeypatch: pytest.MonkeyPatch, logged: list[Any]) -> None:
    async with store_at(RefusingServer(MISSING_DATABASE), monkeypatch) as store:
        for ask in (
            lambda: store.get("scans/a", soon()),
            lambda: store.get_many(("scans/a", "scans/b"), soon()),
            lambda: store.query(BY_STATUS, soon()),
            lambda: store.count(BY_STATUS, soon()),
            lambda: store.commit((put("scans/a", {}),), soon()),
            lambda: store.health(WITHIN_S),
        ):
            with pytest.raises(Fault) as fault:
                await ask()
            assert (fault.value.kind, fault.value.may_retry) == (FaultKind.SETUP, False)
            assert fault.value.trouble is not None
            assert fault.value.trouble.name == "missing_database"
        by_what = {line["asked"]: line for line in said(logged)}
        assert set(by_what) == {
            "scans/*",
            "scans where status == order by created_at desc",
            "count of scans where status == order by created_at desc",
            "write of scans/*",
            "phasegate/*",
        }
        assert by_what["write of scans/*"]["document"] == "scans/a"
        assert "gcloud firestore databases create --project=secret-1" in by_what["scans/*"]["mend"]


async def test_a_missing_index_is_named_with_its_link_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(told.time, "monotonic", lambda: now[0])
    async with store_at(RefusingServer(MISSING_INDEX, only=frozenset({"RunQuery"})), monkeypatch) as store:
        for nth in range(50):
            other = Query("scans", (Filter("status", "==", f"{nth}"),), "created_at", True, 2)
            with pytest.raises(Fault) as fault:
                await store.query(other, soon())
            assert fault.value.trouble is not None
            assert INDEX_LINK in fault.value.trouble.mend
        assert [line["asked"] for line in said(logged)] == [str(line["asked"]) for line in said(logged)[:1]]
        assert INDEX_LINK in said(logged)[0]["mend"]
        assert store.gauges()["breaker_state"] == 0  # the other queries work
        assert await store.get("scans/a", soon()) is None
        now[0] += told.AGAIN_S
        with pytest.raises(Fault):
            await store.query(BY_STATUS, soon())
        assert len(said(logged)) == 2


async def test_what_is_remembered_of_what_was_said_is_bounded(logged: list[Any]) -> None:
    from backends.kinds.firestore.status import Place, read_error

    teller = told.Told()
    problem = read_error(*MISSING_INDEX, Place("p", "d"))
    for nth in range(2 * told.REMEMBERED):
        teller.tell(problem, f"shape {nth}")
    assert len(teller._said_at) == told.REMEMBERED
    assert len(said(logged)) == 2 * told.REMEMBERED


async def test_a_read_falls_back_and_counts_as_the_targets_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    server = RefusingServer(MISSING_DATABASE)
    monkeypatch.setenv(EMULATOR, await server.start())
    source = build_source(Mock(), Firestore(project="secret-1"), run_dir=None, name="m", mode="hybrid")
    await source.start()
    try:
        ask = call("scans.get", id="nobody")
        outcome = await source.answer(TARGET, ask)
        assert (outcome.arm, outcome.answer.status) == (SOURCE, 404)  # the source's own 404
        assert outcome.fault is not None
        assert outcome.fault.kind is FaultKind.SETUP
    finally:
        await source.close()
        await server.stop()


async def test_without_a_source_the_client_gets_503_and_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    server = RefusingServer(MISSING_DATABASE)
    monkeypatch.setenv(EMULATOR, await server.start())
    source = build_source(Mock(), Firestore(project="secret-1"), run_dir=None, name="m", mode="target")
    await source.start()
    try:
        for operation, fields in (("scans.get", {"id": "a"}), ("scans.list", {}), ("scans.create", {})):
            outcome = await source.answer(TARGET, call(operation, **fields))
            assert outcome.answer.status == 503
            assert b"secret-1" not in outcome.answer.body
            assert b"(setup)" in outcome.answer.body
    finally:
        await source.close()
        await server.stop()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED])
async def test_ordinary_failures_are_not_told(
    monkeypatch: pytest.MonkeyPatch, logged: list[Any], code: grpc.StatusCode
) -> None:
    async with store_at(RefusingServer((code, "for a moment")), monkeypatch) as store:
        with pytest.raises(Fault):
            await store.query(BY_STATUS, soon())
        assert said(logged) == []
