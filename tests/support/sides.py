"""What each side of a migration holds, read without the product's walk: Firestore by REST, a mock by its journal.

Both give ``{path: fields}`` with plain values: integers as int, times as microseconds since 1970.
"""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore

Side = dict[str, dict[str, Any]]

TOP: Final = (
    *("scans", "dashboard_snapshots", "analytics_events", "analytics_totals"),
    *("analytics_minutes", "analytics_hours", "analytics_days"),
)
BELOW: Final = {"scans": ("results", "groups")}
_PAGE: Final = 300  # the most that a listing gives at once
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def firestore(address: str, project: str) -> Side:
    """Everything that an emulator's project holds in the collections of the three adapters."""
    root = f"projects/{project}/databases/(default)/documents"
    side: Side = {}
    for collection in TOP:
        # Documents that only have documents below them are listed too, with no fields.
        for document in _listed(address, root, collection):
            path = document["name"].removeprefix(f"{root}/")
            if "createTime" in document:
                side[path] = _fields(document)
            for name in BELOW.get(collection, ()):
                for below in _listed(address, root, f"{path}/{name}"):
                    side[below["name"].removeprefix(f"{root}/")] = _fields(below)
    return side


def _listed(address: str, root: str, collection: str) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        query = urllib.parse.urlencode({"pageSize": _PAGE, "pageToken": token, "showMissing": "true"})
        request = urllib.request.Request(
            f"http://{address}/v1/{root}/{collection}?{query}", headers={"Authorization": "Bearer owner"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            page = json.load(answer)
        yield from page.get("documents", ())
        token = page.get("nextPageToken", "")
        if not token:
            return


def _fields(document: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in document.get("fields", {}).items()}


def _value(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    match kind:
        case "nullValue":
            return None
        case "integerValue":
            return int(content)
        case "doubleValue":
            return float(content)
        case "timestampValue":
            return ("time", _micros(datetime.fromisoformat(content)))
        case "bytesValue":
            return base64.b64decode(content)
        case "arrayValue":
            return [_value(item) for item in content.get("values", ())]
        case "mapValue":
            return {name: _value(item) for name, item in content.get("fields", {}).items()}
        case _:
            return content


def _micros(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def mock(journal: Path) -> Side:
    """Everything that a mock's journal holds, read by a replica of its own."""

    async def read() -> Side:
        store = MemoryStore(log=Journal(journal))
        await store.start()
        try:
            return {
                document.path: {name: _plain(value) for name, value in document.fields.items()}
                for document in store.documents()
                if not document.path.startswith("phasegate/")
            }
        finally:
            await store.close()

    return asyncio.run(read())


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return ("time", _micros(value))
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def differences(one: Side, other: Side) -> list[str]:
    """Every document that the two sides do not hold alike, in words."""
    told = []
    for path in sorted(one.keys() | other.keys()):
        if path not in other:
            told.append(f"{path}: on the first side only")
        elif path not in one:
            told.append(f"{path}: on the second side only")
        else:
            mine, others = one[path], other[path]
            names = [n for n in sorted(mine.keys() | others.keys()) if not _same(mine.get(n), others.get(n))]
            if names:
                told.append(f"{path}: " + ", ".join(f"{n}: {mine.get(n)!r} and {others.get(n)!r}" for n in names))
    return told


def _same(one: Any, other: Any) -> bool:
    """Equal in value and type: 1 and 1.0 are two values."""
    return json.dumps(one, sort_keys=True, default=repr) == json.dumps(other, sort_keys=True, default=repr)
