"""When this machine last wrote to a collection, shared by its processes: for read-your-writes.

Live views and cached results lag behind, and a session's next request may reach another worker. So each worker
records here the commit time of every answered write, and answers from a view or a cache only if it is as new.

A memory-mapped file of 8-byte cells. The first counts the writes: while it is unchanged, a reader has nothing to do.
Each other cell holds the newest commit time, in microseconds, of the collections that hash to it. Two collections
that share a cell only make each other look newer.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import zlib
from pathlib import Path
from typing import Final

CELLS: Final = 64
_TRIES: Final = 50  # to get the lock, without a pause


def slot(collection: str) -> int:
    """The cell of a collection, and of everything below the same top-level collection."""
    return 1 + zlib.crc32(collection.partition("/")[0].encode()) % (CELLS - 1)


class Fence:
    """The shared cells; ``open`` before use. Without a path they are private to this process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = -1
        self._map: mmap.mmap | None = None
        self.cells = memoryview(bytearray(8 * CELLS)).cast("Q")

    def open(self) -> None:
        """Map the file, creating it if it does not exist. Raises ``OSError``."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < 8 * CELLS:
            os.ftruncate(self._fd, 8 * CELLS)
        self._map = mmap.mmap(self._fd, 8 * CELLS)
        self.cells = memoryview(self._map).cast("Q")

    def note(self, collections: set[str], commit_time: int) -> None:
        """Record that a write to these collections was committed."""
        locked = self._lock()
        for at in {slot(collection) for collection in collections}:
            if self.cells[at] < commit_time:
                self.cells[at] = commit_time
        self.cells[0] += 1
        if locked:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        """Lock out other writers if that is possible at once: a hanging process must not block the others.

        Without the lock the worst case is that of two simultaneous writes the older one stays recorded.
        """
        if self._fd >= 0:
            for _ in range(_TRIES):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
        return False

    def close(self) -> None:
        """Unmap and close the file."""
        if self._map is not None:
            self.cells.release()
            self._map.close()
            self._map = None
            os.close(self._fd)
            self._fd = -1
