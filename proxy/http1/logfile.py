"""An append-only file of lines that log rotation may rename while it is being written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

_log = structlog.get_logger("phasegate.access")
_BUFFER_MAX: Final = 64 * 1024


def unwritable(path: str) -> str | None:
    """Why lines could not be appended to the file, which need not exist; None where they could."""
    file, folder = Path(path), Path(path).parent
    if not folder.is_dir():
        return f"{path}: there is no folder {folder}; expected one: make it, or name another file"
    if file.is_dir():
        return f"{path}: it is a folder; expected a file"
    if not os.access(file if file.exists() else folder, os.W_OK):
        return f"{path}: this user may not write there; expected a file that the user of `phasegate serve` may write"
    return None


class LogFile:
    """Collects lines and appends them together: after ``_BUFFER_MAX`` bytes, or every second."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._lines: list[bytes] = []
        self._held = 0
        self._lost = 0

    def add(self, line: bytes) -> None:
        """Add a line, which includes its line end."""
        self._lines.append(line)
        self._held += len(line)
        if self._held > _BUFFER_MAX:
            self.flush()

    def flush(self) -> None:
        """Append the collected lines; called every second. If the file was renamed, a new one is created."""
        if not self._lines:
            return
        data = b"".join(self._lines)
        lines = len(self._lines)
        self._lines.clear()
        self._held = 0
        try:
            self._reopen()
            while data:  # a nearly full disk may accept only a part
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            if not self._lost:
                _log.error("access_log_lost", path=self._path, reason=error.strerror)
            self._lost += lines
        else:
            if self._lost:
                _log.warning("access_log_back", path=self._path, lost_lines=self._lost)
                self._lost = 0

    def close(self) -> None:
        """Write the remaining lines and close the file."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _reopen(self) -> None:
        """Open the file, unless the open one still has that name."""
        if self._fd >= 0:
            try:
                named, opened = os.stat(self._path), os.fstat(self._fd)
                if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino):
                    return
            except FileNotFoundError:
                pass
            os.close(self._fd)
            self._fd = -1
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
