"""Raw gRPC to Firestore: a channel with Google's own authentication, and the few methods that are used, unwrapped.

This leaves out what the client library adds to every call (request objects, hidden retries of up to ten minutes).
Every call must be given a timeout.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc

from backends.errors import Fault, FaultKind
from backends.kinds.firestore.address import emulator_address
from backends.kinds.firestore.codec import PbDocument
from backends.kinds.firestore.messages import firestore
from backends.kinds.firestore.settings import EMULATOR

_HOST: Final = "firestore.googleapis.com"
_SCOPES: Final = ("https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/datastore")
_SERVICE: Final = "/google.firestore.v1.Firestore/"
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC's default maximum is two minutes, which would prolong every outage by up to that.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1500),
    # Every channel has its own connections, so that tests and several migrations do not share failures.
    ("grpc.use_local_subchannel_pool", 1),
)
_KEEPALIVE: Final = ("grpc.keepalive_time_ms", 30_000)  # the client library's value; not for the emulator


class Channel:
    """An open channel to one database. Make it with ``open_channel``."""

    def __init__(self, channel: Any, project: str, database: str, *, emulated: bool) -> None:
        self.database = f"projects/{project}/databases/{database}"
        self.root = f"{self.database}/documents/"
        self.emulated = emulated
        self.metadata: tuple[tuple[str, str], ...] = (
            ("google-cloud-resource-prefix", self.database),
            ("x-goog-request-params", f"database={self.database}"),
            *((("authorization", "Bearer owner"),) if emulated else ()),
        )
        self._channel = channel
        self.get_document = self._method("unary_unary", "GetDocument", "GetDocumentRequest", "Document")
        self.commit = self._method("unary_unary", "Commit", "CommitRequest", "CommitResponse")
        self.batch_get = self._method(
            "unary_stream", "BatchGetDocuments", "BatchGetDocumentsRequest", "BatchGetDocumentsResponse"
        )
        self.run_query = self._method("unary_stream", "RunQuery", "RunQueryRequest", "RunQueryResponse")
        self.run_aggregation = self._method(
            "unary_stream", "RunAggregationQuery", "RunAggregationQueryRequest", "RunAggregationQueryResponse"
        )
        self.listen = self._method("stream_stream", "Listen", "ListenRequest", "ListenResponse")

    def _method(self, shape: str, name: str, request: str, response: str) -> Any:
        reply = PbDocument if response == "Document" else getattr(firestore, response).pb()
        return getattr(self._channel, shape)(
            _SERVICE + name,
            request_serializer=getattr(firestore, request).pb().SerializeToString,
            response_deserializer=reply.FromString,
        )

    async def close(self) -> None:
        """Close the connections; open calls end as cancelled."""
        await self._channel.close(None)


async def open_channel(project: str, database: str) -> Channel:
    """A channel to the emulator that FIRESTORE_EMULATOR_HOST names, else to Google with its default credentials.

    Opens no connection yet. Raises ``Fault``: PERMISSION if there are no credentials, INTERNAL if the variable's
    value is no address.
    """
    try:
        host = emulator_address()
    except ValueError as error:
        raise Fault(FaultKind.INTERNAL, str(error)) from None
    if host:
        return Channel(grpc.aio.insecure_channel(host, options=_OPTIONS), project, database, emulated=True)
    # Imported late, because with an emulator none of it is needed.
    import google.auth
    from google.api_core import grpc_helpers_async
    from google.auth.exceptions import GoogleAuthError

    try:
        # Reads files and may call the metadata server, so it must not run on the event loop.
        credentials, _ = await asyncio.to_thread(google.auth.default, scopes=_SCOPES)
    except GoogleAuthError as error:
        raise Fault(
            FaultKind.PERMISSION,
            f"no Google credentials: {error} (run `gcloud auth application-default login`, set "
            f"GOOGLE_APPLICATION_CREDENTIALS, or set {EMULATOR} to use an emulator)",
        ) from None
    channel = grpc_helpers_async.create_channel(
        _HOST, credentials=credentials, default_scopes=_SCOPES, default_host=_HOST, options=(*_OPTIONS, _KEEPALIVE)
    )
    return Channel(channel, project, database, emulated=False)
