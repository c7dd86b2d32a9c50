"""When each request of an open loop is due, and which of them a closed loop would have omitted. Pure.

An open loop sends request k at k/rate, whatever became of the earlier ones, because real users are independent of
each other. A closed loop's user sends the next request only when the last one is answered, so during a stall it sends
fewer requests, and records one slow sample where real users would have had many: coordinated omission (Gil Tene).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_ROUNDING: Final = 1e-9  # of a request: a product just below a whole number, by rounding, counts as that number


@dataclass(frozen=True, slots=True)
class Schedule:
    """A constant arrival rate: ``rate`` a second for ``duration_s``, which may be ``math.inf``.

    Times are seconds since the run's start.
    """

    rate: float
    duration_s: float
    offset_s: float = 0.0

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.duration_s > 0):
            raise ValueError("expected a rate and a duration above 0")

    @property
    def total(self) -> float:
        """How many requests the whole run has; ``math.inf`` if it is endless."""
        if math.isinf(self.duration_s):
            return math.inf
        return max(1, math.floor(self.rate * self.duration_s + _ROUNDING))

    def due(self, k: int) -> float:
        """When request ``k`` (from 0) is due."""
        return self.offset_s + k / self.rate

    def arrived(self, elapsed_s: float) -> int:
        """How many requests are due by then, at most ``total``."""
        since = elapsed_s - self.offset_s
        return 0 if since < 0 else int(min(self.total, math.floor(since * self.rate + _ROUNDING) + 1))


class ClosedLoop:
    """Which requests a closed loop of ``users``, each with its share of the same rate, would have sent.

    Request k belongs to user k mod ``users``, who would not have sent it while waiting for an answer.
    """

    __slots__ = ("_waiting", "omitted", "users")

    def __init__(self, users: int) -> None:
        if users < 1:
            raise ValueError("expected at least one user")
        self.users = users
        self.omitted = 0
        self._waiting = bytearray(users)

    def sends(self, k: int) -> bool:
        """Whether its user would have sent request ``k``; if so the user waits until ``answered(k)``."""
        user = k % self.users
        if self._waiting[user]:
            self.omitted += 1
            return False
        self._waiting[user] = 1
        return True

    def answered(self, k: int) -> None:
        """Request ``k``, for which ``sends`` was True, is answered or given up."""
        self._waiting[k % self.users] = 0
