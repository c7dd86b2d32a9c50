"""Reads the differences that a task has listed in the run directory, a page at a time.

A page is bounded in entries and in bytes, however long the file is. A cursor says which file it is of: the next
compare writes a new one, and an offset into the old one means nothing there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec
import structlog

from control.data.documents import Difference, DifferencesPage

_log = structlog.get_logger("phasegate.data")

PAGE_BYTES: Final = 4 * 1024 * 1024  # after which a page ends; its last entry may be longer
LINE_MAX: Final = 8 * 1024 * 1024  # of one entry: two documents of 1 MiB, which JSON may write longer

_decoder: Final = msgspec.json.Decoder(Difference)


class StaleCursorError(Exception):
    """The cursor is of a list that another compare has replaced."""


def path_of(run_dir: Path, migration: str) -> Path:
    """Where a migration's differences are listed."""
    return run_dir / f"{migration}.differences.jsonl"


def page(path: Path, limit: int, cursor: str | None) -> DifferencesPage:
    """At most ``limit`` differences. Raises ``StaleCursorError``, and ``OSError`` where the file cannot be read."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        if cursor is not None:
            raise StaleCursorError from None
        return DifferencesPage((), None)
    with file:
        facts = os.fstat(file.fileno())
        name = f"{facts.st_ino}-{facts.st_mtime_ns}"  # a task writes a new file and renames it: it never changes
        of, _, offset = (cursor or f"{name}-0").rpartition("-")
        if of != name:
            raise StaleCursorError
        start = file.seek(int(offset))
        items: list[Difference] = []
        while len(items) < limit and file.tell() - start < PAGE_BYTES:
            line = file.readline(LINE_MAX)
            if not line:
                break
            try:
                items.append(_decoder.decode(line))
            except msgspec.DecodeError as error:
                _log.error("difference_not_understood", path=str(path), reason=str(error))
        end = file.tell()
        return DifferencesPage(tuple(items), f"{name}-{end}" if end < facts.st_size else None)
