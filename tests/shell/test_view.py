"""The live view, against a server that sends only changes and misbehaves when told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from backends.documents.port import Context, Document, Query, put
from backends.durations import Duration
from backends.errors import Fault, FaultKind
from backends.kinds.firestore.channel import EMULATOR
from backends.kinds.firestore.codec import PbValue, micros
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.store import FirestoreStore
from backends.kinds.firestore.view import REREAD_S, View
from tests.support.listen_server import CURRENT, REMOVE, RESET, ListenServer, stamp
from tests.support.patience import WITHIN_S

ROOT = "projects/demo-view/databases/(default)/documents/"


async def until(condition: Callable[[], object], within: float = WITHIN_S) -> None:
    """Wait for the condition, a bounded time; fails where it does not come."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.01)


class Setting:
    """A server, a store that keeps one view of it, and what a reader sees."""

    def __init__(self, server: ListenServer, store: FirestoreStore, view: View) -> None:
        self.server, self.store, self.view = server, store, view

    def put(self, doc_id: str, **fields: object) -> int:
        return self.server.put(f"{ROOT}things/{doc_id}", fields)  # type: ignore[arg-type]

    def seen(self) -> dict[str, object]:
        """What the view has, by id."""
        return {doc_id: found.fields["n"] for doc_id, found in self.view.collection.documents.items()}

    async def read(self, doc_id: str) -> Document | None:
        return await self.store.get(f"things/{doc_id}", Context(asyncio.get_running_loop().time() + WITHIN_S))


@asynccontextmanager
async def setting(
    monkeypatch: pytest.MonkeyPatch, max_age: float = 90.0, query: Query | None = None
) -> AsyncIterator[Setting]:
    server = ListenServer()
    monkeypatch.setenv(EMULATOR, await server.start())
    query = query or Query("things")
    store = FirestoreStore(Firestore(project="demo-view", view_max_age_s=Duration(max_age)), (query,))
    for nth in range(3):
        server.put(f"{ROOT}things/{nth}", {"n": nth})
    await store.start()
    view = store._views["things"]
    try:
        await until(lambda: view.fresh)
        yield Setting(server, store, view)
    finally:
        await store.close()
        await server.stop()


async def test_a_fresh_view_answers_without_a_call_and_without_suspending(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch) as scene:
        ctx = Context(0.0)
        with pytest.raises(StopIteration) as answered:
            scene.store.get("things/1", ctx).send(None)
        assert answered.value.value.fields == {"n": 1}
        assert ctx.memorable
        assert scene.server.gets == 0
        assert scene.server.metadata[0]["google-cloud-resource-prefix"] == "projects/demo-view/databases/(default)"


async def test_changes_arrive_and_wake_those_who_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch) as scene:
        woken: list[None] = []
        end = scene.store.watch("things", lambda: woken.append(None))
        version = scene.view.cell.version
        scene.put("1", n=10)
        scene.server.delete(f"{ROOT}things/2")
        await until(lambda: scene.seen() == {"0": 0, "1": 10})
        assert len(woken) == 2
        assert scene.view.cell.version != version
        end()
        scene.put("1", n=11)
        await until(lambda: scene.seen()["1"] == 11)
        assert len(woken) == 2


async def test_nothing_is_shown_before_the_snapshot_that_completes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch) as scene:
        scene.server.put(f"{ROOT}things/1", {"n": 10}, tell=False)
        scene.server.put(f"{ROOT}things/2", {"n": 20}, tell=False)
        scene.server.send(scene.server.changed(f"{ROOT}things/1"))
        snapshots = scene.view.snapshots
        scene.put("0", n=5)  # a snapshot, which completes the first message too
        await until(lambda: scene.view.snapshots > snapshots)
        assert scene.seen() == {"0": 5, "1": 10, "2": 2}


async def test_a_document_sent_again_unchanged_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch) as scene:
        version, snapshots = scene.view.cell.version, scene.view.snapshots
        scene.server.send(scene.server.changed(f"{ROOT}things/1"), scene.server.global_snapshot())
        await until(lambda: scene.view.snapshots > snapshots)
        assert scene.view.cell.version == version


@pytest.mark.parametrize("how", ["cut", "end"])
async def test_a_stream_that_ends_is_resumed_where_it_was(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    async with setting(monkeypatch) as scene:
        scene.put("1", n=10)
        await until(lambda: scene.seen()["1"] == 10)
        scene.server.put(f"{ROOT}things/2", {"n": 20}, tell=False)
        if how == "cut":
            scene.server.cut(grpc.StatusCode.UNAVAILABLE)
        else:
            scene.server.end()
        await until(lambda: scene.view.fresh and scene.seen()["2"] == 20)
        assert scene.server.tokens == [b"", b"4"]


async def test_while_the_stream_is_down_nobody_is_answered_from_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch) as scene:
        scene.server.refuse = grpc.StatusCode.UNAVAILABLE
        scene.server.cut(grpc.StatusCode.UNAVAILABLE)
        await until(lambda: not scene.view.fresh)
        scene.server.put(f"{ROOT}things/1", {"n": 10}, tell=False)
        found = await scene.read("1")
        assert found is not None
        assert found.fields == {"n": 10}
        assert scene.server.gets == 1
        scene.server.refuse = None
        await until(lambda: scene.view.fresh)


