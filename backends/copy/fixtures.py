"""The data a migration starts from: JSON fixtures, or made-up data that is the same every time and on both sides."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from backends.adapters import analytics, dashboard, scans
from backends.adapters.common import parse_time
from backends.backend import Backend
from backends.documents.port import Context, Fields, Mutation, Value, put
from backends.documents.semantics import check
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.registry import KINDS
from backends.operations import OPERATIONS, Call

ANCHOR: Final = datetime(2026, 1, 1, tzinfo=UTC)  # made-up data ends here
SNAPSHOTS: Final = 60  # one a minute
SCANS: Final = 12
EVENTS: Final = 500


class FixtureError(ValueError):
    """A fixture cannot be used; the message says which file, what was found and what was expected."""


def initial(backend: Backend) -> Callable[[], Sequence[Mutation]]:
    """What a mock holds at the start: its fixtures if it has any, read now, else made-up data, made when asked for.

    Nothing for a kind that holds what it holds. Raises ``FixtureError``.
    """
    begins_with = KINDS[backend.kind].begins_with
    if begins_with is None:
        return tuple
    folder, seed = begins_with(backend)
    if folder is None:
        return functools.partial(made_up, seed)
    read = tuple(fixtures(Path(folder)))
    return lambda: read


@functools.lru_cache(maxsize=4)
def made_up(seed: int) -> tuple[Mutation, ...]:
    """Deterministic documents: equal seeds give equal documents, whatever the machine and the day.

    They are what the adapters themselves make of made-up requests, in a store of their own.
    """
    dice = random.Random(seed)  # noqa: S311 - no secret
    store = MemoryStore()
    _snapshots(store, dice)
    _scans(store, dice)
    _events(store, dice)
    return tuple(put(document.path, document.fields) for document in store.documents())


_OPERATIONS: Final = {operation.name: operation for operation in OPERATIONS}


def _do(handler: Callable[[Call, Context], Coroutine[Any, Any, object]], call: Call) -> None:
    """Run a handler over a memory store, which never suspends."""
    try:
        handler(call, Context(0.0)).send(None)
    except StopIteration:
        return
    raise AssertionError("a memory store of this process's own does not suspend")


def _call(name: str, dice: random.Random, at: datetime, body: object, **params: str) -> Call:
    return Call(
        operation=_OPERATIONS[name],
        target=b"",
        params=params,
        query={},
        body=msgspec.json.encode(body),
        now=at.timestamp(),
        id=f"{dice.getrandbits(128):032x}",
    )


def _snapshots(store: MemoryStore, dice: random.Random) -> None:
    adapter = dashboard.Dashboard(store)
    for ago in reversed(range(SNAPSHOTS)):
        metrics = {
            "active_users": dice.randint(800, 1200),
            "requests_per_minute": dice.randint(9_000, 12_000),
            "error_rate": round(dice.uniform(0.001, 0.01), 4),
            "revenue": round(dice.uniform(1_000, 2_000), 2),
        }
        at = ANCHOR - timedelta(minutes=ago)
        _do(adapter.publish, _call("dashboard.publish", dice, at, {"metrics": metrics}))


def _scans(store: MemoryStore, dice: random.Random) -> None:
    adapter = scans.Scans(store)
    for nth in range(SCANS):
        at = ANCHOR - timedelta(minutes=10 * (SCANS - nth))
        create = _call("scans.create", dice, at, {"root": f"/data/{nth}", "name": f"scan {nth}"})
        _do(adapter.create, create)
        steps: tuple[tuple[str, int], ...] = ((), (("running", 40),), (("running", 50), ("completed", 100)))[nth % 3]
        for minutes, (status, progress) in enumerate(steps, 1):
            step = {"status": status, "progress": progress}
            later = at + timedelta(minutes=minutes)
            if status == "running":
                _do(adapter.update, _call("scans.update", dice, later, step, id=create.id))
                files = [
                    {"path": f"/data/{nth}/{index}", "size": 1000 * (index % 7), "hash": f"{dice.randrange(40):08x}"}
                    for index in range(120)
                ]
                _do(adapter.add_results, _call("scans.add_results", dice, later, {"files": files}, id=create.id))
            else:
                _do(adapter.update, _call("scans.update", dice, later, step, id=create.id))


def _events(store: MemoryStore, dice: random.Random) -> None:
    adapter = analytics.Analytics(store)
    events = [
        {
            "id": f"seed-{nth}",
            "user": f"user-{dice.randrange(20)}",
            "type": dice.choice(("view", "click", "purchase")),
            "item": f"item-{min(dice.randrange(30), dice.randrange(30))}",
            "at": (ANCHOR - timedelta(seconds=dice.randrange(86_400))).isoformat(),
        }
        for nth in range(EVENTS)
    ]
    _do(adapter.ingest, _call("analytics.ingest", dice, ANCHOR, events))


def fixtures(folder: Path) -> Iterator[Mutation]:
    """The documents of a folder of JSON files, one a collection: ``{"<id>": {field: value, …}, …}``.

    ``/`` of a nested collection's path is written ``.`` in the file's name. A string in RFC 3339 in a field named
    ``at`` or ``…_at`` is a time. Raises ``FixtureError``.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FixtureError(f"{folder}: expected JSON files, one a collection, found none")
    for file in files:
        try:
            documents = msgspec.json.decode(file.read_bytes(), type=dict[str, dict[str, object]])
        except (OSError, msgspec.DecodeError) as problem:
            raise FixtureError(f'{file}: {problem}; expected {{"<id>": {{"field": value}}}}') from None
        for doc_id, fields in documents.items():
            mutation = put(f"{file.stem.replace('.', '/')}/{doc_id}", _with_times(fields))
            try:
                check((mutation,))
            except Exception as problem:
                raise FixtureError(f"{file}: {problem}") from None
            yield mutation


def _with_times(fields: dict[str, object]) -> Fields:
    def value_of(name: str, value: object) -> Value:
        if isinstance(value, str) and (name == "at" or name.endswith("_at")):
            return parse_time(value) or value
        if isinstance(value, dict):
            return _with_times(value)
        return value  # type: ignore[return-value]  # JSON has no other types

    return {name: value_of(name, value) for name, value in fields.items()}
