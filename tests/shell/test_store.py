"""The store on a disk: what was said to be written is there, and what was changed behind its back is found."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from control.rollout.model import Entry
from control.store import sqlite as stores
from control.store.chain import Trail
from control.store.port import StoreError
from control.store.sqlite import Store, StoreThread, verify_file


def entry(kind: str) -> Entry:
    return Entry(kind, "ci", {"reason": "because", "weight": 0.1 + 0.2})


def behind_its_back(tmp_path: Path, change: str, values: tuple[str, ...] = ()) -> None:
    """Change the store's file as somebody else would."""
    with closing(sqlite3.connect(tmp_path / "control.db")) as other, other:
        other.execute(change, values)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "control.db")
    for i in range(5):
        made.save("a", f'{{"i": {i}}}', [(i + 0.125, entry("start")), (i + 0.5, entry("pause"))], float(i))
    yield made
    made.close()


def test_what_was_saved_is_there_after_a_new_start(store: Store, tmp_path: Path) -> None:
    again = Store(tmp_path / "control.db")
    checkpoint = again.checkpoint("a")
    assert checkpoint is not None
    assert (checkpoint.document, checkpoint.saved_at) == ('{"i": 4}', 4.0)
    assert again.checkpoint("b") is None
    assert [line.seq for line in again.audit("a", 3)] == [10, 9, 8]
    assert [line.seq for line in again.audit("a", 3, before=3)] == [2, 1]
    assert [line.seq for line in again.run("a")] == [9, 10]
    assert not again.verify("a").problems
    again.close()


def test_a_checkpoint_with_broken_bytes_is_read_as_it_is(store: Store, tmp_path: Path) -> None:
    behind_its_back(tmp_path, "UPDATE checkpoint SET document = CAST(x'7bff7d' AS TEXT)")
    checkpoint = store.checkpoint("a")
    assert checkpoint is not None
    assert checkpoint.document == "{\ufffd}"


def test_each_migration_has_a_chain_of_its_own(store: Store) -> None:
    store.save("b", "{}", [(1.0, entry("start"))], 1.0)
    assert store.audit("b", 10)[0].seq == 1
    assert store.verify("a").problems == store.verify("b").problems == ()
    assert store.migrations() == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE audit SET actor = 'x' WHERE seq = 3", "entry 3 is not what was written"),
        ("UPDATE audit SET detail = '{}' WHERE seq = 3", "entry 3 is not what was written"),
        ("UPDATE audit SET at = 9.0 WHERE seq = 3", "entry 3 is not what was written"),
        ("UPDATE audit SET detail = 'no json' WHERE seq = 3", "cannot be read after entry 2"),
        ("DELETE FROM audit WHERE seq = 3", "entries 3 to 3 are missing"),
        ("DELETE FROM audit WHERE seq = 10", "the trail ends with 9"),
        ("DELETE FROM audit", "the trail ends with 0"),
    ],
)
def test_a_change_behind_its_back_is_found(store: Store, tmp_path: Path, change: str, said: str) -> None:
    behind_its_back(tmp_path, change)
    assert any(said in problem for problem in store.verify("a").problems)
    assert verify_file(tmp_path / "control.db") == {"a": store.verify("a")}


@pytest.mark.parametrize("change", ["DELETE FROM audit WHERE seq > 8", "DELETE FROM audit"])
def test_a_trail_that_was_cut_short_is_so_whatever_is_saved_after(store: Store, tmp_path: Path, change: str) -> None:
    behind_its_back(tmp_path, change)
    store.save("a", "{}", [], 6.0)
    assert any("the trail ends with" in problem for problem in store.verify("a").problems)
    (line,) = store.save("a", "{}", [(6.0, entry("abort"))], 6.0)
    assert line.seq == 11
    assert any("to 10 are missing" in problem for problem in store.verify("a").problems)


def test_a_trail_without_its_checkpoint_is_not_whole(store: Store, tmp_path: Path) -> None:
    behind_its_back(tmp_path, "DELETE FROM audit WHERE seq > 8")
    behind_its_back(tmp_path, "DELETE FROM checkpoint")
    trail = store.verify("a")
    assert trail.entries == 8
    assert trail.problems == ("there is no checkpoint, which would name the last entry",)


def test_entries_are_counted_where_some_are_missing(store: Store, tmp_path: Path) -> None:
    behind_its_back(tmp_path, "DELETE FROM audit WHERE seq BETWEEN 3 AND 5")
    assert store.verify("a").entries == 7


@pytest.mark.parametrize("detail", ["no json", "[" * 5000, '{"a": ' + "9" * 5000 + "}", '"a word"'])
def test_an_entry_that_is_none_is_an_error_in_words(store: Store, tmp_path: Path, detail: str) -> None:
    behind_its_back(tmp_path, "UPDATE audit SET detail = ? WHERE seq = 3", (detail,))
    with pytest.raises(StoreError, match="entry 3 was not written"):
        store.audit("a", 100)
    assert "cannot be read after entry 2" in verify_file(tmp_path / "control.db")["a"].problems[0]


def copied(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in names:
        shutil.copy(tmp_path / name, folder)
    return folder / "control.db"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_is_verified_and_left_as_it_is(store: Store, tmp_path: Path) -> None:
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = copied(tmp_path, "control.db")
    before = contents(copy.parent)
    assert verify_file(copy) == {"a": store.verify("a")}
    assert contents(copy.parent) == before


def test_a_copy_with_its_log_is_verified_and_nothing_is_left_beside_it(store: Store, tmp_path: Path) -> None:
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.save("a", "{}", [(7.0, entry("abort"))], 7.0)
    copy = copied(tmp_path, "control.db", "control.db-wal")
    before = contents(copy.parent)
    assert verify_file(copy)["a"] == store.verify("a")
    assert verify_file(copy)["a"].entries == 11
    assert contents(copy.parent) == before


def test_a_link_leads_to_the_file_with_its_log(store: Store, tmp_path: Path) -> None:
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.save("a", "{}", [(7.0, entry("abort"))], 7.0)
    link = tmp_path / "links" / "trail.db"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "control.db")
    assert verify_file(link)["a"].entries == 11


