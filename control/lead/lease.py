"""The lease under which workers use the target: renewed while the control plane's loop goes round, and only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from control.plan.times import ns, of_ns
from control.rollout.model import On, Rollout, RolloutEvent
from proxy.board.board import Board

RENEWALS: Final = 3  # in the length of a lease: two may come late before it runs out


def leased(s: Rollout) -> bool:
    """Whether the weight that is published holds only under a lease."""
    return s.weight_bp > 0 and not s.pinned


class Lease:
    """One migration's lease on the board. Every moment is a reading of CLOCK_MONOTONIC in seconds."""

    def __init__(self, board: Board, index: int, length_s: float) -> None:
        self._board = board
        self._index = index
        self._length_s = length_s
        self._renewed_at = 0.0
        self._ends: float | None = None  # None: none that could run out

    def take_over(self, mono: float) -> bool:
        """Go on with what the process before this one renewed last; False where that has run out.

        After an orderly end, what counts is whether it had run out by then: nobody was there to use it since.
        """
        left_ns = self._board.lease_until(self._index)
        self._ends = of_ns(left_ns) if left_ns > ns(mono) else None
        return left_ns > (self._board.ended_at() or ns(mono))

    def due(self, mono: float) -> bool:
        """Whether it is time to renew."""
        return mono - self._renewed_at >= self._length_s / RENEWALS

    def renew(self, mono: float) -> None:
        """A whole lease from here on."""
        self._renewed_at = mono
        self._ends = mono + self._length_s
        self._board.renew_lease(self._index, ns(self._ends))

    def renew_or_lose(self, mono: float, clock: Callable[[], float]) -> RolloutEvent | None:
        """Renew; where this process was stopped until the lease before was over, the event that says so.

        Workers that looked in between have gone back to the source, so the lease was lost though it is renewed.
        """
        before = self._ends
        self.renew(mono)
        after = clock()
        if before is None or after < before:
            return None
        return RolloutEvent(On.LEASE_LOST, reason="the lease ran out while it was renewed", detected=after)

    def lost(self, s: Rollout, mono: float) -> RolloutEvent | None:
        """Where the lease has run out, and weight is held under it: the event that says so, once."""
        if not leased(s) or self._ends is None or mono < self._ends:
            return None
        late, self._ends = mono - self._ends, None
        reason = f"the lease ran out {late:.1f} s ago: control was not running"
        return RolloutEvent(On.LEASE_LOST, reason=reason, detected=mono)
