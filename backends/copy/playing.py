"""Lets the adapters answer requests over a memory store, so that data follows from requests as it does in service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import Final

import msgspec

from backends.adapters.adapter import Adapter
from backends.adapters.replies import OperationRefused
from backends.adapters.shapes import Error
from backends.documents.port import COMMIT_LIMIT, Context, Document, Mutation, put
from backends.kinds.mock.memory import MemoryStore
from backends.operations import Answer, Call, Operation

_SHOWN: Final = 400  # characters of a refusal's message


class Player:
    """A memory store of its own, and the handlers of these adapters over it."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._store = MemoryStore()
        self._handlers = {
            operation.name: getattr(handlers, operation.call)
            for adapter in adapters
            for handlers in (adapter.handlers(self._store),)
            for operation in adapter.operations
        }

    def store(self, documents: Sequence[Mutation]) -> None:
        """Store documents as they are. Raises ``Rejected``."""
        left = iter(documents)
        while portion := tuple(islice(left, COMMIT_LIMIT)):
            _run(self._store.commit(portion, Context(0.0)))

    def find(self, path: str) -> Document | None:
        """The document as it is now."""
        found = _run(self._store.get(path, Context(0.0)))
        assert found is None or isinstance(found, Document)
        return found

    def play(self, operation: Operation, params: dict[str, str], body: bytes, at: datetime, request_id: str) -> None:
        """Answer one request at this time. Raises ``OperationRefused``, and ``Rejected`` by the store."""
        call = Call(operation, b"", params, {}, body, at.timestamp(), request_id)
        result = _run(self._handlers[operation.name](call, Context(0.0)))
        answer = result[0] if isinstance(result, tuple) else result
        assert isinstance(answer, Answer)
        if answer.status >= 400:
            raise OperationRefused(answer)

    def documents(self) -> tuple[Mutation, ...]:
        """All that is stored by now, as writes that replace a document."""
        return tuple(put(document.path, document.fields) for document in self._store.documents())


def reason(refusal: OperationRefused) -> str:
    """Why a request was refused: the code and message of its answer."""
    body = refusal.answer.body
    try:
        error = msgspec.json.decode(body, type=Error).error
    except msgspec.DecodeError:
        return body[:_SHOWN].decode(errors="replace")
    return f"{error.code}: {error.message[:_SHOWN]}"


def _run(working: object) -> object:
    """The result of a coroutine over a memory store without a journal, which never suspends."""
    try:
        working.send(None)  # type: ignore[attr-defined]  # a coroutine
    except StopIteration as end:
        return end.value
    raise AssertionError("a memory store without a journal does not suspend")
