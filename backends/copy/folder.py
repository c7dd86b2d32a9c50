"""Reads the JSON files of a folder of fixtures: one file a collection, ``{"<id>": {"field": value, …}, …}``.

A file's name has ``.`` for each ``/`` of a nested collection's path. A top-level field named ``at`` or ``…_at``, or
one that the collection's adapter lists in ``times``, holds a time in RFC 3339, or null. Deeper fields of these names
are read as times where they hold one, and stay text where they do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from backends.adapters import registry
from backends.adapters.times import parse_time, timestamp
from backends.documents.port import ID_BYTES, Fields, Mutation, Rejected, Value, put
from backends.documents.semantics import check, valid_id

OWN: Final = "phasegate"  # the collection of phasegate's own documents
_FORM: Final = 'expected {"<id>": {"field": value, …}, …}'
_SHOWN: Final = 40  # characters of what was found, in a message


class FixtureError(ValueError):
    """Fixtures cannot be used; the message says which file and where in it, what was found and what was expected."""


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it is written, with every name as often as it is there."""


def documents_of(file: Path) -> Iterator[Mutation]:
    """The documents of one file. Raises ``FixtureError``."""
    collection = file.stem.replace(".", "/")
    parts = collection.split("/")
    if len(parts) % 2 == 0 or not all(map(valid_id, parts)):
        raise FixtureError(
            f"{file}: the file's name stands for {collection!r}, which is no collection; expected a name such as "
            "scans.json, or scans.ID.results.json for the collection scans/ID/results"
        )
    if parts[0] == OWN:
        raise FixtureError(f"{file}: the collection {OWN} is phasegate's own; give the file another name")
    adapter = registry.claiming(collection)
    times = frozenset[str]() if adapter is None else adapter.times
    try:
        for doc_id, fields in _read(file).items():
            yield _document(collection, doc_id, fields, times)
    except (ValueError, Rejected) as problem:
        raise FixtureError(f"{file}: {problem}") from None
    except RecursionError:
        raise FixtureError(f"{file}: its values nest too deep") from None


def _document(collection: str, doc_id: str, fields: object, times: frozenset[str]) -> Mutation:
    """One document. Raises ``ValueError`` and ``Rejected``, which say which one."""
    if not valid_id(doc_id):
        raise ValueError(
            f"{_short(doc_id)} cannot be a document's id; expected 1 to {ID_BYTES} bytes without /, which are not "
            '".", ".." or "__…__"'
        )
    if not isinstance(fields, dict):
        raise ValueError(f"the document {_short(doc_id)} is {_short(fields)}; {_FORM}")
    mutation = put(f"{collection}/{doc_id}", _with_times(doc_id, fields, times))
    check((mutation,))
    return mutation


def _read(file: Path) -> dict[str, object]:
    """The file's JSON object. Raises ``ValueError``, which says what is wrong and where."""
    try:
        text = file.read_text("utf-8-sig")
    except OSError as problem:
        raise ValueError(f"it cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise ValueError(f"it is not UTF-8, at byte {problem.start}; {_FORM}") from None
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs, parse_constant=_refuse_constant)
    except json.JSONDecodeError as problem:
        raise ValueError(f"it is no JSON: {problem}; {_FORM}") from None
    if not isinstance(pairs, _Pairs):
        raise ValueError(f"it holds {_short(pairs)}; {_FORM}")
    return {name: _plain(value, (name,)) for name, value in _once(pairs, ())}


def _once(pairs: _Pairs, place: Sequence[str]) -> _Pairs:
    """The pairs. Raises ``ValueError`` for a name that is there twice: only one of its values could be kept."""
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            if not place:
                raise ValueError(f"the id {_short(name)} is there twice")
            field = ".".join((*place[1:], name))[:_SHOWN]
            raise ValueError(f"the document {_short(place[0])} has the field {field!r} twice")
        names.add(name)
    return pairs


def _plain(value: object, place: tuple[str, ...]) -> object:
    """The value with objects as dictionaries."""
    if isinstance(value, _Pairs):
        return {name: _plain(inner, (*place, name)) for name, inner in _once(value, place)}
    if isinstance(value, list):
        return [_plain(item, place) for item in value]
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that a document can hold")


def _with_times(doc_id: str, fields: dict[str, object], times: frozenset[str]) -> Fields:
    """The document's fields, with times as times. Raises ``ValueError`` for one that is none."""

    def is_time(name: str) -> bool:
        return name == "at" or name.endswith("_at") or name in times

    def deeper(name: str, value: object) -> Value:
        if isinstance(value, str) and is_time(name):
            return _moment(value) or value
        if isinstance(value, dict):
            return {inner: deeper(inner, each) for inner, each in value.items()}
        return value  # type: ignore[return-value]  # JSON has no other types

    for name, value in fields.items():
        if is_time(name) and value is not None and not (isinstance(value, str) and _moment(value)):
            expected = "expected a time such as 2026-01-31T12:00:00Z"
            raise ValueError(f"the document {_short(doc_id)}: {name} is {_short(value)}, {expected}")
    return {name: deeper(name, value) for name, value in fields.items()}


def _moment(text: str) -> Value:
    return parse_time(text) or timestamp(text)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
