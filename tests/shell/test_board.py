"""The board: cells that land where they should, and files that are refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.arm import GAUGES, SOURCE, TARGET
from backends.errors import FaultKind
from proxy.board import histogram
from proxy.board import layout as layouts
from proxy.board.board import Board, BoardError
from proxy.board.layout import BUCKETS, Layout, Word

LAYOUT = Layout(3, (("phase6", ("a", "b", "c")), ("other", ("x",))))
BOOT = 42


@pytest.fixture
def fresh(tmp_path: Path) -> Board:
    return Board.create(tmp_path / "board", LAYOUT, BOOT)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 10_000))
def test_a_word_comes_back_as_it_was_packed(generation: int, flags: int, weight_bp: int) -> None:
    word = Word(generation, flags, weight_bp)
    assert Word.unpack(word.pack()) == word
    assert word.pack() < 2**64


def test_no_two_places_share_a_cell() -> None:
    starts = [(0, layouts.HEADER_CELLS)]
    starts += [(LAYOUT.migration(m), layouts.MIGRATION_CELLS) for m in range(2)]
    for slot in range(3):
        starts.append((LAYOUT.worker(slot), layouts.WORKER_CELLS))
        for m, (_, operations) in enumerate(LAYOUT.migrations):
            starts.append((LAYOUT.share(slot, m), layouts.SHARE_CELLS))
            for o in range(len(operations)):
                starts += [(LAYOUT.series(slot, m, o, arm), layouts.SERIES_CELLS) for arm in (SOURCE, TARGET)]
    starts += [(LAYOUT.marks(m), BUCKETS) for m in range(2)]
    starts.sort()
    assert all(start + size == following for (start, size), (following, _) in pairwise(starts)), "no gap, no overlap"
    assert sum(starts[-1]) == LAYOUT.cells()


def test_what_one_process_publishes_another_reads(fresh: Board) -> None:
    other = Board.open(fresh.path, LAYOUT, BOOT)
    assert fresh.publish(0, 2500, pinned=False, now_ns=7, cut_over_at=8, cancel_at=9) == 1
    fresh.publish(1, 10_000, pinned=True, now_ns=7)
    fresh.renew_lease(0, 123)
    assert other.word(0) == Word(1, 0, 2500)
    assert other.word(1) == Word(1, layouts.PINNED, 10_000)
    assert other.lease_until(0) == 123


def test_every_publication_is_a_generation_of_its_own(fresh: Board) -> None:
    assert [fresh.publish(0, 500, pinned=False, now_ns=0) for _ in range(3)] == [1, 2, 3]


def test_series_are_summed_over_workers_and_operations(fresh: Board) -> None:
    for slot in range(3):
        for operation in range(3):
            base = LAYOUT.series(slot, 0, operation, TARGET)
            fresh.cells[base + layouts.C_FAULTS + FaultKind.DEADLINE] = 1
            fresh.cells[base + layouts.C_SUM_US] = 10
            fresh.cells[base + layouts.C_BUCKETS + histogram.index(1000)] = 2
    whole = fresh.series(0, TARGET)
    assert (whole.requests, whole.errors, whole.sum_us) == (18, 9, 90)
    assert whole.faults[FaultKind.DEADLINE] == 9
    assert fresh.series(0, TARGET, [1]).requests == 6
    assert fresh.series(0, SOURCE).requests == 0
    assert fresh.series(1, TARGET).requests == 0
    assert (whole - fresh.series(0, TARGET, [1])).requests == 12


def test_a_dead_workers_row_forgets_what_was_in_flight_and_keeps_its_counts(fresh: Board) -> None:
    row, share = LAYOUT.worker(1), LAYOUT.share(1, 0)
    base = LAYOUT.series(1, 0, 0, SOURCE)
    fresh.cells[row + layouts.W_PID] = 77
    fresh.cells[share + layouts.S_INFLIGHT_OLD] = 5
    fresh.cells[base + layouts.C_BUCKETS] = 3
    assert [s.inflight_old for s in fresh.shares(0)] == [5]
    fresh.clear_volatile(1)
    assert fresh.shares(0) == []
    assert fresh.series(0, SOURCE).requests == 3


def test_what_an_ended_worker_counted_counts_on_and_its_levels_do_not(fresh: Board) -> None:
    def told(slot: int, name: str, value: int) -> None:
        fresh.cells[LAYOUT.share(slot, 0) + layouts.S_GAUGES + GAUGES.index(name)] = value

    for slot in (0, 1):
        told(slot, "mirrored", 5 + slot)
        told(slot, "view_age_ms", 100)
    fresh.cells[LAYOUT.worker(1) + layouts.W_PID] = 7
    found = fresh.gauges(0)
    assert (found["mirrored"], found["view_age_ms"], found["mirror_lost"]) == ([5, 6], [100], [0])


def says(board: Board, slot: int, arrived: int, looked: int, pid: int = 1) -> None:
    board.cells[LAYOUT.share(slot, 0) + layouts.S_ARRIVED] = arrived
    board.cells[LAYOUT.share(slot, 0) + layouts.S_LOOKED] = looked
    board.cells[LAYOUT.worker(slot) + layouts.W_PID] = pid


def test_what_has_arrived_is_what_every_worker_says_and_the_dead_said_last(fresh: Board) -> None:
    assert fresh.arrived(0) == (0, 0), "nobody says anything"
    says(fresh, 0, 50, 60)
    assert fresh.arrived(0) == (50, 60)
    says(fresh, 1, 40, 70)
    assert fresh.arrived(0) == (40, 60)
    says(fresh, 2, 0, 0)
    assert fresh.arrived(0) == (0, 0), "one has not looked yet"
    says(fresh, 2, 90, 90)
    fresh.clear_volatile(1)
    assert fresh.arrived(0) == (40, 60), "it left what it had in its log"
    fresh.hand_over(1)
    assert fresh.arrived(0) == (50, 60)
    for slot in (0, 2):
        fresh.clear_volatile(slot)
    assert fresh.arrived(0) == (0, 0), "nobody serves, and nobody has taken over"


@pytest.mark.parametrize(
    ("layout", "boot"),
    [
        (Layout(3, (("phase6", ("a", "b", "d")), ("other", ("x",)))), BOOT),
        (Layout(2, LAYOUT.migrations), BOOT),
        (LAYOUT, 43),
    ],
    ids=["other operations", "other workers", "before a reboot"],
)
def test_a_board_of_something_else_is_refused(fresh: Board, layout: Layout, boot: int) -> None:
    with pytest.raises(BoardError):
        Board.open(fresh.path, layout, boot)


def test_no_board_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BoardError):
        Board.open(tmp_path / "none", LAYOUT, BOOT)


def test_a_version_that_counts_other_things_has_another_layout() -> None:
    counted = (*(kind.name for kind in FaultKind), *GAUGES)
    assert LAYOUT.digest() == layouts.digest_of(LAYOUT, counted)
    assert LAYOUT.digest() != layouts.digest_of(LAYOUT, (*counted, "another"))
    assert LAYOUT.digest() != layouts.digest_of(LAYOUT, counted[1:])
