"""The change log: what one process has left in its files another one hands on, whatever is wrong with them."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic_ns
from typing import Any

import msgspec
import pytest

from backends.adapters.registry import operations
from backends.arm import GAUGES, SOURCE, TARGET
from backends.backend import Backend
from backends.disk import Disk, Sync
from backends.documents.changes import Change, Put, encode, write
from backends.documents.port import Context, Query, put
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.mock.settings import Mock
from backends.operations import Call
from backends.pair import segment
from backends.pair.changelog import (
    ChangeLog,
    changes_folder,
    drop_folder,
    lost_before,
    move_folder,
    named,
    without_name,
)
from backends.pair.manager import Source, build_source, drain_left
from backends.pair.mirror import Mirror, WriteAhead
from backends.pair.segment import HEADER, MARK, STATES_AT, ChangeState
from backends.pair.storearm import StoreArm
from tests.shell.test_mirror import Scripted, down, drained, one, soon, tell, until
from tests.support.patience import WITHIN_S

WINDOW = 100


class Run:
    """A worker's mirror from ``own`` to ``other``, over a log in ``folder``."""

    def __init__(
        self,
        folder: Path,
        own: MemoryStore,
        other: MemoryStore,
        *,
        at_once: bool = False,
        copied: Callable[[str, bool], None] | None = None,
    ) -> None:
        self.own = own
        self.other = other
        self.log = ChangeLog(folder, "target", Disk(Sync.OFF))
        self.mirror = Mirror(own, other, at_once=at_once, log=self.log, copied=copied)
        self.mirror.start()

    async def write(self, change: Change, operation: str = "") -> None:
        """As a handler does that answers."""
        ahead = WriteAhead(self.mirror, operation)
        await write(change, self.own, Context(soon(), ahead.intend))
        await ahead.finish(change)

    async def die(self) -> None:
        """As if killed: nothing more is noted, and the locks are gone."""
        await self.mirror.stop()
        self.log.close(tuple(self.mirror.backlog.segments))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return changes_folder(tmp_path, "m")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a thousandth, and a small window."""
    monkeypatch.setattr("backends.pair.logged.BASE_S", 0.001)
    monkeypatch.setattr("backends.pair.logged.CAP_S", 0.002)
    monkeypatch.setattr("backends.pair.mirror.DRAIN_S", 0.02)
    monkeypatch.setattr("backends.pair.doubting.AGAIN_S", 0.02)
    monkeypatch.setattr("backends.pair.backlog.LOOK_S", 0.02)
    monkeypatch.setattr("backends.pair.backlog.WINDOW", WINDOW)


Begin = Callable[..., Run]


@pytest.fixture
async def begin(folder: Path) -> AsyncIterator[Begin]:
    runs: list[Run] = []

    def start(own: MemoryStore | None = None, other: MemoryStore | None = None, **options: Any) -> Run:
        runs.append(Run(folder, own or MemoryStore(), other or Scripted(), **options))
        return runs[-1]

    yield start
    for run in runs:
        await run.mirror.close()


def troubled() -> Scripted:
    store = Scripted()
    store.down = down()
    return store


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("to_target.*"))


def first_frame(path: Path) -> int:
    return path.read_bytes().index(MARK)


async def left_behind(begin: Begin, count: int) -> tuple[Run, Scripted]:
    """A worker that died with so many changes waiting, and the store that was down."""
    store = troubled()
    run = begin(other=store)
    for nth in range(count):
        await run.write(one(f"a/{nth}", n=nth))
    await run.die()
    return run, store


# ------------------------------------------------------------------------------------------------------ taken over


@pytest.mark.parametrize("count", [3, 3 * WINDOW])
async def test_until_what_another_left_is_done_nobody_can_say_what_has_arrived(begin: Begin, count: int) -> None:
    """The times in a log are of a clock that may have been set."""
    dead, store = await left_behind(begin, count)
    heir = begin(dead.own, store)
    assert heir.mirror.arrived() == 1
    await until(lambda: heir.mirror.backlog.count)
    assert heir.mirror.arrived() == 1
    before = monotonic_ns()
    store.down = None
    await drained(heir.mirror)
    assert heir.mirror.arrived() > before


async def test_of_a_change_that_is_in_the_log_alone_nobody_says_that_it_has_arrived(begin: Begin) -> None:
    store = troubled()
    run = begin(other=store)
    before = monotonic_ns()
    for nth in range(3 * WINDOW):
        await run.write(one(f"a/{nth}"))
        assert run.mirror.arrived() < monotonic_ns()
    began = monotonic_ns()
    store.down = None
    while run.mirror.pending:
        assert run.mirror.arrived() <= began
        await asyncio.sleep(0)
    assert run.mirror.arrived() > began > before


async def test_what_a_worker_left_is_handed_on_by_another_and_its_file_is_removed(
    begin: Begin, folder: Path, logged: list[Any]
) -> None:
    dead, store = await left_behind(begin, 50)
    heir = begin(dead.own, store)
    assert heir.mirror.pending == 50, "counted before the first of it is read"
    assert heir.mirror.behind_since() > 0
    assert [(line["event"], line["changes"]) for line in logged] == [("changes_taken_over", 50)]
    store.down = None
    await drained(heir.mirror)
    assert await store.paths() == {f"a/{nth}" for nth in range(50)}
    assert heir.mirror.lost == 0
    await until(lambda: not segments(folder))


async def test_whose_write_a_change_is_survives_the_worker(begin: Begin, folder: Path) -> None:
    names = ["scans.create", "", "a name of another alphabet: é", "x" * 300]
    run = begin(other=troubled())
    for nth, name in enumerate(names):
        await run.write(one(f"a/{nth}"), name)
    await run.die()
    told: list[tuple[str, bool]] = []
    second = begin(copied=lambda name, failed: told.append((name, failed)))
    await drained(second.mirror)
    assert sorted(told) == sorted((name[:255], False) for name in names)
    assert isinstance(second.other, Scripted)
    assert await second.other.paths() == {f"a/{nth}" for nth in range(len(names))}


def test_a_record_without_a_name_is_the_change_alone_as_it_was_first() -> None:
    change = encode(one("a/1", n=1))
    assert named("", change) == change
    assert without_name(change) == ("", change)
    for broken in (b"", b"\xc1", b"\xc1\xffshort"):
        without_name(broken)


async def test_a_living_workers_log_is_left_alone_and_taken_over_when_it_ends(begin: Begin, folder: Path) -> None:
    living, other = begin(other=troubled()), begin(other=troubled())
    for nth in range(5):
        await living.write(one(f"a/{nth}"))
    await other.write(one("b/1"))
    await asyncio.sleep(0.1)  # several looks
    assert (living.mirror.pending, other.mirror.pending) == (5, 1)
    assert len(segments(folder)) == 2
    await living.mirror.close()
    await until(lambda: other.mirror.pending == 6)


async def test_several_that_look_at_once_take_each_log_once(begin: Begin, folder: Path) -> None:
    for _ in range(4):
        await left_behind(begin, 3)
    heirs = [begin(other=troubled()) for _ in range(3)]
    assert sum(heir.mirror.pending for heir in heirs) == 12
    assert len(segments(folder)) == 4


async def test_a_worker_that_ends_in_order_leaves_no_file_where_nothing_waits(begin: Begin, folder: Path) -> None:
    run = begin()
    for nth in range(5):
        await run.write(one(f"a/{nth}"))
    assert len(segments(folder)) == 1
    await run.mirror.close()
    assert segments(folder) == []


async def test_more_than_the_window_waits_in_the_file_alone_and_is_read_back(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "READ_BYTES", 4096)
    store = troubled()
    run = begin(other=store)
    for nth in range(30 * WINDOW):
        await run.write(one(f"a/{nth}"))
    assert run.mirror.pending == 30 * WINDOW
    assert run.mirror.backlog.count <= WINDOW
    store.down = None
    most = 0
    while run.mirror.pending:
        most = max(most, run.mirror.backlog.count)
        await asyncio.sleep(0)
    assert most < 30 * WINDOW / 2, "it is read back in pieces"
    assert len(await store.paths()) == 30 * WINDOW
    assert (run.mirror.mirrored, run.mirror.lost, run.mirror.behind_since()) == (30 * WINDOW, 0, 0)
    await run.write(one("a/last"))
    await drained(run.mirror)
    assert "a/last" in await store.paths()


async def test_what_is_written_while_more_than_the_window_waits_is_settled_or_aborted_as_ever(begin: Begin) -> None:
    own, store = Scripted(), troubled()
    run = begin(own, store)
    for nth in range(3 * WINDOW):
        own.bad = {"a/refused": ValueError("no")} if nth % 7 == 0 else {}
        own.gate = asyncio.Event() if nth % 50 == 0 else None
        path = "a/refused" if nth % 7 == 0 else f"a/{nth}"
        writing = asyncio.ensure_future(run.write(one(path)))
        await asyncio.sleep(0)
        if own.gate is not None:
            await asyncio.sleep(0.002)
            own.gate.set()
        await asyncio.gather(writing, return_exceptions=True)
    store.down = None
    await drained(run.mirror)
    assert await store.paths() == {document.path for document in own.documents()}


async def test_segments_are_removed_once_all_in_them_is_done(
    begin: Begin, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES", HEADER + 1000)
    store = troubled()
    run = begin(other=store)
    for nth in range(200):
        await run.write(one(f"a/{nth}", text="x" * 50))
    assert len(segments(folder)) > 10
    store.down = None
    await drained(run.mirror)
    await until(lambda: len(segments(folder)) == 1)
    assert len(await store.paths()) == 200


async def test_files_are_for_their_owner_alone(begin: Begin, folder: Path) -> None:
    await left_behind(begin, 1)
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert {oct(path.stat().st_mode & 0o777) for path in segments(folder)} == {"0o600"}


# ------------------------------------------------------------------------------------------------------ at each step


async def test_who_goes_on_with_a_log_asks_what_became_of_writes_without_an_outcome(begin: Begin) -> None:
    own = MemoryStore()
    dead = begin(own, troubled())
    committed, never, refused, settled = (WriteAhead(dead.mirror) for _ in range(4))
    committed.intend(one("a/committed"))
    await own.commit((put("a/committed", {}),), Context(soon()))
    never.intend(one("a/never"))
    refused.intend(one("a/refused")).abort()
    settled.intend(one("a/settled")).settle()  # and its own side has lost it since, or replaced it
    await dead.die()
    store = Scripted()
    heir = begin(own, store)
    await drained(heir.mirror)
    assert await store.paths() == {"a/committed", "a/settled"}
    assert heir.mirror.lost == 0


async def test_what_was_noted_as_done_is_not_sent_again(begin: Begin) -> None:
    store = Scripted()
    run = begin(other=store)
    for nth in range(5):
        await run.write(one(f"a/{nth}"))
    await drained(run.mirror)
    store.down = down()
    await run.write(one("a/waits"))
    await run.die()
    store.down = None
    store.commits.clear()
    heir = begin(run.own, store)
    await drained(heir.mirror)
    assert [[write.path for write in commit] for commit in store.commits] == [["a/waits"]]


async def test_a_change_for_a_store_at_hand_is_applied_by_who_goes_on(begin: Begin) -> None:
    own = MemoryStore()
    dead = begin(own, Scripted(), at_once=True)
    await dead.write(one("a/before"))
    ahead = WriteAhead(dead.mirror)
    await write(one("a/1"), own, Context(soon(), ahead.intend))  # killed before it was applied to the other side
    await dead.die()
    heir = begin(own, dead.other, at_once=True)
    await drained(heir.mirror)
    assert {document.path for document in heir.other.documents()} == {"a/before", "a/1"}


async def test_a_change_that_the_handler_did_not_announce_is_logged_when_it_returns(begin: Begin) -> None:
    """As an adapter from outside may do that knows nothing of the log."""
    dead = begin(other=troubled())
    await tell(dead.mirror, one("a/1"))
    await dead.die()
    heir = begin(MemoryStore())
    await drained(heir.mirror)
    assert {document.path for document in heir.other.documents()} == {"a/1"}, "though its own side does not hold it"


# ------------------------------------------------------------------------------------------------------ damage


async def test_a_damaged_record_is_told_and_counted_and_the_rest_is_used(
    begin: Begin, folder: Path, logged: list[Any], tmp_path: Path
) -> None:
    dead, store = await left_behind(begin, 9)
    (path,) = segments(folder)
    data = bytearray(path.read_bytes())
    at = first_frame(path)
    for _ in range(4):
        at = data.index(MARK, at + 1)
    data[at + 30] ^= 0xFF
    path.write_bytes(data)
    store.down = None
    heir = begin(dead.own, store)
    await drained(heir.mirror)
    assert await store.paths() == {f"a/{nth}" for nth in range(9) if nth != 4}
    assert heir.mirror.lost == 1
    told = [line for line in logged if line["event"] == "change_log_damaged"]
    assert [line["file"] for line in told] == [str(path)]
    assert f"from {at} to " in told[0]["reason"]
    (lost,) = [line for line in logged if line["event"] == "change_not_mirrored"]
    assert lost["cause"] == "damaged"
    assert lost_before(tmp_path, "m") == 1
    await until(lambda: not segments(folder))


@pytest.mark.parametrize("damage", ["length", "number", "mark", "zeros"])
async def test_whatever_is_damaged_the_frames_behind_it_are_found(begin: Begin, folder: Path, damage: str) -> None:
    dead, store = await left_behind(begin, 5)
    (path,) = segments(folder)
    data = bytearray(path.read_bytes())
    at = first_frame(path)
    second = data.index(MARK, at + 1)
    third = data.index(MARK, second + 1)
    match damage:
        case "length":
            data[second + 8 : second + 12] = b"\xff\xff\x00\x00"
        case "number":
            data[second + 4 : second + 8] = b"\x00\x00\x10\x00"
        case "mark":
            data[second] ^= 1
        case "zeros":
            data[second:third] = bytes(third - second)
    path.write_bytes(data)
    store.down = None
    heir = begin(dead.own, store)
    await drained(heir.mirror)
    assert await store.paths() == {"a/0", "a/2", "a/3", "a/4"}
    assert heir.mirror.lost == 1


async def test_half_a_frame_of_a_killed_process_is_no_damage(begin: Begin, folder: Path, logged: list[Any]) -> None:
    dead, store = await left_behind(begin, 3)
    (path,) = segments(folder)
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(whole[first_frame(path) :][:25])
    store.down = None
    heir = begin(dead.own, store)
    await drained(heir.mirror)
    await until(lambda: not segments(folder))
    assert (heir.mirror.mirrored, heir.mirror.lost) == (3, 0)
    assert [line["event"] for line in logged] == ["changes_taken_over"]


async def test_a_file_that_lost_its_end_in_a_crash_of_the_machine_is_used_as_far_as_it_goes(
    begin: Begin, folder: Path
) -> None:
    dead, store = await left_behind(begin, 4)
    (path,) = segments(folder)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(MARK) + 9])
    store.down = None
    heir = begin(dead.own, store)
    await drained(heir.mirror)
    assert (heir.mirror.mirrored, heir.mirror.lost) == (3, 1)


async def test_a_frame_whose_state_did_not_reach_the_disk_is_asked_about(begin: Begin, folder: Path) -> None:
    dead, store = await left_behind(begin, 4)
    (path,) = segments(folder)
    data = bytearray(path.read_bytes())
    data[STATES_AT : STATES_AT + 4] = bytes(4)
    path.write_bytes(data)
    await dead.own.commit((put("a/2", {"n": "replaced"}),), Context(soon()))
    store.down = None
    begin(dead.own, store)
    await until(lambda: not segments(folder))
    assert await store.paths() == {"a/0", "a/1", "a/3"}


async def test_a_record_of_an_adapter_that_is_gone_is_lost_and_told(begin: Begin, logged: list[Any]) -> None:
    class Gone(Change, frozen=True, tag="gone.change"):
        @property
        def documents(self) -> tuple[str, ...]:
            return ("a/1",)

    dead = begin(other=troubled())
    await dead.write(one("a/0"))
    await tell(dead.mirror, Gone())
    await dead.write(one("a/2"))
    await dead.die()
    heir = begin(dead.own)
    await drained(heir.mirror)
    assert {document.path for document in heir.other.documents()} == {"a/0", "a/2"}
    (line,) = [line for line in logged if line["event"] == "change_not_mirrored"]
    assert line["cause"] == "mistake"
    assert "adapter" in line["reason"]


async def test_what_is_no_log_is_told_once_and_left_and_an_unfinished_file_is_removed(
    begin: Begin, folder: Path, logged: list[Any], tmp_path: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "to_target.strange").write_bytes(b"x" * 100_000)
    (folder / "to_target.short").write_bytes(b"")
    (tmp_path / "elsewhere").write_bytes(b"x" * 100_000)
    (folder / "to_target.link").symlink_to(tmp_path / "elsewhere")
    (folder / "to_source.other").write_bytes(b"")
    run = begin()
    await asyncio.sleep(0.1)
    assert {path.name for path in folder.iterdir()} == {"to_target.strange", "to_target.link", "to_source.other"}
    assert [line["event"] for line in logged] == ["change_log_damaged"] * 2
    await run.write(one("a/1"))
    await drained(run.mirror)


# ------------------------------------------------------------------------------------------------------ no room


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The kernel refuses to write beyond this size, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


BY_NAME = {operation.name: operation for operation in operations()}


def publish(nth: int, size: int = 10) -> Call:
    body = msgspec.json.encode({"metrics": {"n": nth, "text": "x" * size}})
    return Call(BY_NAME["dashboard.publish"], b"", {}, {}, body, 1_790_000_000.0 + nth, f"{nth:032x}")


@pytest.mark.parametrize("room", [1000, HEADER + 600])
async def test_on_a_full_disk_a_write_is_refused_in_words_and_done_nowhere(
    tmp_path: Path, logged: list[Any], room: int
) -> None:
    stores = MemoryStore(), MemoryStore()
    arms = [StoreArm(store, WITHIN_S) for store in stores]
    built = Source(arms[0], arms[1], hybrid=True, changes=changes_folder(tmp_path, "m"))
    await built.start()
    with no_file_beyond(room):
        outcomes = [await built.answer(SOURCE, publish(nth, 100)) for nth in range(6)]
    answered = [outcome.answer.status for outcome in outcomes]
    assert answered[-3:] == [503] * 3
    refused = outcomes[-1]
    assert json.loads(refused.answer.body)["error"]["code"] == "change_log_unwritable"
    assert (b"retry-after", b"5") in refused.answer.headers
    assert refused.fault is None, "it is no arm's failure"
    assert [len(list(store.documents())) for store in stores] == [answered.count(200)] * 2
    gauges = dict(zip(GAUGES, built.gauges(), strict=True))
    assert gauges["writes_not_logged"] == answered.count(503)
    assert [line["event"] for line in logged] == ["change_log_unwritable"], "told once"
    assert (await built.answer(SOURCE, publish(99))).answer.status == 200, "and it goes on when there is room again"
    await built.close()


async def test_a_change_that_was_written_before_it_could_be_logged_waits_in_memory(
    begin: Begin, logged: list[Any]
) -> None:
    store = troubled()
    run = begin(other=store)
    with no_file_beyond(100):
        await tell(run.mirror, one("a/1"))
    assert (run.mirror.pending, run.mirror.lost) == (1, 0)
    store.down = None
    await drained(run.mirror)
    assert await store.paths() == {"a/1"}
    assert [line["event"] for line in logged] == ["change_log_unwritable"]


async def test_a_value_that_cannot_be_logged_is_the_stores_to_refuse(tmp_path: Path) -> None:
    arms = [StoreArm(MemoryStore(), WITHIN_S) for _ in range(2)]
    built = Source(arms[0], arms[1], hybrid=True, changes=changes_folder(tmp_path, "m"))
    await built.start()
    call = publish(1)
    for metrics in ('{"n": 18446744073709551616}', '{"n": 9223372036854775808}', '{"n": [[1]]}'):
        call.body = b'{"metrics": %b}' % metrics.encode()
        assert (await built.answer(TARGET, call)).answer.status in (200, 400)
    call.body = b'{"metrics": {"n": 9223372036854775808}}'
    assert (await built.answer(TARGET, call)).answer.status == 400
    assert dict(zip(GAUGES, built.gauges(), strict=True))["mirror_pending"] == 0
    await built.close()


# ------------------------------------------------------------------------------------------------------ its folder


async def test_a_renamed_migrations_log_goes_with_it(begin: Begin, folder: Path, tmp_path: Path) -> None:
    dead, store = await left_behind(begin, 3)
    move_folder(tmp_path, "m", "n")
    move_folder(tmp_path, "m", "n")  # the configuration says so for longer
    assert not folder.exists()
    changes_folder(tmp_path, "o").mkdir()
    (changes_folder(tmp_path, "o") / "lost").write_text("{}\n")
    (changes_folder(tmp_path, "n") / "lost").write_text("{}\n{}\n")
    move_folder(tmp_path, "n", "o")
    assert lost_before(tmp_path, "o") == 3
    store.down = None
    heir = Run(changes_folder(tmp_path, "o"), dead.own, store)
    await drained(heir.mirror)
    await heir.mirror.close()
    assert len(await store.paths()) == 3


async def test_a_worker_that_still_runs_under_the_old_name_goes_on(begin: Begin, tmp_path: Path) -> None:
    run = begin(other=troubled())
    move_folder(tmp_path, "m", "n")
    await run.write(one("a/1"))
    await run.die()
    heir = Run(changes_folder(tmp_path, "n"), run.own, Scripted())
    assert heir.mirror.pending == 1
    await drained(heir.mirror)
    await heir.mirror.close()


def test_a_migration_that_was_given_up_leaves_nothing(tmp_path: Path) -> None:
    folder = changes_folder(tmp_path, "m")
    folder.mkdir()
    (folder / "to_target.1").write_bytes(b"")
    drop_folder(tmp_path, "m")
    drop_folder(tmp_path, "m")
    assert not folder.exists()


async def test_a_command_hands_on_what_is_left_while_nobody_serves(tmp_path: Path) -> None:
    empty = tmp_path / "fixtures"
    empty.mkdir()
    (empty / "dashboard_snapshots.json").write_text("{}")
    source: Backend = Mock(fixtures=str(empty))
    target: Backend = Mock(fixtures=str(empty), seed=2)
    assert await drain_left(source, target, run_dir=tmp_path, name="m", within_s=WITHIN_S) == 0
    assert not changes_folder(tmp_path, "m").exists()
    built = build_source(source, target, run_dir=tmp_path, name="m", mode="hybrid")
    await built.start()
    mirror = built.arms[SOURCE].mirror
    assert mirror is not None
    ahead = WriteAhead(mirror)
    change = Put((put("dashboard_snapshots/1", {"metrics": {}}),))
    await write(change, built.arms[SOURCE].store, Context(soon(), ahead.intend))
    assert mirror.backlog.log is not None
    mirror.backlog.log.close(tuple(mirror.backlog.segments))  # as if killed
    await built.close()
    assert await drain_left(source, target, run_dir=tmp_path, name="m", within_s=WITHIN_S) == 0
    built = build_source(source, target, run_dir=tmp_path, name="m", mode="hybrid")
    await built.start()
    found = await built.arms[TARGET].store.query(Query("dashboard_snapshots"), Context(soon()))
    assert [document.id for document in found] == ["1"]
    await built.close()


def test_the_states_are_what_the_files_of_earlier_versions_hold() -> None:
    assert dict(ChangeState.__members__) == {"NONE": 0, "OPEN": 1, "SETTLED": 2, "DONE": 3}
    assert os.path.basename(changes_folder(Path("/r"), "m")) == "m.changes"
