"""The interface of a store of checkpoints and audit entries, as a coordinator uses it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from control.rollout.model import Entry
from control.store.entry import AuditLine


class StoreError(Exception):
    """The store could not be written or read: full, read-only, locked or broken. The message is for a person."""


class Checkpoint(Struct, frozen=True):
    """The newest saved state of a migration, and when it was saved (Unix time)."""

    document: str
    saved_at: float


class Storage(Protocol):
    """A store. Every awaited call may raise ``StoreError``."""

    async def save(self, migration: str, document: str, entries: Sequence[tuple[float, Entry]]) -> list[AuditLine]:
        """Write a checkpoint and its audit entries durably, in one transaction."""

    async def checkpoint(self, migration: str) -> Checkpoint | None:
        """The newest checkpoint; None before the first."""

    def when_new(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called whenever a new store replaces a broken one: the new store has no checkpoint yet."""
