"""The audit trail's hash chain: computes an entry's hash, and checks whether a chain is whole. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from control.rollout.model import Entry
from control.store.entry import AuditLine


class Trail(NamedTuple):
    """The result of checking a chain: the number of entries, the last entry's hash, and the problems in words."""

    entries: int
    hash: str
    problems: tuple[str, ...]


def genesis(migration: str) -> str:
    """The hash that the first entry of a chain has as its previous hash."""
    return hashlib.sha256(b"phasegate audit " + migration.encode()).hexdigest()


def digest(previous: str, migration: str, seq: int, at: float, entry: Entry) -> str:
    """The hash of an entry: over the previous entry's hash and the entry's whole content."""
    content = [previous, migration, seq, at, entry.kind, entry.actor, entry.detail]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Chain:
    """Checks one migration's chain, entry by entry."""

    def __init__(self, migration: str) -> None:
        self._migration = migration
        self._entries = 0
        self._last = 0
        self._hash = genesis(migration)
        self._problems: list[str] = []

    def add(self, line: AuditLine) -> None:
        """Check the next entry."""
        if line.seq <= self._last:
            self._problems.append(f"entry {line.seq} is out of order")
        elif line.seq != self._last + 1:
            self._problems.append(f"entries {self._last + 1} to {line.seq - 1} are missing")
        if line.previous != self._hash:
            self._problems.append(f"entry {line.seq} does not follow the entry before it")
        entry = Entry(line.kind, line.actor, line.detail)
        if line.hash != digest(line.previous, self._migration, line.seq, line.at, entry):
            self._problems.append(f"entry {line.seq} is not what was written")
        self._entries, self._last, self._hash = self._entries + 1, line.seq, line.hash

    def broke(self, why: str) -> None:
        """Note that the next entry cannot be read."""
        self._problems.append(f"cannot be read after entry {self._last}: {why}")

    def end(self, known: tuple[int, str] | None) -> Trail:
        """The result. ``known`` is the last entry's number and hash by the checkpoint; None without a checkpoint."""
        if known is None and self._entries:
            self._problems.append("there is no checkpoint, which would name the last entry")
        elif known is not None and known != (self._last, self._hash):
            problem = f"the checkpoint names entry {known[0]} as the last, but the trail ends with {self._last}"
            self._problems.append(problem)
        return Trail(self._entries, self._hash, tuple(self._problems))
