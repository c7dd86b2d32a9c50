"""Notifies other systems of phase changes and rollbacks by HTTP: signed, retried, and never waited for.

A receiver gets ``POST`` with a JSON body and three fields: ``X-Phasegate-Event``, ``X-Phasegate-Delivery`` (the same
on every attempt) and, where a key is configured, ``X-Phasegate-Signature: t=UNIX,v1=HEX``, HMAC-SHA-256 over
``UNIX.BODY``. Any 2xx answer is a receipt. Others are tried again with backoff; what finds the queue full is dropped,
counted and logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import random
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import aiohttp
import msgspec
import structlog
from msgspec.structs import asdict

from control.lead.documents import Message, PhaseChangeMessage, RollbackCompleteMessage, RollbackMessage
from control.plan.settings import Webhook
from control.plan.times import rfc3339
from control.rollout.model import News, PhaseChange, Rollback, RollbackBegun

_log = structlog.get_logger("phasegate.webhooks")

QUEUE_MAX: Final = 100  # a receiver
ATTEMPTS: Final = 6
TIMEOUT_S: Final = 5.0
BACKOFF_S: Final = 1.0  # doubled with each attempt
JITTER: Final = (0.5, 1.5)  # times the backoff, so that receivers that failed together are not tried together


def message_of(migration: str, unix: float, news: News, revision: int) -> Message:
    """What receivers are sent of something that happened at a Unix time."""
    at = rfc3339(unix)
    match news:
        case PhaseChange():
            return PhaseChangeMessage(migration, at, **asdict(news), revision=revision)
        case RollbackBegun():
            return RollbackMessage(migration, at, **asdict(news))
        case Rollback():
            return RollbackCompleteMessage(migration, at, **asdict(news), revision=revision)


def signature(key: bytes, unix: int, body: bytes) -> str:
    """The value of ``X-Phasegate-Signature``."""
    return f"t={unix},v1={hmac.new(key, b'%d.%s' % (unix, body), hashlib.sha256).hexdigest()}"


class Receiver:
    """One webhook: a queue, and a task that empties it."""

    def __init__(self, hook: Webhook, *, backoff_s: float = BACKOFF_S) -> None:
        self._url = hook.url
        self._key = os.environ.get(hook.secret_env, "").encode() if hook.secret_env else b""
        self._queue: asyncio.Queue[Message] = asyncio.Queue(QUEUE_MAX)
        self._backoff_s = backoff_s
        self.dropped = 0
        if hook.secret_env and not self._key:
            _log.error("webhook_key_missing", host=self._host(), variable=hook.secret_env)
            self._unsigned = True
        else:
            self._unsigned = False

    def put(self, message: Message) -> None:
        """Hand a message over; never waits."""
        if self._unsigned:
            return
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped += 1
            _log.warning("webhook_dropped", host=self._host(), dropped=self.dropped)

    async def run(self) -> None:
        """Send what comes, one after the other, until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
            while True:
                message = await self._queue.get()
                await self._deliver(session, message)

    async def _deliver(self, session: aiohttp.ClientSession, message: Message) -> None:
        body, delivery = msgspec.json.encode(message), str(uuid.uuid4())
        for attempt in range(ATTEMPTS):
            problem = await self._send(session, body, message.event, delivery)
            if problem is None:
                return
            _log.warning("webhook_failed", host=self._host(), attempt=attempt + 1, reason=problem)
            if attempt + 1 < ATTEMPTS:
                jitter = random.uniform(*JITTER)  # noqa: S311 - spreads attempts, guards nothing
                await asyncio.sleep(self._backoff_s * 2**attempt * jitter)
        self.dropped += 1

    async def _send(self, session: aiohttp.ClientSession, body: bytes, event: str, delivery: str) -> str | None:
        headers = {
            "Content-Type": "application/json",
            "X-Phasegate-Event": event,
            "X-Phasegate-Delivery": delivery,
        }
        if self._key:
            headers["X-Phasegate-Signature"] = signature(self._key, int(time.time()), body)
        try:
            async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                return None if 200 <= response.status < 300 else f"answered {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__

    def _host(self) -> str:
        # The path of a webhook is often its secret.
        return self._url.split("/")[2].rpartition("@")[2]


class Webhooks:
    """Every migration's receivers."""

    def __init__(self, hooks: dict[str, Sequence[Webhook]]) -> None:
        self._receivers = {name: [Receiver(hook) for hook in each] for name, each in hooks.items()}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send."""
        receivers = [receiver for each in self._receivers.values() for receiver in each]
        self._tasks = [asyncio.create_task(receiver.run(), name="webhook") for receiver in receivers]

    def notify(self, migration: str, news: News, revision: int) -> None:
        """Tell the migration's receivers what happened; ``revision`` is the rollout's after it."""
        receivers = self._receivers.get(migration, ())
        if receivers:
            message = message_of(migration, time.time(), news, revision)
            for receiver in receivers:
                receiver.put(message)

    async def close(self) -> None:
        """Stop sending; what waits is lost, and is in the audit trail all the same."""
        for task in self._tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
