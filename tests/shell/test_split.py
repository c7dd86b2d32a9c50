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
from proxy.board.layout import Layout
from proxy.migration.split import Split

LAYOUT = Layout(2, (("phase6", ("read",)),))
PAST = 1_000  # long ago, on the board's clock
SOON = 10_000_000  # more than a mark's margin


class Always:
    """A stickiness by which every client is of one bucket."""

    def __init__(self, bucket: int) -> None:
        self.at = bucket

    def bucket(self, migration: int, client: Any) -> tuple[int, bytes]:
        return self.at, b""


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
    writer.wrote(7, monotonic_ns())
    later(monkeypatch)
    assert (arm(writer), arm(other)) == (SOURCE, SOURCE)
    assert arm(worker(fresh, 1, bucket=8)) == TARGET
    writer.behind(0)
    assert (arm(writer), arm(other)) == (TARGET, TARGET)


def test_a_change_that_came_after_the_mark_does_not_keep_the_session_back(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = worker(fresh, 0), worker(fresh, 1)
    writer.wrote(7, monotonic_ns())
    later(monkeypatch)
    writer.behind(monotonic_ns() + SOON)
    assert arm(other) == TARGET


def test_a_change_older_than_the_mark_keeps_it_back_though_another_worker_has_it(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = worker(fresh, 0), worker(fresh, 1)
    other.behind(PAST)
    writer.wrote(7, monotonic_ns())
    writer.behind(0)
    later(monkeypatch)
    assert arm(writer) == SOURCE
    other.behind(0)
    assert arm(writer) == TARGET


def test_a_write_that_the_target_has_leaves_no_mark(fresh: Board) -> None:
    share = worker(fresh, 0)
    share.wrote(7, 0)
    assert fresh.cells[LAYOUT.marks(0) + 7] == 0
    assert arm(share) == TARGET


def test_a_mark_sends_nobody_to_the_target_who_would_not_go_there(fresh: Board) -> None:
    share = worker(fresh, 0, bucket=5000)
    assert arm(share) == SOURCE
    share.wrote(5000, PAST)
    assert arm(share) == SOURCE


def test_what_died_with_a_worker_keeps_nobody_back_and_is_counted_as_lost(
    fresh: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauges = [0] * len(GAUGES)
    gauges[GAUGES.index("mirror_pending")] = 3
    gauges[GAUGES.index("mirrored")] = 10
    gauges[GAUGES.index("breaker_state")] = 2
    first = worker(fresh, 0)
    first.wrote(7, PAST)
    first.gauge(gauges)
    fresh.clear_volatile(0)
    later(monkeypatch)
    second = worker(fresh, 0)
    assert arm(second) == TARGET
    second.gauge(gauges)
    fresh.cells[LAYOUT.worker(0) + layouts.W_PID] = 1
    found = dict(zip(GAUGES, fresh.shares(0)[0].gauges, strict=True))
    assert found["mirror_lost"] == 3
    assert found["mirrored"] == 20
    assert (found["mirror_pending"], found["breaker_state"]) == (3, 2)
    second.wrote(7, PAST)  # and has not said how many since
    second.gauge([0] * len(GAUGES))
    fresh.clear_volatile(0)
    fresh.clear_volatile(0)  # nothing died with it that had not been counted
    fresh.cells[LAYOUT.worker(0) + layouts.W_PID] = 1
    assert dict(zip(GAUGES, fresh.shares(0)[0].gauges, strict=True))["mirror_lost"] == 4
