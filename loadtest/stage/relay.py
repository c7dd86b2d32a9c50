"""Injects network faults between phasegate and Firestore: a gRPC relay, and a cable that can be cut.

The relay passes gRPC messages on as bytes, and can answer with a status of its own, delay calls, or corrupt answers.
The cable passes bytes of any protocol; when cut, it passes nothing in either direction and reports no error, like a
broken network.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc

_LISTEN: Final = "/google.firestore.v1.Firestore/Listen"
_OPTIONS: Final = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_TAKEN: Final = frozenset({"user-agent", "te", "content-type", "grpc-accept-encoding", "grpc-encoding"})
_GARBAGE: Final = b"\xff\xfe\x00garbage\x07"


@dataclass(frozen=True, slots=True)
class Trouble:
    """The fault of a ``share`` of the calls: a delay, a refusal with ``status``, or a corrupt answer.

    Listen streams are always affected, whatever the share: otherwise a view would hide the faults of the calls.
    """

    share: float = 1.0
    status: str = ""
    delay_s: float = 0.0
    corrupt: bool = False


class GrpcRelay:
    """A gRPC server that passes every call on to ``target``."""

    def __init__(self, target: str) -> None:
        self.trouble: Trouble | None = None
        self.met = 0  # calls that were interfered with
        self._target = target
        self._due = 0.0  # calls that should have been affected so far but were not
        self._nth = 0
        self._streams: set[Any] = set()

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._target, options=_OPTIONS)
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_Every(self),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.stop(0)
        await self._channel.close(0)

    def begin(self, trouble: Trouble) -> None:
        """Start the fault; open streams end, as they would in a real outage."""
        self.trouble = trouble
        for call in list(self._streams):
            call.cancel()

    def end(self) -> None:
        """End the fault: pass everything on unchanged."""
        self.trouble = None

    def _meets(self, method: str) -> Trouble | None:
        """The fault of this call or None: affects exactly the share of the calls, evenly spread."""
        trouble = self.trouble
        if trouble is None:
            return None
        if method != _LISTEN:
            self._due += trouble.share
            if self._due < 1 - 1e-9:
                return None
            self._due -= 1
            self.met += 1
        return trouble

    async def pass_on(self, method: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Relay one call of any kind."""
        trouble = self._meets(method)
        if trouble is not None:
            if trouble.delay_s:
                await asyncio.sleep(trouble.delay_s)
            if trouble.status:
                await context.abort(grpc.StatusCode[trouble.status], "the rehearsal's doing")
        metadata = [pair for pair in context.invocation_metadata() if pair[0] not in _TAKEN]
        call = self._channel.stream_stream(method)(requests, metadata=metadata, timeout=context.time_remaining())
        if method == _LISTEN:
            self._streams.add(call)
        try:
            async for message in call:
                yield self._corrupted(message) if trouble is not None and trouble.corrupt else message
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # we run in a task
                raise
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream was ended")  # by ``begin``
        finally:
            self._streams.discard(call)
            call.cancel()

    def _corrupted(self, message: bytes) -> bytes:
        """Alternately bytes that are not a message, and the first half of the message."""
        self._nth += 1
        return message[: len(message) // 2] if self._nth % 2 else _GARBAGE


class _Every(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def __init__(self, relay: GrpcRelay) -> None:
        self._relay = relay

    def service(self, handler_call_details: Any) -> Any:
        method, relay = handler_call_details.method, self._relay

        # grpc checks the kind of function: it must be an asynchronous generator, which a lambda is not.
        async def pass_on(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for message in relay.pass_on(method, requests, context):
                yield message

        return grpc.stream_stream_rpc_method_handler(pass_on)


class Cable:
    """A TCP relay. ``cut``: nothing passes in either direction, new connections are accepted and get no data."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.held = 0  # pieces that arrived while it was cut

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Stop passing data."""
        self._whole.clear()

    def mend(self) -> None:
        """Pass data again; held data follows now, as with TCP's retransmission."""
        self._whole.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ways: list[asyncio.Task[None]] = []
        writers = [writer]
        try:
            await self._whole.wait()
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            ways = [
                asyncio.create_task(self._way(reader, far_writer)),
                asyncio.create_task(self._way(far_reader, writer)),
            ]
            writers.append(far_writer)
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the target is gone: closing the connection below tells the client
        finally:
            for way in ways:
                way.cancel()
            for each in writers:
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            self._tasks.discard(task)

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if not self._whole.is_set():
                self.held += 1
                await self._whole.wait()
            writer.write(data)
            await writer.drain()
