"""What an adapter is: everything phasegate knows about one part of the app's API, declared in one value. Pure.

An adapter is one file. It ends with ``ADAPTER = Adapter(...)``, which names the class of its handlers and, for each
of its operations, a ``Spec``: the request, the handler, and the shapes that the OpenAPI document is drawn from.
Everything that knows operations reads them from there (see ``registry``): the data plane's routes, the board's
layout, the stores' live views, the document, made-up data and fixtures.

A declaration is checked when its file is imported: an incomplete one raises ``AdapterError`` then. Found later, the
same mistake would end a worker or the control process.

A handler is an async method ``(call, ctx)`` of a class constructed with a document store. For a read or a stream it
returns the ``Answer``; for a write it returns ``Written``: the answer, and the change for the other store to apply.
It applies the change to its own store by ``changes.write``, which logs it before it is sent. A change that was
applied otherwise is logged when the handler returns; a process killed in between leaves the two sides different.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final, NamedTuple, get_args
from urllib.parse import urlencode

import msgspec

from backends.adapters.requests import Parameter
from backends.documents.changes import Change, Join, Newer, StateRule, kind_problem
from backends.documents.patterns import is_pattern
from backends.documents.port import Context, DocumentStore, Query
from backends.documents.shape import Ask
from backends.operations import Call, Kind, Operation

# The first argument is the instance. A write returns ``Written``, every other kind an ``Answer``.
Handler = Callable[[Any, Call, Context], Coroutine[Any, Any, Any]]

PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
ANCHOR: Final = datetime(2026, 1, 1, tzinfo=UTC)  # made-up data ends here
_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)


class AdapterError(ValueError):
    """An adapter cannot be used; the message says which file, what is wrong and what was expected."""


@dataclass(frozen=True, slots=True)
class Example:
    """A minimal request that a client could send.

    ``of`` is the handler of another operation of this adapter. Path parameters missing from ``params`` are taken
    from the fields of that operation's answer to its own example.
    """

    body: str = ""  # JSON
    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    of: Handler | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """One operation, as its adapter declares it.

    ``answer`` and ``body`` are shapes: types that ``msgspec`` can decode JSON into. ``refuses`` lists the error
    statuses of the operation beside 400 and 503, which every operation may answer with.
    """

    handler: Handler
    method: str
    path: str
    kind: Kind
    answer: Any = None  # None for a stream of server-sent events
    status: int = 200  # of success
    refuses: tuple[int, ...] = ()
    body: Any = None
    body_optional: bool = False  # every field has a default
    parameters: tuple[Parameter, ...] = ()  # of the query
    in_path: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # more of a path parameter's schema
    example: Example = field(default_factory=Example)

    @property
    def call(self) -> str:
        """The handler's name."""
        return getattr(self.handler, "__name__", repr(self.handler))

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names of the path's parameters."""
        return tuple(PLACEHOLDER.findall(self.path))


class MadeUp(NamedTuple):
    """A request that generates made-up data: whatever its handler stores is part of the data."""

    handler: Handler
    at: datetime
    id: str
    body: object
    params: dict[str, str]


def made_up(dice: random.Random, handler: Handler, at: datetime, body: object, **params: str) -> MadeUp:
    """A request for made-up data, with an id drawn from ``dice``."""
    return MadeUp(handler, at, f"{dice.getrandbits(128):032x}", body, params)


