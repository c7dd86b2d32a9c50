"""A connection to Firestore that goes dead without a word, through a proxy that swallows what is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.documents.port import Context, Query
from backends.errors import Fault, FaultKind
from backends.kinds.firestore import channel
from backends.kinds.firestore.settings import EMULATOR, Firestore
from backends.kinds.firestore.store import FirestoreStore
from tests.support.fault_proxy import DeadEnd
from tests.support.listen_server import ListenServer
from tests.support.patience import WITHIN_S

ROOT = "projects/demo-view/databases/(default)/documents/"


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, views: tuple[Query, ...]
) -> AsyncIterator[tuple[ListenServer, DeadEnd, FirestoreStore]]:
    server = ListenServer()
    proxy = DeadEnd(await server.start())
    monkeypatch.setenv(EMULATOR, await proxy.start())
    store = FirestoreStore(Firestore(project="demo-view"), views)
    server.put(f"{ROOT}things/a", {"n": 1})
    await store.start()
    try:
        yield server, proxy, store
    finally:
        await store.close()
        await proxy.stop()
        await server.stop()


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of the real times; what is tested is that they are kept, not how long they are."""
    for name in ("QUIET_S", "SIGN_S", "TICK_S"):
        monkeypatch.setattr(channel, name, getattr(channel, name) / 20)


def test_the_times_together_are_below_ten_seconds() -> None:
    assert channel.QUIET_S + channel.SIGN_S + 2 * channel.TICK_S < 10.0  # the second: until a view looks


def test_grpc_pings_no_more_often_than_googles_servers_allow() -> None:
    assert dict(channel._KEEPALIVE)["grpc.keepalive_time_ms"] >= 30_000


async def test_a_view_whose_connection_is_dead_listens_over_a_new_one(
    monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    hasten(monkeypatch)
    async with behind_a_proxy(monkeypatch, (Query("things"),)) as (server, proxy, store):
        view = store._views["things"]
        await until(lambda: view.fresh)
        connections = proxy.connections
        proxy.swallow()
        server.put(f"{ROOT}things/b", {"n": 2})
        await until(lambda: "b" in view.collection.documents)
        assert proxy.connections > connections
        assert server.tokens[-1]  # it went on where it was
        dead = [line for line in logged if line["event"] == "connection_dead"]
        assert [line["backend"] for line in dead] == ["firestore"]


async def test_a_quiet_connection_that_lives_is_kept(monkeypatch: pytest.MonkeyPatch, logged: list[Any]) -> None:
    hasten(monkeypatch)
    async with behind_a_proxy(monkeypatch, (Query("things"),)) as (server, proxy, store):
        await until(lambda: store._views["things"].fresh)
        connections, commits = proxy.connections, server.commits
        await until(lambda: server.commits >= commits + 3)  # signs of life
        assert proxy.connections == connections
        assert [line for line in logged if line["event"] == "connection_dead"] == []
        server.put(f"{ROOT}things/b", {"n": 2})
        await until(lambda: "b" in store._views["things"].collection.documents)


async def test_calls_over_a_dead_connection_time_out_and_later_ones_work(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
    async with behind_a_proxy(monkeypatch, ()) as (_, proxy, store):
        loop = asyncio.get_running_loop()
        assert await store.get("things/a", Context(loop.time() + WITHIN_S)) is not None
        proxy.swallow()
        with pytest.raises(Fault) as fault:
            await store.get("things/a", Context(loop.time() + 0.1))
        assert fault.value.kind is FaultKind.DEADLINE
        connections = proxy.connections
        await until(lambda: store._open().epoch > 0)
        assert await store.get("things/a", Context(loop.time() + WITHIN_S)) is not None
        assert proxy.connections > connections


async def test_without_a_waiting_call_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
    async with behind_a_proxy(monkeypatch, ()) as (server, _, store):
        ticks = 0
        tick = store._open()._tick

        def counted() -> None:
            nonlocal ticks
            ticks += 1
            tick()

        monkeypatch.setattr(store._open(), "_tick", counted)
        await until(lambda: ticks > 2 * channel.QUIET_S / channel.TICK_S)
        assert server.commits == 0
