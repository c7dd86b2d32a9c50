"""A gRPC proxy that injects faults: it passes calls on to a real server, delays them, or answers with a failure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc


class FaultProxy(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc ships no types
    """``fail`` of the calls, except Listen, end with ``code``; the others wait ``delay_s`` first.

    ``only``: the end of the only method's name that is concerned, such as ``/Commit``; empty: any.
    """

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self.fail = 0.0
        self.only = ""
        self.code = grpc.StatusCode.RESOURCE_EXHAUSTED
        self.delay_s = 0.0
        self.lose_answers = False  # the call is passed on, but its answer is dropped
        self.calls = 0
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
            call = self._channel.stream_stream(method)(requests, metadata=metadata)
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
