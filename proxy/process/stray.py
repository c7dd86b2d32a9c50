"""What a child writes past its log: an import that fails, the interpreter's last words, a library in C.

A child's log has a descriptor of its own. Its standard error is a file in memory, which the supervisor reads and puts
into the log (``stray_output``), so that every line there is whole and has its time and its process. A file and no
pipe: the child never waits for its reader, and its last words are still there when it is dead.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

READ_BYTES: Final = 65_536  # at one look; where there is more, the newest
KEEP_BYTES: Final = 2**20  # a longer file is emptied


class Stray:
    """One child's standard error, for as long as the child is kept running."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("phasegate stderr")
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)  # the child goes on at the end after the file was emptied
        self._seen = 0

    def take(self) -> str:
        """What was written since the last call."""
        size = os.fstat(self.fd).st_size
        if size == self._seen:
            return ""
        start = max(self._seen, size - READ_BYTES)
        text = os.pread(self.fd, size - start, start)
        self._seen = size
        if size > KEEP_BYTES:
            os.ftruncate(self.fd, 0)
            self._seen = 0
        return text.decode("utf-8", "backslashreplace").strip()

    def close(self) -> None:
        """Give the file back; the child is gone."""
        os.close(self.fd)
