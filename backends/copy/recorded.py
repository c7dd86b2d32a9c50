"""Fixtures as the app's own requests: ``requests.jsonl``, a request a line, answered by the adapters in this order.

    {"method": "POST", "path": "/api/scans", "body": {"root": "/home"}, "id": "weekly", "at": "2026-01-31T12:00:00Z"}
    {"method": "PATCH", "path": "/api/scans/weekly", "body": {"status": "running"}}

So counters, groups and buckets are what they would be had the app sent these requests. ``id`` and ``at`` may be left
out, and the same lines give the same documents every time:

- ``id`` is what the server would have drawn, such as a new scan's id; without it, a digest of the request and of how
  many equal ones came before it, so that a line more changes no other line's id;
- ``at`` is when the request came; without it one second after the line before, and the first one at ``ANCHOR``.

A read changes nothing, so its line is passed over.
"""

from __future__ import annotations

import hashlib
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import msgspec

from backends.adapters import registry
from backends.adapters.adapter import ANCHOR, PLACEHOLDER
from backends.adapters.replies import OperationRefused
from backends.adapters.times import timestamp
from backends.copy.folder import FixtureError
from backends.copy.playing import Player, reason
from backends.documents.port import ID_BYTES, Mutation, Rejected
from backends.documents.semantics import valid_id
from backends.operations import Operation

FILE: Final = "requests.jsonl"
_FORM: Final = 'expected {"method": "POST", "path": "/api/…", "body": {…}}, and "id" and "at" if you like'
_ROUTES_SHOWN: Final = 20
_SHOWN: Final = 80  # characters of a path, in a message
_STEP: Final = timedelta(seconds=1)  # between lines that say no time


class RecordedRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One request. ``body`` is JSON; none is an empty body."""

    method: str
    path: str
    body: msgspec.Raw = msgspec.Raw()
    at: str | None = None
    id: str | None = None


def played(file: Path, before: Sequence[Mutation]) -> tuple[Mutation, ...]:
    """All documents once the requests of ``file`` were answered over ``before``. Raises ``FixtureError``."""
    player = Player(registry.adapters())
    player.store(before)
    paths_of: dict[str, list[str]] = {}  # the documents of the other files, by id
    for mutation in before:
        paths_of.setdefault(mutation.path.rpartition("/")[2], []).append(mutation.path)
    line_of: dict[str, int] = {}  # the line of each id
    equal: Counter[bytes] = Counter()
    at = ANCHOR - _STEP
    for number, text in _lines(file):
        try:
            line = msgspec.json.decode(text, type=RecordedRequest)
            at = at + _STEP if line.at is None else _time(line.at)
            operation, params = _route(line)
            if operation.kind != "write":
                continue
            request_id = _id(line, equal)
            if request_id in line_of:
                raise ValueError(f"id: {request_id!r} is that of line {line_of[request_id]} already")
            line_of[request_id] = number
            kept = {path: player.find(path) for path in paths_of.get(request_id, ())}
            _play(player, operation, params, line, at, request_id)
            for path, document in kept.items():
                if player.find(path) is not document:
                    raise ValueError(f"id: {path} is in the JSON file of its collection already")
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise FixtureError(f"{file}:{number}: {problem}; {_FORM}") from None
        except (ValueError, OverflowError) as problem:
            raise FixtureError(f"{file}:{number}: {problem}") from None
    return player.documents()


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, numbered from 1. Raises ``FixtureError``."""
    try:
        lines = file.read_bytes().removeprefix(BOM_UTF8).split(b"\n")
    except OSError as problem:
        raise FixtureError(f"{file}: it cannot be read: {problem.strerror}") from None
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _time(text: str) -> datetime:
    moment = timestamp(text)
    if moment is None:
        raise ValueError(f"at: expected a time such as 2026-01-31T12:00:00Z, found {text[:_SHOWN]!r}")
    return moment


def _id(line: RecordedRequest, equal: Counter[bytes]) -> str:
    """The line's id, or one that follows from the request and the number of ``equal`` ones before it."""
    if line.id is not None:
        if not valid_id(line.id):
            raise ValueError(
                f"id: expected 1 to {ID_BYTES} bytes that can be a document's id, found {line.id[:_SHOWN]!r}"
            )
        return line.id
    request = b"%s %s %s" % (line.method.encode(), line.path.encode(), bytes(line.body))
    equal[request] += 1
    return hashlib.blake2b(b"%d %s" % (equal[request], request), digest_size=16).hexdigest()


def _route(line: RecordedRequest) -> tuple[Operation, dict[str, str]]:
    """The operation that a request leads to, and its path's parameters. Raises ``ValueError`` with those that exist.

    A path without parameters comes before one that it fits too, as in the data plane.
    """
    path = line.path.partition("?")[0]
    method = "GET" if line.method == "HEAD" else line.method
    methods = []
    for operation in sorted(registry.operations(), key=lambda each: "{" in each.path):
        match = _template(operation.path).fullmatch(path)
        if match is None:
            continue
        if operation.method == method:
            return operation, {name: unquote(value) for name, value in match.groupdict().items()}
        methods.append(operation.method)
    if methods:
        expected = ", ".join(sorted(set(methods)))
        raise ValueError(f"method: {path[:_SHOWN]} takes {expected}, found {line.method[:_SHOWN]!r}")
    routes = [f"{each.method} {each.path}" for each in registry.operations() if each.kind == "write"]
    more = f" and {len(routes) - _ROUTES_SHOWN} more" if len(routes) > _ROUTES_SHOWN else ""
    shown = ", ".join(routes[:_ROUTES_SHOWN])
    raise ValueError(f"path: no request of an adapter has {path[:_SHOWN]!r}; what can be written: {shown}{more}")


@cache
def _template(path: str) -> re.Pattern[str]:
    pieces = PLACEHOLDER.split(path)
    return re.compile("".join(f"(?P<{piece}>[^/]+)" if n % 2 else re.escape(piece) for n, piece in enumerate(pieces)))


def _play(
    player: Player, operation: Operation, params: dict[str, str], line: RecordedRequest, at: datetime, request_id: str
) -> None:
    try:
        player.play(operation, params, bytes(line.body), at, request_id)
    except (OperationRefused, Rejected) as problem:
        why = reason(problem) if isinstance(problem, OperationRefused) else str(problem)
        raise ValueError(f"{line.method} {line.path[:_SHOWN]} is refused by {operation.name}: {why}") from None