async def test_a_missed_deletion_is_found_by_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch) as scene:
        scene.server.send(scene.server.filter(), scene.server.global_snapshot())
        scene.put("0", n=5)
        await until(lambda: scene.seen()["0"] == 5)
        assert scene.view.restarts == 0  # the count was right
        scene.server.delete(f"{ROOT}things/2", tell=False)
        scene.server.send(scene.server.filter(), scene.server.global_snapshot())
        await until(lambda: scene.seen() == {"0": 5, "1": 1})
        assert scene.server.tokens == [b"", b""]  # begun again, not resumed


POINT = PbValue(geo_point_value={"latitude": 51.0, "longitude": 7.0})


async def test_a_foreign_document_is_left_out_and_never_read_again(
    monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    async with setting(monkeypatch) as scene:
        scene.server.put(f"{ROOT}things/foreign", {"n": 7}, more={"where": POINT})
        await until(lambda: scene.view.snapshots >= 2)
        scene.put("new", n=8)
        await until(lambda: "new" in scene.seen())
        # The service counts it among the query's documents; so must the view, or it would listen anew for ever.
        snapshots = scene.view.snapshots
        scene.server.send(scene.server.filter(), scene.server.global_snapshot())
        await until(lambda: scene.view.snapshots > snapshots)
        assert scene.seen() == {"0": 0, "1": 1, "2": 2, "new": 8}
        assert (scene.view.fresh, scene.view.restarts, len(scene.server.tokens)) == (True, 0, 1)
        assert scene.store.gauges()["foreign_documents"] == 1
        named = [line for line in logged if line["event"] == "foreign_document"]
        assert [(line["document"], line["backend"]) for line in named] == [("things/foreign", "firestore")]
        assert "geographical point" in named[0]["reason"]
        # Somebody mends it, and it is a document like any other.
        scene.put("foreign", n=9)
        await until(lambda: scene.seen().get("foreign") == 9)


async def test_a_foreign_document_counts_for_the_limit_of_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch, query=Query("things", limit=4)) as scene:
        assert scene.view.run(Query("things")) is not None
        scene.server.put(f"{ROOT}things/foreign", {}, more={"where": POINT})
        await until(lambda: scene.view.snapshots >= 2)
        # There may be more than the view's four.
        assert scene.view.run(Query("things")) is None


async def test_a_foreign_document_asked_for_by_its_id_is_a_fault_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch) as scene:
        scene.server.put(f"{ROOT}things/foreign", {}, more={"where": POINT})
        await until(lambda: scene.view.snapshots >= 2)
        for _ in range(30):
            with pytest.raises(Fault) as fault:
                await scene.read("foreign")
            assert (fault.value.kind, fault.value.may_retry) == (FaultKind.CORRUPT, False)
            assert fault.value.trouble is not None
            assert fault.value.trouble.name == "foreign_document"
        assert (await scene.read("1")) is not None  # the breaker is closed
        assert scene.store.gauges()["breaker_state"] == 0


async def test_a_result_that_is_wrong_for_ever_is_read_again_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    sleep = asyncio.sleep

    async def shortened(seconds: float) -> None:
        waited.append(seconds)
        await sleep(min(seconds, 0.01))

    async with setting(monkeypatch) as scene:
        monkeypatch.setattr("backends.kinds.firestore.view.asyncio.sleep", shortened)
        for nth in range(2):
            before = len(scene.server.tokens)
            scene.server.delete(f"{ROOT}things/{nth}", tell=False)
            scene.server.send(scene.server.filter())
            await until(lambda before=before: len(scene.server.tokens) > before)  # type: ignore[misc]
            await until(lambda: scene.view.fresh)
        first, second = (each for each in waited if each == 0.0 or each > REREAD_S / 2)
        assert first == 0.0
        assert REREAD_S - WITHIN_S < second <= REREAD_S


async def test_after_a_reset_what_follows_is_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch) as scene:
        server = scene.server
        server.delete(f"{ROOT}things/2", tell=False)
        server.send(
            server.target(RESET, target_ids=[1]),
            *(server.changed(name) for name in server.documents),
            server.target(CURRENT, target_ids=[1]),
            server.global_snapshot(),
        )
        await until(lambda: scene.seen() == {"0": 0, "1": 1})
        assert scene.view.restarts == 0


