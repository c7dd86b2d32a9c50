"""Server-sent events: a stream of what a handler sees in its store, one event a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

from backends.adapters.replies import OperationRefused
from backends.documents.port import Context, DocumentStore, Rejected
from backends.errors import Fault
from backends.operations import EVENT_STREAM, Answer

HEARTBEAT_S: Final = 15.0  # a stream is never silent for longer
POLL_S: Final = 2.0  # how often a stream looks where its store is not told of changes
READ_S: Final = 1.0  # the deadline of a stream's own reads


class _Bell:
    """Wakes one sleeper; rung while nobody sleeps, it is heard next time. Nothing queues up."""

    def __init__(self) -> None:
        self._rung = False
        self._sleeper: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Whether it was rung within the time."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._sleeper = loop.create_future()
            timer = loop.call_later(timeout_s, _finish, self._sleeper)
            try:
                await self._sleeper
            finally:
                timer.cancel()
                self._sleeper = None
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
    """A stream of what ``look`` sees, beginning with ``first``: one event a change. None: nothing to show yet.

    A slow reader is not queued for: it gets the newest state when it is ready for one. Where the store fails the
    stream ends between two events, and the client, which reconnects by itself, is answered by the arm that can.
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
        spoke = loop.time()
        while True:
            if scene is not None and scene != shown:
                yield event(scene)
                shown, spoke = scene, loop.time()
                if scene.final:
                    return
            told = store.watches(collection, doc_id)
            heartbeat = max(0.0, spoke + HEARTBEAT_S - loop.time())
            rung = await bell.wait(heartbeat if told else min(POLL_S, heartbeat))
            if loop.time() - spoke >= HEARTBEAT_S:
                yield b": still here\n\n"
                spoke = loop.time()
            if rung or not told:
                scene = await look(Context(loop.time() + READ_S))
    except (Fault, OperationRefused, Rejected):  # the store failed, or what was shown is gone
        return
    finally:
        end()
