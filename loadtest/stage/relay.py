"""Stands between phasegate and Firestore, to break what passes: a gRPC relay, and a cable that can be cut.

The relay speaks gRPC without knowing a single message: bytes in, bytes out, and in between a status of its own, a
delay, or bytes that are not what was sent. The cable passes bytes of any protocol; cut, it passes nothing either way
and tells nobody, as a network does.
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
    """What is done to ``share`` of the calls: delayed, refused with ``status``, or answered with corrupt bytes.

    Streams of Listen are refused or corrupted whatever the share: a view must not hide what the calls meet.
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
        self._due = 0.0  # calls owed to the share
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
        """From now on; streams that are open end, as they would."""
        self.trouble = trouble
        for call in list(self._streams):
            call.cancel()

    def end(self) -> None:
        """Pass everything on as it is."""
        self.trouble = None

    def _meets(self, method: str) -> Trouble | None:
        """The trouble that this call meets: exactly its share of the calls, evenly spread."""
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
        """One call, of whatever kind."""
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
        """In turn: bytes that are no message, and the first half of one."""
        self._nth += 1
        return message[: len(message) // 2] if self._nth % 2 else _GARBAGE


class _Every(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def __init__(self, relay: GrpcRelay) -> None:
        self._relay = relay

    def service(self, handler_call_details: Any) -> Any:
        method, relay = handler_call_details.method, self._relay

        # grpc looks at what kind of function it is given: this one, and no lambda, is an asynchronous generator.
        async def pass_on(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for message in relay.pass_on(method, requests, context):
                yield message

        return grpc.stream_stream_rpc_method_handler(pass_on)


class Cable:
    """A TCP relay. ``cut``: nothing passes in either direction, new connections are accepted and hear nothing."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.held = 0  # pieces that came while it was cut

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
        """Let nothing pass from now on."""
        self._whole.clear()

    def mend(self) -> None:
        """Let everything pass again; what was held back comes now, as TCP sends again."""
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
            pass  # the far side is gone: the near one learns it from the closing below
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
