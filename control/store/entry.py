"""An entry of the audit trail: as the store holds it, and as the API shows it. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from control.plan.times import Timestamp, rfc3339


class AuditLine(Struct, frozen=True):
    """An entry of the audit trail as stored; ``at`` in Unix time."""

    seq: int
    at: float
    kind: str
    actor: str
    detail: dict[str, Any]
    previous: str
    hash: str


class AuditEntry(Struct, frozen=True):
    """An entry of the audit trail, as the control API shows it."""

    seq: int  # the entry's number in this migration's trail, from 1 on
    at: Timestamp
    kind: str  # what was done, or what happened
    actor: str  # who did it; `phasegate` for its own decisions
    detail: dict[str, Any]  # fields of this kind of entry
    previous: str  # the previous entry's hash
    hash: str  # over all other fields


def audit_document(line: AuditLine) -> AuditEntry:
    """An entry as the API shows it."""
    return AuditEntry(line.seq, rfc3339(line.at), line.kind, line.actor, line.detail, line.previous, line.hash)
