"""When what was written to a file is synced to the disk: before each answer, every second, or when the kernel likes.

What a process has written survives it in any case, because the kernel has it. Syncing is about a power cut and a
crash of the machine. It may take many milliseconds, so it happens in a thread and never on the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Final, Protocol

import structlog

INTERVAL_S: Final = 1.0  # between two syncs: what a power cut may cost

_log = structlog.get_logger("phasegate.disk")


class Sync(StrEnum):
    """``[proxy] sync``."""

    ALWAYS = "always"
    EVERY_SECOND = "1s"
    OFF = "off"


class Written(Protocol):
    """Files that were written to."""

    def descriptors(self) -> Iterable[int]:
        """Duplicates of the descriptors to sync, in this order; the caller closes them."""


class Disk:
    """The files of one process that are yet to be synced, for one event loop."""

    def __init__(self, sync: Sync, interval_s: float = INTERVAL_S) -> None:
        self.sync = sync
        self._interval_s = interval_s
        self._dirty: dict[Written, None] = {}
        self._after: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._round: asyncio.Task[None] | None = None  # the sync that is under way
        self._next: asyncio.Task[None] | None = None  # and the one that begins when it ends
        self._thread: ThreadPoolExecutor | None = None
        self._failing = False

    def wrote(self, files: Written) -> None:
        """These files were written to. Cheap."""
        if files in self._dirty or self.sync is Sync.OFF:
            return
        self._dirty[files] = None
        if self.sync is Sync.EVERY_SECOND and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._interval_s, self._due)

    def closing(self, files: Written) -> None:
        """These files are about to be closed: sync them nevertheless."""
        if files in self._dirty:
            del self._dirty[files]
            self._dirty[_Closed(files.descriptors())] = None

    def _due(self) -> None:
        self._timer = None
        self._begin()

    async def synced(self) -> None:
        """With ``always``: wait until all that was written before is on the disk. Else return at once.

        Raises ``OSError`` if it cannot be synced.
        """
        if self.sync is Sync.ALWAYS:
            await self.flush()

    async def flush(self) -> None:
        """Sync now what was written until now. Raises ``OSError``."""
        # Callers that come while a sync is under way share the next one: that one began before they wrote.
        if self._round is not None and self._dirty:
            if self._next is None:
                self._next = asyncio.get_running_loop().create_task(self._follow(self._round))
            await asyncio.shield(self._next)
        elif self._dirty:
            await asyncio.shield(self._begin())
        elif self._round is not None:
            await asyncio.shield(self._round)

    async def _follow(self, before: asyncio.Task[None]) -> None:
        await asyncio.wait((before,))
        self._next = None
        await self._begin()

    def _begin(self) -> asyncio.Task[None]:
        files, self._dirty = self._dirty, {}  # now: whoever writes after this waits for the next sync
        after, self._after = self._after, []
        task = asyncio.get_running_loop().create_task(self._run(files, after))
        self._round = task
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._round is task:
            self._round = None
        if not task.cancelled():
            task.exception()  # retrieved: it is logged, and whoever waits has it too

    async def _run(self, files: dict[Written, None], after: list[Callable[[], None]]) -> None:
        descriptors = [descriptor for each in files for descriptor in each.descriptors()]
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sync")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, _sync, descriptors)
        except OSError as error:
            self._dirty = {**files, **self._dirty}
            self._after = [*after, *self._after]
            if not self._failing:
                _log.error("disk_not_synced", reason=str(error))
            self._failing = True
            if self.sync is Sync.EVERY_SECOND and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._due)
            raise
        self._failing = False
        for done in after:
            done()

    def afterwards(self, done: Callable[[], None]) -> None:
        """Call ``done`` once what was written until now is on the disk; at once if nothing is synced."""
        if self.sync is Sync.OFF:
            done()
        else:
            self._after.append(done)

    async def close(self) -> None:
        """Sync what is left, as far as that is possible, and end the thread."""
        self._cancel_timer()
        if self.sync is not Sync.OFF and (self._dirty or self._round is not None):
            try:
                await self.flush()
            except OSError as error:
                _log.error("disk_not_synced", reason=str(error))
        self._cancel_timer()
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Closed:
    """Files whose owner has closed them."""

    def __init__(self, descriptors: Iterable[int]) -> None:
        self._descriptors = tuple(descriptors)

    def descriptors(self) -> Iterable[int]:
        """As ``Written.descriptors``."""
        return tuple(map(os.dup, self._descriptors))

    def __del__(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)


def _sync(descriptors: list[int]) -> None:
    """Sync and close all of them. Raises the first ``OSError``."""
    problem: OSError | None = None
    for descriptor in descriptors:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            problem = problem or error
        finally:
            os.close(descriptor)
    if problem is not None:
        raise problem


_disk = Disk(Sync.OFF)


def disk() -> Disk:
    """This process's. Until ``use`` it syncs nothing."""
    return _disk


def use(sync: Sync) -> Disk:
    """Set how this process syncs, before it opens files."""
    global _disk
    _disk = Disk(sync)
    return _disk
