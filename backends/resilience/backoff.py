"""How long to wait before trying again, and how often trying again is allowed. Pure."""

from __future__ import annotations

import random
from typing import Final

TOKENS: Final = 20.0
EARNED: Final = 0.1  # by a call that succeeded at once


def backoff(attempt: int, base_s: float, cap_s: float, dice: random.Random) -> float:
    """Seconds to wait before attempt ``attempt`` + 1 (0 is the first): doubling, up to ``cap_s``, half of it chance.

    The chance keeps callers that failed together from coming back together.
    """
    return min(cap_s, base_s * 2.0 ** min(attempt, 30)) * (0.5 + dice.random() / 2)


class RetryBudget:
    """A bucket of tokens that success fills slowly: in an outage retries stop, instead of doubling the load.

    In the long run at most ``EARNED`` of the calls are repeated.
    """

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = TOKENS

    def succeeded(self) -> None:
        """A call succeeded without being repeated."""
        self._tokens = min(TOKENS, self._tokens + EARNED)

    def spend(self) -> bool:
        """Take the token for one retry; False where there is none."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
