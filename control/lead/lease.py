"""The lease under which workers use the target: renewed while the control plane's loop goes round, and only then."""

from __future__ import annotations

from control.plan.times import ns, of_ns
from proxy.board.board import Board


class Lease:
    """One migration's lease on the board. Every moment is a reading of CLOCK_MONOTONIC in seconds."""

    def __init__(self, board: Board, index: int, length_s: float) -> None:
        self._board = board
        self._index = index
        self._length_s = length_s
        self._renewed_at = 0.0
        self._ends: float | None = None  # None: none that could run out

    def take_over(self, mono: float) -> bool:
        """Go on with what the process before this one renewed last; False where that has run out."""
        left_ns = self._board.lease_until(self._index)
        self._ends = of_ns(left_ns) if left_ns > ns(mono) else None
        return self._ends is not None

    def due(self, mono: float) -> bool:
        """Whether it is time to renew: twice more before it runs out."""
        return mono - self._renewed_at >= self._length_s / 3

    def renew(self, mono: float) -> None:
        """A whole lease from here on."""
        self._renewed_at = mono
        self._ends = mono + self._length_s
        self._board.renew_lease(self._index, ns(self._ends))

    @property
    def ends(self) -> float | None:
        """When it runs out."""
        return self._ends

    def ran_out(self, mono: float) -> float | None:
        """For how many seconds it has been over, said once; None while it is not."""
        if self._ends is None or mono < self._ends:
            return None
        late, self._ends = mono - self._ends, None
        return late
