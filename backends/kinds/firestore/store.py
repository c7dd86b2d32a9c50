"""Firestore as a ``DocumentStore``, over raw gRPC.

Reads are answered from a live view if there is a fresh one, else from the cache if some age is allowed, else by the
service. Every call has a timeout, derived from its context's deadline, and goes through the guard.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc

from backends.documents.foreign import Foreign
from backends.documents.patterns import fits
from backends.documents.port import NAME, Cell, Context, Count, Document, Mutation, Query, Rejected, Skipped
from backends.documents.semantics import check, check_path
from backends.documents.shape import pattern_of, shape_of
from backends.errors import Fault, FaultKind
from backends.kinds.firestore.channel import Channel, open_channel
from backends.kinds.firestore.codec import (
    decode_document,
    encode_mutation,
    encode_path,
    encode_query,
    encode_scan,
    micros,
)
from backends.kinds.firestore.fence import CELLS, Fence, slot
from backends.kinds.firestore.messages import firestore
from backends.kinds.firestore.messages import query as query_types
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.status import commit_error, foreign, read_error, says_document
from backends.kinds.firestore.told import Told
from backends.kinds.firestore.view import View
from backends.resilience.cache import Cache, CachedResult, Result
from backends.resilience.flight import Flights
from backends.resilience.guard import Guard

_Get: Final[Any] = firestore.GetDocumentRequest.pb()
_BatchGet: Final[Any] = firestore.BatchGetDocumentsRequest.pb()
_Run: Final[Any] = firestore.RunQueryRequest.pb()
_Aggregate: Final[Any] = firestore.RunAggregationQueryRequest.pb()
_Aggregation: Final[Any] = query_types.StructuredAggregationQuery.Aggregation.pb()
_Commit: Final[Any] = firestore.CommitRequest.pb()

CATCH_UP_S: Final = 0.05  # how long a read waits for the view to receive this machine's newest write
# Where writes keep making a result too old, one question is asked every ``AGAIN_S`` in the long run, and readers in
# between wait for it together. So what a read can cost in a minute does not grow with the writes. Somebody who writes
# and reads in turn does not notice: after a pause the first ``BURST_S / AGAIN_S`` questions are asked without a wait.
AGAIN_S: Final = 0.2
BURST_S: Final = 1.0
PAGE: Final = 300  # documents at most that are asked for at once in place of foreign ones
LONG_S: Final = 86_400.0  # the age shown for a view that has never been complete


class FirestoreStore:
    """Firestore, or its emulator. ``start`` before use.

    ``views`` are kept live, to answer reads; ``fence`` is the file through which this machine's processes share the
    times of their writes, None if there is only this one; ``clock`` gives Unix time, by which results age.
    """

    kind = "firestore"

    def __init__(
        self,
        settings: Firestore,
        views: Sequence[Query] = (),
        fence: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.foreign = Foreign(self.kind)
        self._settings = settings
        self._clock = clock
        self._told = Told()
        self._channel: Channel | None = None
        self._closed_because = Fault(FaultKind.UNAVAILABLE, "Firestore: not started")
        self._guard = Guard()
        self._flights = Flights()
        self._cache: Cache | None = None
        self._fence = Fence(fence)
        self._seen = 0  # the fence's count of writes when it was last read
        self._written = [Cell() for _ in range(CELLS)]  # by slot of the fence; the version changes with every write
        self._written_at = [0] * CELLS
        self._views = {query.collection: View(query, settings.view_max_age_s) for query in views}
        self._view_reads = 0
        self.skipped = Skipped()

    # ------------------------------------------------------------------------------------------------- life

    async def start(self) -> None:
        """Open the channel. Missing credentials are no error here: calls fail, and ``health`` says why."""
        self._fence.open()
        self._cache = Cache(self._settings.cache)
        try:
            settings = self._settings
            self._channel = await open_channel(settings.project, settings.database, settings.prefix)
        except Fault as problem:
            self._closed_because = problem
            self._told.tell(problem, "everything")
            return
        for view in self._views.values():
            view.start(self._channel, self.foreign)

    async def close(self) -> None:
        """End every call and stream, and close the channel."""
        channel, self._channel = self._channel, None
        self._closed_because = Fault(FaultKind.UNAVAILABLE, "Firestore: closed")
        for view in self._views.values():
            await view.close()
        await self._flights.close()
        if self._cache is not None:
            await self._cache.close()
        if channel is not None:
            await channel.close()
        self._fence.close()

    def _open(self) -> Channel:
        if self._channel is None:
            raise self._closed_because
        return self._channel

    async def health(self, deadline_s: float) -> str:
        """Read one document from the service, whether it exists or not."""
        began = time.perf_counter()
        try:
            await self._get_many(("phasegate/health",), deadline_s)
        except Rejected as refusal:  # the query is valid, so the project or the database is wrong
            raise Fault(FaultKind.SETUP, f"Firestore: {refusal}") from None
        return f"answered in {(time.perf_counter() - began) * 1000:.0f} ms"

    def gauges(self) -> dict[str, int]:
        """This store's counts, by the names of ``GAUGES``."""
        ages = [view.age_s() for view in self._views.values()]
        return {
            "attempts": self._guard.attempts,
            "retries": self._guard.retries,
            "breaker_state": int(self._guard.breaker.state),
            "cache_hits": self._cache.hits if self._cache is not None else 0,
            "cache_misses": self._cache.misses if self._cache is not None else 0,
            "view_reads": self._view_reads,
            "foreign_documents": self.foreign.count,
            "view_age_ms": int(1000 * min(LONG_S, max(ages, default=0.0))),
        }

    # ------------------------------------------------------------------------------------------------- own writes

    def poll(self) -> None:
        """Notice writes of this machine's processes: older views and memoised answers must not be used after them."""
        if self._fence.cells[0] != self._seen:
            self._notice()

    def _notice(self) -> None:
        cells = self._fence.cells
        self._seen = cells[0]
        for at in range(1, CELLS):
            if cells[at] != self._written_at[at]:
                self._written_at[at] = cells[at]
                self._written[at].version += 1
        for collection, view in self._views.items():
            view.require(self._written_at[slot(collection)])

    # ------------------------------------------------------------------------------------------------- reading

    async def get(self, path: str, ctx: Context) -> Document | None:
        """As ``DocumentStore.get``."""
        check_path(path)
        self.poll()
        cut = path.rindex("/")
        view = self._views.get(path[:cut])
        if view is not None and (view.fresh or await view.catch_up(CATCH_UP_S)):
            known, document = view.get(path[cut + 1 :])
            if known:
                self._view_reads += 1
                ctx.rest_on(view.cell)
                return document
        ctx.memorable = False
        return await self._guard.run(lambda timeout: self._get(path, timeout), ctx.deadline)

    async def get_many(self, paths: Sequence[str], ctx: Context) -> list[Document | None]:
        """As ``DocumentStore.get_many``."""
        for path in paths:
            check_path(path)
        ctx.memorable = False
        return await self._guard.run(lambda timeout: self._get_many(paths, timeout), ctx.deadline)

    async def query(self, query: Query, ctx: Context, max_age: float = 0.0, min_age: float = 0.0) -> list[Document]:
        """As ``DocumentStore.query``."""
        self.poll()
        view = self._views.get(query.collection)
        if view is not None and view.covers(query) and (view.fresh or await view.catch_up(CATCH_UP_S)):
            result = view.run(query)
            if result is not None:
                self._view_reads += 1
                ctx.rest_on(view.cell)
                return result
        documents = await self._through(
            f"query {query}", query, ctx, max_age, min_age, lambda timeout: self._query(query, timeout)
        )
        assert isinstance(documents, list)
        return documents

    async def count(
        self, query: Query, ctx: Context, total: str | None = None, max_age: float = 0.0, min_age: float = 0.0
    ) -> Count:
        """As ``DocumentStore.count``."""
        assert total in (None, query.order)
        self.poll()
        view = self._views.get(query.collection)
        if view is not None and view.fresh:
            result = view.count(query, total)
            if result is not None:
                self._view_reads += 1
                ctx.rest_on(view.cell)
                return result
        count = await self._through(
            f"count {total} {query}",
            query,
            ctx,
            max_age,
            min_age,
            lambda timeout: self._count(query, total, timeout),
        )
        assert isinstance(count, Count)
        return count

    async def scan(self, pattern: str, after: str | None, limit: int, ctx: Context) -> list[Document]:
        """As ``DocumentStore.scan``."""
        ctx.memorable = False
        names = self._open().names
        cursor = None if after is None else names.name(after)
        while True:
            page = await self._guard.run(partial(self._scan, pattern, cursor, limit), ctx.deadline)
            documents = []
            for message in page:
                cursor = message.name
                try:
                    if fits(pattern, names.path(cursor)):
                        documents.append(decode_document(message, names))
                except ValueError as problem:
                    path = cursor[len(names.documents) :]
                    self.skipped.note(path, str(problem))
                    self.foreign.note(path, str(problem))
            if documents or len(page) < limit:
                return documents

    async def size(self, pattern: str, ctx: Context) -> int:
        """As ``DocumentStore.size``. Costs a read for each 1,000 documents."""
        ctx.memorable = False
        return await self._guard.run(lambda timeout: self._size(pattern, timeout), ctx.deadline)

    async def _through(
        self,
        name: str,
        query: Query,
        ctx: Context,
        max_age: float,
        min_age: float,
        ask: Callable[[float], Awaitable[Result]],
    ) -> Result:
        """Ask the service, or the cache if the result may have some age. ``name`` stands for what is asked."""
        if max_age <= 0 or self._cache is None:
            ctx.memorable = False
            return await self._guard.run(ask, ctx.deadline)
        cache, clock, deadline = self._cache, self._clock, ctx.deadline
        key = f"{self._open().root} {name}"
        at = slot(query.collection)
        written, version = self._written[at], self._written[at].version
        required = self._written_at[at]  # this reader must see this machine's writes until here

        def settled(entry: CachedResult) -> bool:
            """Whether the result may be used whatever was written since."""
            return clock() < entry.asked + min_age

        def serves(entry: CachedResult) -> bool:
            return entry.stamp >= required or settled(entry)

        async def fetch() -> CachedResult:
            cached = await cache.get(key)
            usable = cached is not None and clock() < cached.expires and serves(cached)
            cache.used(hit=usable)
            due = 0.0
            if cached is not None:
                if usable:
                    return cached
                due = cached.due
                await asyncio.sleep(min(AGAIN_S, due - BURST_S - clock()))
            self.poll()
            asked, stamp = clock(), self._written_at[at]
            result = await self._guard.run(ask, deadline)
            entry = CachedResult(asked, asked + cache.lifetime(max_age), max(asked, due) + AGAIN_S, stamp, result)
            return await cache.put(query.collection.partition("/")[0], key, entry, keep_s=max_age + BURST_S)

        # The call that another reader began may have been sent before this reader's write. The next one is not.
        while not serves(entry := await self._flights.share(key, fetch, deadline)):
            pass
        until = entry.expires
        if settled(entry):
            until = min(until, entry.asked + min_age)
        else:
            ctx.basis.append((written, version))
        ctx.rest_until(time.monotonic() + until - clock())
        return entry.result

    # ------------------------------------------------------------------------------------------------- writing

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        """As ``DocumentStore.commit``."""
        check(mutations)
        when = await self._guard.run(lambda timeout: self._commit(mutations, timeout), ctx.deadline)
        self._fence.note({mutation.path for mutation in mutations}, when)
        self._notice()
        return when

    # ------------------------------------------------------------------------------------------------- watching

    def watch(self, collection: str, wake: Callable[[], None]) -> Callable[[], None]:
        """As ``DocumentStore.watch``."""
        view = self._views.get(collection)
        return view.watch(wake) if view is not None else _nothing

    def watches(self, collection: str, doc_id: str | None = None) -> bool:
        """As ``DocumentStore.watches``."""
        view = self._views.get(collection)
        return view is not None and view.fresh and (doc_id is None or view.get(doc_id)[0])

    # ------------------------------------------------------------------------------------------------- calls

    async def _get(self, path: str, timeout: float) -> Document | None:
        """The document. A call costs half the CPU time of ``_get_many``, but NOT_FOUND may be of the database too."""
        channel = self._open()
        deadline = time.monotonic() + timeout
        request = _Get(name=channel.names.name(path))
        try:
            message = await channel.get_document(request, timeout=timeout, metadata=channel.metadata)
        except grpc.aio.AioRpcError as error:
            channel.heard(error.code())
            if error.code() is grpc.StatusCode.NOT_FOUND:
                if says_document(error.details()):
                    return None
                return (await self._get_many((path,), deadline - time.monotonic()))[0]  # which tells them apart
            problem = read_error(error.code(), error.details(), channel.place)
            self._told.tell(problem, pattern_of(path))
            raise problem from None
        channel.heard()
        return self._decoded(_parsed(message))

    async def _get_many(self, paths: Sequence[str], timeout: float) -> list[Document | None]:
        channel = self._open()
        by_path: dict[str, Document] = {}
        documents = [channel.names.name(path) for path in dict.fromkeys(paths)]
        request = _BatchGet(database=channel.database, documents=documents)
        for reply in await self._stream(channel.batch_get, request, timeout, lambda: pattern_of(paths[0])):
            if reply.HasField("found"):
                document = self._decoded(reply.found)
                by_path[document.path] = document
        return [by_path.get(path) for path in paths]

    async def _query(self, query: Query, timeout: float) -> list[Document]:
        """The query's result, without documents that cannot be decoded: as many others are asked for instead."""
        channel = self._open()
        names = channel.names
        request = _Run(parent=names.parent(query.collection), structured_query=encode_query(query, names))
        deadline = time.monotonic() + timeout
        documents: list[Document] = []
        while True:
            replies = await self._stream(channel.run_query, request, timeout, lambda: str(shape_of(query)))
            messages = [reply.document for reply in replies if reply.HasField("document")]
            documents += self._readable(messages)
            limit = request.structured_query.limit.value
            if query.limit is None or len(messages) < limit or len(documents) >= query.limit:
                return documents[: query.limit]
            # Where one is foreign, many may be: a page of the size that is lacking could be asked for without end.
            request.structured_query.limit.value = max(query.limit - len(documents), min(PAGE, 4 * limit))
            _go_on_after(messages[-1], query.order, request.structured_query.start_at)
            timeout = max(0.0, deadline - time.monotonic())

    def _readable(self, messages: Sequence[Any]) -> list[Document]:
        """The documents that can be decoded; the others are noted."""
        documents = []
        for message in messages:
            try:
                documents.append(decode_document(message, self._open().names))
            except ValueError as problem:
                self.foreign.note(self._bare(message.name), str(problem))
        return documents

    def _bare(self, name: str) -> str:
        return name[len(self._open().names.documents) :]

    async def _scan(self, pattern: str, after: str | None, limit: int, timeout: float) -> list[Any]:
        """The documents as messages, those that do not fit the pattern among them."""
        channel = self._open()
        parent, query = encode_scan(pattern, after, limit, channel.names)
        request = _Run(parent=parent, structured_query=query)
        replies = await self._stream(channel.run_query, request, timeout, lambda: f"all of {pattern}")
        return [reply.document for reply in replies if reply.HasField("document")]

    async def _size(self, pattern: str, timeout: float) -> int:
        channel = self._open()
        parent, query = encode_scan(pattern, None, None, channel.names)
        request = _Aggregate(parent=parent)
        request.structured_aggregation_query.structured_query.CopyFrom(query)
        request.structured_aggregation_query.aggregations.append(_Aggregation(alias="n", count={}))
        replies = await self._stream(channel.run_aggregation, request, timeout, lambda: f"the size of {pattern}")
        fields = next((reply.result.aggregate_fields for reply in replies if reply.HasField("result")), None)
        if fields is None:
            raise Fault(FaultKind.CORRUPT, "Firestore: a count without a result")
        return int(fields["n"].integer_value)

    async def _count(self, query: Query, total: str | None, timeout: float) -> Count:
        channel = self._open()
        request = _Aggregate(parent=channel.names.parent(query.collection))
        aggregation = request.structured_aggregation_query
        # The order stays, because it excludes documents without the ordered field; limit and start are removed.
        unbounded = dataclasses.replace(query, limit=None, start_after=None)
        aggregation.structured_query.CopyFrom(encode_query(unbounded, channel.names))
        aggregation.aggregations.append(_Aggregation(alias="n", count={}))
        if total is not None:
            field = {"field_path": encode_path((total,))}
            aggregation.aggregations.append(_Aggregation(alias="total", sum={"field": field}))
        shape = shape_of(query, counted=True, total=total)
        replies = await self._stream(channel.run_aggregation, request, timeout, lambda: str(shape))
        fields = next((reply.result.aggregate_fields for reply in replies if reply.HasField("result")), None)
        if fields is None:
            raise Fault(FaultKind.CORRUPT, "Firestore: a count without a result")
        amount = int(fields["total"].integer_value) if total is not None else 0
        return Count(int(fields["n"].integer_value), amount)

    async def _commit(self, mutations: Sequence[Mutation], timeout: float) -> int:
        channel = self._open()
        request = _Commit(
            database=channel.database, writes=[encode_mutation(mutation, channel.names) for mutation in mutations]
        )
        try:
            reply = await channel.commit(request, timeout=timeout, metadata=channel.metadata)
        except grpc.aio.AioRpcError as error:
            channel.heard(error.code())
            conditional = any(_demands(mutation) for mutation in mutations)
            problem = commit_error(error.code(), error.details(), channel.place, conditional=conditional)
            # The first document says enough: a commit's documents belong to one request.
            self._told.tell(problem, f"write of {pattern_of(mutations[0].path)}", document=mutations[0].path)
            raise problem from None
        channel.heard()
        return micros(_parsed(reply).commit_time)

    async def _stream(self, method: Any, request: Any, timeout: float, what: Callable[[], str]) -> list[Any]:
        """All replies of a call; ``what`` names it in the log if it fails."""
        channel = self._open()
        try:
            replies = [reply async for reply in method(request, timeout=timeout, metadata=channel.metadata)]
        except grpc.aio.AioRpcError as error:
            channel.heard(error.code())
            problem = read_error(error.code(), error.details(), channel.place)
            self._told.tell(problem, what())
            raise problem from None
        channel.heard()
        return [_parsed(reply) for reply in replies]

    def _decoded(self, message: Any) -> Document:
        try:
            return decode_document(message, self._open().names)
        except ValueError as problem:
            path = self._bare(message.name)
            self.foreign.note(path, str(problem))
            raise foreign(path, str(problem)) from None


def _nothing() -> None:
    pass


def _demands(mutation: Mutation) -> bool:
    """Whether the write demands that its document exists."""
    condition = mutation.precondition
    return condition is not None and (condition.exists is True or condition.update_time is not None)


def _go_on_after(message: Any, order: str, cursor: Any) -> None:
    """Set a query's cursor behind a document that may not be decodable."""
    cursor.Clear()
    if order != NAME:
        cursor.values.add().CopyFrom(message.fields[order])
    cursor.values.add().reference_value = message.name
    cursor.before = False


def _parsed(reply: Any) -> Any:
    """The reply; gRPC returns None for one that it cannot parse."""
    if reply is None:
        raise Fault(FaultKind.CORRUPT, "Firestore: a reply that cannot be parsed", may_have_applied=True)
    return reply