@dataclass(frozen=True, eq=False)
class Adapter:
    """One part of the app's API. Raises ``AdapterError`` if anything is missing, inconsistent or duplicated."""

    name: str
    handlers: Callable[[DocumentStore], Any]  # the class
    serves: tuple[Spec, ...]
    collections: tuple[str, ...]  # top-level collections; all its documents are in or below them
    views: tuple[Query, ...] = ()  # queries that a store keeps live, to answer the most frequent requests
    # Every query that its handlers may make, one of each shape. `phasegate check` makes each of them once, and the
    # file of indexes follows from them.
    asks: tuple[Ask, ...] = ()
    # Fields that no query needs and that may hold many values, as (collection, field): not to be indexed.
    unindexed: tuple[tuple[str, str], ...] = ()
    made_up: Callable[[random.Random], Iterator[MadeUp]] | None = None  # the data of a mock without fixtures
    times: frozenset[str] = frozenset()  # fields of fixtures that hold times, beside ``at`` and ``…_at``
    # By collection: whether the first state of a document is newer than the second, and so replaces it.
    newer: Mapping[str, Newer] = field(default_factory=dict)
    # By collection, in place of ``newer``: what two states make together, field by field. So when two writers change
    # different fields of one document at the same time, one on each side, both changes stand.
    joins: Mapping[str, Join] = field(default_factory=dict)
    changes: tuple[type[Change], ...] = ()  # kinds of its own that its writes return, beside the built-in ones
    # Every collection of its documents, also those below documents, as patterns: ("scans", "scans/*/results"). Only
    # these are copied and compared. Without any: ``collections``.
    patterns: tuple[str, ...] = ()
    # By pattern: the fields that grow by increments (or a maximum), which each side does by itself.
    counted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise AdapterError("\n".join(f"{self.file}: adapter {self.name!r}: {problem}" for problem in problems))

    @property
    def file(self) -> str:
        """The file of its handlers; the name of their module if there is no file."""
        try:
            return inspect.getfile(self.handlers)
        except (OSError, TypeError):
            return str(getattr(self.handlers, "__module__", self.handlers))

    @property
    def rules(self) -> dict[str, StateRule]:
        """By collection: how two states of a document become one."""
        newer = {name: StateRule.of_newer(rule) for name, rule in self.newer.items()}
        return newer | {name: StateRule(join, True) for name, join in self.joins.items()}

    @property
    def scans(self) -> tuple[str, ...]:
        """The patterns of all its collections."""
        return self.patterns or self.collections

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """Its rows in the table of operations; every access gives the same objects."""
        return tuple(
            Operation(f"{self.name}.{spec.call}", spec.method, spec.path, spec.kind, self.name, spec.call)
            for spec in self.serves
        )


def _problems(adapter: Adapter) -> Iterator[str]:
    # Operation names begin with the adapter's name, and code that has only an operation's name splits it off again.
    if not re.fullmatch(r"[a-z][a-z0-9_]*", adapter.name):
        yield "name: expected lower-case letters, digits and _"
    for spec in adapter.serves:
        yield from (f"{spec.call}: {problem}" for problem in _misfits(adapter, spec))
    calls = [spec.call for spec in adapter.serves]
    requests = [(spec.method, spec.path) for spec in adapter.serves]
    yield from (f"{call}: there are two operations of this handler" for call in _repeated(calls))
    yield from (f"{' '.join(request)}: there are two operations of this request" for request in _repeated(requests))
    for name, _ in inspect.getmembers(adapter.handlers, inspect.iscoroutinefunction):
        if not name.startswith("_") and name not in calls:
            yield f"{name}: a handler without an operation; expected a Spec of it, or a name that begins with _"
    if not adapter.collections:
        yield "collections: expected the top-level collections that its documents are in, found none"
    for collection in adapter.collections:
        if "/" in collection or not collection:
            yield f"collections: expected the name of a top-level collection, found {collection!r}"
    for query in adapter.views:
        if query.collection.split("/")[0] not in adapter.collections:
            yield f"views: {query.collection} is not in one of its collections"
    for pattern in adapter.patterns:
        if not is_pattern(pattern) or pattern.split("/")[0] not in adapter.collections:
            yield f'patterns: expected a collection of its own, or one below such as "a/*/b", found {pattern!r}'
    for pattern in adapter.counted:
        if pattern not in adapter.scans:
            yield f"counted: {pattern} is not one of its patterns"
    for place in (
        *(ask.query.collection for ask in adapter.asks),
        *(collection for collection, _ in adapter.unindexed),
    ):
        if place.split("/")[0] not in adapter.collections:
            yield f"asks, unindexed: {place} is not in one of its collections"
    for name, rules in (("newer", adapter.newer), ("joins", adapter.joins)):
        for collection in rules:
            if collection not in adapter.collections:
                yield f"{name}: {collection} is not one of its collections"
    for collection in adapter.newer.keys() & adapter.joins.keys():
        yield f"{collection} has a rule in both newer and joins; expected one"
    for kind in adapter.changes:
        if (problem := kind_problem(kind, adapter.name)) is not None:
            yield f"changes: {problem}"


