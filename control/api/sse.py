"""The event stream: what was missed of the audit trail, the status, then everything as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from aiohttp import web

from control.api.answers import Problem, whole
from control.lead.events import Hub, TooMany
from control.store.entry import AuditLine, audit_document
from control.store.sqlite import StoreThread

REPLAY_MAX: Final = 1000  # audit entries given again to a reader who comes back

Json = dict[str, Any]


class Streams:
    """Every reader's stream."""

    def __init__(self, store: StoreThread, headers: Mapping[str, str]) -> None:
        self._store = store
        self._headers = {**headers, "Content-Type": "text/event-stream"}
        self._open: set[asyncio.Task[Any]] = set()

    async def answer(
        self, request: web.Request, hub: Hub, migration: str, status: Callable[[], Json]
    ) -> web.StreamResponse:
        """Tell one reader, until they go or lag. Raises ``Problem``, and ``StoreError`` before anything was sent."""
        last = whole(request.headers, "Last-Event-ID", None, 0, 10**18)
        try:
            subscription = hub.subscribe()
        except TooMany as error:
            raise Problem(503, "too_many_readers", str(error), "Close one of them.") from None
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        response = web.StreamResponse(headers=self._headers)
        try:
            known = [] if last is None else await self._store.audit(migration, REPLAY_MAX)
            await response.prepare(request)
            for line in _missed(known, last):
                await response.write(_event("audit", audit_document(line)))
            await response.write(_event("status", status()))
            # What was written while the trail was read waits in the subscription too. By hash and not by number:
            # where a store was set aside, the numbers began anew.
            given = {line.hash for line in known}
            while not subscription.lagged:
                for kind, data in await subscription.get():
                    if kind != "audit" or data["hash"] not in given:
                        await response.write(_event(kind, data))
            await response.write(_event("lagged", {}))
            return response
        except (ConnectionError, asyncio.CancelledError):
            # The reader has gone, or this process is ending.
            return response
        finally:
            self._open.discard(task)
            hub.leave(subscription)

    async def end(self, app: web.Application) -> None:
        """End them all: the process does."""
        for task in self._open:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def _event(kind: str, data: Json) -> bytes:
    number = b"id: %d\n" % data["seq"] if kind == "audit" else b""
    return b"%sevent: %s\ndata: %s\n\n" % (number, kind.encode(), orjson.dumps(data))


def _missed(known: Sequence[AuditLine], last: int | None) -> list[AuditLine]:
    """Of the newest lines, newest first: those after number ``last``, oldest first.

    A number that the trail has not reached is of a trail before it, which was set aside: of this one all is new.
    """
    if last is None or not known:
        return []
    after = last if last <= known[0].seq else 0
    return [line for line in reversed(known) if line.seq > after]
