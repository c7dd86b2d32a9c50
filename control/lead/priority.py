"""The control process's place in the queue for a processor: before the load, as long as it works little."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import Final

NICENESS: Final = -20  # where the system grants it: no rollback waits behind the load
LIGHT: Final = 0.25  # of one processor; more is no work for a place before the load
PENANCE_S: Final = 30.0  # so long it then queues with everyone
EVERY_S: Final = 1.0


class Priority:
    """Which niceness the process deserves by the processor time that it uses; ``ours`` is what it began with."""

    def __init__(self, ours: int) -> None:
        self._ours = ours
        self._until = 0.0

    def deserved(self, used_s: float, span_s: float, now: float) -> int:
        """The niceness from ``now`` (monotonic seconds) on, where it used ``used_s`` of the last ``span_s``."""
        if used_s > LIGHT * span_s:
            self._until = now + PENANCE_S
        return self._ours if now < self._until else NICENESS


async def keep() -> None:
    """Take the deserved niceness every second, until cancelled. What the system does not grant is left."""
    taken = os.getpriority(os.PRIO_PROCESS, 0)
    priority = Priority(taken)
    while True:
        used, began = time.process_time(), time.monotonic()
        await asyncio.sleep(EVERY_S)
        now = time.monotonic()
        deserved = priority.deserved(time.process_time() - used, now - began, now)
        if deserved != taken:
            _take(deserved)
            taken = deserved


def _take(niceness: int) -> None:
    # All threads alike: one that waits for a processor with the interpreter's lock in hand keeps the others waiting.
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
