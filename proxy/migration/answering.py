"""One data request answered by a data source: arm → answer → record.

What is in memory is answered in the callback that brought the request. What must wait is an ``Exchange``: it counts
as in flight on its arm until its answer is written, and can be handed to the source or cancelled when the weight is
taken back.
"""

from __future__ import annotations

import asyncio
import secrets
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from http import HTTPStatus
from time import monotonic_ns, time
from typing import Any, Final

import structlog

from backends.arm import SOURCE, DataSource, Outcome
from backends.errors import Fault, FaultKind
from backends.operations import Answer, Call, error_answer
from proxy.http1.client import Client, Waiting
from proxy.http1.service import Endpoint, Service
from proxy.http1.shared import Shared
from proxy.migration.split import Split

_log = structlog.get_logger("phasegate.answering")
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_ID_BYTES: Final = 10  # of randomness, in what a write creates
_CLIENT_GONE: Final = 499  # never sent: the status by which a read is counted whose client went away first


def encode_head(answer: Answer, kind: bytes) -> bytes:
    """The answer's head without date, connection fields and the empty line; ``kind`` is its ``x-data-source``."""
    head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\nx-data-source: %b\r\n" % (
        answer.status,
        _REASONS.get(answer.status, b""),
        answer.content_type,
        kind,
    )
    head += b"".join(b"%b: %b\r\n" % pair for pair in answer.headers)
    return head if answer.stream is not None else b"%bcontent-length: %d\r\n" % (head, len(answer.body))


class Answering(Service):
    """A migration between document stores, as one worker serves it."""

    def __init__(self, shared: Shared, split: Split, source: DataSource, one_writer: bool = False) -> None:
        """``one_writer``: the source answers every write until the migration is completed (``writes = "source"``)."""
        self.shared = shared
        self.one_writer = one_writer
        self.split = split
        self.source = source
        self.kinds = tuple(arm.kind.encode() for arm in source.arms)

    def begin(self, client: Client, endpoint: Endpoint, rest: bytes) -> None:
        """A data request's head is here, and ``rest`` of its body."""
        if client.fields.has_body:
            client.gather(rest)
        else:
            self.ready(client, endpoint, b"")

    def ready(self, client: Client, endpoint: Endpoint, body: bytes) -> None:
        """A data request is here whole: answer it now, or begin to."""
        began = monotonic_ns()
        unsplit = self.one_writer and endpoint.operation.kind == "write"
        arm, bucket, cookie = self.split.choose(client, began, unsplit)
        self.ask(client, endpoint, body, arm, bucket, began, cookie)

    def ask(
        self, client: Client, endpoint: Endpoint, body: bytes, arm: int, bucket: int, began: int, cookie: bytes
    ) -> None:
        """Answer from an arm of the data source."""
        split = self.split
        operation = endpoint.operation
        if operation.kind == "read":
            answer = self.source.peek(arm, operation, endpoint.key)
            if answer is not None:
                head = answer.wire
                if head is None:
                    head = answer.wire = encode_head(answer, self.kinds[arm])
                split.record(endpoint.number, arm, began, answer.status)
                head = b"%b%b%b" % (head, self.shared.date, cookie)
                client.write(answer.status, self.kinds[arm], head, answer.body)
                return
        Exchange(self, client, endpoint, arm, bucket, began, cookie).start(body)

    def hand_over(self, exchange: Exchange, fault: Fault) -> bool:
        """Have a read that the target failed answered by somebody else than the data source. True: it will be."""
        return False

    def tick(self, now_ns: int) -> None:
        """The weight and a rollback's deadlines; and what the target has taken by now."""
        self.split.tick(now_ns)
        self.split.behind(self.source.behind_since())
        self.split.arrived(self.source.arrived(), now_ns)

    def gauge(self) -> None:
        """The data source's figures, onto the board."""
        self.split.gauge(self.source.gauges())


