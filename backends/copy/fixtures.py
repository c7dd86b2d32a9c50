"""The data a migration starts from: JSON fixtures, or made-up data that is the same every time and on both sides.

Each adapter defines its own documents: it generates the made-up data, and says which of its fields are times.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from backends.adapters import registry
from backends.adapters.adapter import Adapter, AdapterError, MadeUp
from backends.adapters.replies import OperationRefused
from backends.adapters.times import parse_time
from backends.backend import Backend
from backends.documents.port import Context, Fields, Mutation, Value, put
from backends.documents.semantics import check
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.registry import KINDS
from backends.operations import Call


class FixtureError(ValueError):
    """A fixture cannot be used; the message says which file, what was found and what was expected."""


def initial(backend: Backend) -> Callable[[], Sequence[Mutation]]:
    """The initial content of a mock: its fixtures if it has any, read now, else made-up data, generated on demand.

    Empty for a kind whose content phasegate does not define. Raises ``FixtureError``.
    """
    begins_with = KINDS[backend.kind].begins_with
    if begins_with is None:
        return tuple
    folder, seed = begins_with(backend)
    if folder is None:
        return functools.partial(made_up, seed)
    documents = tuple(fixtures(Path(folder)))
    return lambda: documents


def made_up(seed: int) -> tuple[Mutation, ...]:
    """Deterministic documents: equal seeds give equal documents, whatever the machine and the day.

    The adapters generate them by handling made-up requests over a memory store. Raises ``AdapterError`` for a request
    that its adapter refuses.
    """
    return documents(seed, registry.adapters())


@functools.lru_cache(maxsize=4)
def documents(seed: int, adapters: tuple[Adapter, ...]) -> tuple[Mutation, ...]:
    """The made-up documents of these adapters, in this order: an adapter added last does not change the others'."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    store = MemoryStore()
    for adapter in adapters:
        if adapter.made_up is not None:
            handlers = adapter.handlers(store)
            for request in adapter.made_up(dice):
                _apply(adapter, handlers, request)
    return tuple(put(document.path, document.fields) for document in store.documents())


def _apply(adapter: Adapter, handlers: object, request: MadeUp) -> None:
    """Let the adapter answer the request over its memory store, which never suspends."""
    name = request.handler.__name__
    call = Call(
        operation=next(operation for operation in adapter.operations if operation.call == name),
        key=b"",
        params=request.params,
        query={},
        body=msgspec.json.encode(request.body),
        now=request.at.timestamp(),
        id=request.id,
    )
    try:
        getattr(handlers, name)(call, Context(0.0)).send(None)
    except StopIteration:
        return
    except OperationRefused as refusal:
        why = refusal.answer.body.decode()
        raise AdapterError(f"{adapter.file}: made-up data: {name} is refused: {why}") from None
    raise AssertionError("a memory store without a journal does not suspend")


def fixtures(folder: Path) -> Iterator[Mutation]:
    """The documents of a folder of JSON files, one per collection: ``{"<id>": {field: value, …}, …}``.

    A file's name has ``.`` for each ``/`` of a nested collection's path. An RFC 3339 string is read as a time in a
    field named ``at`` or ``…_at``, or in one that the collection's adapter lists in ``times``. Raises
    ``FixtureError``.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FixtureError(f"{folder}: expected JSON files, one a collection, found none")
    for file in files:
        try:
            documents = msgspec.json.decode(file.read_bytes(), type=dict[str, dict[str, object]])
        except (OSError, msgspec.DecodeError) as problem:
            raise FixtureError(f'{file}: {problem}; expected {{"<id>": {{"field": value}}}}') from None
        collection = file.stem.replace(".", "/")
        adapter = registry.claiming(collection)
        times = frozenset[str]() if adapter is None else adapter.times
        for doc_id, fields in documents.items():
            mutation = put(f"{collection}/{doc_id}", _with_times(fields, times))
            try:
                check((mutation,))
            except Exception as problem:
                raise FixtureError(f"{file}: {problem}") from None
            yield mutation


def _with_times(fields: dict[str, object], times: frozenset[str]) -> Fields:
    def value_of(name: str, value: object) -> Value:
        if isinstance(value, str) and (name == "at" or name.endswith("_at") or name in times):
            return parse_time(value) or value
        if isinstance(value, dict):
            return _with_times(value, times)
        return value  # type: ignore[return-value]  # JSON has no other types

    return {name: value_of(name, value) for name, value in fields.items()}