def test_a_file_that_is_written_meanwhile_is_read_as_of_one_moment(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("b", "{}", [(1.0, entry("start"))], 1.0)
    follow = stores._follow

    def followed(db: sqlite3.Connection, migration: str) -> Trail:
        for name in ("a", "b"):
            store.save(name, "{}", [(8.0, entry("pause"))], 8.0)
        return follow(db, migration)

    monkeypatch.setattr(stores, "_follow", followed)
    trails = verify_file(tmp_path / "control.db")
    assert {name: trail.entries for name, trail in trails.items()} == {"a": 10, "b": 1}
    assert not any(trail.problems for trail in trails.values())


@pytest.mark.parametrize("content", [b"no database at all " * 1000, b""])
def test_what_is_no_store_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"other\.db: "):
        verify_file(path)
    assert path.read_bytes() == content


def test_all_of_a_save_or_nothing(store: Store) -> None:
    unwritable = Entry("start", "ci", {"what": {1, 2}})
    with pytest.raises(TypeError):
        store.save("a", "{}", [(1.0, entry("abort")), (1.0, unwritable)], 1.0)
    assert store.audit("a", 1)[0].seq == 10
    store.save("a", "{}", [(1.0, entry("abort"))], 1.0)
    assert not store.verify("a").problems


def test_a_broken_file_is_set_aside_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"no database at all " * 1000)
    kept: list[Path] = []
    made = Store(path, kept.append)
    assert kept[0].read_bytes().startswith(b"no database")
    assert made.checkpoint("a") is None
    made.save("a", "{}", [], 1.0)
    made.close()


def test_a_file_broken_in_the_middle_is_set_aside(store: Store, tmp_path: Path) -> None:
    for _ in range(200):
        store.save("a", "{}", [(1.0, entry("x" * 200))], 1.0)
    store.close()
    path = tmp_path / "control.db"
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 6] = b"\xff" * (4096 * 3)
    path.write_bytes(content)
    kept: list[Path] = []
    again = Store(path, kept.append)
    assert kept[0].read_bytes() == content
    again.close()
    store._db = sqlite3.connect(":memory:")  # for the fixture to close


def test_nobody_else_may_read_it(store: Store, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "control.db").stat().st_mode) == 0o600


def test_a_full_disk_is_an_error_in_words_and_passes(store: Store) -> None:
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="full"):
        store.save("a", "x" * 100_000, [(1.0, entry("abort"))], 1.0)
    store._db.execute("PRAGMA max_page_count = 1000000")
    store.save("a", "{}", [(1.0, entry("abort"))], 1.0)
    assert not store.verify("a").problems


def test_a_folder_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open"):
        Store(tmp_path / "nowhere" / "control.db")


async def test_the_thread_opens_the_file_when_it_can(tmp_path: Path) -> None:
    thread = StoreThread(tmp_path / "later" / "control.db")
    with pytest.raises(StoreError):
        await thread.checkpoint("a")
    (tmp_path / "later").mkdir()
    lines = await thread.save("a", "{}", [(1.0, entry("start"))])
    assert [line.kind for line in lines] == ["start"]
    await thread.close()


async def test_a_file_that_breaks_while_it_is_used_is_set_aside_and_the_new_one_says_so(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    told: list[str] = []
    thread = StoreThread(path)
    thread.when_new(lambda: told.append("new"))
    for i in range(300):
        await thread.save("a", "{}", [(float(i), entry("x" * 200))])
    assert told == []
    break_in_use(thread, path)
    with pytest.raises(StoreError, match="malformed"):
        await thread.audit("a", 1000)
    lines = await thread.save("a", "{}", [(1.0, entry("start"))])
    assert told == ["new"]
    assert [(line.seq, line.kind) for line in lines] == [(1, "note"), (2, "start")]
    (kept,) = [name for name in tmp_path.glob("control.db.broken-*") if not name.name.endswith(("-wal", "-shm"))]
    assert kept.name in lines[0].detail["note"]
    # Each migration's trail says it, once.
    assert [line.kind for line in await thread.save("b", "{}", [])] == ["note"]
    assert [line.kind for line in await thread.save("a", "{}", [(2.0, entry("pause"))])] == ["pause"]
    assert (await thread.verify("a")).problems == (await thread.verify("b")).problems == ()
    assert told == ["new"]
    await thread.close()


async def test_what_was_set_aside_is_told_though_the_new_file_cannot_be_made_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"no database at all " * 1000)
    thread = StoreThread(path)
    monkeypatch.setattr("control.store.sqlite._SCHEMA", "no sql")
    for _ in range(2):
        with pytest.raises(StoreError, match="syntax error"):
            await thread.checkpoint("a")
    monkeypatch.undo()
    assert [line.kind for line in await thread.save("a", "{}", [(1.0, entry("start"))])] == ["note", "start"]
    await thread.close()


def break_in_use(thread: StoreThread, path: Path) -> None:
    """What a disk does to a file that is open."""
    store = thread._store
    assert store is not None
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = b"\xff" * (len(content) - 4096 * 2)
    path.write_bytes(content)
    store._db.execute("PRAGMA shrink_memory")  # what it has in memory is still good