async def test_what_follows_a_reset_is_only_as_new_as_the_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator's way: it resets for a change, and dates what follows after a write that is not in it."""
    async with setting(monkeypatch) as scene:
        server = scene.server
        reset = server.target(RESET, target_ids=[1], read_time=stamp(server.now()))
        lines = [server.changed(name) for name in server.documents]
        server.put(f"{ROOT}things/2", {"n": 20}, tell=False)
        server.send(reset, *lines, server.target(CURRENT, target_ids=[1]), server.global_snapshot())
        await until(lambda: scene.view.snapshots == 2)
        state = scene.view._state
        assert state is not None
        assert state.read_time == micros(reset.target_change.read_time)
        later = server.global_snapshot()
        server.send(later)
        await until(lambda: state.read_time == micros(later.target_change.read_time))


async def test_a_target_that_the_server_removes_is_listened_to_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch) as scene:
        scene.server.send(scene.server.target(REMOVE, target_ids=[1], cause={"code": 8, "message": "too much"}))
        await until(lambda: not scene.view.fresh or len(scene.server.tokens) == 2)
        await until(lambda: len(scene.server.tokens) == 2 and scene.view.fresh)
        assert scene.server.tokens[1] == b""


async def test_permission_lost_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.kinds.firestore.view.FORBIDDEN_S", 0.2)
    async with setting(monkeypatch) as scene:
        scene.server.refuse = grpc.StatusCode.PERMISSION_DENIED
        scene.server.cut(grpc.StatusCode.PERMISSION_DENIED)
        await until(lambda: scene.view.restarts >= 2)
        assert not scene.view.fresh
        scene.server.refuse = None
        await until(lambda: scene.view.fresh)


async def test_a_view_that_cannot_be_read_is_logged_once_until_it_can(
    monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    async with setting(monkeypatch) as scene:
        scene.server.cut(grpc.StatusCode.UNAVAILABLE)  # a stream that ends and comes back is nobody's concern
        await until(lambda: scene.view.restarts == 1 and scene.view.fresh)
        assert logged == []
        scene.server.refuse = grpc.StatusCode.UNAVAILABLE
        scene.server.cut(grpc.StatusCode.UNAVAILABLE)
        await until(lambda: scene.view.restarts >= 5)
        where = {"backend": "firestore", "collection": "things", "order": "__name__"}
        told = where | {
            "event": "view_unreadable",
            "log_level": "warning",
            "reason": "Firestore: UNAVAILABLE: as the test wishes",
            "trouble": None,
            "mend": None,
        }
        assert logged == [told]
        scene.server.refuse = None
        await until(lambda: scene.view.fresh)
        assert logged[1:] == [where | {"event": "view_reads_again", "log_level": "info"}]


async def test_a_silent_server_is_asked_anew_before_the_view_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch, max_age=1.0) as scene:
        scene.server.put(f"{ROOT}things/1", {"n": 10}, tell=False)  # the message of it is lost
        await until(lambda: scene.seen()["1"] == 10)
        assert len(scene.server.tokens) > 1


async def test_a_view_that_is_too_old_is_not_answered_from(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting(monkeypatch, max_age=0.5) as scene:
        scene.server.refuse = grpc.StatusCode.UNAVAILABLE  # asked anew, it does not answer
        await until(lambda: not scene.view.fresh)
        version = scene.view.cell.version
        assert await scene.read("1") is not None
        assert scene.server.gets == 1
        scene.server.refuse = None
        await until(lambda: scene.view.fresh)
        assert scene.view.cell.version != version  # what was remembered is not used any more


async def test_a_writer_reads_its_own_write_however_late_the_view_learns_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with setting(monkeypatch) as scene:
        scene.server.keep_quiet = True
        ctx = Context(asyncio.get_running_loop().time() + WITHIN_S)
        await scene.store.commit((put("things/1", {"n": 10}),), ctx)
        assert not scene.view.fresh
        found = await scene.read("1")
        assert found is not None
        assert found.fields == {"n": 10}
        assert scene.server.gets == 1
        scene.server.keep_quiet = False
        scene.put("0", n=0)
        await until(lambda: scene.view.fresh)


async def test_a_reader_waits_a_moment_for_a_view_that_is_only_one_write_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with setting(monkeypatch) as scene:
        ctx = Context(asyncio.get_running_loop().time() + WITHIN_S)
        monkeypatch.setattr("backends.kinds.firestore.store.CATCH_UP_S", 5.0)
        await scene.store.commit((put("things/1", {"n": 10}),), ctx)
        found = await scene.read("1")
        assert found is not None
        assert found.fields == {"n": 10}
        assert scene.server.gets == 0


async def test_a_view_of_the_newest_answers_only_what_it_wholly_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = Query("things", order="n", descending=True, limit=3)
    async with setting(monkeypatch, query=newest) as scene:
        view = scene.view
        assert [found.id for found in view.run(Query("things", order="n", descending=True, limit=2)) or ()] == [
            "2",
            "1",
        ]
        assert view.run(Query("things", order="n", descending=True, limit=4)) is None
        assert view.run(Query("things", order="n", limit=1)) is None
        assert view.get("9") == (False, None)
        scene.server.delete(f"{ROOT}things/2")
        await until(lambda: "2" not in scene.seen())
        assert len(view.run(Query("things", order="n", descending=True, limit=4)) or ()) == 2
