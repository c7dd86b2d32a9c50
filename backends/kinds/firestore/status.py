"""What a gRPC status means: one table for reads and writes. Pure.

Codes and their advice on retrying: https://cloud.google.com/firestore/docs/understand-error-codes.
"""

from __future__ import annotations

from typing import Final

from grpc import StatusCode as _Code

from backends.documents.port import Reason, Rejected
from backends.errors import Fault, FaultKind

# code: (kind, the same call may be sent again at once, a write may have been applied)
_FAULTS: Final = {
    _Code.DEADLINE_EXCEEDED: (FaultKind.DEADLINE, False, True),
    _Code.CANCELLED: (FaultKind.DEADLINE, False, True),
    _Code.UNAVAILABLE: (FaultKind.UNAVAILABLE, True, True),
    _Code.RESOURCE_EXHAUSTED: (FaultKind.EXHAUSTED, True, False),
    _Code.ABORTED: (FaultKind.ABORTED, True, False),
    _Code.PERMISSION_DENIED: (FaultKind.PERMISSION, False, False),
    _Code.UNAUTHENTICATED: (FaultKind.PERMISSION, False, False),
    _Code.INTERNAL: (FaultKind.INTERNAL, True, True),
    _Code.UNKNOWN: (FaultKind.INTERNAL, True, True),
    _Code.DATA_LOSS: (FaultKind.CORRUPT, False, True),
}
_REJECTIONS: Final = {
    _Code.ALREADY_EXISTS: Reason.EXISTS,
    _Code.NOT_FOUND: Reason.MISSING,
    _Code.INVALID_ARGUMENT: Reason.INVALID,
    _Code.FAILED_PRECONDITION: Reason.CHANGED,
}


def read_error(code: _Code, details: str | None) -> Fault | Rejected:
    """What a failed read means: an invalid query, which does not count against the service, or a fault."""
    return Rejected(Reason.INVALID, details or code.name) if code is _Code.INVALID_ARGUMENT else _fault(code, details)


def _fault(code: _Code, details: str | None) -> Fault:
    kind, may_retry, may_have_applied = _FAULTS.get(code, (FaultKind.INTERNAL, False, False))
    return Fault(
        kind, f"Firestore: {code.name}: {details or ''}", may_retry=may_retry, may_have_applied=may_have_applied
    )


def commit_error(code: _Code, details: str | None) -> Fault | Rejected:
    """What a failed commit means: writes that must not be applied, or a fault."""
    reason = _REJECTIONS.get(code)
    return Rejected(reason, details or code.name) if reason is not None else _fault(code, details)
