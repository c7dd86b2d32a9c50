"""A line of the audit trail: as the store has it, and as the API shows it. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from control.plan.times import Timestamp, rfc3339


class AuditLine(Struct, frozen=True):
    """A line of the audit trail as it stands; ``at`` in Unix time."""

    seq: int
    at: float
    kind: str
    actor: str
    detail: dict[str, Any]
    previous: str
    hash: str


class AuditEntry(Struct, frozen=True):
    """An entry of the audit trail, as the control API shows it."""

    seq: int  # its number in this migration's trail, from 1 on
    at: Timestamp
    kind: str  # what was done or happened
    actor: str  # who did it; `phasegate` for what it does by itself
    detail: dict[str, Any]  # what belongs to this kind
    previous: str  # the hash of the entry before it
    hash: str  # over everything here


def audit_document(line: AuditLine) -> AuditEntry:
    """An audit line as the API shows it."""
    return AuditEntry(line.seq, rfc3339(line.at), line.kind, line.actor, line.detail, line.previous, line.hash)
