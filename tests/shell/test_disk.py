"""Syncing to the disk: every second, before an answer, or not at all; never on the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import disk as disks
from backends.disk import Disk, Sync
from backends.documents.port import Context, Query, put
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from backends.pair.changelog import ChangeLog
from backends.pair.segment import ChangeState
from control.plan.settings import parse
from tests.shell.test_mirror import soon, until


class Syncs:
    """What was synced, in which thread; as slow, and as broken, as told."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.threads: set[int] = set()
        self.broken = False
        self.go = threading.Event()
        self.go.set()

    def fdatasync(self, fd: int) -> None:
        self.go.wait(60)
        self.threads.add(threading.get_ident())
        if self.broken:
            raise OSError(5, "Input/output error")
        self.files.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    found = Syncs()
    monkeypatch.setattr("backends.disk.os.fdatasync", found.fdatasync)
    return found


@pytest.fixture
def restored() -> Iterator[None]:
    """This process syncs as before after the test."""
    yield
    disks.use(Sync.OFF)


class Page:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")

    def descriptors(self) -> Iterable[int]:
        return (os.open(self.path, os.O_RDONLY),)


async def test_what_was_written_is_synced_within_the_interval_in_a_thread_and_once(
    tmp_path: Path, syncs: Syncs
) -> None:
    disk = Disk(Sync.EVERY_SECOND, 0.05)
    one_page, other = Page(tmp_path / "one"), Page(tmp_path / "other")
    for _ in range(100):
        disk.wrote(one_page)
    disk.wrote(other)
    await disk.synced()
    assert syncs.files == [], "nobody waits for it"
    await until(lambda: len(syncs.files) == 2)
    assert syncs.files == ["one", "other"]
    await asyncio.sleep(0.15)
    assert len(syncs.files) == 2, "and nothing where nothing was written"
    disk.wrote(other)
    await until(lambda: len(syncs.files) == 3)
    assert threading.get_ident() not in syncs.threads
    await disk.close()


async def test_the_loop_goes_on_while_the_disk_is_slow(tmp_path: Path, syncs: Syncs) -> None:
    syncs.go.clear()
    disk = Disk(Sync.ALWAYS)
    disk.wrote(Page(tmp_path / "one"))
    waiting = asyncio.create_task(disk.synced())
    for _ in range(50):
        await asyncio.sleep(0)
    assert not waiting.done()
    syncs.go.set()
    await waiting
    await disk.close()


async def test_many_who_wait_share_a_sync_that_began_after_they_wrote(tmp_path: Path, syncs: Syncs) -> None:
    disk = Disk(Sync.ALWAYS)
    page = Page(tmp_path / "one")

    async def write() -> None:
        disk.wrote(page)
        await disk.synced()

    syncs.go.clear()
    first = asyncio.create_task(write())
    await asyncio.sleep(0.02)  # it is under way
    others = [asyncio.create_task(write()) for _ in range(100)]
    await asyncio.sleep(0)
    syncs.go.set()
    await first
    assert len(syncs.files) == 1
    await asyncio.gather(*others)
    assert len(syncs.files) == 2
    await disk.close()


async def test_off_syncs_nothing(tmp_path: Path, syncs: Syncs) -> None:
    disk = Disk(Sync.OFF, 0.01)
    disk.wrote(Page(tmp_path / "one"))
    await disk.synced()
    await asyncio.sleep(0.05)
    await disk.close()
    assert syncs.files == []


async def test_a_disk_that_fails_is_told_once_tried_again_and_the_one_who_waits_has_the_error(
    tmp_path: Path, syncs: Syncs, logged: list[Any]
) -> None:
    syncs.broken = True
    disk = Disk(Sync.EVERY_SECOND, 0.01)
    disk.wrote(Page(tmp_path / "one"))
    await asyncio.sleep(0.1)
    with pytest.raises(OSError, match="Input/output"):
        await disk.flush()
    assert [line["event"] for line in logged] == ["disk_not_synced"]
    syncs.broken = False
    await until(lambda: syncs.files == ["one"])
    await disk.close()


