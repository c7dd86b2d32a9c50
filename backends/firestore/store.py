"""The real store: a ``DocumentStore`` over raw gRPC.

Every call has a timeout, taken from its context's deadline, and is sent once:
retrying is the data source's to decide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from google.cloud.firestore_v1.types import common, firestore
from google.cloud.firestore_v1.types import query as query_types

from backends.documents import Context, Count, Document, Mutation, Query
from backends.errors import Fault, FaultKind
from backends.firestore.channel import Channel, open_channel
from backends.firestore.codec import decode_document, encode_mutation, encode_path, encode_query, micros, parent_of
from backends.firestore.status import commit_error, fault
from backends.semantics import check, check_path
from backends.settings import Firestore

_Get: Final[Any] = firestore.GetDocumentRequest.pb()
_BatchGet: Final[Any] = firestore.BatchGetDocumentsRequest.pb()
_Run: Final[Any] = firestore.RunQueryRequest.pb()
_Aggregate: Final[Any] = firestore.RunAggregationQueryRequest.pb()
_Aggregation: Final[Any] = query_types.StructuredAggregationQuery.Aggregation.pb()
_Commit: Final[Any] = firestore.CommitRequest.pb()
_Mask: Final[Any] = common.DocumentMask.pb()


class FirestoreStore:
    """Firestore, or its emulator. ``start`` before use."""

    kind = "firestore"

    def __init__(self, settings: Firestore) -> None:
        self._settings = settings
        self._channel: Channel | None = None
        self._closed_because = Fault(FaultKind.UNAVAILABLE, "Firestore: not started")

    async def start(self) -> None:
        """Make the channel. Missing credentials are no error here: calls fail with them, and health says so."""
        try:
            self._channel = await open_channel(self._settings.project, self._settings.database)
        except Fault as problem:
            self._closed_because = problem

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            self._closed_because = Fault(FaultKind.UNAVAILABLE, "Firestore: closed")
            await channel.close()

    def poll(self) -> None:
        """Nothing is shared with other processes."""

    def _open(self) -> Channel:
        if self._channel is None:
            raise self._closed_because
        return self._channel

    @staticmethod
    def _timeout(ctx: Context) -> float:
        left = ctx.deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise Fault(FaultKind.DEADLINE, "Firestore: the deadline passed before the call was sent")
        return left

    async def get(self, path: str, ctx: Context) -> Document | None:
        """As ``DocumentStore.get``."""
        check_path(path)
        ctx.memorable = False
        channel = self._open()
        try:
            message = await channel.get_document(
                _Get(name=channel.root + path), timeout=self._timeout(ctx), metadata=channel.metadata
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise fault(error.code(), error.details()) from None
        return _decoded(message, channel)

    async def get_many(self, paths: Sequence[str], ctx: Context) -> list[Document | None]:
        """As ``DocumentStore.get_many``."""
        for path in paths:
            check_path(path)
        ctx.memorable = False
        channel = self._open()
        found: dict[str, Document] = {}
        request = _BatchGet(
            database=channel.database, documents=[channel.root + path for path in dict.fromkeys(paths)]
        )
        for reply in await self._stream(channel.batch_get, request, ctx):
            if reply.HasField("found"):
                document = _decoded(reply.found, channel)
                found[document.path] = document
        return [found.get(path) for path in paths]

    async def query(self, query: Query, ctx: Context, max_age: float = 0.0) -> list[Document]:
        """As ``DocumentStore.query``."""
        ctx.memorable = False
        channel = self._open()
        request = _Run(
            parent=parent_of(query.collection, channel.root), structured_query=encode_query(query, channel.root)
        )
        replies = await self._stream(channel.run_query, request, ctx)
        return [_decoded(reply.document, channel) for reply in replies if reply.HasField("document")]

    async def count(self, query: Query, ctx: Context, total: str | None = None, max_age: float = 0.0) -> Count:
        """As ``DocumentStore.count``."""
        ctx.memorable = False
        channel = self._open()
        request = _Aggregate(parent=parent_of(query.collection, channel.root))
        wanted = request.structured_aggregation_query
        wanted.structured_query.CopyFrom(encode_query(query, channel.root))
        wanted.aggregations.append(_Aggregation(alias="n", count={}))
        if total is not None:
            field = {"field_path": encode_path((total,))}
            wanted.aggregations.append(_Aggregation(alias="total", sum={"field": field}))
        replies = await self._stream(channel.run_aggregation, request, ctx)
        fields = next(reply.result.aggregate_fields for reply in replies if reply.HasField("result"))
        amount = int(fields["total"].integer_value) if total is not None else 0
        return Count(int(fields["n"].integer_value), amount)

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        """As ``DocumentStore.commit``."""
        check(mutations)
        channel = self._open()
        request = _Commit(
            database=channel.database, writes=[encode_mutation(mutation, channel.root) for mutation in mutations]
        )
        try:
            reply = await channel.commit(request, timeout=self._timeout(ctx), metadata=channel.metadata)
        except grpc.aio.AioRpcError as error:
            raise commit_error(error.code(), error.details()) from None
        return micros(reply.commit_time)

    async def _stream(self, method: Any, request: Any, ctx: Context) -> list[Any]:
        try:
            call = method(request, timeout=self._timeout(ctx), metadata=self._open().metadata)
            return [reply async for reply in call]
        except grpc.aio.AioRpcError as error:
            raise fault(error.code(), error.details()) from None

    def watch(self, collection: str, wake: Callable[[], None]) -> Callable[[], None]:
        """As ``DocumentStore.watch``."""
        return lambda: None

    def watches(self, collection: str, doc_id: str | None = None) -> bool:
        """As ``DocumentStore.watches``."""
        return False

    async def health(self, deadline_s: float) -> str:
        """Read one document through, whether it is there or not."""
        began = time.perf_counter()
        await self.get("phasegate/health", Context(asyncio.get_running_loop().time() + deadline_s))
        return f"answered in {(time.perf_counter() - began) * 1000:.0f} ms"


def _decoded(message: Any, channel: Channel) -> Document:
    try:
        return decode_document(message, channel.root)
    except ValueError as problem:
        raise Fault(FaultKind.CORRUPT, f"Firestore: {message.name}: {problem}") from None
