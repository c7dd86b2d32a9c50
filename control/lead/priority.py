"""The control process's scheduling priority: above the load, as long as it uses little processor time."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import Final

NICENESS: Final = -20  # where the system allows it: a rollback then never waits for a processor behind the load
LIGHT: Final = 0.25  # of one processor; whoever uses more would take the processor from the load
ORDINARY_FOR_S: Final = 30.0  # how long it then has the priority it was started with
EVERY_S: Final = 1.0  # between two looks at its own use


class Priority:
    """Which niceness the process deserves by the processor time that it uses; ``ours`` is what it began with."""

    def __init__(self, ours: int) -> None:
        self._ours = ours
        self._until = 0.0

    def deserved(self, used_s: float, span_s: float, now: float) -> int:
        """The niceness from ``now`` (monotonic seconds) on, where it used ``used_s`` of the last ``span_s``."""
        if used_s > LIGHT * span_s:
            self._until = now + ORDINARY_FOR_S
        return self._ours if now < self._until else NICENESS


async def keep() -> None:
    """Set the deserved niceness every second, until cancelled; where the system does not allow it, leave it."""
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
    # All threads alike: one that waits for a processor while it holds the interpreter's lock delays the others.
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
