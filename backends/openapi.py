"""The OpenAPI document of the data requests, made from the table of operations and the shapes below. Pure.

The shapes say what a client may count on: a test decodes every answer of both stores by them.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from backends.adapters.analytics import USER_LENGTH, Batch
from backends.adapters.dashboard import Publish
from backends.adapters.scans import STATUSES, Create, File, Results, Update
from backends.operations import OPERATIONS, Operation


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """An answer has these fields and no others."""


class Snapshot(Strict):
    """Dashboard metrics as they were published."""

    id: str
    published_at: datetime
    metrics: dict[str, Any]


class History(Strict):
    """Earlier snapshots, newest first."""

    snapshots: list[Snapshot]
    next_cursor: str | None


class Scan(Strict):
    """A scan job."""

    id: str
    status: Literal["queued", "running", "completed", "failed", "cancelled"]
    progress: float
    root: str
    name: str
    message: str
    created_at: datetime
    updated_at: datetime
    files: int
    bytes: int


class ScanPage(Strict):
    """Scan jobs, newest first."""

    scans: list[Scan]
    next_cursor: str | None


class Accepted(Strict):
    """Files that were taken."""

    scan: str
    accepted: int


class FilePage(Strict):
    """Files that a scan found."""

    files: list[File]
    next_cursor: str | None


class Group(Strict):
    """Files of equal content."""

    hash: str
    size: int
    copies: int
    bytes_wasted: int


class Duplicates(Strict):
    """Groups of equal files, the most wasteful first; the totals are over all groups, not this page's."""

    groups: list[Group]
    total_groups: int
    total_bytes_wasted: int
    next_cursor: str | None


class Ingested(Strict):
    """Events that were taken, each id counted once."""

    accepted: int


class StoredEvent(Strict):
    """An event of a user's."""

    id: str
    type: str
    item: str | None
    at: datetime
    properties: dict[str, Any]


class Activity(Strict):
    """What a user did, newest first."""

    user: str
    events: int
    recent: list[StoredEvent]
    next_cursor: str | None


class Totals(Strict):
    """Events since the beginning."""

    events: int
    types: dict[str, int]
    last_event_at: datetime | None


class Trend(Strict):
    """An item and its events in the window."""

    item: str
    events: int


class Trending(Strict):
    """The items with most events since the start of the window's first bucket; ``events`` counts all items'."""

    since: datetime
    events: int
    items: list[Trend]


class Problem(Strict):
    """What went wrong, for a program and for a person."""

    code: str
    message: str


class Error(Strict):
    """The form of every error."""

    error: Problem


# operation: status of success, its shape (None: server-sent events), statuses of refusal beside 400 and 503
ANSWERS: Final[dict[str, tuple[int, Any, tuple[int, ...]]]] = {
    "dashboard.current": (200, Snapshot, (404,)),
    "dashboard.history": (200, History, ()),
    "dashboard.publish": (200, Snapshot, ()),
    "dashboard.stream": (200, None, ()),
    "scans.create": (201, Scan, ()),
    "scans.list": (200, ScanPage, ()),
    "scans.get": (200, Scan, (404,)),
    "scans.update": (200, Scan, (404, 409)),
    "scans.add_results": (201, Accepted, (404, 409)),
    "scans.results": (200, FilePage, (404,)),
    "scans.duplicates": (200, Duplicates, (404,)),
    "scans.stream": (200, None, (404,)),
    "analytics.ingest": (202, Ingested, ()),
    "analytics.user": (200, Activity, ()),
    "analytics.system": (200, Totals, ()),
    "analytics.trending": (200, Trending, ()),
}
BODIES: Final[dict[str, Any]] = {
    "dashboard.publish": Publish,
    "scans.create": Create,
    "scans.update": Update,
    "scans.add_results": Results,
    "analytics.ingest": Batch,
}
MAY_LACK_BODY: Final = frozenset({"scans.create"})  # where every field has a default

_TIME: Final = {"type": "string", "description": "RFC 3339, or seconds since 1970"}
_CURSOR: Final = ("cursor", {"type": "string", "description": "next_cursor of the page before"})


def _limit(default: int, maximum: int) -> tuple[str, dict[str, object]]:
    return "limit", {"type": "integer", "minimum": 1, "maximum": maximum, "default": default}


PARAMETERS: Final[dict[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "dashboard.history": (("from", _TIME), ("to", _TIME), _limit(50, 500), _CURSOR),
    "scans.list": (("status", {"type": "string", "enum": list(STATUSES)}), _limit(50, 200), _CURSOR),
    "scans.results": (_limit(100, 500), _CURSOR),
    "scans.duplicates": (_limit(100, 500), _CURSOR),
    "analytics.user": (_limit(20, 100), _CURSOR),
    "analytics.trending": (
        (
            "window",
            {"type": "string", "pattern": "^[1-9][0-9]{0,4}[mhd]$", "default": "1h", "description": "at most 90d"},
        ),
        _limit(10, 100),
    ),
}

# What is told of a path's parameter beside that it is a string and not empty.
IN_PATH: Final[dict[str, dict[str, Any]]] = {"uid": {"maxLength": USER_LENGTH}}

_REFUSALS: Final = {
    400: "The request is malformed: where, what was found, what was expected.",
    404: "There is no such thing.",
    409: "Not allowed in the present state.",
    503: "The backend failed, or for `write_uncertain` may have written.",
}
_HEADERS: Final = {
    "x-data-source": {
        "description": "The kind of backend that answered.",
        "schema": {"type": "string", "enum": ["mock", "firestore"]},
    },
    "x-data-fallback": {
        "description": "Why the source answered for the target.",
        "schema": {"type": "string"},
    },
}


def document(version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document, as plain values."""
    shapes = [shape for _, shape, _ in ANSWERS.values() if shape is not None]
    wanted = [Error, *shapes, *BODIES.values()]
    schemas, components = msgspec.json.schema_components(wanted, ref_template="#/components/schemas/{name}")
    by_shape = dict(zip(map(repr, wanted), schemas, strict=True))  # a shape may be a union, which has no hash
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, by_shape)
    return {
        "openapi": "3.1.0",
        "info": {"title": "phasegate: data requests", "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }


def _described(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    status, shape, refusals = ANSWERS[operation.name]
    if shape is None:
        content: dict[str, Any] = {"text/event-stream": {}}
    else:
        content = {"application/json": {"schema": schemas[repr(shape)]}}
    responses: dict[str, Any] = {str(status): {"description": "Done.", "headers": _HEADERS, "content": content}}
    for code in sorted({400, *refusals, 503}):
        responses[str(code)] = {
            "description": _REFUSALS[code],
            "headers": _HEADERS,
            "content": {"application/json": {"schema": schemas[repr(Error)]}},
        }
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.adapter],
        "parameters": [
            *(
                {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1, **IN_PATH.get(name, {})},
                }
                for name in re.findall(r"\{(\w+)\}", operation.path)
            ),
            *(
                {"name": name, "in": "query", "required": False, "schema": schema}
                for name, schema in PARAMETERS.get(operation.name, ())
            ),
        ],
        "responses": responses,
    }
    if operation.name in BODIES:
        described["requestBody"] = {
            "required": operation.name not in MAY_LACK_BODY,
            "content": {"application/json": {"schema": schemas[repr(BODIES[operation.name])]}},
        }
    return described
