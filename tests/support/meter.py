"""A gRPC proxy before Firestore's emulator that counts what the service would charge for.

The rules are those of https://cloud.google.com/firestore/pricing: a document returned is a read, and so is one that
does not exist; a query without a result is one; an aggregation is one for each 1,000 index entries, at least one;
a write is one whatever it sets or transforms. A listener reads each document of its result when it begins, and each
one that changes; what it gets again after a resume costs nothing.

The emulator sends a listener its whole result again on every change. So a document counts as read only if its update
time differs from the one sent before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc

from backends.kinds.firestore.messages import firestore

ENTRIES: Final = 1000  # index entries of an aggregation that cost one read
OPTIONS: Final = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Bill:
    """Documents charged for; ``listened`` are the reads of listeners, which ``reads`` does not contain."""

    reads: int = 0
    writes: int = 0
    deletes: int = 0
    listened: int = 0

    def __sub__(self, other: Bill) -> Bill:
        return Bill(
            self.reads - other.reads,
            self.writes - other.writes,
            self.deletes - other.deletes,
            self.listened - other.listened,
        )


def charged(method: str, requests: list[bytes], replies: list[bytes]) -> Bill:
    """What a finished call costs, except a listener's. Raises ``KeyError`` for a method that nobody here calls."""
    match method.rpartition("/")[2]:
        case "GetDocument":
            return Bill(reads=1)
        case "BatchGetDocuments":
            parsed = [firestore.BatchGetDocumentsResponse.pb().FromString(reply) for reply in replies]
            return Bill(reads=sum(reply.WhichOneof("result") is not None for reply in parsed))
        case "RunQuery":
            parsed = [firestore.RunQueryResponse.pb().FromString(reply) for reply in replies]
            return Bill(reads=max(1, sum(reply.HasField("document") for reply in parsed)))
        case "RunAggregationQuery":
            parsed = [firestore.RunAggregationQueryResponse.pb().FromString(reply) for reply in replies]
            entries = sum(reply.result.aggregate_fields["n"].integer_value for reply in parsed)
            return Bill(reads=max(1, -(-entries // ENTRIES)))
        case "Commit":
            writes = [write for each in requests for write in firestore.CommitRequest.pb().FromString(each).writes]
            deletes = sum(bool(write.delete) for write in writes)
            return Bill(writes=len(writes) - deletes, deletes=deletes)
    raise KeyError(method)


class Meter(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc ships no types
    """Passes every call on and counts it; ``bill`` is the sum so far."""

    def __init__(self, upstream: str) -> None:
        self.bill = Bill()
        self._upstream = upstream
        self._sent: dict[tuple[str, bytes], dict[str, Any]] = {}  # by listener: update times by document

    async def start(self) -> str:
        self._channel = grpc.aio.insecure_channel(self._upstream, options=OPTIONS)
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers([self])
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(None)
        await self._channel.close()

    def _add(self, more: Bill) -> None:
        bill = self.bill
        self.bill = replace(
            bill,
            reads=bill.reads + more.reads,
            writes=bill.writes + more.writes,
            deletes=bill.deletes + more.deletes,
        )

    def service(self, details: Any) -> Any:
        """Handle every method as a stream in both directions, which on the wire every kind of call is."""
        method = details.method
        listens = method.endswith("/Listen")

        async def behave(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            asked: list[bytes] = []
            answered: list[bytes] = []

            async def passing() -> AsyncIterator[bytes]:
                async for request in requests:
                    if listens and not asked:
                        self._begins(context.peer(), request)
                    asked.append(request)
                    yield request

            hidden = ("user-agent", "te")
            metadata = [(key, value) for key, value in context.invocation_metadata() if not key.startswith(hidden)]
            call = self._channel.stream_stream(method)(passing(), metadata=metadata)
            try:
                async for reply in call:
                    if listens:
                        self._listened(context.peer(), asked[0], reply)
                    else:
                        answered.append(reply)
                    yield reply
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND and method.endswith("/GetDocument"):
                    self._add(Bill(reads=1))
                await context.abort(error.code(), error.details())
            else:
                if not listens:
                    self._add(charged(method, asked, answered))
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(behave)

    def _begins(self, peer: str, request: bytes) -> None:
        """A listener that does not resume is sent everything anew."""
        target = firestore.ListenRequest.pb().FromString(request).add_target
        if not target.resume_token:
            self._sent.pop((peer, target.query.SerializeToString(deterministic=True)), None)

    def _listened(self, peer: str, request: bytes, reply: bytes) -> None:
        message = firestore.ListenResponse.pb().FromString(reply)
        if message.WhichOneof("response_type") != "document_change" or not message.document_change.target_ids:
            return
        target = firestore.ListenRequest.pb().FromString(request).add_target
        document = message.document_change.document
        sent = self._sent.setdefault((peer, target.query.SerializeToString(deterministic=True)), {})
        when = document.update_time.seconds, document.update_time.nanos
        if sent.get(document.name) != when:
            sent[document.name] = when
            self.bill = replace(self.bill, listened=self.bill.listened + 1)
