"""A Firestore that refuses calls with a code and a text, as the real service does when it is not set up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.cloud.firestore_v1.types import firestore

MISSING_DATABASE = (
    grpc.StatusCode.NOT_FOUND,
    "The database (default) does not exist for project secret-1 Please visit "
    "https://console.cloud.google.com/datastore/setup?project=secret-1 to add a Cloud Datastore or Cloud Firestore "
    "database. ",
)
INDEX_LINK = "https://console.firebase.google.com/v1/r/project/secret-1/firestore/indexes?create_composite=Ck1w"
MISSING_INDEX = (
    grpc.StatusCode.FAILED_PRECONDITION,
    f"The query requires an index. You can create it here: {INDEX_LINK}",
)


_NO_DOCUMENTS: bytes = firestore.RunAggregationQueryResponse.pb()(
    result={"aggregate_fields": {"n": {"integer_value": 0}, "total": {"integer_value": 0}}}
).SerializeToString()


class RefusingServer(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc ships no types
    """Refuses the methods of ``only`` (such as RunQuery; None: all) with ``refusal``; others get nothing."""

    def __init__(self, refusal: tuple[grpc.StatusCode, str], *, only: frozenset[str] | None = None) -> None:
        self.refusal = refusal
        self.asked: list[str] = []
        self.answers = {"Commit": b"", "RunAggregationQuery": _NO_DOCUMENTS}  # an empty Commit's, and a count of 0
        self._only = only

    async def start(self) -> str:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers([self])
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(None)

    def service(self, details: Any) -> Any:
        """Every kind of call is a stream in both directions on the wire."""
        method = details.method.rsplit("/", 1)[-1]

        async def behave(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            self.asked.append(method)
            if self._only is None or method in self._only:
                await context.abort(*self.refusal)
            if method == "GetDocument":
                await context.abort(grpc.StatusCode.NOT_FOUND, 'Document "projects/secret-1/x" not found.')
            if method in self.answers:
                yield self.answers[method]

        return grpc.stream_stream_rpc_method_handler(behave)
