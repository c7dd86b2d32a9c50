"""The mock: a document store in memory that answers as Firestore does.

With a journal, every process that opens it is a replica of one store: a read first applies what others appended; a
write is decided and appended under the journal's lock. Without a journal the store is private to this process.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from backends.disk import disk
from backends.documents.collection import Collection
from backends.documents.foreign import Foreign
from backends.documents.patterns import ANY, fits_collection, order
from backends.documents.port import DOCUMENT_BYTES, Context, Count, Document, Mutation, Query, Skipped
from backends.documents.semantics import applied, check, check_path, check_size, growth, refuse, size_of
from backends.errors import Fault, FaultKind
from backends.kinds.mock.journal import Journal, Record

POLL_S: Final = 0.03  # how often a watched store checks for writes of other processes

START_S: Final = 10.0  # how long to wait for another process that is filling the store

SNAPSHOT_DOCUMENTS: Final = 1000  # in one record of a compacted journal


def parent(path: str) -> str:
    """The collection of a document's path."""
    return path[: path.rindex("/")]


class MemoryStore:
    """A ``DocumentStore`` over plain dictionaries."""

    kind = "mock"

    def __init__(self, initial: Callable[[], Sequence[Mutation]] = tuple, log: Journal | None = None) -> None:
        self.foreign = Foreign(self.kind)
        self._initial = initial
        self._log = log
        self._collections: dict[str, Collection] = {}
        self._names: list[tuple[str, ...]] | None = None  # of the collections, sorted: made by the first nested scan
        self.skipped = Skipped()  # stays empty: every document here was written through the port
        self._sizes: dict[str, int] = {}  # upper bound in bytes, of documents that were merged into
        self._time = 0
        self._watchers: dict[str, set[Callable[[], None]]] = {}
        self._poller: asyncio.TimerHandle | None = None

    def poll(self) -> None:
        """Apply what other processes wrote."""
        if self._log is not None and self._log.behind():
            for record in self._log.read(self._reset):
                self._replay(record)

    async def get(self, path: str, ctx: Context) -> Document | None:
        """As ``DocumentStore.get``."""
        return (await self.get_many((path,), ctx))[0]

    async def get_many(self, paths: Sequence[str], ctx: Context) -> list[Document | None]:
        """As ``DocumentStore.get_many``."""
        self.poll()
        documents = []
        for path in paths:
            check_path(path)
            collection = self._rest_on(parent(path), ctx)
            documents.append(
                collection.documents.get(path[path.rindex("/") + 1 :]) if collection is not None else None
            )
        return documents

    async def query(self, query: Query, ctx: Context, max_age: float = 0.0, min_age: float = 0.0) -> list[Document]:
        """As ``DocumentStore.query``."""
        self.poll()
        collection = self._rest_on(query.collection, ctx)
        return collection.run(query) if collection is not None else []

    async def count(
        self, query: Query, ctx: Context, total: str | None = None, max_age: float = 0.0, min_age: float = 0.0
    ) -> Count:
        """As ``DocumentStore.count``."""
        self.poll()
        collection = self._rest_on(query.collection, ctx)
        return collection.count(query, total) if collection is not None else Count(0, 0)

    async def scan(self, pattern: str, after: str | None, limit: int, ctx: Context) -> list[Document]:
        """As ``DocumentStore.scan``."""
        self.poll()
        ctx.memorable = False
        documents: list[Document] = []
        for name in self._matching(pattern, after):
            is_first = after is not None and after.startswith(f"{name}/") and "/" not in after[len(name) + 1 :]
            place = (None, after[len(name) + 1 :]) if is_first and after is not None else None
            page = Query(name, limit=limit - len(documents), start_after=place)
            documents += self._collections[name].run(page)
            if len(documents) >= limit:
                break
        return documents

    def _matching(self, pattern: str, after: str | None) -> Iterator[str]:
        """The collections of the pattern, in order, from the one that ``after`` is in."""
        if ANY not in pattern:
            if pattern in self._collections:
                yield pattern
            return
        for segments in self.names(() if after is None else order(after)[:-1]):
            name = "/".join(segments)
            if fits_collection(pattern, name):
                yield name

    def names(self, start: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        """The names of all collections from ``start`` on, by segments, in order; some may be empty."""
        if self._names is None:
            self._names = sorted(map(order, self._collections))
        for at in range(bisect_left(self._names, start), len(self._names)):
            yield self._names[at]

    def collection(self, name: str) -> Collection | None:
        """The collection as this process has it. Only its store may change it."""
        return self._collections.get(name)

    def read_time(self) -> int:
        """Microseconds: no commit so far is later than this time, and every later commit is. Without a journal."""
        assert self._log is None, "other processes know nothing of this time"
        self._time = max(self._time, time.time_ns() // 1000)
        return self._time

    async def size(self, pattern: str, ctx: Context) -> int:
        """As ``DocumentStore.size``."""
        self.poll()
        ctx.memorable = False
        return sum(len(self._collections[name].documents) for name in self._matching(pattern, None))

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        """As ``DocumentStore.commit``."""
        check(mutations)
        if self._log is None:
            return self._commit(mutations)
        await self._log.lock(ctx)
        try:
            self.poll()
            when = self._commit(mutations)
        finally:
            self._log.unlock()
        try:
            await disk().synced()
        except OSError as problem:
            message = f"mock: the journal cannot be synced: {problem}"
            raise Fault(FaultKind.EXHAUSTED, message, may_have_applied=True) from None
        return when

    def _commit(self, mutations: Sequence[Mutation]) -> int:
        """Decide, append, apply, in this order: no reader sees any of it before the record is in the journal."""
        when = max(self._time + 1, time.time_ns() // 1000)
        pending: dict[str, Document | None] = {}
        sizes: dict[str, int] = {}
        for mutation in mutations:  # each of another document
            path = mutation.path
            current = self._find(path)
            refuse(current, mutation.precondition, path)
            document = pending[path] = applied(current, mutation, when)
            if mutation.mask is not None and document is not None and document is not current:
                sizes[path] = self._grown(current, mutation, document)
        if self._log is not None:
            bare = (Mutation(m.path, m.fields, m.mask, m.transforms) for m in mutations)
            self._log.append(Record(when, tuple(bare)))
        self._keep(when, pending, sizes)
        if self._log is not None and self._log.full():
            self._log.compact(self._snapshot())
        return when

    def _grown(self, current: Document | None, mutation: Mutation, document: Document) -> int:
        """An upper bound of the bytes of ``document``; raises ``Rejected`` if it is too large.

        The document is measured the first time, and again only when what was added since might exceed the limit.
        """
        known = self._sizes.get(mutation.path)
        if current is not None and known is not None:
            known += growth(current, mutation)
            if known <= DOCUMENT_BYTES:
                return known
        size = size_of(document)
        check_size(mutation.path, size)
        return size

    def _replay(self, record: Record) -> None:
        pending: dict[str, Document | None] = {document.path: document for document in record.documents}
        sizes: dict[str, int] = {}
        for mutation in record.mutations:
            path = mutation.path
            current = self._find(path)
            pending[path] = applied(current, mutation, record.time)
            if mutation.mask is not None and current is not None and path in self._sizes:
                sizes[path] = self._sizes[path] + growth(current, mutation)
        self._keep(record.time, pending, sizes)

    def _snapshot(self) -> Iterator[Record]:
        documents = self.documents()
        while batch := tuple(itertools.islice(documents, SNAPSHOT_DOCUMENTS)):
            yield Record(self._time, documents=batch)

    def _find(self, path: str) -> Document | None:
        collection = self._collections.get(parent(path))
        return collection.documents.get(path[path.rindex("/") + 1 :]) if collection is not None else None

    def _keep(self, when: int, pending: dict[str, Document | None], sizes: dict[str, int]) -> None:
        self._time = when
        touched = set()
        for path, document in pending.items():
            if document is self._find(path):
                continue  # nothing changed
            if path in sizes:
                self._sizes[path] = sizes[path]
            else:
                self._sizes.pop(path, None)
            name = parent(path)
            touched.add(name)
            if document is not None:
                self._of(name).put(document)
            else:
                self._collections[name].drop(path[path.rindex("/") + 1 :])
        for name in touched & self._watchers.keys():
            for wake in tuple(self._watchers[name]):
                wake()

    def _of(self, name: str) -> Collection:
        """The collection, made if there is none yet."""
        collection = self._collections.get(name)
        if collection is None:
            collection = self._collections[name] = Collection()
            if self._names is not None:
                insort(self._names, order(name))
        return collection

    def _reset(self) -> None:
        for collection in self._collections.values():
            collection.clear()
        self._sizes.clear()

    def _rest_on(self, name: str, ctx: Context) -> Collection | None:
        collection = self._collections.get(name)
        if collection is None:
            ctx.memorable = False  # before the first document there is no cell whose version could be recorded
            return None
        ctx.rest_on(collection.cell)
        return collection

    def documents(self) -> Iterator[Document]:
        """All documents."""
        return (document for each in self._collections.values() for document in each.documents.values())

    def watch(self, collection: str, wake: Callable[[], None]) -> Callable[[], None]:
        """As ``DocumentStore.watch``."""
        watchers = self._watchers.setdefault(collection, set())
        watchers.add(wake)
        if self._log is not None and self._poller is None:
            self._poller = asyncio.get_running_loop().call_later(POLL_S, self._look)

        def end() -> None:
            watchers.discard(wake)
            if not watchers and self._watchers.get(collection) is watchers:
                del self._watchers[collection]

        return end

    def _look(self) -> None:
        self._poller = asyncio.get_running_loop().call_later(POLL_S, self._look) if self._watchers else None
        self.poll()

    def watches(self, collection: str, doc_id: str | None = None) -> bool:
        """Always: this store sees every change."""
        return True

    async def start(self) -> None:
        """Read the journal; if nothing was ever written, write the initial data."""
        if self._log is not None:
            self._log.open()
        self.poll()
        if self._time == 0:
            await self._begin()

    async def _begin(self) -> None:
        ctx = Context(asyncio.get_running_loop().time() + START_S)
        if self._log is None:
            self._commit(self._initial())
            return
        await self._log.lock(ctx)
        try:
            self.poll()
            if self._time == 0:  # no other process was first
                self._commit(self._initial())
        finally:
            self._log.unlock()

    async def close(self) -> None:
        """Close the journal."""
        if self._poller is not None:
            self._poller.cancel()
            self._poller = None
        if self._log is not None:
            self._log.close()

    def gauges(self) -> dict[str, int]:
        """As ``DocumentStore.gauges``."""
        return {"foreign_documents": self.foreign.count}

    async def health(self, deadline_s: float) -> str:
        """Always healthy: it is this process."""
        return "in memory"
