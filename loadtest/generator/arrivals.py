"""The open loop: sends each request when it is due, whatever became of the earlier ones.

``pacing`` says when requests are due; the owner of each lane decides what to send and what to record. Several lanes
run interleaved on one timer, so that they measure at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Final

from loadtest.generator.pacing import Schedule
from loadtest.generator.timer import Timer

BURST_MOST: Final = 256  # requests sent before answers are processed again
_HEAD_START_NS: Final = 50_000_000  # from the call to the first request's due time, so that the first is not late


class Lane:
    """One schedule, and ``send``, which is called with each request's number (from 0) and due time."""

    __slots__ = ("_next", "_schedule", "_send")

    def __init__(self, schedule: Schedule, send: Callable[[int, int], None]) -> None:
        self._schedule = schedule
        self._send = send
        self._next = 0

    def fire(self, start_ns: int) -> int:
        """Send what is due; returns the due time of the next request, 0 after the last."""
        schedule, send = self._schedule, self._send
        due = schedule.arrived((monotonic_ns() - start_ns) / 1e9)
        for k in range(self._next, min(due, self._next + BURST_MOST)):
            send(k, start_ns + round(schedule.due(k) * 1e9))
            self._next = k + 1
        return 0 if self._next >= schedule.total else start_ns + round(schedule.due(self._next) * 1e9)


class OpenLoop:
    """All lanes on one timer. ``start_ns`` is CLOCK_MONOTONIC at the first request's time."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.start_ns = 0

    async def run(self) -> None:
        """Send all requests, or until it is stopped; answers may still be under way then.

        Raises what a lane's ``send`` raised: a loop that continued would send less than it reports.
        """
        loop = asyncio.get_running_loop()
        timer = Timer()
        self.start_ns = monotonic_ns() + _HEAD_START_NS

        def wake() -> None:
            timer.clear()
            if self._over.done():
                return
            try:
                following = [at for lane in self._lanes if (at := lane.fire(self.start_ns))]
            except Exception as error:
                self._over.set_exception(error)
                return
            if following:
                timer.set(min(following))
            else:
                self.stop()

        loop.add_reader(timer.fd, wake)
        try:
            timer.set(self.start_ns)
            await self._over
        finally:
            loop.remove_reader(timer.fd)
            timer.close()

    def stop(self) -> None:
        """Send nothing more."""
        if not self._over.done():
            self._over.set_result(None)
