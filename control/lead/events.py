"""Subscriptions to one migration's events, with bounded queues: a slow reader delays nobody."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

QUEUE_MAX: Final = 256
SUBSCRIBERS_MAX: Final = 64  # a migration


class TooMany(Exception):  # noqa: N818 - it says what is wrong
    """There are as many subscribers as there may be."""


class Subscription:
    """One reader's queue. Of waiting statuses only the newest is kept; every audit line is, up to ``QUEUE_MAX``."""

    def __init__(self) -> None:
        self._lines: deque[Any] = deque()
        self._status: Any = None
        self._ready = asyncio.Event()
        self.lagged = False  # lines were lost: the reader must begin anew from the audit trail

    def put(self, kind: str, data: Any) -> None:
        """Queue an event; never waits."""
        if kind == "status":
            self._status = data
        elif len(self._lines) >= QUEUE_MAX:
            self.lagged = True
        else:
            self._lines.append((kind, data))
        self._ready.set()

    async def get(self) -> list[tuple[str, Any]]:
        """Everything that waits, lines before the status; waits for something."""
        await self._ready.wait()
        self._ready.clear()
        found = list(self._lines)
        self._lines.clear()
        if self._status is not None:
            found.append(("status", self._status))
            self._status = None
        return found


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

    def publish(self, kind: str, data: Any) -> None:
        """Queue an event for every subscriber."""
        for subscription in self._subscriptions:
            subscription.put(kind, data)
