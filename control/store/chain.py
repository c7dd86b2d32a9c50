"""The audit trail's hash chain: what an entry's hash covers, and whether a chain is whole. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from control.rollout.model import Entry
from control.store.entry import AuditLine


class Trail(NamedTuple):
    """What following a chain found: how many entries, the last one's hash, and what is wrong, in words."""

    entries: int
    hash: str
    problems: tuple[str, ...]


def genesis(migration: str) -> str:
    """What the first entry of a chain follows."""
    return hashlib.sha256(b"phasegate audit " + migration.encode()).hexdigest()


def digest(previous: str, migration: str, seq: int, at: float, entry: Entry) -> str:
    """The hash of an entry: over the one before it and everything it says."""
    said = [previous, migration, seq, at, entry.kind, entry.actor, entry.detail]
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Chain:
    """Follows one migration's chain, entry by entry."""

    def __init__(self, migration: str) -> None:
        self._migration = migration
        self._entries = 0
        self._last = 0
        self._hash = genesis(migration)
        self._problems: list[str] = []

    def add(self, line: AuditLine) -> None:
        """Follow the chain to the next entry."""
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
        """The next entry cannot be read."""
        self._problems.append(f"cannot be read after entry {self._last}: {why}")

    def end(self, known: tuple[int, str] | None) -> Trail:
        """The result; ``known``: the last entry's number and hash by the checkpoint, if there is one."""
        if known is None and self._entries:
            self._problems.append("there is no checkpoint, which would know the last entry")
        elif known is not None and known != (self._last, self._hash):
            said = f"the checkpoint knows entry {known[0]} as the last, and the trail ends with {self._last}"
            self._problems.append(said)
        return Trail(self._entries, self._hash, tuple(self._problems))
