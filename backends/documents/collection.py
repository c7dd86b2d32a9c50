"""Documents of one collection in memory, with an index for each shape of query. Pure.

The mock has one per collection; a live view has one that is filled from Firestore. The first query that needs an
index creates it. An index is for a set of fields compared with ``==`` and one ordered field: for each combination of
values of the former it holds the sorted pairs of (ordered value, id). Both directions read the same pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeAlias

from backends.documents.entries import BEGIN, Entry, Place, SortedEntries
from backends.documents.port import NAME, Cell, Count, Document, Filter, Query
from backends.documents.semantics import SortKey, matches, sort_key

_Shape: TypeAlias = tuple[tuple[str, ...], str]

_NOTHING: Final = SortedEntries()


class _Index:
    """Sorted entries, by the values of the fields compared with ``==``."""

    __slots__ = ("equal", "groups", "order")

    def __init__(self, shape: _Shape) -> None:
        self.equal, self.order = shape
        self.groups: dict[tuple[SortKey, ...], SortedEntries] = {}

    def _place(self, document: Document, doc_id: str) -> tuple[tuple[SortKey, ...], Entry] | None:
        fields = document.fields
        if self.order == NAME:
            key: SortKey = ()
        elif self.order in fields:
            key = sort_key(fields[self.order])
        else:
            return None
        if any(name not in fields for name in self.equal):
            return None
        return tuple(sort_key(fields[name]) for name in self.equal), (key, doc_id)

    def add(self, document: Document, doc_id: str) -> None:
        place = self._place(document, doc_id)
        if place is not None:
            group = self.groups.get(place[0])
            if group is None:
                group = self.groups[place[0]] = SortedEntries()
            group.add(place[1])

    def remove(self, document: Document, doc_id: str) -> None:
        place = self._place(document, doc_id)
        if place is not None:
            group = self.groups[place[0]]
            group.remove(place[1])
            if not group:
                del self.groups[place[0]]


class Collection:
    """Documents by id. ``cell.version`` differs after every change."""

    __slots__ = ("_indexes", "cell", "documents")

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.cell = Cell()
        self._indexes: dict[_Shape, _Index] = {}

    def put(self, document: Document) -> None:
        """Add the document, or replace the one with the same id."""
        doc_id = document.id
        if self._indexes:
            old = self.documents.get(doc_id)
            for index in self._indexes.values():
                if old is not None:
                    index.remove(old, doc_id)
                index.add(document, doc_id)
        self.documents[doc_id] = document
        self.cell.version += 1

    def drop(self, doc_id: str) -> None:
        """Remove the document, if it is there."""
        old = self.documents.pop(doc_id, None)
        if old is not None:
            for index in self._indexes.values():
                index.remove(old, doc_id)
            self.cell.version += 1

    def clear(self) -> None:
        """Remove every document."""
        self.documents.clear()
        self._indexes.clear()
        self.cell.version += 1

    def run(self, query: Query) -> list[Document]:
        """The query's result."""
        entries, low, high = self._span(query)
        if query.start_after is not None:
            value, doc_id = query.start_after
            after = (() if query.order == NAME else sort_key(value), doc_id)
            if query.descending:
                high = min(high, entries.left(after))
            else:
                low = max(low, entries.right(after))
        return list(islice(self._scan(query, entries, low, high), query.limit))

    def count(self, query: Query, total: str | None = None) -> Count:
        """As ``DocumentStore.count``."""
        entries, low, high = self._span(query)
        documents = amount = 0
        for document in self._scan(query, entries, low, high):
            documents += 1
            value = document.fields.get(total) if total is not None else None
            if isinstance(value, int) and not isinstance(value, bool):
                amount += value
        return Count(documents, amount)

    def _scan(self, query: Query, entries: SortedEntries, low: Place, high: Place) -> Iterator[Document]:
        members = [condition for condition in query.where if condition.op == "in"]
        for _, doc_id in entries.between(low, high, descending=query.descending):
            document = self.documents[doc_id]
            if all(matches(document, condition) for condition in members):
                yield document

    def _span(self, query: Query) -> tuple[SortedEntries, Place, Place]:
        """The index entries that satisfy every ``==`` and inequality: all of a group, and the bounds within it."""
        equal = sorted((c for c in query.where if c.op == "=="), key=lambda c: c.field)
        shape = (tuple(c.field for c in equal), query.order)
        index = self._indexes.get(shape)
        if index is None:
            index = self._indexes[shape] = _Index(shape)
            for doc_id, document in self.documents.items():
                index.add(document, doc_id)
        entries = index.groups.get(tuple(sort_key(c.value) for c in equal), _NOTHING)
        low, high = BEGIN, entries.end()
        for condition in query.where:
            if condition.op not in ("==", "in"):
                first, last = _bounds(entries, condition)
                low, high = max(low, first), min(high, last)
        return entries, low, max(low, high)


def _bounds(entries: SortedEntries, condition: Filter) -> tuple[Place, Place]:
    """The entries that satisfy an inequality: those of the value's type, on the right side of it."""
    key = sort_key(condition.value)
    rank = key[0]
    first = entries.left(((rank,),))
    last = entries.left(((rank + 1,),))
    match condition.op:
        case "<":
            last = entries.left(key, key=_value)
        case "<=":
            last = entries.right(key, key=_value)
        case ">":
            first = entries.right(key, key=_value)
        case _:
            first = entries.left(key, key=_value)
    return first, last


def _value(entry: Entry) -> SortKey:
    return entry[0]
