"""A Firestore that is not right: what the caller gets, what the log says, and how often."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
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
from backends.kinds.firestore.view import FORBIDDEN_S
from backends.kinds.mock.settings import Mock
from backends.operations import Call
from backends.pair.manager import build_source
from control.checks.check import failed
from control.checks.preflight import _backend
from control.plan.settings import parse
from tests.support.patience import WITHIN_S
from tests.support.refusing_server import INDEX_LINK, MISSING_DATABASE, MISSING_INDEX, RefusingServer

ROOT = Path(__file__).parents[2]
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


# ------------------------------------------------------------------------------------------- `phasegate check`

NOBODY = ("--url", "http://127.0.0.1:9")  # no control plane answers there
CONFIG = """
[app]
origin = "http://127.0.0.1:9"
[proxy]
listen = ["127.0.0.1:0"]
run_dir = "run"
[backends.old]
kind = "mock"
[backends.new]
kind = "firestore"
project = "secret-1"
[migrations.move]
source = "old"
target = "new"
routes = ["/api/scans/*"]
phases = [{ name = "all", weight = 100 }]
[control]
listen = "127.0.0.1:0"
"""


async def phasegate(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command as a user does: its exit code, and all that it prints."""
    (folder / "phasegate.toml").write_text(CONFIG)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PHASEGATE", "GOOGLE"))}
    kept.pop(EMULATOR, None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "control.cli", *arguments),
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "400"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (MISSING_DATABASE, "gcloud firestore databases create --project=secret-1"),
        (MISSING_INDEX, INDEX_LINK),
        ((grpc.StatusCode.PERMISSION_DENIED, "Missing or insufficient permissions."), "roles/datastore.user"),
        ((grpc.StatusCode.PERMISSION_DENIED, "Permission denied on resource project x."), "Correct `project`"),
        ((grpc.StatusCode.UNAUTHENTICATED, "Request had invalid authentication credentials."), "gcloud auth"),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded."), "iam-admin/quotas?project=secret-1"),
        (
            (
                grpc.StatusCode.FAILED_PRECONDITION,
                "The Cloud Firestore API is not available for Datastore Mode projects",
            ),
            "--type=firestore-native",
        ),
        (
            (grpc.StatusCode.PERMISSION_DENIED, "Cloud Firestore API has not been used in project 1 before"),
            "gcloud services enable firestore.googleapis.com --project=secret-1",
        ),
        ((grpc.StatusCode.INVALID_ARGUMENT, "Transaction too big. Decrease transaction size."), "smaller documents"),
        ((grpc.StatusCode.NOT_FOUND, "gone"), "gcloud firestore databases create"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("only", ["all", "writes", "queries"])
async def test_check_says_what_to_do_and_never_ends_in_a_traceback(
    refusal: tuple[grpc.StatusCode, str], told: str, only: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"all": None, "writes": frozenset({"Commit"}), "queries": frozenset({"RunQuery"})}[only]
    server = RefusingServer(refusal, only=methods)
    monkeypatch.setenv(EMULATOR, await server.start())
    settings = parse(tomllib.loads(CONFIG))
    try:
        checks = await _backend(settings, "new")
    finally:
        await server.stop()
    bad = failed(checks)
    assert bad
    if (told, only) not in ((INDEX_LINK, "writes"), ("smaller documents", "all"), ("smaller documents", "queries")):
        assert any(told in check.mend for check in bad), bad


async def test_the_command_says_it_too(tmp_path: Path) -> None:
    server = RefusingServer(MISSING_DATABASE)
    address = await server.start()
    try:
        for command in (("check", *NOBODY), ("check", "--json", *NOBODY), ("seed", "--yes")):
            code, output = await phasegate(tmp_path, *command, **{EMULATOR: address})
            assert code in (3, 5), output
            assert "Traceback" not in output
            assert "has no Firestore database" in output
    finally:
        await server.stop()


async def test_without_credentials_the_command_says_how_to_get_some(tmp_path: Path) -> None:
    missing = str(tmp_path / "key.json")
    code, output = await phasegate(tmp_path, "check", *NOBODY, GOOGLE_APPLICATION_CREDENTIALS=missing)
    assert code == 3
    assert "Traceback" not in output
    assert "gcloud auth application-default login" in output


async def test_the_indexes_are_printed_with_the_prefix(tmp_path: Path) -> None:
    code, output = await phasegate(tmp_path, "indexes")
    assert code == 0
    assert json.loads(output) == json.loads((ROOT / "docs" / "firestore.indexes.json").read_text())
    code, output = await phasegate(tmp_path, "indexes", "--backend", "old")
    assert (code, "Traceback" in output) == (2, False)
    assert "expected a backend that has indexes (new)" in output


async def test_a_view_of_a_missing_database_says_what_to_do_and_does_not_hurry(
    monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    server = RefusingServer(MISSING_DATABASE)
    monkeypatch.setenv(EMULATOR, await server.start())
    store = FirestoreStore(Firestore(project="secret-1"), (Query("scans"),))
    waits: list[float] = []
    sleep = asyncio.sleep

    async def shortened(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0.01)

    monkeypatch.setattr("backends.kinds.firestore.view.asyncio.sleep", shortened)
    await store.start()
    try:
        deadline = asyncio.get_running_loop().time() + WITHIN_S
        while len(waits) < 3:
            assert asyncio.get_running_loop().time() < deadline
            await sleep(0.01)
    finally:
        await store.close()
        await server.stop()
    (line,) = [line for line in logged if line["event"] == "view_unreadable"]
    assert line["trouble"] == "missing_database"
    assert "gcloud firestore databases create" in line["mend"]
    assert min(waits) == FORBIDDEN_S
