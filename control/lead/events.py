"""Subscriptions to one migration's events, with bounded queues: a slow reader delays nobody."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple

import msgspec

from control.lead.documents import EVENTS, EventDocument

QUEUE_MAX: Final = 256
SUBSCRIBERS_MAX: Final = 64  # a migration
_NAMES: Final = {kind: name for name, kind in EVENTS.items()}


class TooMany(Exception):  # noqa: N818 - it says what is wrong
    """There are as many subscribers as there may be."""


class Published(NamedTuple):
    """An event of the stream, written as JSON once for all its readers."""

    name: str
    document: EventDocument
    json: bytes


def published(document: EventDocument) -> Published:
    """The event that carries a document."""
    return Published(_NAMES[type(document)], document, msgspec.json.encode(document))


class Subscription:
    """One reader's queue. Of waiting statuses only the newest is kept; every other event is, up to ``QUEUE_MAX``."""

    def __init__(self) -> None:
        self._events: deque[Published] = deque()
        self._status: Published | None = None
        self._ready = asyncio.Event()
        self.lagged = False  # events were lost: the reader must begin anew from the audit trail

    def put(self, event: Published) -> None:
        """Queue an event; never waits."""
        if event.name == "status":
            self._status = event
        elif len(self._events) >= QUEUE_MAX:
            self.lagged = True
        else:
            self._events.append(event)
        self._ready.set()

    async def get(self) -> list[Published]:
        """Everything that waits, the status last; waits for something."""
        await self._ready.wait()
        self._ready.clear()
        waiting = list(self._events)
        self._events.clear()
        if self._status is not None:
            waiting.append(self._status)
            self._status = None
        return waiting


class Hub:
    """The subscriptions of one migration."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def __bool__(self) -> bool:
        return bool(self._subscriptions)

    def subscribe(self) -> Subscription:
        """A new subscription. Raises ``TooMany``."""
        if len(self._subscriptions) >= SUBSCRIBERS_MAX:
            raise TooMany(f"{SUBSCRIBERS_MAX} readers follow this migration already")
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """End a subscription."""
        self._subscriptions.discard(subscription)

    def publish(self, document: EventDocument) -> None:
        """Hand a document to every reader."""
        if self._subscriptions:
            event = published(document)
            for subscription in self._subscriptions:
                subscription.put(event)
