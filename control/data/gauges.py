"""The board's counts of a migration's changes: how many wait for the other side, and how many it will never have."""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic_ns

from backends.arm import SOURCE
from backends.copy.calm import ArrivalLook
from control.data.state import DataGauges
from control.figures.counts import lag
from control.plan.times import Now
from proxy.board.board import Board
from proxy.settings import Mode


class ChangeCounts:
    """Reads the gauges of one migration. ``writes`` are the names of its operations that write."""

    def __init__(self, board: Board, index: int, writes: Collection[str], mode: Mode) -> None:
        self._board = board
        self._index = index
        # Without a mirror every write of the source's is one that the target will never have.
        self._alone = (
            [i for i, name in enumerate(board.layout.migrations[index][1]) if name in writes]
            if mode is Mode.SOURCE
            else []
        )
        self._id = f"{board.made():x}"

    def __call__(self, now: Now) -> DataGauges:
        behind = lag(self._board, self._index, now.mono)
        return DataGauges(self._id, behind.pending, behind.behind_s, behind.lost, self._writes_alone())

    def _writes_alone(self) -> int:
        """Writes that the source has applied, since the board was made."""
        if not self._alone:
            return 0
        done = self._board.series(self._index, SOURCE, self._alone)
        return max(0, done.requests - sum(done.faults) - done.client_errors)


def arrival(board: Board, index: int) -> ArrivalLook:
    """What the workers say has reached both sides."""
    before, looked = board.arrived(index)
    return ArrivalLook(before / 1e9, looked / 1e9, monotonic_ns() / 1e9)
