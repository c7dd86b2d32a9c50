"""The mock's journal: processes that share it are replicas of one store, whatever becomes of any of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from backends.documents.port import Context, Mutation, Query, Reason, Rejected, Transform, create, delete, merge, put
from backends.errors import Fault
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from tests.support.patience import WITHIN_S


def ctx(within: float = WITHIN_S) -> Context:
    return Context(asyncio.get_running_loop().time() + within)


async def opened(path: Path, initial: tuple[Mutation, ...] = (), compact_bytes: int = 10**9) -> MemoryStore:
    store = MemoryStore(lambda: initial, Journal(path, compact_bytes))
    await store.start()
    return store


def contents(store: MemoryStore) -> dict[str, object]:
    store.poll()
    return {found.path: (found.fields, found.create_time, found.update_time) for found in store.documents()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.mock.journal"


async def test_what_one_writes_the_other_reads_next(path: Path) -> None:
    one, two = await opened(path), await opened(path)
    await one.commit((put("a/1", {"x": 1}),), ctx())
    found = await two.get("a/1", ctx())
    assert found is not None
    assert found.fields == {"x": 1}
    await two.commit((delete("a/1"), put("a/2", {})), ctx())
    assert await one.get("a/1", ctx()) is None
    assert contents(one) == contents(two)


async def test_what_was_remembered_is_not_valid_after_another_process_wrote(path: Path) -> None:
    one, two = await opened(path), await opened(path)
    await one.commit((put("a/1", {"x": 1}),), ctx())
    reading = ctx()
    await two.query(Query("a"), reading)
    ((cell, version),) = reading.basis
    two.poll()
    assert cell.version == version
    await one.commit((put("a/2", {}),), ctx())
    two.poll()
    assert cell.version != version


async def test_preconditions_are_decided_on_what_all_have_written(path: Path) -> None:
    one, two = await opened(path), await opened(path)
    await one.commit((create("a/1", {}),), ctx())
    with pytest.raises(Rejected) as refusal:
        await two.commit((put("a/2", {}), create("a/1", {})), ctx())
    assert refusal.value.reason is Reason.EXISTS
    assert await one.get("a/2", ctx()) is None


async def test_what_would_make_a_document_too_large_is_refused_whoever_made_it_grow(path: Path) -> None:
    stores = [await opened(path) for _ in range(2)]
    names = iter(range(10_000))

    def more(count: int) -> Mutation:
        return merge("a/n", {}, [Transform(("names", f"{next(names):0500}"), "increment", 1) for _ in range(count)])

    await stores[0].commit((more(1000),), ctx())
    await stores[1].commit((more(1000),), ctx())
    before = contents(stores[0])
    for store in stores:
        with pytest.raises(Rejected) as refusal:
            await store.commit((put("a/other", {}), more(100)), ctx())
        assert refusal.value.reason is Reason.INVALID
        assert contents(store) == before
    (full,) = [found for found in stores[0].documents() if found.path == "a/n"]
    counted = merge("a/n", {}, [Transform(("names", f"{0:0500}"), "increment", 1)])
    for _ in range(3):
        await stores[0].commit((counted,), ctx())  # what takes no room is still taken
    await stores[1].commit((merge("a/n", {**full.fields, "names": {}}),), ctx())
    await stores[0].commit((more(1000),), ctx())  # there is room again


async def test_increments_of_many_writers_are_all_counted_also_while_it_is_compacted(path: Path) -> None:
    stores = [await opened(path, compact_bytes=2000) for _ in range(3)]
    for nth in range(300):
        add = merge("a/n", {}, [Transform(("x",), "increment", 1)])
        await stores[nth % 3].commit((add, put(f"b/{nth % 7}", {"nth": nth})), ctx())
    assert contents(stores[0]) == contents(stores[1]) == contents(stores[2])
    found = await stores[0].get("a/n", ctx())
    assert found is not None
    assert found.fields == {"x": 300}
    files = {file.name for file in path.parent.iterdir()}
    assert len(files) == 2  # the head and one data file
    assert f"{path.name}.0" not in files  # it was compacted


async def test_a_store_that_is_opened_again_has_everything_with_its_times(path: Path) -> None:
    one = await opened(path)
    await one.commit((put("a/1", {"t": None, "b": b"\x00", "f": 1.0, "i": 1}),), ctx())
    await one.commit((merge("a/1", {"i": 2}),), ctx())
    before = contents(one)
    await one.close()
    assert contents(await opened(path)) == before


async def test_the_first_to_open_fills_it_and_nobody_after(path: Path) -> None:
    one = await opened(path, (put("a/1", {"by": "one"}),))
    two = await opened(path, (put("a/1", {"by": "two"}), put("a/2", {})))
    assert contents(one) == contents(two)
    found = await two.get("a/1", ctx())
    assert found is not None
    assert found.fields == {"by": "one"}


async def test_a_record_that_was_never_committed_does_not_exist(path: Path) -> None:
    one = await opened(path)
    await one.commit((put("a/1", {}),), ctx())
    with open(f"{path}.0", "ab") as data:
        data.write(b"\x40\x00\x00\x00half a record of a process that was ki")
    two = await opened(path)
    assert set(contents(two)) == {"a/1"}
    await two.commit((put("a/2", {}),), ctx())
    assert set(contents(one)) == {"a/1", "a/2"}
    assert contents(await opened(path)) == contents(one)


async def test_a_damaged_record_ends_the_journal_there_and_it_goes_on(path: Path, logged: list[Any]) -> None:
    one = await opened(path)
    await one.commit((put("a/1", {}),), ctx())
    size = os.path.getsize(f"{path}.0")
    await one.commit((put("a/2", {}),), ctx())
    with open(f"{path}.0", "r+b") as data:
        data.seek(size + 12)
        data.write(b"\xff\xff\xff")
    two = await opened(path)
    assert set(contents(two)) == {"a/1"}
    (line,) = logged
    assert (line["event"], line["file"]) == ("journal_damaged", f"{path}.0")
    assert f"byte {size} " in line["reason"]
    await two.commit((put("a/3", {}),), ctx())
    assert set(contents(await opened(path))) == {"a/1", "a/3"}


async def test_a_record_larger_than_a_block_is_read_whole(path: Path) -> None:
    one, two = await opened(path), await opened(path)
    await one.commit([put(f"a/{nth}", {"x": "y" * 1_000_000}) for nth in range(5)], ctx())
    assert contents(one) == contents(two)


async def test_a_writer_waits_for_the_lock_and_then_says_that_it_cannot_write(path: Path) -> None:
    store = await opened(path)
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Fault) as fault:
            await store.commit((put("a/1", {}),), ctx(0.05))
        assert not fault.value.may_have_applied
        writing = asyncio.create_task(store.commit((put("a/1", {}),), ctx()))
        await asyncio.sleep(0)
        assert not writing.done()
        fcntl.flock(other, fcntl.LOCK_UN)
        await writing
    assert await store.get("a/1", ctx()) is not None


async def test_somebody_who_watches_learns_of_another_processs_write(path: Path) -> None:
    one, two = await opened(path), await opened(path)
    rung = asyncio.Event()
    end = one.watch("a", rung.set)
    await two.commit((put("b/1", {}),), ctx())
    await two.commit((put("a/1", {}),), ctx())
    async with asyncio.timeout(WITHIN_S):
        await rung.wait()
    end()
    await one.close()


async def test_a_store_of_one_process_never_suspends() -> None:
    store = MemoryStore()
    for call in (store.commit((put("a/1", {}),), ctx()), store.get("a/1", ctx()), store.query(Query("a"), ctx())):
        with pytest.raises(StopIteration):
            call.send(None)
