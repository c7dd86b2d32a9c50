"""The file that ``--report`` names: every difference, one a line; whole, or as it was before."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from control.terminal.exits import USAGE, Stop


class Listing:
    """A file that is written beside its place and put there at the end.

    It is opened before the task begins: a compare may take hours, and that its list can be written nowhere is to be
    said before that. A place that is no plain file, such as ``/dev/stdout``, is written to as it is.
    """

    def __init__(self, name: str) -> None:
        """Raises ``Stop`` where it cannot be written."""
        self._name = name
        self._place = Path(name)
        self._new: Path | None = None
        try:
            if self._place.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            self._file: IO[bytes] = self._opened()
        except OSError as error:
            raise Stop(
                USAGE, f"{name} cannot be written: {error.strerror}; name another file with --report"
            ) from None

    def _opened(self) -> IO[bytes]:
        if self._place.exists() and not self._place.is_file():
            return self._place.open("wb")
        self._place = self._place.resolve()  # a link stays one
        if self._place.exists():
            self._place.open("ab").close()  # may it be written at all?
        # Values are the app's own: only its owner may read it.
        fd, new = tempfile.mkstemp(prefix=f".{self._place.name}.", dir=self._place.parent)
        self._new = Path(new)
        return os.fdopen(fd, "wb")

    def write(self, lines: bytes) -> None:
        """Add lines, each with its end. Raises ``Stop``."""
        try:
            self._file.write(lines)
        except OSError as error:
            raise self._lost(error) from None

    def finish(self) -> None:
        """Put it in its place. Raises ``Stop``."""
        try:
            self._file.close()
            if self._new is not None:
                self._new.replace(self._place)
                self._new = None
        except OSError as error:
            raise self._lost(error) from None

    def _lost(self, error: OSError) -> Stop:
        message = f"{self._name} could not be written: {error.strerror}"
        return Stop(USAGE, f"{message}. The compare is done, and has no list: make room and repeat it")

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave nothing behind that was not finished."""
        if self._new is not None:
            with suppress(OSError):  # of a full disk, which was told already
                self._file.close()
            self._new.unlink(missing_ok=True)
