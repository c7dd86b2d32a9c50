"""Server-sent events: a stream of a handler's view of its store, one event per change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

from backends.adapters.replies import OperationRefused
from backends.documents.port import Context, DocumentStore, Rejected
from backends.errors import Fault
from backends.operations import EVENT_STREAM, Answer

HEARTBEAT_S: Final = 15.0  # a stream is never silent for longer
POLL_S: Final = 2.0  # how often a stream reads where its store is not notified of changes
READ_S: Final = 1.0  # the deadline of a stream's own reads


class _Bell:
    """Wakes one waiting task. A ring while none waits ends the next wait at once; several rings count as one."""

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Whether it was rung within the time."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout_s, _finish, self._waiter)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        rung, self._rung = self._rung, False
        return rung


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Scene(NamedTuple):
    """What a stream shows as one event; nothing follows the ``final`` one."""

    event_id: str
    name: str
    data: bytes  # one line
    final: bool = False


def event(scene: Scene) -> bytes:
    """The scene as a server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (scene.name.encode(), scene.event_id.encode(), scene.data)


def stream(
    store: DocumentStore,
    collection: str,
    doc_id: str | None,
    look: Callable[[Context], Awaitable[Scene | None]],
    first: Scene | None,
) -> Answer:
    """A stream of what ``look`` sees, beginning with ``first``: one event per change. None: nothing to show yet.

    Nothing is queued for a slow reader: it gets the newest state when it is ready. If the store fails, the stream
    ends between two events; the client reconnects by itself and is answered by an arm that works.
    """
    return Answer(200, content_type=EVENT_STREAM, headers=((b"cache-control", b"no-store"),), stream=_scenes(
        store, collection, doc_id, look, first
    ))  # fmt: skip


async def _scenes(
    store: DocumentStore,
    collection: str,
    doc_id: str | None,
    look: Callable[[Context], Awaitable[Scene | None]],
    scene: Scene | None,
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    bell = _Bell()
    end = store.watch(collection, bell.ring)
    try:
        yield b"retry: 1000\n\n"
        shown: Scene | None = None
        sent_at = loop.time()
        while True:
            if scene is not None and scene != shown:
                yield event(scene)
                shown, sent_at = scene, loop.time()
                if scene.final:
                    return
            notified = store.watches(collection, doc_id)
            heartbeat = max(0.0, sent_at + HEARTBEAT_S - loop.time())
            rung = await bell.wait(heartbeat if notified else min(POLL_S, heartbeat))
            if loop.time() - sent_at >= HEARTBEAT_S:
                yield b": still here\n\n"
                sent_at = loop.time()
            if rung or not notified:
                scene = await look(Context(loop.time() + READ_S))
    except (Fault, OperationRefused, Rejected):  # the store failed, or what was shown is gone
        return
    finally:
        end()