def _misfits(adapter: Adapter, spec: Spec) -> Iterator[str]:
    """What is wrong with one operation."""
    if inspect.getattr_static(adapter.handlers, spec.call, None) is not spec.handler:
        yield f"an operation without a handler; expected an async method of {adapter.handlers!r}"
    elif not inspect.iscoroutinefunction(spec.handler):
        yield "expected an async method"
    if spec.kind not in get_args(Kind):
        yield f"kind: expected one of {', '.join(get_args(Kind))}, found {spec.kind!r}"
    if not re.fullmatch(r"[A-Z]+", spec.method):
        yield f"method: expected a method such as GET, found {spec.method!r}"
    if not re.fullmatch(r"(/([^/{}?#]+|\{[A-Za-z_]\w*\}))+", spec.path):
        yield f'path: expected a path such as "/api/things/{{id}}", found {spec.path!r}'
    for name in _repeated(spec.placeholders):
        yield f"path: {{{name}}} is there twice"
    for status in (spec.status, *spec.refuses):
        if status not in _STATUSES:
            yield f"expected HTTP statuses, found {status!r}"
    if spec.kind == "stream" and spec.answer is not None:
        yield "answer: a stream answers with server-sent events; expected no shape"
    if spec.kind != "stream" and spec.answer is None:
        yield "answer: missing; expected the shape of its JSON"
    for part in ("answer", "body"):
        try:
            msgspec.json.schema(getattr(spec, part))
        except (TypeError, RuntimeError) as error:
            yield f"{part}: cannot be described: {str(error).splitlines()[0]}"
    for name in spec.in_path:
        if name not in spec.placeholders:
            yield f"in_path: {name} is not in the path"
    for name in _repeated([parameter.name for parameter in spec.parameters]):
        yield f"parameters: {name} is there twice"
    yield from _example_problems(adapter, spec)


def _example_problems(adapter: Adapter, spec: Spec) -> Iterator[str]:
    example = spec.example
    missing = [name for name in spec.placeholders if name not in example.params]
    if example.of is not None and example.of not in [other.handler for other in adapter.serves]:
        yield "example.of: expected the handler of another operation"
    if missing and example.of is None:
        yield f"example: {', '.join(missing)} of the path is missing; expected it in params, or an operation in of"
    if spec.body is None and example.body:
        yield "body: missing; expected the shape of the example's body"
    elif spec.body is not None and not example.body and not spec.body_optional:
        yield "example: the body is missing"
    elif spec.body is not None and example.body:
        try:
            msgspec.json.decode(example.body, type=spec.body)
        except (TypeError, msgspec.DecodeError) as error:
            yield f"example: the body is not of its shape: {str(error).splitlines()[0]}"


def _repeated(names: Any) -> list[Any]:
    names = list(names)
    return sorted({name for name in names if names.count(name) > 1})


def example_call(
    adapter: Adapter, spec: Spec, answered: Mapping[str, Mapping[str, Any]], now: float, fresh_id: str
) -> Call:
    """The example of an operation as a call. ``answered``: the answers to other examples by operation, for ``of``."""
    example = spec.example
    operation = next(each for each in adapter.operations if each.call == spec.call)
    params = dict(example.params)
    for name in spec.placeholders:
        if name not in params:
            params[name] = str(answered[f"{adapter.name}.{getattr(example.of, '__name__', '')}"][name])
    path = PLACEHOLDER.sub(lambda match: params[match[1]], spec.path)
    key = f"{path}?{urlencode(example.query)}".encode()
    return Call(operation, key, params, dict(example.query), example.body.encode(), now, fresh_id)
