"""phasegate's own emulator, asked by Google's client library and by raw calls, over a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MethodNotImplemented,
    NotFound,
)
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from google.cloud.firestore_v1.base_query import FieldFilter
from google.cloud.firestore_v1.types import firestore as messages

from backends.documents.port import Context, Query, create, put
from backends.emulator import server
from backends.kinds.firestore.settings import EMULATOR, Firestore
from backends.kinds.firestore.store import FirestoreStore
from tests.support.patience import WITHIN_S

ROOT = Path(__file__).parents[2]
DATABASE = "projects/demo-own/databases/(default)"


@pytest.fixture
async def address(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    running, bound = await server.start("127.0.0.1", 0)
    monkeypatch.setenv(EMULATOR, bound)
    yield bound
    await running.stop(None)


@pytest.fixture
async def client(address: str) -> AsyncIterator[Any]:
    """Google's, asynchronous."""
    made = firestore.AsyncClient(project="demo-own", credentials=AnonymousCredentials())
    yield made
    made.close()
    await asyncio.sleep(0)


@pytest.fixture
async def ours(address: str) -> AsyncIterator[FirestoreStore]:
    store = FirestoreStore(Firestore("demo-own"), (Query("things", order="n", descending=True, limit=3),))
    await store.start()
    yield store
    await store.close()


def ctx() -> Context:
    return Context(asyncio.get_running_loop().time() + WITHIN_S)


async def ids(stream: Any) -> list[str]:
    return [snapshot.id async for snapshot in stream]


async def until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not come"
        await asyncio.sleep(0.01)


async def test_googles_client_writes_and_reads(client: Any) -> None:
    thing = client.document("things/1")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    fields = {"n": 1, "f": 1.5, "s": "é", "b": b"\0", "none": None, "m": {"x": [True, {"y": at}]}}
    await thing.set(fields)
    read = await thing.get()
    assert read.exists
    assert read.to_dict() == fields
    assert read.create_time == read.update_time
    assert not (await client.document("things/2").get()).exists

    await thing.update({"m.x": 2, "s": firestore.DELETE_FIELD, "n": firestore.Increment(4)})
    fields = {name: value for name, value in fields.items() if name != "s"} | {"n": 5, "m": {"x": 2}}
    assert (await thing.get()).to_dict() == fields
    assert (await thing.get(["n", "m.x"])).to_dict() == {"n": 5, "m": {"x": 2}}
    await thing.set({"m": {"z": 3}}, merge=True)
    assert (await thing.get(["m"])).to_dict() == {"m": {"x": 2, "z": 3}}

    before = datetime.now(UTC) - timedelta(seconds=5)
    await thing.set({"at": firestore.SERVER_TIMESTAMP, "top": firestore.Maximum(7)})
    stored = (await thing.get()).to_dict()
    assert before < stored["at"] < datetime.now(UTC) + timedelta(seconds=5)
    assert stored["top"] == 7
    await thing.delete()
    assert not (await thing.get()).exists


async def test_it_refuses_what_firestore_refuses(client: Any) -> None:
    thing = client.document("things/1")
    written = await thing.create({"n": 1})
    with pytest.raises(AlreadyExists):
        await thing.create({"n": 2})
    with pytest.raises(NotFound):
        await client.document("things/2").update({"n": 2})
    await thing.set({"n": 2})
    with pytest.raises(FailedPrecondition):
        await thing.update({"n": 3}, client.write_option(last_update_time=written.update_time))
    with pytest.raises(InvalidArgument, match="reserved"):
        await thing.set({"__x__": 1})
    batch = client.batch()
    batch.set(client.document("things/3"), {"n": 3})
    batch.create(thing, {"n": 4})
    with pytest.raises(AlreadyExists):
        await batch.commit()
    assert await ids(client.collection("things").stream()) == ["1"], "of a refused commit nothing is stored"


