"""Turns the messages of a Listen stream into consistent states of one query's result. Pure.

A single message guarantees nothing. The state is consistent only at each *global snapshot*: a NO_CHANGE that names no
target and carries a read time, once the target is CURRENT. So changes are collected, and applied there all at once.
(https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1#listenresponse)

    document change   collected; ignored if the document is known with the same update time
    delete, remove    collected
    RESET             what was collected is discarded; the server sends the whole result again
    filter            the server's number of documents: if ours differs, a deletion was missed: listen anew
    REMOVE            the server ended the target: listen anew, after a pause if access is forbidden

A document that cannot be decoded is not in the collection, but it is in the query's result: it counts for the filter,
and for the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

from backends.documents.collection import Collection
from backends.documents.foreign import Foreign
from backends.documents.port import Document
from backends.kinds.firestore.codec import Names, decode_document, micros

_NO_CHANGE: Final = 0
_REMOVE: Final = 2
_CURRENT: Final = 3
_RESET: Final = 4


class _Unread(Enum):
    """Stands for a document that matches the query and cannot be decoded."""

    UNREAD = auto()


class Step(Enum):
    """What to do after a message."""

    NOTHING = auto()
    SNAPSHOT = auto()  # the collection is consistent as of ``read_time``
    AGAIN = auto()  # listen anew, without a resume token


class Snapshots:
    """Keeps ``collection`` at the newest global snapshot of one target."""

    def __init__(self, collection: Collection, names: Names, foreign: Foreign) -> None:
        self.collection = collection
        self.unread: set[str] = set()  # the ids of documents in the result that cannot be decoded
        self.token = b""  # resumes after the newest snapshot; empty: from the beginning
        self.read_time = 0  # of the newest snapshot, microseconds
        self.changed = False  # whether the newest snapshot differs from the one before
        self.cause: Any = None  # the server's reason for ending the target
        self._names = names
        self._foreign = foreign
        self._token = b""
        self._current = False
        self._whole = False
        self._reset_at = 0  # read time of the RESET before the next snapshot, microseconds
        self._pending: dict[str, Document | _Unread | None] = {}

    def begin(self) -> bytes:
        """A new stream begins: discard what was collected. Returns the resume token; if it is empty, the stream
        brings the whole result."""
        self._current, self._pending, self._token = False, {}, b""
        self._whole = not self.token
        self._reset_at = 0
        return self.token

    def take(self, response: Any) -> Step:
        """Take one ListenResponse."""
        which = response.WhichOneof("response_type")
        return self._TAKERS[which](self, getattr(response, which))

    def _target(self, change: Any) -> Step:
        kind = change.target_change_type
        if kind == _REMOVE:
            self.token, self.cause = b"", change.cause
            return Step.AGAIN
        if kind == _RESET:
            self._pending, self._whole, self._current = {}, True, False
            self._reset_at = micros(change.read_time)
            self.token = b""
            return Step.NOTHING
        if change.resume_token:
            self._token = change.resume_token
        if kind == _CURRENT:
            self._current = True
        elif kind == _NO_CHANGE and not change.target_ids and change.HasField("read_time") and self._current:
            self._take_over()
            # The emulator sends a RESET for every change, and the read time of the snapshot that follows may be
            # later than writes which that snapshot lacks. It has all writes up to the RESET's own read time.
            self.read_time = max(self.read_time, self._reset_at or micros(change.read_time))
            self._reset_at = 0
            return Step.SNAPSHOT
        return Step.NOTHING

    def _take_over(self) -> None:
        collection, pending = self.collection, self._pending
        before = collection.cell.version
        if self._whole:
            for doc_id in [known for known in collection.documents if pending.get(known) is None]:
                collection.drop(doc_id)
            self.unread.clear()
        for doc_id, document in pending.items():
            self.unread.discard(doc_id)
            if document is None:
                collection.drop(doc_id)
            elif document is _Unread.UNREAD:
                collection.drop(doc_id)
                self.unread.add(doc_id)
            elif document is not collection.documents.get(doc_id):
                collection.put(document)
        self.changed = collection.cell.version != before
        self._pending, self._whole = {}, False
        self.token, self._token = self._token or self.token, b""

    def _document(self, change: Any) -> Step:
        message = change.document
        doc_id = message.name[message.name.rindex("/") + 1 :]
        if not change.target_ids:
            self._pending[doc_id] = None  # no longer matches the query
            return Step.NOTHING
        known = self.collection.documents.get(doc_id)
        if known is not None and known.update_time == micros(message.update_time):
            self._pending[doc_id] = known
            return Step.NOTHING
        try:
            self._pending[doc_id] = decode_document(message, self._names)
        except ValueError as problem:
            self._pending[doc_id] = _Unread.UNREAD
            self._foreign.note(message.name[len(self._names.documents) :], str(problem))
        return Step.NOTHING

    def _gone(self, change: Any) -> Step:
        self._pending[change.document[change.document.rindex("/") + 1 :]] = None
        return Step.NOTHING

    def _filter(self, existence: Any) -> Step:
        if existence.count != self._count():
            self.token = b""
            return Step.AGAIN
        return Step.NOTHING

    def _count(self) -> int:
        """How many documents the next snapshot will have."""
        pending, known, unread = self._pending, self.collection.documents, self.unread
        changed = sum(doc_id in known or doc_id in unread for doc_id in pending)
        unchanged = 0 if self._whole else len(known) + len(unread) - changed
        return unchanged + sum(document is not None for document in pending.values())

    _TAKERS: Final[dict[str | None, Callable[[Snapshots, Any], Step]]] = {
        "target_change": _target,
        "document_change": _document,
        "document_delete": _gone,
        "document_remove": _gone,
        "filter": _filter,
        None: lambda self, _: Step.NOTHING,
    }
