"""The circuit breaker: stops calls to a backend that fails most of the time, and probes when it works again. Pure.

    closed     calls pass; opens when at least MIN_CALLS were made within WINDOW_S and RATIO of them failed
    open       no call passes, for OPEN_S
    half-open  one call at a time passes as a probe; PROBES successes in a row close it, a failure opens it again

All times are arguments, in seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final

WINDOW_S: Final = 5.0
SLICE_S: Final = 0.5  # the window moves in steps of this
MIN_CALLS: Final = 20
RATIO: Final = 0.5
OPEN_S: Final = 1.0
PROBES: Final = 3
PROBE_S: Final = 2.0  # after this time a probe without a result no longer blocks the next one


class BreakerState(IntEnum):
    """The breaker's state, as the gauge shows it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Call ``allow`` before a call and ``record`` after it."""

    __slots__ = ("_probe_at", "_proven", "_slices", "_until", "state")

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._slices: deque[list[float]] = deque()  # [start, calls, failures]
        self._until = 0.0
        self._proven = 0
        self._probe_at: float | None = None

    def allow(self, now: float) -> bool:
        """Whether a call may be made now. In half-open, True means a probe, whose result must be recorded."""
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN:
            if now < self._until:
                return False
            self.state, self._proven, self._probe_at = BreakerState.HALF_OPEN, 0, None
        if self._probe_at is not None and now - self._probe_at < PROBE_S:
            return False
        self._probe_at = now
        return True

    def record(self, failed: bool, now: float) -> None:
        """A call that was allowed ended."""
        if self.state is BreakerState.CLOSED:
            self._count(failed, now)
        elif self.state is BreakerState.HALF_OPEN:
            self._probe_at = None
            if failed:
                self._open(now)
            else:
                self._proven += 1
                if self._proven >= PROBES:
                    self.state = BreakerState.CLOSED
        # A call that ends while the breaker is open began before it opened, so it proves nothing new.

    def _count(self, failed: bool, now: float) -> None:
        slices = self._slices
        if not slices or now - slices[-1][0] >= SLICE_S:
            slices.append([now, 0, 0])
        slices[-1][1] += 1
        slices[-1][2] += failed
        while slices[0][0] < now - WINDOW_S:
            slices.popleft()
        if failed:
            calls, failures = (sum(each[column] for each in slices) for column in (1, 2))
            if calls >= MIN_CALLS and failures >= RATIO * calls:
                self._open(now)

    def _open(self, now: float) -> None:
        self.state, self._until = BreakerState.OPEN, now + OPEN_S
        self._slices.clear()
