"""One database of the emulator: the mock's store, and questions to it as Firestore's clients ask them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice

from backends.documents.collection import Collection
from backends.documents.patterns import order
from backends.documents.port import Context, Document, Query
from backends.emulator.questions import Asked, Question, Walk
from backends.emulator.writes import DecodedWrite
from backends.kinds.mock.memory import MemoryStore


class EmulatedDatabase:
    """The documents of one database. Nothing here suspends, so each call sees one moment."""

    def __init__(self, name: str) -> None:
        """``name``: ``projects/P/databases/D``."""
        self.name = name
        self.root = f"{name}/documents/"  # before a document's path
        self.store = MemoryStore()

    def get(self, path: str) -> Document | None:
        """The document, or None."""
        cut = path.rindex("/")
        collection = self.store.collection(path[:cut])
        return None if collection is None else collection.documents.get(path[cut + 1 :])

    async def commit(self, writes: list[DecodedWrite]) -> int:
        """Apply all or none; returns the commit time. Raises ``Rejected``."""
        return await self.store.commit([write.mutation for write in writes], Context(float("inf")))

    def run(self, question: Question) -> list[Document]:
        """The result."""
        return list(islice(self._all(question.asked), question.offset, None))

    def count(self, question: Question) -> int:
        """How many documents the result has."""
        asked = question.asked
        if isinstance(asked, Query):
            collection = self.store.collection(asked.collection)
            if collection is None:
                return 0
            if asked.limit is None and asked.start_after is None:
                return max(0, collection.count(asked).documents - question.offset)
        elif asked.limit is None:
            return max(0, sum(self._size(asked, name) for name in self._names(asked)) - question.offset)
        return len(self.run(question))

    def _all(self, asked: Asked) -> Iterator[Document]:
        if isinstance(asked, Query):
            collection = self.store.collection(asked.collection)
            return iter(() if collection is None else collection.run(asked))
        return islice(self._walked(asked), asked.limit)

    # ------------------------------------------------------------------------------------------------- walks

    def _walked(self, walk: Walk) -> Iterator[Document]:
        """The documents of a walk. Where one collection is below another, theirs are mixed."""
        for nested in _clusters(self._names(walk)):
            if len(nested) == 1:
                yield from self._of_one(walk, nested[0])
            else:
                yield from heapq.merge(
                    *(self._of_one(walk, name) for name in nested), key=lambda document: order(document.path)
                )

    def _names(self, walk: Walk) -> Iterator[tuple[str, ...]]:
        """The names of the walk's collections that may hold documents within its bounds, in order."""
        parent = order(walk.parent) if walk.parent else ()
        own = (*parent, walk.collection_id)
        if not walk.everywhere:
            yield own
            return
        first = parent if walk.low is None else max(parent, walk.low.at[:-1])
        # Of the collections before the first one, those above it hold documents that come after the bound too.
        for length in range(len(parent) + 1, len(first), 2):
            if first[length - 1] == walk.collection_id and first[: len(parent)] == parent:
                yield first[:length]
        for name in self.store.names(first):
            if name[: len(parent)] != parent or (walk.high is not None and name > walk.high.at):
                return
            if name[-1] == walk.collection_id:
                yield name

    def _of_one(self, walk: Walk, name: tuple[str, ...]) -> Iterator[Document]:
        """The documents of one collection that are within the walk's bounds."""
        collection = self.store.collection("/".join(name))
        if collection is None:
            return
        after = None
        low, high = walk.low, walk.high
        if low is not None and low.at[: len(name)] == name and len(low.at) > len(name):
            after = low.at[len(name)]
            # A bound in a collection below has its document of this one before it.
            first = collection.documents.get(after) if low.inclusive and len(low.at) == len(name) + 1 else None
            if first is not None and _within(walk, first):
                yield first
        elif low is not None and name < low.at:
            return
        place = None if after is None else (None, after)
        for document in collection.run(Query("/".join(name), limit=walk.limit or None, start_after=place)):
            if high is not None and not _within(walk, document):
                return
            yield document

    def _size(self, walk: Walk, name: tuple[str, ...]) -> int:
        """How many documents ``_of_one`` gives, without going through them where no bound is in the collection."""
        if any(bound is not None and bound.at[: len(name)] == name for bound in (walk.low, walk.high)):
            return sum(1 for _ in self._of_one(walk, name))
        outside = (walk.low is not None and name < walk.low.at) or (walk.high is not None and name > walk.high.at)
        collection = self.store.collection("/".join(name))
        return 0 if outside or collection is None else len(collection.documents)

    # ------------------------------------------------------------------------------------------------- listings

    def collection_ids(self, parent: str, after: str, limit: int) -> list[str]:
        """The first ids of the collections below a document, or the root, after one of them, in order."""
        above = order(parent) if parent else ()
        depth = len(above)
        ids: list[str] = []
        while len(ids) < limit:
            name = next(self._filled((*above, f"{after}\0" if after else "")), None)
            if name is None or name[:depth] != above:
                break
            after = name[depth]
            ids.append(after)
        return ids

    def document_ids(self, collection: str, after: str, limit: int, *, missing: bool) -> list[str]:
        """The first ids in a collection after one of them; ``missing``: also of what only has collections below."""
        found = self.store.collection(collection)
        page = Query(collection, limit=limit, start_after=(None, after) if after else None)
        own = iter(() if found is None else [document.id for document in found.run(page)])
        if missing:
            own = _distinct(heapq.merge(own, self._above(order(collection), after)))
        return list(islice(own, limit))

    def _above(self, collection: tuple[str, ...], after: str) -> Iterator[str]:
        """The ids in the collection that have collections below, in order."""
        depth = len(collection)
        for name in self._filled((*collection, f"{after}\0" if after else "")):
            if name[:depth] != collection:
                return
            yield name[depth]

    def _filled(self, start: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        return (name for name in self.store.names(start) if self._has_documents(name))

    def _has_documents(self, name: tuple[str, ...]) -> bool:
        collection: Collection | None = self.store.collection("/".join(name))
        return collection is not None and bool(collection.documents)


def _within(walk: Walk, document: Document) -> bool:
    """Whether the document is before the walk's end."""
    high = walk.high
    if high is None:
        return True
    at = order(document.path)
    return at < high.at or (high.inclusive and at == high.at)


def _clusters(names: Iterator[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """Successive names, those together of which the first is above the others."""
    cluster: list[tuple[str, ...]] = []
    for name in names:
        if cluster and name[: len(cluster[0])] != cluster[0]:
            yield cluster
            cluster = []
        cluster.append(name)
    if cluster:
        yield cluster


def _distinct(ids: Iterator[str]) -> Iterator[str]:
    last = None
    for each in ids:
        if each != last:
            yield each
        last = each
