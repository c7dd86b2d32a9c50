"""A fake Firestore with one collection whose Listen stream behaves as in production: it sends only what changed.

It also answers GetDocument, RunQuery and Commit, as far as a live view's store needs them. It misbehaves only
when a test makes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.cloud.firestore_v1.types import firestore
from google.protobuf.timestamp_pb2 import Timestamp

from backends.documents.port import Fields
from backends.kinds.firestore.codec import PbDocument, fill_value

Request: Any = firestore.ListenRequest.pb()
Response: Any = firestore.ListenResponse.pb()
GetRequest: Any = firestore.GetDocumentRequest.pb()
QueryRequest: Any = firestore.RunQueryRequest.pb()
QueryResponse: Any = firestore.RunQueryResponse.pb()
CommitRequest: Any = firestore.CommitRequest.pb()
CommitResponse: Any = firestore.CommitResponse.pb()

SERVICE = "google.firestore.v1.Firestore"
NO_CHANGE, ADD, REMOVE, CURRENT, RESET = range(5)


def stamp(us: int) -> Timestamp:
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000)


class ListenServer:
    """Documents by path, a log of changes, and the streams that are open."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.log: list[tuple[str, int]] = []  # (resource name, update time); a resume token is an index into it
        self.streams: list[asyncio.Queue[Any]] = []
        self.tokens: list[bytes] = []  # the resume token of each stream
        self.metadata: list[dict[str, str]] = []
        self.gets = 0
        self.commits = 0
        self.refuse: grpc.StatusCode | None = None  # the status that refuses new streams
        self.keep_quiet = False  # do not send changes to the streams
        self._time = time.time_ns() // 1000

    async def start(self) -> str:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers([self._handlers()])
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(None)

    def _handlers(self) -> grpc.GenericRpcHandler:
        def unary(behaviour: Any, request: Any, response: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, response.SerializeToString)

        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Listen": grpc.stream_stream_rpc_method_handler(
                    self._listen, Request.FromString, Response.SerializeToString
                ),
                "GetDocument": unary(self._get, GetRequest, PbDocument),
                "RunQuery": grpc.unary_stream_rpc_method_handler(
                    self._query, QueryRequest.FromString, QueryResponse.SerializeToString
                ),
                "Commit": unary(self._commit, CommitRequest, CommitResponse),
            },
        )

    # --------------------------------------------------------------------------------------------- the test's side

    def now(self) -> int:
        self._time = max(self._time + 1, time.time_ns() // 1000)
        return self._time

    def put(self, name: str, fields: Fields, *, tell: bool = True, more: Mapping[str, Any] | None = None) -> int:
        """Write a document by its resource name, and send the change to the streams; returns its update time.

        ``more``: fields as messages, of types that phasegate does not write.
        """
        when = self.now()
        old = self.documents.get(name)
        message = PbDocument(name=name, create_time=old.create_time if old else stamp(when), update_time=stamp(when))
        for key, value in fields.items():
            fill_value(message.fields[key], value)
        for key, raw in (more or {}).items():
            message.fields[key].CopyFrom(raw)
        self.documents[name] = message
        self.log.append((name, when))
        if tell and not self.keep_quiet:
            self.send(self.changed(name), self.global_snapshot())
        return when

    def delete(self, name: str, *, tell: bool = True) -> None:
        """Delete a document; ``tell`` False: as if the message about it had been lost."""
        del self.documents[name]
        self.log.append((name, self.now()))
        if tell:
            self.send(self.gone(name), self.global_snapshot())

    def send(self, *messages: Any) -> None:
        """Send to every stream; an ``Abort`` ends it."""
        for stream in self.streams:
            for message in messages:
                stream.put_nowait(message)

    def cut(self, code: grpc.StatusCode) -> None:
        """End every stream with this code."""
        self.send(Abort(code))

    def end(self) -> None:
        """End every stream cleanly."""
        self.send(Abort(None))

    # ------------------------------------------------------------------------------------------------- messages

    def target(self, kind: int, **more: Any) -> Any:
        return Response(target_change={"target_change_type": kind, **more})

    def global_snapshot(self) -> Any:
        """All changes up to now have been sent."""
        return self.target(NO_CHANGE, read_time=stamp(self.now()), resume_token=str(len(self.log)).encode())

    def changed(self, name: str) -> Any:
        return Response(document_change={"document": self.documents[name], "target_ids": [1]})

    def gone(self, name: str) -> Any:
        return Response(document_delete={"document": name, "removed_target_ids": [1], "read_time": stamp(self.now())})

    def filter(self) -> Any:
        """The number of documents."""
        return Response(filter={"target_id": 1, "count": len(self.documents)})

    # ------------------------------------------------------------------------------------------------- calls

    async def _listen(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        if self.refuse is not None:
            await context.abort(self.refuse, "as the test wishes")
        self.metadata.append(dict(context.invocation_metadata()))
        added = (await anext(requests)).add_target
        token = bytes(added.resume_token)
        self.tokens.append(token)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        yield self.target(ADD, target_ids=[1])
        known = int(token) if token else None
        names = list(self.documents) if known is None else list(dict.fromkeys(name for name, _ in self.log[known:]))
        for name in names:
            yield self.changed(name) if name in self.documents else self.gone(name)
        yield self.target(CURRENT, target_ids=[1], read_time=stamp(self.now()), resume_token=token or b"0")
        yield self.global_snapshot()
        self.streams.append(queue)
        try:
            while True:
                message = await queue.get()
                if isinstance(message, Abort):
                    if message.code is not None:
                        await context.abort(message.code, "as the test wishes")
                    return
                yield message
        finally:
            self.streams.remove(queue)

    async def _get(self, request: Any, context: Any) -> Any:
        self.gets += 1
        if request.name not in self.documents:
            await context.abort(grpc.StatusCode.NOT_FOUND, f'Document "{request.name}" not found.')
        return self.documents[request.name]

    async def _query(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Answer with every document: tests send only queries that match all."""
        self.gets += 1
        for message in list(self.documents.values()):
            yield QueryResponse(document=message, read_time=stamp(self.now()))

    async def _commit(self, request: Any, context: Any) -> Any:
        self.commits += 1
        when = self.now()
        for write in request.writes:
            when = self.now()
            write.update.create_time.CopyFrom(stamp(when))
            write.update.update_time.CopyFrom(stamp(when))
            self.documents[write.update.name] = write.update
            self.log.append((write.update.name, when))
            if not self.keep_quiet:
                self.send(self.changed(write.update.name), self.global_snapshot())
        return CommitResponse(commit_time=stamp(when), write_results=[{} for _ in request.writes])


@dataclass(frozen=True)
class Abort:
    """Ends a stream with a code, or cleanly."""

    code: grpc.StatusCode | None
