"""The event stream: first the missed audit entries, then the status, then every event as it happens."""

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

REPLAY_MAX: Final = 1000  # missed audit entries that a reconnecting reader gets


class Streams:
    """The open event streams of all readers."""

    def __init__(self, store: StoreThread, headers: Mapping[str, str]) -> None:
        self._store = store
        self._headers = {**headers, "Content-Type": EVENT_STREAM}
        self._open: set[asyncio.Task[Any]] = set()

    async def answer(
        self, request: web.Request, hub: Hub, migration: str, status: Callable[[], Status]
    ) -> web.StreamResponse:
        """Stream events to one reader until it disconnects or lags.

        Raises ``ApiProblem`` or ``StoreError``, but only before anything is sent.
        """
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
            # Entries written while the trail was read are in the subscription, too, and must not be sent twice. They
            # are compared by hash and not by number: after a broken store was replaced, numbers start again at 1.
            sent = {line.hash for line in known}
            while not subscription.lagged:
                for event in await subscription.get():
                    if not isinstance(event.document, AuditEntry) or event.document.hash not in sent:
                        await response.write(_lines(event))
            await response.write(_lines(published(Lagged())))
            return response
        except (ConnectionError, asyncio.CancelledError):
            # The reader disconnected, or this process is ending.
            return response
        finally:
            self._open.discard(task)
            hub.leave(subscription)

    async def end(self, app: web.Application) -> None:
        """End every stream, because the process is ending."""
        for task in self._open:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def _lines(event: Published) -> bytes:
    number = b"id: %d\n" % event.document.seq if isinstance(event.document, AuditEntry) else b""
    return b"%sevent: %s\ndata: %s\n\n" % (number, event.name.encode(), event.json)


def _missed(known: Sequence[AuditLine], last: str | None) -> list[AuditLine]:
    """The lines after number ``last``, oldest first; ``known`` has the newest lines, newest first.

    A ``last`` above the trail's newest number belongs to an earlier trail that was set aside: then every line is new.
    """
    if last is None or not known:
        return []
    after = int(last) if int(last) <= known[0].seq else 0
    return [line for line in reversed(known) if line.seq > after]