async def test_what_is_closed_before_the_sync_is_synced_nevertheless(tmp_path: Path, syncs: Syncs) -> None:
    disk = Disk(Sync.EVERY_SECOND, 60)
    log = ChangeLog(tmp_path / "m.changes", "target", disk)
    log.open()
    segment, _ = log.append(b"x", state=ChangeState.SETTLED, read_later=False)
    log.close([segment])
    await disk.close()
    assert sorted(syncs.files) == sorted(["m.changes", segment.name])


async def test_the_answer_to_a_write_waits_for_the_journal_and_the_log_with_always_alone(
    tmp_path: Path, syncs: Syncs, restored: None
) -> None:
    for sync, expected in ((Sync.ALWAYS, ["j.0", "j"]), (Sync.EVERY_SECOND, []), (Sync.OFF, [])):
        disk = disks.use(sync)
        store = MemoryStore(log=Journal(tmp_path / sync / "j"))
        await store.start()
        syncs.files.clear()
        await store.commit((put("a/1", {}),), Context(soon()))
        assert syncs.files == expected, sync
        await store.close()
        await disk.close()


async def test_a_journal_whose_compaction_did_not_reach_the_disk_goes_back_to_what_was_before(
    tmp_path: Path, syncs: Syncs, restored: None, logged: list[Any]
) -> None:
    """A power cut right after a compaction: the head names a file of which nothing is there."""
    disk = disks.use(Sync.EVERY_SECOND)
    path = tmp_path / "j"
    store = MemoryStore(log=Journal(path, compact_bytes=2000))
    await store.start()
    nth = 0
    while not (tmp_path / "j.1").exists():
        await store.commit((put(f"a/{nth % 5}", {"nth": nth, "text": "x" * 50}),), Context(soon()))
        nth += 1
    assert (tmp_path / "j.0").exists(), "until what replaces it is synced"
    os.truncate(tmp_path / "j.1", 30)
    disk._cancel_timer()  # its process is gone
    disk = disks.use(Sync.EVERY_SECOND)
    again = MemoryStore(log=Journal(path))
    await again.start()
    found = await again.query(Query("a"), Context(soon()))
    assert {document.fields["nth"] for document in found} == set(range(nth - 5, nth))
    assert [line["event"] for line in logged] == ["journal_damaged"]
    await again.commit((put("a/new", {}),), Context(soon()))
    await again.close()
    await store.close()
    last = MemoryStore(log=Journal(path))
    await last.start()
    assert len(await last.query(Query("a"), Context(soon()))) == 6
    await last.close()
    await disk.close()


async def test_what_a_compaction_replaced_is_removed_once_that_is_synced(
    tmp_path: Path, syncs: Syncs, restored: None
) -> None:
    disk = disks.use(Sync.EVERY_SECOND)
    store = MemoryStore(log=Journal(tmp_path / "j", compact_bytes=2000))
    await store.start()
    while not (tmp_path / "j.1").exists():
        await store.commit((put("a/1", {"text": "x" * 50}),), Context(soon()))
    await disk.flush()
    assert not (tmp_path / "j.0").exists()
    assert syncs.files[-2:] == ["j.1", "j"], "the data before the head that names it"
    await store.close()
    await disk.close()


def test_the_setting_is_one_of_three_and_every_second_by_default() -> None:
    config: dict[str, Any] = {
        "app": {"origin": "http://127.0.0.1:1"},
        "backends": {"mock": {"kind": "mock"}, "firestore": {"kind": "firestore", "project": "p"}},
        "migrations": {"m": {"source": "mock", "target": "firestore", "routes": ["/api/scans/*"]}},
    }
    assert parse(config).plan().proxy.sync is Sync.EVERY_SECOND
    for name in ("always", "1s", "off"):
        assert parse({**config, "proxy": {"sync": name}}).plan().proxy.sync == name
    with pytest.raises(Exception, match=r"proxy\.sync"):
        parse({**config, "proxy": {"sync": "2s"}})
