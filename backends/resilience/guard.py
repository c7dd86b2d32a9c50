"""Guards the calls to one backend: a breaker before, a deadline around, one retry after."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from backends.documents.port import Rejected
from backends.errors import Fault, FaultKind
from backends.resilience.backoff import RetryBudget, backoff
from backends.resilience.breaker import Breaker

T = TypeVar("T")

RETRIES: Final = 1
BASE_S: Final = 0.02  # backoff before the retry
CAP_S: Final = 0.25
WORTHWHILE_S: Final = 0.02  # no retry with less time than this left

# Faults that are no sign of the backend's health: two writers met.
_HARMLESS: Final = frozenset({FaultKind.ABORTED})


class Guard:
    """Runs calls to one backend. ``attempts``, ``retries`` and the breaker's state are its gauges."""

    def __init__(self, seed: int | None = None) -> None:
        self.attempts = 0
        self.retries = 0
        self.breaker = Breaker()
        self._budget = RetryBudget()
        self._dice = random.Random(seed)  # noqa: S311 - no secret

    async def run(self, call: Callable[[float], Awaitable[T]], deadline: float) -> T:
        """Make the call, which gets its timeout in seconds; retry it once if that may help.

        ``deadline`` is in the event loop's time. Only for calls that may be applied twice. Raises ``Fault``.
        """
        loop = asyncio.get_running_loop()
        sent = False  # an earlier attempt may have been applied: the last one's outcome does not speak for it
        for attempt in range(RETRIES + 1):
            now = loop.time()
            left = deadline - now
            if left <= 0:
                message = "the deadline passed before the call was made"
                raise Fault(FaultKind.DEADLINE, message, may_have_applied=sent)
            if not self.breaker.allow(now):
                message = "the breaker is open: the backend failed too often just now"
                raise Fault(FaultKind.BREAKER, message, may_have_applied=sent)
            self.attempts += 1
            try:
                result = await call(left)
            except Fault as fault:
                now = loop.time()
                sent = fault.may_have_applied = sent or fault.may_have_applied
                # A missing index fails one query. The breaker would keep back all the others with it.
                about_all = fault.trouble is None or fault.trouble.whole
                self.breaker.record(about_all and fault.kind not in _HARMLESS, now)
                wait = backoff(attempt, BASE_S, CAP_S, self._dice)
                last = attempt == RETRIES or not fault.may_retry or deadline - now < wait + WORTHWHILE_S
                if last or not self._budget.spend():
                    raise
                self.retries += 1
                await asyncio.sleep(wait)
            except Rejected as refusal:  # the backend works
                refusal.may_have_applied = sent
                self.breaker.record(False, loop.time())
                raise
            except Exception:
                self.breaker.record(False, loop.time())
                raise
            else:
                self.breaker.record(False, loop.time())
                if attempt == 0:
                    self._budget.succeeded()
                return result
        raise AssertionError("unreachable")
