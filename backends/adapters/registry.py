"""The table of adapters, and what follows from it: operations, live views, handlers, who claims a document. Pure.

Adding an adapter to the product is its file and its place in ``BUILT_IN``; ``backends.extensions`` adds one from
outside. The table is filled before a process reads its plan. What was built by then (a board's layout, a router, an
arm) keeps the operations that it was built with, so every process of one run must have the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import combinations
from typing import Any, Final

from backends.adapters.adapter import PLACEHOLDER, Adapter, AdapterError, Spec
from backends.adapters.analytics import ADAPTER as ANALYTICS
from backends.adapters.dashboard import ADAPTER as DASHBOARD
from backends.adapters.scans import ADAPTER as SCANS
from backends.documents import changes
from backends.documents.port import Context, DocumentStore, Query
from backends.documents.shape import Ask
from backends.operations import Call, Operation

BUILT_IN: Final = (DASHBOARD, SCANS, ANALYTICS)

_table: tuple[Adapter, ...] = BUILT_IN


def _install_changes(adapters: Sequence[Adapter]) -> None:
    """Let the changes of these adapters be decoded and compared."""
    kinds = [kind for adapter in adapters for kind in adapter.changes]
    changes.install(kinds, {name: rule for adapter in adapters for name, rule in adapter.rules.items()})


_install_changes(BUILT_IN)


def install(adapters: Sequence[Adapter]) -> None:
    """Make these the table. Raises ``AdapterError``, and leaves the table as it is, where two claim the same."""
    problems = list(conflicts(adapters))
    if problems:
        raise AdapterError("\n".join(problems))
    global _table
    _table = tuple(adapters)
    _install_changes(_table)


def adapters() -> tuple[Adapter, ...]:
    """Every adapter, in the order of the board's cells."""
    return _table


def operations() -> tuple[Operation, ...]:
    """Every operation, in the order of the board's cells."""
    return tuple(operation for adapter in _table for operation in adapter.operations)


def specs() -> dict[str, Spec]:
    """What each operation declares, by the operation's name."""
    return {
        operation.name: spec
        for adapter in _table
        for operation, spec in zip(adapter.operations, adapter.serves, strict=True)
    }


def views() -> tuple[Query, ...]:
    """What a store keeps live."""
    return tuple(view for adapter in _table for view in adapter.views)


def asks() -> tuple[Ask, ...]:
    """Every read that a handler or a view may make, one of each shape."""
    made = [ask for adapter in _table for ask in (*adapter.asks, *map(Ask, adapter.views))]
    return tuple({ask.shape: ask for ask in reversed(made)}.values())[::-1]


def unindexed() -> tuple[tuple[str, str], ...]:
    """Every field that is not to be indexed, as (collection, field)."""
    return tuple(each for adapter in _table for each in adapter.unindexed)


def undeclared() -> tuple[str, ...]:
    """The names of adapters that read documents and do not say by which queries."""
    return tuple(adapter.name for adapter in _table if not adapter.asks)


def handlers(store: DocumentStore) -> dict[str, Callable[[Call, Context], Coroutine[Any, Any, Any]]]:
    """Every operation's handler over the store, by the operation's name."""
    instances = [(adapter, adapter.handlers(store)) for adapter in _table]
    return {
        operation.name: getattr(instance, operation.call)
        for adapter, instance in instances
        for operation in adapter.operations
    }


def claiming(path: str) -> Adapter | None:
    """The adapter that owns the document or collection at ``path``."""
    collection = path.split("/")[0]
    return next((adapter for adapter in _table if collection in adapter.collections), None)


def conflicts(adapters: Sequence[Adapter]) -> Iterator[str]:
    """What more than one of these adapters claims, in words."""
    for one, other in combinations(adapters, 2):
        claimant = f"{other.file}: adapter {other.name!r}"
        taken = f"belongs to adapter {one.name!r} already ({one.file})"
        if one.name == other.name:
            yield f"{claimant}: the name {taken}"
        for collection in sorted({*one.collections} & {*other.collections}):
            yield f"{claimant}: the collection {collection} {taken}"
        for path in sorted({spec.path for spec in other.serves}):
            if any(_meet(path, spec.path) for spec in one.serves):
                yield f"{claimant}: the path {path} {taken}"


def _meet(one: str, other: str) -> bool:
    """Whether some path fits both templates."""
    pairs = zip(one.split("/"), other.split("/"), strict=False)
    return one.count("/") == other.count("/") and all(
        a == b or PLACEHOLDER.fullmatch(a) or PLACEHOLDER.fullmatch(b) for a, b in pairs
    )
