"""How a call is refused: a gRPC status and words, as Firestore has them. Pure."""

from __future__ import annotations

from typing import Final

from grpc import StatusCode

from backends.documents.port import Reason, Rejected
from backends.kinds.firestore.status import REJECTIONS

_CODES: Final = {reason: code for code, reason in REJECTIONS.items()}
_WORDS: Final = {
    Reason.EXISTS: "Document already exists: {}",
    Reason.MISSING: "No document to update: {}",
    Reason.CHANGED: "The stored version is not the required one: {}",
    Reason.INVALID: "{}",
}


class RefusedCall(Exception):  # noqa: N818 - an answer to a client
    """The call is answered with this status and these words."""

    def __init__(self, code: StatusCode, words: str) -> None:
        super().__init__(words)
        self.code = code


def invalid(words: str) -> RefusedCall:
    """What Firestore would not take either."""
    return RefusedCall(StatusCode.INVALID_ARGUMENT, words)


def not_offered(what: str) -> RefusedCall:
    """What Firestore has and this emulator has not."""
    return RefusedCall(
        StatusCode.UNIMPLEMENTED,
        f"phasegate's emulator does not have {what}; docs/firestore.md lists what it has, Google's emulator has all",
    )


def document_not_found(name: str) -> RefusedCall:
    """There is no such document. The client tells it by these words from a missing database."""
    return RefusedCall(StatusCode.NOT_FOUND, f'Document "{name}" not found.')


def refused(rejected: Rejected) -> RefusedCall:
    """What a store's refusal is as a status."""
    return RefusedCall(_CODES[rejected.reason], _WORDS[rejected.reason].format(rejected))
