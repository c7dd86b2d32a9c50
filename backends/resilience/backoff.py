"""How long to wait before a retry, and how many retries are allowed. Pure."""

from __future__ import annotations

import random
from typing import Final

TOKENS: Final = 20.0  # a full bucket
EARNED: Final = 0.1  # tokens, by each call that succeeds without a retry
DOUBLINGS: Final = 30  # more would only overflow; the cap applies long before


def backoff(attempt: int, base_s: float, cap_s: float, dice: random.Random) -> float:
    """Seconds to wait before attempt ``attempt`` + 1 (0 is the first): doubling, up to ``cap_s``, half of it random.

    The random part keeps callers that failed together from retrying together.
    """
    return min(cap_s, base_s * 2.0 ** min(attempt, DOUBLINGS)) * (0.5 + dice.random() / 2)


class RetryBudget:
    """A bucket of tokens that successes fill slowly: in an outage retries stop instead of doubling the load.

    In the long run at most the share ``EARNED`` of the calls is retried.
    """

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = TOKENS

    def succeeded(self) -> None:
        """A call succeeded without a retry."""
        self._tokens = min(TOKENS, self._tokens + EARNED)

    def spend(self) -> bool:
        """Take the token for one retry; False if there is none."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
