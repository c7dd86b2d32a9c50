"""Documents in our collections that this app did not write: counted, and each named in the log once.

Another program, or a person at a console, may put documents into a collection that phasegate reads: of types that it
does not read, or without fields that an adapter needs. They are left out of every answer. Nobody would know, so a
store has one ``Foreign`` that remembers them.
"""

from __future__ import annotations

from typing import Final

import structlog

from backends.errors import Fault

TROUBLE: Final = "foreign_document"  # of the fault of a read, by its path, of a document that cannot be decoded
NAMED: Final = 1000  # documents that one process names in its log; more are only counted
PATH_LENGTH: Final = 200  # characters of a path in the log: whoever wrote the document chose it
WHY_LENGTH: Final = 200

_log = structlog.get_logger("phasegate.documents")


def is_foreign(fault: Fault) -> bool:
    """Whether a read failed only because this app did not write the document. The store has noted it."""
    return fault.trouble is not None and fault.trouble.name == TROUBLE


class Foreign:
    """The foreign documents that one store met. ``count`` is how many different ones, up to ``NAMED``."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._known: set[str] = set()

    @property
    def count(self) -> int:
        """How many different documents were met since the process began; it stops at ``NAMED``."""
        return len(self._known)

    def note(self, path: str, why: str) -> None:
        """A document was left out of an answer."""
        known = self._known
        if path in known or len(known) >= NAMED:
            return
        known.add(path)
        _log.warning("foreign_document", backend=self._backend, document=path[:PATH_LENGTH], reason=why[:WHY_LENGTH])
        if len(known) == NAMED:
            _log.warning("foreign_documents_unnamed", backend=self._backend, named=NAMED)