async def test_googles_client_asks_queries(client: Any) -> None:
    things = client.collection("things")
    batch = client.batch()
    for number in range(10):
        batch.set(things.document(f"{number}"), {"n": number, "even": number % 2 == 0, "w": number / 4})
    await batch.commit()
    assert await ids(things.stream()) == [f"{number}" for number in range(10)]
    even = things.where(filter=FieldFilter("even", "==", True))
    assert await ids(even.stream()) == ["0", "2", "4", "6", "8"]
    newest = things.order_by("n", direction=firestore.Query.DESCENDING)
    assert await ids(newest.limit(2).stream()) == ["9", "8"]
    assert await ids(newest.start_after({"n": 5}).limit(2).stream()) == ["4", "3"]
    assert await ids(newest.start_at({"n": 5}).limit(2).stream()) == ["5", "4"]
    assert await ids(newest.start_after(await things.document("5").get()).limit(1).stream()) == ["4"]
    assert await ids(things.where(filter=FieldFilter("n", ">", 7)).stream()) == ["8", "9"]
    assert await ids(things.where(filter=FieldFilter("n", "in", [7, 3])).stream()) == ["3", "7"]
    assert await ids(things.order_by("n").limit(4).offset(2).stream()) == ["2", "3", "4", "5"]
    assert [each.id for each in await things.order_by("n").limit_to_last(2).get()] == ["8", "9"]
    async for snapshot in even.select(["w"]).limit(1).stream():
        assert snapshot.to_dict() == {"w": 0.0}
    assert await ids(things.limit(0).stream()) == []

    async def told(question: Any) -> list[Any]:
        return [each.value for each in sorted((await question.get())[0], key=lambda each: str(each.alias))]

    assert await told(things.count()) == [10]
    assert await told(even.count()) == [5]
    assert await told(newest.limit(3).count()) == [3]
    assert await told(things.sum("n", "a").avg("w", "b")) == [45, 1.125]
    assert await told(client.collection("nothing").count().sum("n")) == [0, 0]


async def test_googles_client_lists(client: Any) -> None:
    for path in ("a/1", "a/3", "a/2/b/1", "a/2/b/2", "a/2/c/1", "d/1/e/1"):
        await client.document(path).set({"n": 1})
    await client.document("gone/1").set({})
    await client.document("gone/1").delete()
    listed = [document.path async for document in client.collection("a").list_documents(page_size=2)]
    assert listed == ["a/1", "a/2", "a/3"], "a/2 is missing, and has documents below it"
    assert [each.id async for each in client.collections()] == ["a", "d"]
    assert [each.id async for each in client.document("a/2").collections()] == ["b", "c"]
    assert [each.id async for each in client.document("a/1").collections()] == []


async def test_a_collection_group_is_in_the_order_of_names(client: Any) -> None:
    """Also where one collection of the group is below another's document."""
    paths = ["g/1", "g/2", "g/1/g/7", "g/1/x/0/g/5", "h/1/g/3", "h/1/g/4", "h/1/other/1", "h/2/g/1"]
    for path in paths:
        await client.document(path).set({"n": 1})
    group = client.collection_group("g").order_by("__name__")
    expected = ["g/1", "g/1/g/7", "g/1/x/0/g/5", "g/2", "h/1/g/3", "h/1/g/4", "h/2/g/1"]

    async def told(question: Any) -> list[str]:
        return [snapshot.reference.path async for snapshot in question.stream()]

    assert await told(group) == expected
    for at, path in enumerate(expected):
        document = await client.document(path).get()
        assert await told(group.start_after(document)) == expected[at + 1 :]
        assert await told(group.start_at(document)) == expected[at:]
        assert await told(group.end_before(document)) == expected[:at]
        assert await told(group.start_after(document).limit(2)) == expected[at + 1 : at + 3]
        for bounded in (group.start_at(document), group.end_at(document)):
            assert (await bounded.count().get())[0][0].value == len(await told(bounded))
    below = client.document("h/1").collection("g").order_by("__name__")
    assert await told(below) == ["h/1/g/3", "h/1/g/4"]


async def test_the_bulk_writer_and_snapshots_of_googles_client(address: str) -> None:
    """They use threads of their own."""
    made = firestore.Client(project="demo-own", credentials=AnonymousCredentials())
    seen: list[list[str]] = []
    watched = made.collection("things").order_by("n").limit(3)
    watch = watched.on_snapshot(lambda documents, changes, time: seen.append([each.id for each in documents]))
    await until(lambda: seen == [[]])

    def write() -> None:
        bulk = made.bulk_writer()
        for number in range(30):
            bulk.create(made.document(f"things/{number:02}"), {"n": number})
        bulk.close()

    await asyncio.to_thread(write)
    await until(lambda: seen[-1] == ["00", "01", "02"])
    await asyncio.to_thread(made.document("things/01").delete)
    await until(lambda: seen[-1] == ["00", "02", "03"])
    await asyncio.to_thread(watch.unsubscribe)
    one: list[Any] = []
    watch = made.document("things/05").on_snapshot(lambda documents, changes, time: one.append(documents))
    await until(lambda: one and one[-1][0].to_dict() == {"n": 5})
    await asyncio.to_thread(made.document("things/05").update, {"n": 6})
    await until(lambda: one[-1][0].to_dict() == {"n": 6})
    await asyncio.to_thread(watch.unsubscribe)
    made.close()


