"""A data operation, and the values that pass between the data plane and an adapter. Pure.

A ``Call`` gets its id and its time before it is dispatched, so a write can be applied twice, or to two stores, with
the same result.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Literal

import orjson

Kind = Literal["read", "write", "stream"]

JSON: Final = b"application/json"
EVENT_STREAM: Final = b"text/event-stream"


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of data request: ``method path`` is what the client sends, ``adapter.call`` is the handler.

    ``adapters.registry`` has the table of all.
    """

    name: str
    method: str
    path: str
    kind: Kind
    adapter: str
    call: str


@dataclass(slots=True)
class Call:
    """One data request as an adapter sees it.

    ``params`` are the path's parameters, percent-decoded; ``query`` has the first value of each name, decoded;
    ``now`` is Unix time in seconds and ``id`` a fresh random identifier, both set before dispatch. ``key`` stands for
    what is asked: two reads with the same key have the same answer, and so one place among the memoised answers.
    """

    operation: Operation
    key: bytes
    params: dict[str, str]
    query: dict[str, str]
    body: bytes
    now: float
    id: str


@dataclass(slots=True)
class Answer:
    """A backend's answer: a whole body, or for a ``stream`` operation an iterator of chunks.

    The data plane adds ``x-data-source``, lengths and connection fields. ``wire`` belongs to the data plane: the
    encoded head and body, kept as long as the answer itself.
    """

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    stream: AsyncIterator[bytes] | None = None
    wire: bytes | None = field(default=None, repr=False)


def json_answer(status: int, value: object, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    """An answer whose body is ``value`` in JSON."""
    return Answer(status, orjson.dumps(value), headers=headers)


def error_answer(status: int, code: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    """An error answer, in the form that all errors to the data plane's clients have."""
    return json_answer(status, {"error": {"code": code, "message": message}}, headers)
