"""What the board says of a migration's changes, as the keeper of its data reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.arm import SOURCE, TARGET
from backends.errors import FaultKind
from control.data.gauges import ChangeCounts
from control.plan.times import Now
from proxy.board import histogram
from proxy.board import layout as layouts
from proxy.board.board import Board
from proxy.settings import Mode
from tests.shell.conftest import NAMES

NOW = Now(100.0, 1_700_000_000.0)
WRITES = NAMES[:2]


def took(board: Board, operation: int, arm: int, requests: int, failed: int = 0, refused: int = 0) -> None:
    series = board.layout.series(0, 0, operation, arm)
    board.cells[series + layouts.C_BUCKETS + histogram.index(500)] += requests
    board.cells[series + layouts.C_FAULTS + FaultKind.UNAVAILABLE] += failed
    board.cells[series + layouts.C_CLIENT_ERRORS] += refused


@pytest.mark.parametrize(("mode", "alone"), [(Mode.SOURCE, 10), (Mode.HYBRID, 0), (Mode.TARGET, 0)])
def test_writes_of_the_source_are_alone_only_where_no_mirror_runs(
    make_board: Callable[..., Board], mode: Mode, alone: int
) -> None:
    board = make_board()
    took(board, 0, SOURCE, 8, failed=1, refused=2)
    took(board, 1, SOURCE, 5)
    took(board, 0, TARGET, 50)
    took(board, 2, SOURCE, 50)
    assert ChangeCounts(board, 0, WRITES, mode)(NOW).alone == alone


def test_what_waits_and_what_was_lost_is_the_sum_of_all_workers(make_board: Callable[..., Board]) -> None:
    board = make_board()
    for slot, pending, lost, since in ((0, 3, 1, 98.5), (1, 4, 2, 99.0)):
        share = board.layout.share(slot, 0)
        board.cells[board.layout.worker(slot) + layouts.W_PID] = 1
        board.cells[share + layouts.S_PENDING] = pending
        board.cells[share + layouts.S_LOST] = lost
        board.cells[share + layouts.S_BEHIND_SINCE] = int(since * 1e9)
    gauges = ChangeCounts(board, 0, WRITES, Mode.HYBRID)(NOW)
    assert (gauges.pending, gauges.lost, gauges.oldest_s) == (7, 3, pytest.approx(1.5))


def test_each_board_is_another(make_board: Callable[..., Board]) -> None:
    one, other = make_board(name="one"), make_board(name="other")
    ids = [ChangeCounts(board, 0, WRITES, Mode.HYBRID)(NOW).board for board in (one, one, other)]
    assert ids[0] == ids[1] != ids[2]
