"""Listen: the results of some queries, and what changes in them, as messages on one stream. Pure.

A stream may have several targets. ``ListenState`` says which messages bring its client to the present: whatever
differs from what was sent, then one message that all of it is consistent as of a time. A client that resumes is sent
the whole result again, because nothing is kept of what it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from backends.documents.port import Document, Query
from backends.emulator.database import EmulatedDatabase
from backends.emulator.documents import encode_document
from backends.emulator.questions import decode_question
from backends.emulator.refusal import invalid, not_offered
from backends.emulator.resources import document_path
from backends.kinds.firestore.codec import fill_time
from backends.kinds.firestore.messages import firestore

PbListenResponse: Final[Any] = firestore.ListenResponse.pb()
_NO_CHANGE, _ADD, _REMOVE, _CURRENT, _RESET = range(5)
_FIRST_ID: Final = 1


class WatchedTarget(NamedTuple):
    """What a target is: the collections it depends on, and its documents now."""

    collections: tuple[str, ...]
    result: Callable[[], list[Document]]


class _Target:
    """One target of a stream."""

    def __init__(self, watched: WatchedTarget, *, resumed: bool) -> None:
        self.watched = watched
        self.resumed = resumed
        self.known: dict[str, Document] | None = None  # by path, as sent; None: nothing was sent yet


def watched(message: Any, held: EmulatedDatabase) -> WatchedTarget:
    """What a Target asks for. Raises ``RefusedCall``."""
    if message.once:
        raise not_offered("targets that are listened to once")
    match message.WhichOneof("target_type"):
        case "documents":
            paths = [document_path(name, held.name) for name in message.documents.documents]
            collections = {path[: path.rindex("/")] for path in paths}
            return WatchedTarget(
                tuple(collections), lambda: [found for path in paths if (found := held.get(path)) is not None]
            )
        case "query":
            question = decode_question(message.query.parent, message.query.structured_query)
            asked = question.asked
            if question.database != held.name:
                raise invalid(f"the query is not of {held.name}")
            if isinstance(asked, Query):
                return WatchedTarget((asked.collection,), lambda: held.run(question))
            if asked.everywhere:
                raise not_offered("listening to a collection group")
            name = f"{asked.parent}/{asked.collection_id}" if asked.parent else asked.collection_id
            return WatchedTarget((name,), lambda: held.run(question))
    raise invalid("a target is a query or a list of documents")


class ListenState:
    """The targets of one stream, and what its client knows of them."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._targets: dict[int, _Target] = {}

    def add(self, number: int, watched: WatchedTarget, *, resumed: bool) -> int:
        """Listen to one target more; returns its number, which is chosen here if it is 0. Raises ``RefusedCall``."""
        if number in self._targets:
            raise invalid(f"the target {number} is there already")
        number = number or max(self._targets, default=_FIRST_ID - 1) + 1
        self._targets[number] = _Target(watched, resumed=resumed)
        return number

    def remove(self, number: int) -> Iterator[Any]:
        """Listen to it no longer; the messages that say so."""
        if self._targets.pop(number, None) is not None:
            yield _change(_REMOVE, number)

    def messages(self, time: int) -> Iterator[Any]:
        """What brings the client to the present; ``time``: of the store, microseconds. Nothing without a target."""
        for number, target in self._targets.items():
            yield from self._of(number, target, time)
        if self._targets:
            yield _change(_NO_CHANGE, None, time)

    def _of(self, number: int, target: _Target, time: int) -> Iterator[Any]:
        now = {document.path: document for document in target.watched.result()}
        known, target.known = target.known, now
        if known is None:
            yield _change(_ADD, number)
            if target.resumed:
                yield _change(_RESET, number)
        before = known or {}
        for path, document in now.items():
            if before.get(path) is not document:
                message = PbListenResponse()
                encode_document(message.document_change.document, document, self._root)
                message.document_change.target_ids.append(number)
                yield message
        for path in before.keys() - now.keys():
            yield self._gone(path, number, time)
        if known is None:
            yield _change(_CURRENT, number, time)

    def _gone(self, path: str, number: int, time: int) -> Any:
        """It is not in the result any more. Whether there still is such a document, no client needs to know."""
        message = PbListenResponse()
        message.document_remove.document = self._root + path
        message.document_remove.removed_target_ids.append(number)
        fill_time(message.document_remove.read_time, time)
        return message


def _change(kind: int, number: int | None, time: int | None = None) -> Any:
    message = PbListenResponse()
    message.target_change.target_change_type = kind
    message.target_change.SetInParent()
    if number is not None:
        message.target_change.target_ids.append(number)
    if time is not None:
        fill_time(message.target_change.read_time, time)
        message.target_change.resume_token = b"%d" % time
    return message
