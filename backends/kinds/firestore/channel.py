"""Raw gRPC to Firestore: a channel with Google's own authentication, and the few methods that are used, unwrapped.

This leaves out what the client library adds to every call (request objects, hidden retries of up to ten minutes).
Every call must be given a timeout.

A connection that dies without a word (a firewall that forgot it, a machine that is gone) is noticed within 10 s:
nothing was heard for ``QUIET_S`` although somebody waits, then there is no sign of life within ``SIGN_S``. Then the
channel connects anew. gRPC's own pings are too slow for that. Google's servers allow one in 30 s, and end a
connection that sends more of them ("too_many_pings"), after which gRPC doubles the interval:
https://github.com/grpc/grpc/blob/master/doc/keepalive.md, https://github.com/googleapis/java-bigtable/pull/528.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
import structlog

from backends.errors import Fault, FaultKind
from backends.kinds.firestore.address import emulator_address
from backends.kinds.firestore.codec import Names, PbDocument
from backends.kinds.firestore.messages import firestore
from backends.kinds.firestore.settings import EMULATOR
from backends.kinds.firestore.status import Place, no_credentials

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
# Not for the emulator, which allows fewer pings.
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 30_000),  # the shortest interval that Google's servers allow
    ("grpc.keepalive_timeout_ms", 5_000),  # also for data that the other end does not confirm (TCP_USER_TIMEOUT)
)

QUIET_S: Final = 4.0  # without a word, while a stream is open or a call had no answer: then ask for a sign of life
SIGN_S: Final = 3.0  # without a sign of life for so long, the connection is dead
TICK_S: Final = 1.0  # how often that is looked at, here and by a live view; all together stay below 10 s
LINGER_S: Final = 60.0  # how long calls may go on over a connection that was given up; each has a shorter timeout

# These say nothing about the other end: gRPC makes them up on this side.
_UNHEARD: Final = frozenset(
    {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
)

_log = structlog.get_logger("phasegate.firestore")


class Channel:
    """An open channel to one database. Make it with ``open_channel``.

    ``connect`` makes the gRPC channel, first here and again whenever its connection is found dead; ``epoch`` counts
    that, and a stream of an earlier epoch hears nothing more.
    """

    def __init__(
        self, connect: Callable[[], Any], project: str, database: str, *, prefix: str = "", emulated: bool
    ) -> None:
        self.database = f"projects/{project}/databases/{database}"
        self.place = Place(project, database)
        self.names = Names(f"{self.database}/documents/", prefix)
        self.root = self.names.documents + prefix  # with it begins the name of every document of this store
        self.emulated = emulated
        self.epoch = 0
        self.listening = 0  # open Listen streams, which their owners count here
        self.metadata: tuple[tuple[str, str], ...] = (
            ("google-cloud-resource-prefix", self.database),
            ("x-goog-request-params", f"database={self.database}"),
            *((("authorization", "Bearer owner"),) if emulated else ()),
        )
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._asked_at = self._loop.time()
        self._unanswered = False  # a call ended without an answer since something was last heard
        self._told = False  # that the connection is dead, since something was last heard
        self._given_up: list[Any] = []
        self._sign: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(TICK_S, self._tick)
        self._open()

    def _open(self) -> None:
        self._channel = self._connect()
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

    def other(self, service: str) -> Callable[..., Any]:
        """A function that makes the unary methods of another service of the same host."""

        def method(name: str, request: Any, response: Any) -> Any:
            return self._channel.unary_unary(
                f"/{service}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )

        return method

    # ------------------------------------------------------------------------------------------------- sign of life

    def heard(self, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        """A call ended with this code, or a stream brought a message."""
        if code not in _UNHEARD:
            self._heard_at = self._loop.time()
            self._unanswered = self._told = False
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._unanswered = True

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._tick)
        waiting = self.listening > 0 or self._unanswered
        now = self._loop.time()
        if waiting and self._sign is None and now - max(self._heard_at, self._asked_at) > QUIET_S:
            self._asked_at = now
            self._sign = self._loop.create_task(self._ask_for_a_sign())

    async def _ask_for_a_sign(self) -> None:
        """Commit nothing, which costs nothing: whatever the answer says, it is one."""
        request = firestore.CommitRequest.pb()(database=self.database)
        try:
            await self.commit(request, timeout=SIGN_S, metadata=self.metadata)
            self.heard()
        except grpc.aio.AioRpcError as error:
            self.heard(error.code())
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._renew()
        finally:
            self._sign = None

    def _renew(self) -> None:
        """Connect anew. Calls that are under way may still end over the old connection."""
        silent_s = self._loop.time() - self._heard_at
        if not self._told:
            self._told = True
            _log.warning("connection_dead", backend="firestore", silent_s=round(silent_s, 1))
        given_up = self._channel
        self._given_up.append(given_up)
        self._loop.call_later(LINGER_S, self._let_go, given_up)
        self._open()
        self.epoch += 1

    def _let_go(self, given_up: Any) -> None:
        if given_up in self._given_up:
            self._given_up.remove(given_up)
            self._closing = self._loop.create_task(given_up.close(None))

    async def close(self) -> None:
        """Close the connections; open calls end as cancelled."""
        self._timer.cancel()
        if self._sign is not None:
            self._sign.cancel()
            await asyncio.gather(self._sign, return_exceptions=True)
        given_up, self._given_up = self._given_up, []
        for channel in (*given_up, self._channel):
            await channel.close(None)


async def open_channel(project: str, database: str, prefix: str = "") -> Channel:
    """A channel to the emulator that FIRESTORE_EMULATOR_HOST names, else to Google with its default credentials.

    Opens no connection yet. Raises ``Fault``: PERMISSION if there are no credentials, INTERNAL if the variable's
    value is no address.
    """
    try:
        host = emulator_address()
    except ValueError as error:
        raise Fault(FaultKind.INTERNAL, str(error)) from None
    if host:
        address = host
        return Channel(
            lambda: grpc.aio.insecure_channel(address, options=_OPTIONS),
            *(project, database),
            prefix=prefix,
            emulated=True,
        )
    # Imported late, because with an emulator none of it is needed.
    import google.auth
    from google.api_core import grpc_helpers_async
    from google.auth.exceptions import GoogleAuthError

    try:
        # Reads files and may call the metadata server, so it must not run on the event loop.
        credentials, _ = await asyncio.to_thread(google.auth.default, scopes=_SCOPES)
    except (GoogleAuthError, OSError, ValueError) as error:  # the latter two: of a key's file that cannot be read
        raise no_credentials(str(error), EMULATOR) from None

    def connect() -> Any:
        return grpc_helpers_async.create_channel(
            _HOST,
            credentials=credentials,
            default_scopes=_SCOPES,
            default_host=_HOST,
            options=(*_OPTIONS, *_KEEPALIVE),
        )

    return Channel(connect, project, database, prefix=prefix, emulated=False)
