"""The time, and waiting: what the control plane's loops run on, so that a test can set it by hand."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Protocol

from control.rollout.model import Now


class Clock(Protocol):
    """The time, and waiting."""

    def now(self) -> Now:
        """Both clocks."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the event, or so long."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Now:
        """Both of them."""
        return Now(time.monotonic_ns() / 1e9, time.time())

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the event, or so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


def ns(seconds: float | None) -> int:
    """A reading of the monotonic clock as the board has it: nanoseconds, and 0 for none."""
    return 0 if seconds is None else int(seconds * 1e9)
