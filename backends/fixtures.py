"""The data a migration starts from: JSON fixtures, or made-up data that is the same every time and on both sides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from backends import settings
from backends.adapters import dashboard
from backends.adapters.common import parse_time
from backends.documents import Fields, Mutation, Value, put
from backends.semantics import check

ANCHOR: Final = datetime(2026, 1, 1, tzinfo=UTC)  # made-up data ends here
SNAPSHOTS: Final = 60  # one a minute


class FixtureError(ValueError):
    """A fixture cannot be used; the message says which file, what was found and what was expected."""


def initial(backend: settings.Backend) -> list[Mutation]:
    """What a backend is to hold at the start: a mock's fixtures if it has any, else made-up data.

    Raises ``FixtureError``.
    """
    if isinstance(backend, settings.Mock):
        return list(fixtures(Path(backend.fixtures)) if backend.fixtures is not None else made_up(backend.seed))
    return list(made_up(0))


def made_up(seed: int) -> Iterator[Mutation]:
    """Deterministic documents: equal seeds give equal documents, whatever the machine and the day."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    for index in range(SNAPSHOTS):
        yield put(
            f"{dashboard.COLLECTION}/{dice.getrandbits(128):032x}",
            {
                "published_at": ANCHOR - timedelta(minutes=SNAPSHOTS - 1 - index),
                "metrics": {
                    "active_users": dice.randint(800, 1200),
                    "requests_per_minute": dice.randint(9_000, 12_000),
                    "error_rate": round(dice.uniform(0.001, 0.01), 4),
                    "revenue": round(dice.uniform(1_000, 2_000), 2),
                },
            },
        )


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
