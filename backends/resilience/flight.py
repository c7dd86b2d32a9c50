"""Single flight: concurrent callers with the same key share one call to the backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from backends.errors import Fault, FaultKind

T = TypeVar("T")


class Flights:
    """Calls under way, by key."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def share(self, key: Hashable, ask: Callable[[], Awaitable[T]], deadline: float) -> T:
        """The result or the failure of ``ask``, or of the call already under way for this key.

        A caller that is cancelled, or whose ``deadline`` (the event loop's time) passes, does not affect the others.
        """
        loop = asyncio.get_running_loop()
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = loop.create_task(_run(ask))
            task.add_done_callback(lambda done: self._land(key, done))
        waiter: asyncio.Future[None] = loop.create_future()

        def landed(_: object) -> None:
            if not waiter.done():
                waiter.set_result(None)

        task.add_done_callback(landed)
        timer = loop.call_at(deadline, landed, None)
        try:
            await waiter
        finally:
            timer.cancel()
            task.remove_done_callback(landed)
        if not task.done():
            raise Fault(FaultKind.DEADLINE, "the deadline passed while waiting for a shared call")
        result: T = task.result()
        return result

    def _land(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # retrieved, because all callers may be gone

    async def close(self) -> None:
        """End every call."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()
