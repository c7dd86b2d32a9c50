"""Only documents that an adapter wrote, or could have written: any other is left out, counted and named.

Another program may put documents into our collections. A handler that took one for its own would fail half-way, on
every request whose answer the document is part of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from backends.documents.foreign import is_foreign
from backends.documents.port import NAME, Context, Document, DocumentStore, Fields, Query, Value
from backends.errors import Fault

# Why a document is none of ours, by its fields; None where it is one.
Misfit: TypeAlias = Callable[[Fields], str | None]

PAGE: Final = 300  # documents at most that are asked for at once in place of foreign ones
_ABSENT: Final = object()


def needing(needs: Mapping[str, tuple[type, ...]]) -> Misfit:
    """Documents must have these fields, each with a value of exactly one of these types."""

    def misfit(fields: Fields) -> str | None:
        for name, kinds in needs.items():
            value = fields.get(name, _ABSENT)
            if type(value) not in kinds:
                found = "nothing" if value is _ABSENT else type(value).__name__
                return f"{name}: expected {' or '.join(kind.__name__ for kind in kinds)}, found {found}"
        return None

    return misfit


async def get_fitting(store: DocumentStore, path: str, misfit: Misfit, ctx: Context) -> Document | None:
    """As ``store.get``; a document that is none of ours does not exist."""
    try:
        document = await store.get(path, ctx)
    except Fault as fault:
        if is_foreign(fault):
            return None
        raise
    if document is None or not _fits(store, document, misfit):
        return None
    return document


async def query_fitting(
    store: DocumentStore,
    query: Query,
    misfit: Misfit,
    ctx: Context,
    max_age: float = 0.0,
    min_age: float = 0.0,
) -> list[Document]:
    """As ``store.query``, without documents that are none of ours: as many others are asked for instead."""
    found = await store.query(query, ctx, max_age, min_age)
    fitting = [document for document in found if _fits(store, document, misfit)]
    if query.limit is None:
        return fitting
    limit = query.limit
    while len(found) == limit and len(fitting) < query.limit:
        # Where one is foreign, many may be: a page of the size that is lacking could be asked for without end.
        limit = max(query.limit - len(fitting), min(PAGE, 4 * limit))
        further = dataclasses.replace(query, start_after=_place(found, query), limit=limit)
        found = await store.query(further, ctx, max_age, min_age)
        fitting += [document for document in found if _fits(store, document, misfit)]
    return fitting[: query.limit]


def _fits(store: DocumentStore, document: Document, misfit: Misfit) -> bool:
    why = misfit(document.fields)
    if why is not None:
        store.foreign.note(document.path, why)
    return why is None


def _place(found: Sequence[Document], query: Query) -> tuple[Value, str]:
    """Where a query goes on after these documents."""
    last = found[-1]
    return None if query.order == NAME else last.fields[query.order], last.id
