"""Firestore's gRPC service over the emulator's databases: hands calls to ``calls``, and serves Listen's streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
import structlog

from backends.documents.port import Rejected
from backends.emulator.calls import METHODS, Databases, Method
from backends.emulator.listening import ListenState, PbListenResponse, watched
from backends.emulator.refusal import RefusedCall, invalid, not_offered, refused
from backends.kinds.firestore.messages import firestore

SERVICE: Final = "google.firestore.v1.Firestore"
BEAT_S: Final = 1.0  # a stream says at least so often that its results are still right
PAUSE_S: Final = 0.01  # between two states that a stream sends: writes that come meanwhile are sent together

_PbListen: Final[Any] = firestore.ListenRequest.pb()
_log = structlog.get_logger("phasegate.emulator")


class FirestoreService(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """The methods, over databases in memory."""

    def __init__(self) -> None:
        self._databases = Databases()
        self._handlers = {f"/{SERVICE}/{name}": self._handler(method) for name, method in METHODS.items()}
        self._handlers[f"/{SERVICE}/Listen"] = grpc.stream_stream_rpc_method_handler(
            _refusing(self._listen), _PbListen.FromString, PbListenResponse.SerializeToString
        )

    def service(self, details: Any) -> Any:
        """The handler of a method; of one that there is not, one that says so."""
        return self._handlers.get(details.method) or _missing(details.method)

    def _handler(self, method: Method) -> Any:
        async def once(request: Any, _context: Any) -> Any:
            return await method.call(self._databases, request)

        async def several(request: Any, context: Any) -> None:
            for message in await method.call(self._databases, request):
                await context.write(message)

        make = grpc.unary_stream_rpc_method_handler if method.streams else grpc.unary_unary_rpc_method_handler
        behaviour = several if method.streams else once
        return make(_refusing(behaviour), method.request.FromString, method.response.SerializeToString)

    async def _listen(self, requests: Any, context: Any) -> None:
        """One stream, until its client ends it."""
        stream = _Stream(self._databases)
        hearing = asyncio.create_task(stream.hear(requests))
        hearing.add_done_callback(lambda _: stream.wake())
        try:
            while not hearing.done():
                for message in stream.messages():
                    await context.write(message)
                await asyncio.sleep(PAUSE_S)
                await stream.woken(BEAT_S)
            hearing.result()
        finally:
            hearing.cancel()
            stream.close()


class _Stream:
    """One Listen stream: what its client asks for, and when there may be something to tell it."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._database = ""
        self._listener = ListenState("")
        self._ends: dict[int, list[Callable[[], None]]] = {}
        self._last: list[Any] = []  # about targets that were removed
        self._woken = asyncio.Event()

    async def hear(self, requests: Any) -> None:
        """Take the client's requests until it has no more. Raises ``RefusedCall``."""
        async for request in requests:
            self._take(request)
            self._woken.set()

    def _take(self, request: Any) -> None:
        if self._database not in ("", request.database):
            raise invalid(f"this stream is of {self._database}, found {request.database}")
        held = self._databases.of(request.database)
        if not self._database:
            self._database, self._listener = request.database, ListenState(held.root)
        match request.WhichOneof("target_change"):
            case "add_target":
                target = request.add_target
                what = watched(target, held)
                resumed = bool(target.resume_token) or target.HasField("read_time")
                number = self._listener.add(target.target_id, what, resumed=resumed)
                self._ends[number] = [held.store.watch(name, self._woken.set) for name in what.collections]
            case "remove_target":
                self._last += self._listener.remove(request.remove_target)
                self._end(request.remove_target)
            case _:
                raise invalid("expected a target that is added or removed")

    def messages(self) -> list[Any]:
        """What the client does not know yet."""
        last, self._last = self._last, []
        if not self._database:
            return last
        return [*last, *self._listener.messages(self._databases.of(self._database).store.read_time())]

    def wake(self) -> None:
        """There may be something to tell."""
        self._woken.set()

    async def woken(self, within_s: float) -> None:
        """Wait until there may be something to tell, or it is time to say that nothing has changed."""
        try:
            async with asyncio.timeout(within_s):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    def _end(self, number: int) -> None:
        for end in self._ends.pop(number, ()):
            end()

    def close(self) -> None:
        """Watch nothing any more."""
        for number in [*self._ends]:
            self._end(number)


def _refusing(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """The behaviour, whose exceptions become the call's status."""

    async def behave(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except RefusedCall as refusal:
            problem = refusal
        except Rejected as rejected:
            problem = refused(rejected)
        except Exception:
            _log.exception("call_failed")
            problem = RefusedCall(grpc.StatusCode.INTERNAL, "a mistake of phasegate's emulator: see its log")
        return await context.abort(problem.code, str(problem))

    return behave


def _missing(name: str) -> Any:
    async def behave(_requests: Any, _context: Any) -> None:
        raise not_offered(f"the method {name}; it has {', '.join((*METHODS, 'Listen'))}")

    return grpc.stream_stream_rpc_method_handler(_refusing(behave))
