"""A line of the audit trail: as the store has it, and as the API shows it. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from control.plan.times import rfc3339


class AuditLine(Struct, frozen=True):
    """A line of the audit trail as it stands; ``at`` in Unix time."""

    seq: int
    at: float
    kind: str
    actor: str
    detail: dict[str, Any]
    previous: str
    hash: str


def audit_document(line: AuditLine) -> dict[str, Any]:
    """An audit line as the API shows it."""
    return {
        "seq": line.seq,
        "at": rfc3339(line.at),
        "kind": line.kind,
        "actor": line.actor,
        "detail": line.detail,
        "previous": line.previous,
        "hash": line.hash,
    }