async def test_what_it_does_not_have_is_told(client: Any) -> None:
    thing = client.document("things/1")
    refused = (
        thing.set({"place": firestore.GeoPoint(1.0, 2.0)}),
        thing.set({"who": client.document("people/1")}),
        thing.set({"all": firestore.ArrayUnion([1])}),
        ids(client.collection("things").where(filter=FieldFilter("n", "!=", 1)).stream()),
        thing.get(read_time=datetime.now(UTC)),
        client.transaction()._begin(),
    )
    for call in refused:
        with pytest.raises(MethodNotImplemented, match="phasegate's emulator does not have"):
            await call


async def test_a_method_that_there_is_not_is_named(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        for method in ("/google.firestore.v1.Firestore/PartitionQuery", "/some.Other/Thing"):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await channel.unary_unary(method)(b"")
            assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert method in str(refusal.value.details())
            assert "GetDocument" in str(refusal.value.details())


async def test_a_live_view_follows_every_write_and_goes_on_after_the_stream_was_cut(ours: FirestoreStore) -> None:
    view = ours._views["things"]
    await until(lambda: view.fresh)
    woken: list[None] = []
    ours.watch("things", lambda: woken.append(None))
    for number in range(20):
        await ours.commit([put(f"things/{number:02}", {"n": number})], ctx())
        newest = await ours.query(view.query, ctx())
        assert newest[0].fields["n"] == number, "it reads its own write"
    await until(lambda: view.fresh and view.snapshots > 1)
    assert [one.id for one in view.run(view.query) or ()] == ["19", "18", "17"]
    assert woken
    restarts = view.restarts
    view._call.cancel()
    await until(lambda: view.restarts > restarts and view.fresh)
    await ours.commit([create("things/99", {"n": 99})], ctx())
    await until(lambda: [one.id for one in view.run(view.query) or ()] == ["99", "19", "18"])


async def test_a_quiet_stream_says_that_it_is_still_right(ours: FirestoreStore) -> None:
    """Else a write to another collection of the same slot would leave the view behind for long."""
    view = ours._views["things"]
    await until(lambda: view.fresh)
    await ours.commit([put("others/1", {"n": 1})], ctx())
    view.require(max(ours._written_at))
    await until(lambda: view.fresh)
    assert view.restarts <= 1


async def test_a_commit_that_is_too_large_is_refused_in_words(client: Any) -> None:
    batch = client.batch()
    for number in range(11):
        batch.set(client.document(f"things/{number}"), {"text": "x" * 1_000_000})
    with pytest.raises(InvalidArgument, match="too large"):
        await batch.commit()


async def test_databases_are_apart(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        request, answer = messages.CommitRequest.pb(), messages.CommitResponse.pb()
        commit = channel.unary_unary(
            "/google.firestore.v1.Firestore/Commit", request.SerializeToString, answer.FromString
        )
        name = f"{DATABASE}/documents/things/1"
        with pytest.raises(grpc.aio.AioRpcError, match="expected the name of a document"):
            await commit(request(database="projects/q/databases/d", writes=[{"update": {"name": name}}]))
        await commit(request(database=DATABASE, writes=[{"update": {"name": name}}]))
    for project, exists in (("demo-own", True), ("demo-two", False)):
        made = firestore.AsyncClient(project=project, credentials=AnonymousCredentials())
        assert (await made.document("things/1").get()).exists is exists
        made.close()


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("0.0.0.0:0", "not a loopback address"),
        ("192.0.2.1:1", "not a loopback address"),
        ("example.com:1", "not a loopback address"),
        ("8085", "expected HOST:PORT"),
    ],
)
def test_it_listens_on_loopback_only(listen: str, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "control.cli", "emulator", "--listen", listen],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stdout == ""


async def test_an_address_that_is_taken_is_told_and_a_signal_ends_it_well(address: str) -> None:
    def run(listen: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "control.cli", "emulator", "--listen", listen]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    taken = run(address)
    out, err = await asyncio.to_thread(taken.communicate)
    assert (taken.returncode, out) == (2, "")
    assert "another program may be there" in err
    for number in (signal.SIGTERM, signal.SIGINT):
        running = run("127.0.0.1:0")
        assert running.stdout is not None
        line = await asyncio.to_thread(running.stdout.readline)
        assert line.startswith(f"{EMULATOR}=127.0.0.1:")
        os.kill(running.pid, number)
        _, err = await asyncio.to_thread(running.communicate)
        assert running.returncode == 0
        assert "phasegate's own" in err
