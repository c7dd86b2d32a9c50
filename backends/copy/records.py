"""The files of a copy, compare or repair: what must be looked at again, every difference, and how far a copy is.

Memory holds none of it, however much it is. A line is written before the next step is taken, so it survives the death
of the process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import msgspec

from backends.copy.equality import Pair
from backends.copy.tally import Tally

# An older copy begins anew: nobody knows what was written since without being handed to the other side.
GOES_ON_S: Final = 3600.0
READ_AT_ONCE: Final = 100  # documents that are looked at again in one call


class Unsettled(msgspec.Struct, array_like=True, frozen=True):
    """A document that moved while it was looked at: its path, and what was seen of it so far."""

    path: str
    equal: int = 0  # how often it was seen equal on both sides, each time moved since
    written: int = 0  # how often it was repaired


_decode: Final = msgspec.json.Decoder(Unsettled).decode
_encode: Final = msgspec.json.Encoder().encode


class Again:
    """What must be looked at again: two files, of which one is read while the other is written."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """``fresh``: forget what an earlier process put there."""
        self._path = path
        self._next = path.with_name(f"{path.name}.next")
        self._next.unlink(missing_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        self._out: BinaryIO = path.open("ab")
        # A killed process may leave a part of a line. Nobody counts on it: progress is saved after whole lines.
        self._out.truncate(sum(map(len, self._lines())))
        self.count = sum(1 for _ in self._lines())

    def put(self, unsettled: Unsettled) -> None:
        """Add one."""
        self._out.write(_encode(unsettled) + b"\n")
        self.count += 1

    def flush(self) -> None:
        """Hand what was put to the system."""
        self._out.flush()

    def round(self) -> Iterator[list[Unsettled]]:
        """Everything put so far, a few at a time. What is put meanwhile is for the next round."""
        self._out.close()
        self._out, self.count = self._next.open("wb"), 0
        few: list[Unsettled] = []
        for line in self._lines():
            few.append(_decode(line))
            if len(few) == READ_AT_ONCE:
                yield few
                few = []
        if few:
            yield few
        self._out.close()
        os.replace(self._next, self._path)
        self._out = self._path.open("ab")

    def _lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as lines:
            yield from (line for line in lines if line.endswith(b"\n"))

    def close(self) -> None:
        """Close the files and leave them: a copy goes on with them."""
        self._out.close()

    def remove(self) -> None:
        """Close and remove the files."""
        self._out.close()
        for path in (self._path, self._next):
            path.unlink(missing_ok=True)


class Differences:
    """Every difference, one a line, in a file that has its name only once it is whole."""

    def __init__(self, path: Path, *, values: bool) -> None:
        self.path = path
        self.count = 0
        self._values = values
        self._unfinished = path.with_name(f"{path.name}.new")
        self._out: BinaryIO = self._unfinished.open("wb")

    def write(self, pair: Pair, reason: str | None = None) -> None:
        """Add one; ``reason`` says why it could not be mended."""
        line: dict[str, Any] = {"path": pair.path, "kind": pair.difference, "fields": pair.fields}
        if reason is not None:
            line["reason"] = reason
        if self._values:
            line["source"] = None if pair.source is None else pair.source.fields
            line["target"] = None if pair.target is None else pair.target.fields
        self._out.write(_encode(line) + b"\n")
        self.count += 1

    def finish(self) -> None:
        """Give the file its name."""
        self._out.close()
        os.replace(self._unfinished, self.path)

    def __enter__(self) -> Differences:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Remove the file if it is not finished."""
        self._out.close()
        self._unfinished.unlink(missing_ok=True)


class CopyPlace(msgspec.Struct):
    """How far a copy is. ``done`` are patterns that were walked to their end, ``at`` the last path done of others."""

    done: list[str] = []
    at: dict[str, str] = {}
    tallies: list[Tally] = []  # counted by all processes that have worked on this copy


class Progress:
    """Where a copy is, in a file, so that it goes on there after its process was killed."""

    def __init__(self, path: Path) -> None:
        """``goes_on`` is whether a copy that was interrupted lately goes on; else it begins anew."""
        self._path = path
        self.place = CopyPlace()
        self.goes_on = False
        with suppress(OSError, msgspec.DecodeError):
            if time.time() - path.stat().st_mtime < GOES_ON_S:
                self.place = msgspec.json.decode(path.read_bytes(), type=CopyPlace)
                self.goes_on = True

    def save(self) -> None:
        """Write it, whole or not at all."""
        unfinished = self._path.with_name(f"{self._path.name}.new")
        unfinished.write_bytes(msgspec.json.encode(self.place))
        os.replace(unfinished, self._path)

    def remove(self) -> None:
        """The copy is finished."""
        self._path.unlink(missing_ok=True)
