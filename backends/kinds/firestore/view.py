"""A live view: the result of one query in memory, kept up to date by a Listen stream.

Whenever the stream ends it is opened again and resumes where it was. In between, and whenever the view may be older
than allowed or than a write of this machine, it is not ``fresh``, and no read is answered from it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import structlog

from backends.documents.collection import Collection
from backends.documents.foreign import Foreign
from backends.documents.port import NAME, Count, Document, Query
from backends.errors import Fault, FaultKind, Trouble
from backends.kinds.firestore.channel import Channel
from backends.kinds.firestore.codec import encode_query
from backends.kinds.firestore.messages import firestore
from backends.kinds.firestore.snapshots import Snapshots, Step
from backends.kinds.firestore.status import read_error
from backends.resilience.backoff import backoff

_Request: Final[Any] = firestore.ListenRequest.pb()

TARGET_ID: Final = 1
STREAM_S: Final = 1800.0  # timeout of a stream, as every call has one; then it is opened anew
BASE_S: Final = 0.1  # backoff between streams that bring no snapshot
CAP_S: Final = 2.0
SILENT_SHARE: Final = 0.7  # of the view's maximum age: a stream silent for longer is opened anew
FORBIDDEN_S: Final = 10.0  # between attempts where the service forbids the query, or is not set up for it
REREAD_S: Final = 60.0  # between two readings of the whole result for a doubt about it: each costs up to its limit
_FORBIDDEN: Final = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_UNKNOWN: Final = grpc.StatusCode.UNKNOWN

_log = structlog.get_logger("phasegate.view")


class View:
    """The newest documents of a query, in memory. ``start`` before use."""

    def __init__(self, query: Query, max_age_s: float) -> None:
        self.query = query
        self.collection = Collection()
        self.cell = self.collection.cell
        self.fresh = False
        self.snapshots = 0  # applied
        self.restarts = 0  # of the stream
        self._max_age_s = max_age_s
        self._heard_at = 0.0  # when a snapshot last arrived, in the event loop's time
        self._required = 0  # the commit time of this machine's newest write
        self._emulated = False
        self._first_read_time: int | None = None  # of the stream's first snapshot; None: no stream
        self._doubtful = False  # see ``require``
        self._state: Snapshots | None = None
        self._connected = False  # a stream is open and has brought a snapshot
        self._reason = ""  # why it cannot be read, as last logged
        self._call: Any = None
        self._channel: Channel | None = None
        self._epoch = 0  # of the channel when the stream was opened
        self._reread_at = float("-inf")  # when the whole result was last read anew for a doubt about it
        self._spoke_at = 0.0  # when the stream was opened or last brought a message
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watchers: set[Callable[[], None]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._dice = random.Random()  # noqa: S311 - no secret

    # ------------------------------------------------------------------------------------------------- answering

    def covers(self, query: Query) -> bool:
        """Whether the view can answer the query, if the result reaches the query's limit or the view is complete."""
        return query.collection == self.query.collection and (
            self._complete() or (query.order == self.query.order and query.descending == self.query.descending)
        )

    def _complete(self) -> bool:
        """Whether the view holds every document that has the ordered field, and that can be decoded."""
        limit, state = self.query.limit, self._state
        unread = 0 if state is None else len(state.unread)
        return limit is None or len(self.collection.documents) + unread < limit

    def get(self, doc_id: str) -> tuple[bool, Document | None]:
        """(Whether the view knows, the document or None)."""
        if self._state is not None and doc_id in self._state.unread:
            return False, None
        document = self.collection.documents.get(doc_id)
        return document is not None or (self._complete() and self.query.order == NAME), document

    def run(self, query: Query) -> list[Document] | None:
        """The query's result; None if it needs documents that the view lacks."""
        if not self.covers(query) or (query.order != self.query.order and self.query.order != NAME):
            return None
        result = self.collection.run(query)
        return result if len(result) == query.limit or self._complete() else None

    def count(self, query: Query, total: str | None) -> Count | None:
        """As ``run``, for a count."""
        if query.collection != self.query.collection or not self._complete() or self.query.order != NAME:
            return None
        return self.collection.count(query, total)

    def age_s(self) -> float:
        """Seconds since the last snapshot arrived; infinite before the first."""
        return asyncio.get_running_loop().time() - self._heard_at if self._heard_at else float("inf")

    # ------------------------------------------------------------------------------------------------- freshness

    def require(self, commit_time: int) -> None:
        """Do not answer from a state older than this write.

        The emulator loses a write that comes while a stream is being opened: the first snapshot's read time is after
        the write, but the write is not in it (2 of 150 that were made to coincide). Then the stream is opened again.
        """
        if commit_time > self._required:
            self._required = commit_time
            if self._emulated and self._first_read_time is not None and (
                not self._first_read_time or commit_time <= self._first_read_time
            ):  # fmt: skip
                self._doubtful = True
                if self._first_read_time and self._call is not None:
                    self._call.cancel()
            self._judge()

    def _judge(self) -> None:
        """Set ``fresh``. When it changes, the cell's version changes too, so that no memoised answer is reused."""
        state = self._state
        fresh = (
            state is not None
            and self._connected
            and not self._doubtful
            and state.read_time >= self._required
            and self.age_s() <= self._max_age_s
        )
        if fresh != self.fresh:
            self.fresh = fresh
            self.cell.version += 1
            if not fresh:
                self._wake()  # streams that show the view must now read from the service
        if fresh:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                _release(waiter)

    async def catch_up(self, within_s: float) -> bool:
        """Wait until the view is fresh, if it lacks only the newest write; returns whether it is fresh."""
        if not self.fresh and self._connected and self.age_s() <= self._max_age_s:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            timer = loop.call_later(within_s, _release, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return self.fresh

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` after every change; call the result to stop."""
        self._watchers.add(wake)
        return lambda: self._watchers.discard(wake)

    def _wake(self) -> None:
        for wake in tuple(self._watchers):
            wake()

    # ------------------------------------------------------------------------------------------------- the stream

    def start(self, channel: Channel, foreign: Foreign) -> None:
        """Start listening. ``foreign`` is told of documents that cannot be decoded."""
        self._channel = channel
        self._state = Snapshots(self.collection, channel.names, foreign)
        self._emulated = channel.emulated
        self._task = asyncio.get_running_loop().create_task(self._listen(channel, self._state))
        self._tick()

    def _tick(self) -> None:
        """Check the view's age, and end a stream that has been silent for too long."""
        interval_s = min(1.0, self._max_age_s / 4)
        self._timer = asyncio.get_running_loop().call_later(interval_s, self._tick)
        self._judge()
        # The service sends a message about every 30 s. A new stream before the view is too old keeps it fresh.
        silent_s = asyncio.get_running_loop().time() - self._spoke_at
        silent = silent_s > SILENT_SHARE * self._max_age_s
        # The channel has found the stream's connection dead, and connected anew.
        dead = self._channel is not None and self._channel.epoch != self._epoch
        if self._call is not None and (silent or dead):
            self._call.cancel()

    async def _listen(self, channel: Channel, state: Snapshots) -> None:
        attempt = 0
        while True:
            before = self.snapshots
            problem = ""
            wait = None
            doubted = False  # whether what the view holds may be wrong, so that all of it must be read again
            trouble: Trouble | None = None
            try:
                doubted = await self._stream(channel, state)
            except grpc.aio.AioRpcError as error:
                channel.heard(error.code())
                found = read_error(error.code(), error.details(), channel.place)
                problem, trouble = str(found), found.trouble
                if trouble is not None or error.code() in _FORBIDDEN:
                    state.token = b""
                    wait = FORBIDDEN_S
                elif error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    state.token = b""  # the token may be too old, if the query is valid
            except asyncio.CancelledError:
                if self._task is None or self._task.cancelling():
                    raise
                problem = "silent"  # ``_tick`` cancelled the call; this task was not cancelled
            except Fault as fault:
                problem, state.token, doubted = str(fault), b"", True
            except Exception:
                collection, order = self.query.collection, self.query.order
                _log.exception("view_failed", backend="firestore", collection=collection, order=order)
                state.token, doubted = b"", True
                problem = "a mistake of phasegate's"
            # A stream that was only silent is opened anew while the view is still fresh.
            if problem != "silent":
                self._connected = False
                self._judge()
            if state.cause is not None:
                found = read_error(_CODES.get(state.cause.code, _UNKNOWN), state.cause.message, channel.place)
                problem, trouble = f"the service ended the query: {found}", found.trouble
                state.cause = None
                wait = FORBIDDEN_S if not self.snapshots > before else None
            attempt = 0 if self.snapshots > before else attempt + 1
            self.restarts += 1
            if attempt:
                self._unreadable(problem or "the stream ended without a snapshot", trouble)
            if wait is None:
                wait = 0.0 if attempt == 0 else backoff(attempt - 1, BASE_S, CAP_S, self._dice)
            if doubted:
                wait = max(wait, self._until_reread())
            await asyncio.sleep(wait)

    def _until_reread(self) -> float:
        """How long to wait before the whole result is read again. Whatever is wrong, it is not read all the time."""
        now = asyncio.get_running_loop().time()
        wait = max(0.0, self._reread_at + REREAD_S - now)
        self._reread_at = now + wait
        return wait

    def _unreadable(self, reason: str, trouble: Trouble | None) -> None:
        """Log the reason, once until the view can be read again or the reason changes."""
        if reason != self._reason:
            self._reason = reason
            collection, order = self.query.collection, self.query.order
            _log.warning(
                "view_unreadable",
                backend="firestore",
                collection=collection,
                order=order,
                reason=reason,
                trouble=None if trouble is None else trouble.name,
                mend=None if trouble is None else trouble.mend,
            )

    def _readable(self) -> None:
        if self._reason:
            self._reason = ""
            collection, order = self.query.collection, self.query.order
            _log.info("view_reads_again", backend="firestore", collection=collection, order=order)

    async def _stream(self, channel: Channel, state: Snapshots) -> bool:
        """Read one stream until it ends or has to be opened anew; returns whether what was read is in doubt."""
        loop = asyncio.get_running_loop()
        request = _Request(database=channel.database)
        request.add_target.target_id = TARGET_ID
        request.add_target.query.parent = channel.names.parent(self.query.collection)
        request.add_target.query.structured_query.CopyFrom(encode_query(self.query, channel.names))
        if self._doubtful:
            state.token, self._doubtful = b"", False
        token = state.begin()
        self._first_read_time = 0
        if token:
            request.add_target.resume_token = token
        self._spoke_at = loop.time()
        self._epoch = channel.epoch
        channel.listening += 1
        call = self._call = channel.listen(metadata=channel.metadata, timeout=STREAM_S)
        try:
            await call.write(request)
            async for response in _responses(call):
                self._spoke_at = loop.time()
                channel.heard()
                step = state.take(response)
                if step is Step.AGAIN:
                    return state.cause is None  # the number of documents differs from the service's
                if step is Step.SNAPSHOT:
                    if self._doubtful:
                        return False
                    self._first_read_time = self._first_read_time or state.read_time
                    self._connected = True
                    self._readable()
                    self._heard_at = self._spoke_at
                    self.snapshots += 1
                    self._judge()
                    if state.changed:
                        self._wake()
            return False
        finally:
            channel.listening -= 1
            self._call = self._first_read_time = None
            call.cancel()

    async def close(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._connected = False
        self._judge()


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _responses(call: Any) -> AsyncIterator[Any]:
    while (response := await call.read()) is not grpc.aio.EOF:
        if response is None:  # gRPC could not parse it
            raise Fault(FaultKind.CORRUPT, "a message that cannot be parsed")
        yield response
