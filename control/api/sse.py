"""The event stream: what was missed of the audit trail, the status, then everything as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aiohttp import web

from control.api.answers import ApiProblem, given
from control.api.endpoints import EVENT_STREAM, LAST_EVENT
from control.lead.documents import Lagged, Status
from control.lead.events import Hub, Published, TooMany, published
from control.store.entry import AuditEntry, AuditLine, audit_document
from control.store.sqlite import StoreThread

REPLAY_MAX: Final = 1000  # audit entries given again to a reader who comes back


class Streams:
    """Every reader's stream."""

    def __init__(self, store: StoreThread, headers: Mapping[str, str]) -> None:
        self._store = store
        self._headers = {**headers, "Content-Type": EVENT_STREAM}
        self._open: set[asyncio.Task[Any]] = set()

    async def answer(
        self, request: web.Request, hub: Hub, migration: str, status: Callable[[], Status]
    ) -> web.StreamResponse:
        """Tell one reader until they go or lag. Before anything is sent, raises ``ApiProblem`` and ``StoreError``."""
        last = given(request, LAST_EVENT)
        try:
            subscription = hub.subscribe()
        except TooMany as error:
            raise ApiProblem(503, "too_many_readers", str(error), "Close one of them.") from None
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        response = web.StreamResponse(headers=self._headers)
        try:
            known = [] if last is None else await self._store.audit(migration, REPLAY_MAX)
            await response.prepare(request)
            for line in _missed(known, last):
                await response.write(_lines(published(audit_document(line))))
            await response.write(_lines(published(status())))
            # What was written while the trail was read waits in the subscription too. By hash and not by number:
            # where a store was set aside, the numbers began anew.
            told = {line.hash for line in known}
            while not subscription.lagged:
                for event in await subscription.get():
                    if not isinstance(event.document, AuditEntry) or event.document.hash not in told:
                        await response.write(_lines(event))
            await response.write(_lines(published(Lagged())))
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


def _lines(event: Published) -> bytes:
    number = b"id: %d\n" % event.document.seq if isinstance(event.document, AuditEntry) else b""
    return b"%sevent: %s\ndata: %s\n\n" % (number, event.name.encode(), event.json)


def _missed(known: Sequence[AuditLine], last: str | None) -> list[AuditLine]:
    """Of the newest lines, newest first: those after number ``last``, oldest first.

    A number that the trail has not reached is of a trail before it, which was set aside: of this one all is new.
    """
    if last is None or not known:
        return []
    after = int(last) if int(last) <= known[0].seq else 0
    return [line for line in reversed(known) if line.seq > after]
