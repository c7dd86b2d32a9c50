"""What whoever leads a migration needs of a store, whichever it is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from control.rollout.model import Entry
from control.store.entry import AuditLine


class StoreError(Exception):
    """The store could not be written or read: full, read-only, locked or broken. In words for a person."""


class Checkpoint(Struct, frozen=True):
    """What was saved of a migration last, and when (Unix time)."""

    document: str
    saved_at: float


class Storage(Protocol):
    """What of the store a migration needs. What is awaited may raise ``StoreError``."""

    async def save(self, migration: str, document: str, entries: Sequence[tuple[float, Entry]]) -> list[AuditLine]:
        """Write a checkpoint and its entries, for good."""

    async def checkpoint(self, migration: str) -> Checkpoint | None:
        """What was saved last."""

    def when_new(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` whenever a new store was begun in place of a broken one: it has no checkpoint yet."""
