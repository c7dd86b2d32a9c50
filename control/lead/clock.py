"""The clock and sleep of the control plane's loops, injected so that a test can set the time by hand."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Protocol

from control.plan.times import Now, of_ns


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
        return Now(of_ns(time.monotonic_ns()), time.time())

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the event, or so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
