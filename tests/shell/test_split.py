"""The split of one migration between workers that share a board: a session reads its own writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns
from typing import Any

import pytest

from backends.arm import GAUGES, SOURCE, TARGET
from proxy.board import layout as layouts
from proxy.board.board import Board
from proxy.board.layout import Layout, SplitKey
from proxy.http1.head import Fields
from proxy.migration import buckets
from proxy.migration.split import Split
from proxy.migration.sticky import Stickiness

LAYOUT = Layout(2, (("phase6", ("read",)),))
PAST = 1_000  # long ago, on the board's clock
SOON = 10_000_000  # more than a mark's margin


class Always:
    """A stickiness by which every client is of one bucket."""

    def __init__(self, bucket: int) -> None:
        self.at = bucket

    def bucket(self, migration: int, client: Any) -> tuple[int, bytes]:
        return self.at, b""

    def take(self, migration: int, split: SplitKey) -> bool:
        return False


class Visitor:
    """A client as the stickiness sees one: its fields, which the cache of heads keeps."""

    def __init__(self, user: bytes) -> None:
        self.fields = Fields()
        self.fields.values = {b"x-user-id": user}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Board]:
    made = Board.create(tmp_path / "board", LAYOUT, 1)
    made.publish(0, 5000, pinned=True, now_ns=0)
    yield made
    made.close()


def worker(fresh: Board, slot: int, bucket: int = 7) -> Split:
    return Split(fresh.cells, LAYOUT, slot, 0, Always(bucket))  # type: ignore[arg-type] # all that is used of one


def arm(share: Split) -> int:
    return share.choose(None, monotonic_ns())[0]  # type: ignore[arg-type] # the stickiness looks at no client


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = monotonic_ns()
    monkeypatch.setattr("proxy.migration.split.monotonic_ns", lambda: now + SOON)


def test_a_session_whose_write_the_target_has_yet_to_take_stays_on_the_source_on_every_worker(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = worker(fresh, 0), worker(fresh, 1)
    assert (arm(writer), arm(other)) == (TARGET, TARGET)
    writer.wrote(7, monotonic_ns(), 1)
    later(monkeypatch)
    assert (arm(writer), arm(other)) == (SOURCE, SOURCE)
    assert arm(worker(fresh, 1, bucket=8)) == TARGET
    writer.behind(0)
    assert (arm(writer), arm(other)) == (TARGET, TARGET)


def test_a_change_that_came_after_the_mark_does_not_keep_the_session_back(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = worker(fresh, 0), worker(fresh, 1)
    writer.wrote(7, monotonic_ns(), 1)
    later(monkeypatch)
    writer.behind(monotonic_ns() + SOON)
    assert arm(other) == TARGET


def test_a_change_older_than_the_mark_keeps_it_back_though_another_worker_has_it(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = worker(fresh, 0), worker(fresh, 1)
    other.behind(PAST)
    writer.wrote(7, monotonic_ns(), 1)
    writer.behind(0)
    later(monkeypatch)
    assert arm(writer) == SOURCE
    other.behind(0)
    assert arm(writer) == TARGET


def test_a_write_that_the_target_has_leaves_no_mark(fresh: Board) -> None:
    share = worker(fresh, 0)
    share.wrote(7, 0, 1)
    assert fresh.cells[LAYOUT.marks(0) + 7] == 0
    assert arm(share) == TARGET


@pytest.mark.parametrize(
    ("weight", "pinned", "expected"),
    [(0, False, SOURCE), (10_000, False, SOURCE), (9_999, True, SOURCE), (10_000, True, TARGET)],
    ids=["before it", "all reads", "completed below 100 %", "completed"],
)
def test_a_request_that_is_not_split_is_the_sources_until_the_migration_is_completed(
    fresh: Board, weight: int, pinned: bool, expected: int
) -> None:
    share = worker(fresh, 0)
    now = monotonic_ns()
    fresh.publish(0, weight, pinned=pinned, now_ns=now)
    fresh.renew_lease(0, now + 60 * 10**9)
    assert share.choose(None, now)[0] == (TARGET if weight else SOURCE)  # type: ignore[arg-type] # as above
    assert share.choose(None, now, True)[0] == expected  # type: ignore[arg-type] # as above


def test_a_rollback_from_completed_takes_what_is_not_split_back_at_once(fresh: Board) -> None:
    share = worker(fresh, 0)
    for weight, pinned, expected in ((10_000, True, TARGET), (7_500, False, SOURCE)):
        now = monotonic_ns()
        fresh.publish(0, weight, pinned=pinned, now_ns=now)
        fresh.renew_lease(0, now + 60 * 10**9)
        assert share.choose(None, now, True)[0] == expected  # type: ignore[arg-type] # as above


def test_copies_are_counted_by_operation_for_the_target(fresh: Board) -> None:
    for slot, failed in ((0, False), (1, True), (1, False)):
        worker(fresh, slot).copied("read", failed)
    worker(fresh, 0).copied("of an adapter that is gone", True)
    found = fresh.series(0, TARGET)
    assert (found.copies, found.copy_faults, found.requests, found.errors) == (3, 1, 0, 0)
    assert fresh.series(0, SOURCE).copies == 0


def test_a_mark_sends_nobody_to_the_target_who_would_not_go_there(fresh: Board) -> None:
    share = worker(fresh, 0, bucket=5000)
    assert arm(share) == SOURCE
    share.wrote(5000, PAST, 1)
    assert arm(share) == SOURCE


def test_what_an_ended_worker_left_keeps_its_visitors_back_until_another_has_it(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauges = [0] * len(GAUGES)
    gauges[GAUGES.index("mirror_pending")] = 3
    gauges[GAUGES.index("mirrored")] = 10
    gauges[GAUGES.index("breaker_state")] = 2
    first = worker(fresh, 0)
    first.wrote(7, PAST, 1)
    first.gauge(gauges)
    fresh.clear_volatile(0)
    later(monkeypatch)
    second = worker(fresh, 0)
    assert arm(second) == SOURCE, "it has not said yet what it found in the logs"
    second.behind(0)
    assert arm(second) == TARGET
    second.gauge(gauges)
    fresh.cells[LAYOUT.worker(0) + layouts.W_PID] = 1
    found = dict(zip(GAUGES, fresh.shares(0)[0].gauges, strict=True))
    assert (found["mirror_lost"], found["mirrored"]) == (0, 20)
    assert (found["mirror_pending"], found["breaker_state"]) == (3, 2)


def test_a_workers_word_on_what_has_arrived_stays_until_its_successors(fresh: Board) -> None:
    for slot in (0, 1):
        worker(fresh, slot).arrived(50 + slot, 60 + slot)
        fresh.cells[LAYOUT.worker(slot) + layouts.W_PID] = 1
    assert fresh.arrived(0) == (50, 60)
    fresh.clear_volatile(0)
    second = worker(fresh, 0)
    assert fresh.arrived(0) == (50, 61)
    second.arrived(70, 70)
    assert fresh.arrived(0) == (51, 61)


def test_a_row_without_a_successor_keeps_nobody_back_once_others_have_taken_over(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(fresh, 1).wrote(7, PAST, 1)
    fresh.clear_volatile(1)
    later(monkeypatch)
    other = worker(fresh, 0)
    assert arm(other) == SOURCE
    fresh.hand_over(1)
    assert arm(other) == TARGET


def test_on_a_new_board_nobody_goes_to_a_target_that_lacks_changes_from_before(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.begin(PAST + 10, [4])
    share = worker(fresh, 0)
    share.behind(PAST)  # what was taken over from an earlier run
    later(monkeypatch)
    assert arm(share) == SOURCE
    share.behind(0)
    assert arm(share) == TARGET
    share.gauge([0] * len(GAUGES))
    fresh.cells[LAYOUT.worker(0) + layouts.W_PID] = 1
    found = dict(zip(GAUGES, fresh.shares(0)[0].gauges, strict=True))
    assert found["mirror_lost"] == 4, "the count survives the board"


KEYED = buckets.keyed(bytes(32), "phase6")
LAG = 1_000_000_000  # far more than the time by which the marks of a new split are dated ahead


def sticking(fresh: Board, slot: int) -> Split:
    return Split(fresh.cells, LAYOUT, slot, 0, Stickiness(("header:x-user-id",), ["phase6"]))


def bucket_of(share: Split, visitor: Visitor) -> int:
    return share.choose(visitor, monotonic_ns())[1]  # type: ignore[arg-type] # all that is used of one


def expected(split: SplitKey, user: bytes) -> int:
    return buckets.bucket(buckets.begin(split), user)


def switch(fresh: Board, weight_bp: int = 5000) -> None:
    """What control does at a start: the split first, the weight then."""
    fresh.set_split(0, KEYED)
    fresh.publish(0, weight_bp, pinned=True, now_ns=0)


def test_a_worker_goes_by_the_migrations_name_until_control_has_said_another(fresh: Board) -> None:
    visitor = Visitor(b"alice")
    old = sticking(fresh, 0)
    assert bucket_of(old, visitor) == expected(buckets.plain("phase6"), b"alice") == 4835
    switch(fresh)
    assert bucket_of(old, visitor) == expected(KEYED, b"alice") != 4835, "what was remembered of it is out of date"
    assert bucket_of(sticking(fresh, 1), Visitor(b"alice")) == bucket_of(old, visitor), "so goes a worker that starts"


def test_a_split_is_taken_at_the_tick_though_no_request_comes(fresh: Board) -> None:
    share = sticking(fresh, 0)
    fresh.set_split(0, KEYED)  # and no new weight, as where control has just recovered
    share.tick(monotonic_ns())
    assert bucket_of(share, Visitor(b"alice")) == expected(KEYED, b"alice")


def test_what_is_remembered_is_computed_once_and_again_only_for_another_split(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, visitor = sticking(fresh, 0), Visitor(b"alice")
    computed: list[bytes] = []
    compute = buckets.bucket
    monkeypatch.setattr(buckets, "bucket", lambda state, key: computed.append(key) or compute(state, key))
    for _ in range(3):
        bucket_of(share, visitor)
    assert len(computed) == 1
    fresh.publish(0, 6000, pinned=True, now_ns=0)
    bucket_of(share, visitor)
    assert len(computed) == 1, "a weight is no split"
    switch(fresh)
    for _ in range(3):
        bucket_of(share, visitor)
    assert len(computed) == 2


def test_a_session_reads_its_own_writes_over_a_new_split(fresh: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, other, user = sticking(fresh, 0), sticking(fresh, 1), b"alice"
    fresh.publish(0, 0, pinned=True, now_ns=0)
    wrote_at = monotonic_ns()
    writer.wrote(bucket_of(writer, Visitor(user)), wrote_at, writer.generation)
    switch(fresh, 10_000)
    assert other.choose(Visitor(user), monotonic_ns())[0] == SOURCE  # type: ignore[arg-type]
    now = monotonic_ns()
    monkeypatch.setattr("proxy.migration.split.monotonic_ns", lambda: now + LAG)
    assert other.choose(Visitor(user), now)[0] == SOURCE, "however long the target lacks the write"  # type: ignore[arg-type]
    writer.behind(0)
    assert other.choose(Visitor(user), now)[0] == TARGET  # type: ignore[arg-type]


def test_a_write_that_was_under_way_when_the_split_changed_keeps_its_session_back(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other, user = sticking(fresh, 0), sticking(fresh, 1), b"alice"
    began_in, bucket = writer.generation, bucket_of(writer, Visitor(user))
    switch(fresh, 10_000)
    writer.tick(0)
    other.tick(0)
    now = monotonic_ns()
    monkeypatch.setattr("proxy.migration.split.monotonic_ns", lambda: now + LAG)
    assert other.choose(Visitor(user), now)[0] == TARGET  # type: ignore[arg-type]
    writer.wrote(bucket, now + LAG - 1, began_in)
    monkeypatch.setattr("proxy.migration.split.monotonic_ns", lambda: now + 2 * LAG)
    assert other.choose(Visitor(user), now)[0] == SOURCE  # type: ignore[arg-type]
    writer.behind(0)
    assert other.choose(Visitor(user), now)[0] == TARGET  # type: ignore[arg-type]
    writer.wrote(bucket, now + 2 * LAG - 1, writer.generation)
    monkeypatch.setattr("proxy.migration.split.monotonic_ns", lambda: now + 3 * LAG)
    if bucket != bucket_of(other, Visitor(user)):
        assert other.choose(Visitor(user), now)[0] == TARGET, "a later one marks its own bucket"  # type: ignore[arg-type]
