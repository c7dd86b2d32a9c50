"""What is to be written and has not been: audit entries in their order, and whether the checkpoint is out of date.

A store that is slow or broken keeps nobody waiting but who asked for an increase; entries are kept until it is well.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from control.states import Entry, Now
from control.status import rfc3339
from control.store import Checkpoint, Line, StoreError

T = TypeVar("T")
ENTRIES_MAX: Final = 10_000


class Storage(Protocol):
    """What of the store a coordinator needs. Both calls may raise ``StoreError``."""

    async def save(self, migration: str, document: str, entries: Sequence[tuple[float, Entry]]) -> list[Line]:
        """Write a checkpoint and its entries, for good."""

    async def checkpoint(self, migration: str) -> Checkpoint | None:
        """What was saved last."""


class Outbox:
    """One migration's way to the store."""

    def __init__(self, store: Storage, migration: str) -> None:
        self._store = store
        self._migration = migration
        self._entries: deque[tuple[float, Entry]] = deque()
        self._lost = 0  # entries that found the outbox full
        self._saved_at: float | None = None
        self._saved_revision: int | None = None
        self.dirty = asyncio.Event()
        self.error: str | None = None

    @property
    def entries(self) -> list[tuple[float, Entry]]:
        """What the store has not taken yet, each with its Unix time."""
        return list(self._entries)

    def put(self, unix: float, entry: Entry) -> None:
        """Keep an entry until it is written."""
        if len(self._entries) < ENTRIES_MAX:
            self._entries.append((unix, entry))
        else:
            self._lost += 1

    async def read(self, shape: type[T]) -> T | None:
        """The checkpoint's document; None where there is none that can be read, and then ``error`` says why."""
        try:
            found = await self._store.checkpoint(self._migration)
            document = None if found is None else msgspec.json.decode(found.document, type=shape)
        except StoreError as error:
            self.error = str(error)
            return None
        except msgspec.DecodeError as error:
            self.error = f"the checkpoint cannot be read: {error}"
            return None
        self._saved_at = None if found is None else found.saved_at
        return document

    async def save(self, document: msgspec.Struct, revision: int, now: Now) -> list[Line]:
        """Write the checkpoint with every entry that waits. Raises ``StoreError``."""
        entries = self.entries
        try:
            lines = await self._store.save(self._migration, msgspec.json.encode(document).decode(), entries)
        except StoreError as error:
            self.error = str(error)
            raise
        for _ in entries:
            self._entries.popleft()
        self.error, self._saved_at, self._saved_revision = None, now.unix, revision
        return lines

    def document(self, resume_phase: str | None) -> dict[str, Any]:
        """The status's ``checkpoint``."""
        return {
            "revision": self._saved_revision,
            "saved_at": rfc3339(self._saved_at),
            "ok": self.error is None,
            "error": self.error,
            "unsaved_entries": len(self._entries),
            "lost_entries": self._lost,
            "resume_phase": resume_phase,
        }
