"""The table of data operations, and the values that travel between the data plane and an adapter. Pure.

A ``Call`` fixes its id and its time before it is dispatched, so a write can be applied twice, or to two stores,
and mean the same.
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
    """One kind of data request: ``method path`` is what the client sends, ``adapter.call`` is who answers."""

    name: str
    method: str
    path: str
    kind: Kind
    adapter: str
    call: str


def _table(*rows: tuple[str, str, str, Kind]) -> tuple[Operation, ...]:
    return tuple(Operation(name, method, path, kind, *name.split(".", 1)) for name, method, path, kind in rows)


OPERATIONS: Final = _table(
    ("dashboard.current", "GET", "/api/dashboard/metrics", "read"),
    ("dashboard.history", "GET", "/api/dashboard/metrics/history", "read"),
    ("dashboard.publish", "PUT", "/api/dashboard/metrics", "write"),
    ("dashboard.stream", "GET", "/api/dashboard/metrics/stream", "stream"),
    ("scans.create", "POST", "/api/scans", "write"),
    ("scans.list", "GET", "/api/scans", "read"),
    ("scans.get", "GET", "/api/scans/{id}", "read"),
    ("scans.update", "PATCH", "/api/scans/{id}", "write"),
    ("scans.add_results", "POST", "/api/scans/{id}/results", "write"),
    ("scans.results", "GET", "/api/scans/{id}/results", "read"),
    ("scans.duplicates", "GET", "/api/scans/{id}/duplicates", "read"),
    ("scans.stream", "GET", "/api/scans/{id}/stream", "stream"),
    ("analytics.ingest", "POST", "/api/analytics/events", "write"),
    ("analytics.user", "GET", "/api/analytics/users/{uid}", "read"),
    ("analytics.system", "GET", "/api/analytics/system", "read"),
    ("analytics.trending", "GET", "/api/analytics/trending", "read"),
)


@dataclass(slots=True)
class Call:
    """One data request as an adapter sees it.

    ``params`` are the path's, percent-decoded; ``query`` the first value of each name, decoded; ``now`` is Unix
    time in seconds and ``id`` a fresh random identifier, both fixed before dispatch; ``target`` is the
    request-target as it came, the key of everything memoised.
    """

    operation: Operation
    target: bytes
    params: dict[str, str]
    query: dict[str, str]
    body: bytes
    now: float
    id: str


@dataclass(slots=True)
class Answer:
    """What a backend answers: a whole body, or for a ``stream`` operation an iterator of chunks.

    The data plane adds ``x-data-source``, lengths and connection fields. ``wire`` belongs to the data plane: the
    encoded head and body, kept as long as the answer itself is.
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
    """The one form in which an error reaches a client of the data plane."""
    return json_answer(status, {"error": {"code": code, "message": message}}, headers)
