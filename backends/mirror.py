"""Tells one side of a migration what was changed on the other.

So neither raising a weight nor rolling back hides a session's own write.

A store in this machine's memory is told before the write is answered. A remote one is told from a bounded queue,
tried again until it takes the change. Changes may be applied in any order and twice (see ``changes``), so several are
on their way at once and nothing has to be remembered of those that may have arrived.

What is lost is counted: changes the store will never take, those beyond the queue's bound, and what a process still
had queued when it died.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from itertools import islice
from time import monotonic_ns
from typing import Final

from backends.changes import Change
from backends.documents import Context, DocumentStore, Rejected
from backends.errors import Fault
from backends.resilience.backoff import backoff

QUEUE: Final = 10_000
SENDERS: Final = 4
CALL_S: Final = 5.0
BASE_S: Final = 0.1
CAP_S: Final = 2.0
DRAIN_S: Final = 5.0

_log = logging.getLogger("phasegate.backends")


class Mirror:
    """Changes on their way to ``store``. ``start`` before use."""

    def __init__(self, store: DocumentStore, *, at_once: bool) -> None:
        self.mirrored = 0
        self.lost = 0
        self._store = store
        self._at_once = at_once
        self._queue: deque[tuple[int, Change]] = deque()  # by when they were made; but those that failed come first
        self._sending: list[int] = []  # when those were made that are on their way
        self._failures = 0  # in a row
        self._senders: list[asyncio.Task[None]] = []
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._dice = random.Random()  # noqa: S311 - no secret

    @property
    def pending(self) -> int:
        """Changes the store has not taken yet."""
        return len(self._queue) + len(self._sending)

    def behind_since(self) -> int:
        """When the oldest pending change was made, CLOCK_MONOTONIC ns; 0 where none is pending."""
        # Only those that a sender put back can be out of order, and there are no more of them than senders.
        oldest = [made for made, _ in islice(self._queue, SENDERS)]
        return min([*oldest, *self._sending], default=0)

    async def tell(self, change: Change) -> None:
        """Apply the change now, or queue it. Never raises ``Fault``."""
        if self._at_once and not self._queue:
            try:
                await change.apply(self._store, _context())
                self.mirrored += 1
                return
            except Fault:
                pass  # later, then
            except Rejected as refusal:
                self._drop(str(refusal))
                return
            except Exception:
                _log.exception("a change could not be applied")
                self._drop("an error of ours")
                return
        if len(self._queue) >= QUEUE:
            self._queue.popleft()
            self._drop(f"more than {QUEUE} changes are waiting")
        self._queue.append((monotonic_ns(), change))
        self._idle.clear()
        self._more.set()

    def _drop(self, why: str) -> None:
        self.lost += 1
        _log.error("a change was not mirrored", extra={"to": self._store.kind, "why": why})

    def start(self) -> None:
        """Begin to send."""
        loop = asyncio.get_running_loop()
        self._idle.set()
        self._senders = [loop.create_task(self._send()) for _ in range(SENDERS)]

    async def _send(self) -> None:
        while True:
            while not self._queue:
                self._more.clear()
                if not self._sending:
                    self._idle.set()
                await self._more.wait()
            made, change = self._queue.popleft()
            self._sending.append(made)
            try:
                await change.apply(self._store, _context())
            except Fault:
                self._failures += 1
                self._queue.appendleft((made, change))
            except Rejected as refusal:
                self._drop(str(refusal))
            except asyncio.CancelledError:
                self._queue.appendleft((made, change))
                raise
            except Exception:
                _log.exception("a change could not be applied")
                self._drop("an error of ours")
            else:
                self._failures = 0
                self.mirrored += 1
            finally:
                self._sending.remove(made)
            if self._failures:
                await asyncio.sleep(backoff(self._failures // SENDERS, BASE_S, CAP_S, self._dice))

    async def close(self) -> None:
        """Give what is queued a last chance, then count it as lost."""
        if self._senders:
            timer = asyncio.get_running_loop().call_later(DRAIN_S, self._idle.set)
            await self._idle.wait()
            timer.cancel()
            for sender in self._senders:
                sender.cancel()
            await asyncio.gather(*self._senders, return_exceptions=True)
            self._senders = []
        self.lost += len(self._queue)
        self._queue.clear()


def _context() -> Context:
    return Context(asyncio.get_running_loop().time() + CALL_S)