class Exchange(Waiting):
    """A data request that is waited for: a ``Flight`` of its split, and what its client is ``Waiting`` for."""

    __slots__ = (
        "_bucket",
        "_cookie",
        "_service",
        "_streaming",
        "_taken",
        "_task",
        "arm",
        "began",
        "call",
        "client",
        "endpoint",
        "generation",
        "on",
    )

    def __init__(
        self,
        service: Answering,
        client: Client,
        endpoint: Endpoint,
        arm: int,
        bucket: int,
        began: int,
        cookie: bytes,
    ) -> None:
        self._service = service
        self.client: Client | None = client
        self.endpoint = endpoint
        self.arm = self.on = arm
        self.began = began
        self.generation = service.split.generation
        self._bucket = bucket
        self._cookie = cookie
        self._task: asyncio.Task[None] | None = None
        self._streaming = False  # a stream's head is out
        self._taken: asyncio.Event | None = None  # waited for while the client takes no more of a stream

    def start(self, body: bytes, instead: Fault | None = None) -> None:
        """Ask the arm; with ``instead``, its failure, ask the source in its place.

        Where the answer need not be waited for, it is written before this returns.
        """
        client, endpoint = self.client, self.endpoint
        assert client is not None
        client.waiting = self
        fresh = "" if endpoint.operation.kind == "read" else secrets.token_hex(_ID_BYTES)
        operation, key = endpoint.operation, endpoint.key
        self.call = Call(operation, key, endpoint.params, endpoint.query, body, time(), fresh)
        if instead is not None:
            self.on = SOURCE
        self._service.split.enter(self)
        self._run(self._ask(self.on, instead))

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Drive the coroutine by hand until it first waits, and only then pay for a task."""
        try:
            waited = coroutine.send(None)
        except StopIteration:
            return
        self._task = asyncio.get_running_loop().create_task(_resume(coroutine, waited))

    async def _ask(self, arm: int, fault: Fault | None) -> None:
        try:
            outcome = await self._service.source.answer(arm, self.call)
        except asyncio.CancelledError:
            raise
        except Exception:  # a bug of ours: it is logged and costs one request, and the connection goes on
            _log.exception("operation_failed", operation=self.endpoint.operation.name)
            broken = Fault(FaultKind.INTERNAL, "phasegate failed")
            outcome = Outcome(
                error_answer(500, "internal", "phasegate failed to answer; its log says why"), arm, broken
            )
        if outcome.arm == SOURCE and self.endpoint.operation.kind == "write":
            self._service.split.wrote(self._bucket, self._service.source.behind_since(), self.generation)
        outcome.fault = fault or outcome.fault
        if outcome.fault is None or not self._service.hand_over(self, outcome.fault):
            await self._deliver(outcome)

    async def _deliver(self, outcome: Outcome) -> None:
        """Record the outcome and write it, whole or as a stream."""
        service, client, answer = self._service, self.client, outcome.answer
        self._record(outcome)
        if client is None:
            service.split.leave(self)
            return
        head = answer.wire or encode_head(answer, service.kinds[outcome.arm])
        if answer.stream is None:
            answer.wire = head
        head = b"%b%b%b" % (head, service.shared.date, self._cookie)
        if outcome.fault is not None and outcome.arm != self.arm:
            head += b"x-data-fallback: %b\r\n" % outcome.fault.kind.label.encode()
        if answer.stream is not None and client.line.method != b"HEAD":
            self._streaming = True
            client.begin_answer(answer.status, service.kinds[outcome.arm], head, sized=False)
            await self._stream(client, answer.stream)
            return
        service.split.leave(self)
        client.waiting = None
        client.write(answer.status, service.kinds[outcome.arm], head, answer.body)
        if answer.stream is not None:
            await _close(answer.stream)

    def _record(self, outcome: Outcome) -> None:
        kind = None if outcome.fault is None else outcome.fault.kind
        fell_back = outcome.arm != self.arm
        self._service.split.record(self.endpoint.number, self.arm, self.began, outcome.answer.status, kind, fell_back)

    async def _stream(self, client: Client, stream: AsyncIterator[bytes]) -> None:
        try:
            async for data in stream:
                if self._taken is not None:
                    await self._taken.wait()
                if client.closed:
                    return
                if data:
                    client.payload(data)
            self._end_stream(client)
        except Fault:
            client.reset()  # the backend broke off: not to be taken for the stream's end
        except Exception:  # a bug of ours costs this stream, which nothing else would end
            _log.exception("stream_failed", operation=self.endpoint.operation.name)
            client.reset()
        finally:
            self._service.split.leave(self)
            await _close(stream)

    def _end_stream(self, client: Client) -> None:
        if not client.closed:
            client.waiting = None
            client.end_answer(b"")

    def release(self) -> tuple[Client | None, bytes]:
        """Leave the request to another arm: its client, and the Set-Cookie line of its answer."""
        client, self.client = self.client, None
        self._service.split.leave(self)
        if client is not None:
            client.waiting = None
        return client, self._cookie

    # Waiting

    def gone(self) -> None:
        """The client went away: a read is given up; a write runs to its end, for it may have been applied."""
        self.client = None
        if self.endpoint.operation.kind != "write" and self._stop() and not self._streaming:
            # Counted with the time that it waited: to leave slow reads out would make the arm look faster than it is.
            self._record(Outcome(Answer(_CLIENT_GONE), self.arm))
            self._service.split.leave(self)

    def pause(self) -> None:
        self._taken = asyncio.Event()

    def resume(self) -> None:
        if self._taken is not None:
            self._taken.set()
            self._taken = None

    # Flight

    def cut_over(self) -> None:
        """Hand a read to the source; end a stream, whose client then comes back and finds the source."""
        if self.endpoint.operation.kind == "write" or not self._stop():
            return
        if self._streaming:
            if self.client is not None:
                self._end_stream(self.client)
            return
        fault = Fault(FaultKind.DEADLINE, "cut over by a rollback")
        if self._service.hand_over(self, fault):
            return
        self._service.split.leave(self)
        self.on = SOURCE
        self._service.split.enter(self)
        self._run(self._ask(SOURCE, fault))

    def cancel(self) -> None:
        """Leave the target now. A write that ends so may have been applied, and the client is told that."""
        if self.endpoint.operation.kind != "write":
            self.cut_over()
        elif self._stop():
            message = "a rollback cancelled this write before the target confirmed it: read before you repeat it"
            outcome = Outcome(
                error_answer(503, "write_uncertain", message), self.arm, Fault(FaultKind.DEADLINE, message)
            )
            self._run(self._deliver(outcome))

    def _stop(self) -> bool:
        """Stop waiting; False where the request is about to end by itself."""
        return self._task is not None and self._task.cancel()


async def _close(stream: AsyncIterator[bytes]) -> None:
    """Close the stream, so that it gives back what it holds of the backend."""
    close: Callable[[], Coroutine[Any, Any, None]] | None = getattr(stream, "aclose", None)
    if close is not None:
        await close()


async def _resume(coroutine: Coroutine[Any, Any, None], waited: object) -> None:
    """Go on, inside a task, with a coroutine that was driven by hand and has yielded ``waited``."""
    await _continue(coroutine, waited)


@types.coroutine
def _continue(coroutine: Coroutine[Any, Any, None], waited: object) -> Generator[Any, Any, None]:
    while True:
        try:
            sent = yield waited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # cancellation is the coroutine's to deal with
            step: Callable[[Any], object] = coroutine.throw
            argument: object = error
        else:
            step, argument = coroutine.send, sent
        try:
            waited = step(argument)
        except StopIteration:
            return
