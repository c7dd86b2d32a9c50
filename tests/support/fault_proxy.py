"""Proxies that inject faults: one by the call, in gRPC, and one by the connection, which can go dead."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc


class FaultProxy(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc ships no types
    """``fail`` of the calls, except Listen, end with ``code``; the others wait ``delay_s`` first.

    ``only``: the end of the only method's name that is concerned, such as ``/Commit``; empty: any.
    ``refusal`` is given a method and a call's first request, and may answer with a code and a text.
    """

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self.fail = 0.0
        self.only = ""
        self.code = grpc.StatusCode.RESOURCE_EXHAUSTED
        self.delay_s = 0.0
        self.lose_answers = False  # the call is passed on, but its answer is dropped
        self.calls = 0
        self.refusal: Callable[[str, bytes], tuple[grpc.StatusCode, str] | None] = lambda method, request: None
        self._upstream = upstream
        self._dice = random.Random(seed)

    async def start(self) -> str:
        self._channel = grpc.aio.insecure_channel(self._upstream)
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers([self])
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(None)
        await self._channel.close()

    def service(self, details: Any) -> Any:
        """Handle every method as a stream in both directions, which on the wire every kind of call is."""
        method = details.method

        async def behave(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            self.calls += 1
            if not method.endswith("/Listen") and method.endswith(self.only):
                if self._dice.random() < self.fail and not self.lose_answers:
                    await context.abort(self.code, "as the test wishes")
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
            metadata = [
                (key, value) for key, value in context.invocation_metadata() if not key.startswith("user-agent")
            ]
            first = await anext(aiter(requests))
            if (refused := self.refusal(method.rsplit("/", 1)[-1], first)) is not None:
                await context.abort(*refused)
            call = self._channel.stream_stream(method)(_again(first, requests), metadata=metadata)
            try:
                async for reply in call:
                    if self.lose_answers and not method.endswith("/Listen"):
                        await context.abort(self.code, "the answer was lost")
                    yield reply
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(behave)


async def _again(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for request in rest:
        yield request


class DeadEnd:
    """A TCP proxy whose established connections can be made to swallow everything, as a firewall that forgot them.

    Neither end is told: bytes are taken and lost. New connections work.
    """

    def __init__(self, upstream: str) -> None:
        self.connections = 0
        self._host, _, self._port = upstream.rpartition(":")
        self._alive: list[asyncio.Event] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def swallow(self) -> None:
        """From now on every connection that is open loses all that is sent, in both directions."""
        for alive in self._alive:
            alive.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream, downstream = await asyncio.open_connection(self._host, self._port)
        alive = asyncio.Event()
        alive.set()
        self._alive.append(alive)
        for source, sink in ((reader, downstream), (upstream, writer)):
            task = asyncio.get_running_loop().create_task(self._pass_on(source, sink, alive))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, alive: asyncio.Event) -> None:
        try:
            while data := await source.read(65_536):
                if alive.is_set():
                    sink.write(data)
                    await sink.drain()
            if not alive.is_set():
                await asyncio.Event().wait()  # the end of a connection is not passed on either
        except ConnectionError:
            pass
        finally:
            sink.close()
