"""One receiver of webhooks: a queue, and a task that delivers it in order, each message until it was taken.

A message is sent as ``POST`` with a JSON body and three fields: ``X-Phasegate-Event``, ``X-Phasegate-Delivery`` (the
same on every attempt, also after a restart) and, where a key is configured, ``X-Phasegate-Signature: t=UNIX,v1=HEX``,
HMAC-SHA-256 over ``UNIX.BODY``. Any 2xx answer is a receipt. Everything else is tried again, later and later, for as
long as it takes; only an answer that refuses the message itself ends it after ``ATTEMPTS``, so that one message never
keeps back all that follow.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import aiohttp
import structlog

from control.lead.spool import SpooledMessage
from control.plan.settings import Webhook

_log = structlog.get_logger("phasegate.webhooks")

QUEUE_MAX: Final = 1000  # messages that wait for a receiver; beyond them the oldest is dropped
ATTEMPTS: Final = 6  # where the message itself is refused
REFUSED: Final = (400, 413, 415, 422)  # answers that say so, and not that the receiver is away
TIMEOUT_S: Final = 5.0
BACKOFF_S: Final = 1.0  # doubled with each attempt
BACKOFF_MAX_S: Final = 30.0  # a receiver that is back is found within this
JITTER: Final = (0.5, 1.5)  # times the backoff, so that receivers that failed together are not tried together


def signature(key: bytes, unix: int, body: bytes) -> str:
    """The value of ``X-Phasegate-Signature``."""
    return f"t={unix},v1={hmac.new(key, b'%d.%s' % (unix, body), hashlib.sha256).hexdigest()}"


def receiver_id(hook: Webhook) -> str:
    """Who a receiver is in the spool: a digest, because an address is often a secret."""
    return hashlib.sha256(f"{hook.url}\n{hook.secret_env or ''}".encode()).hexdigest()[:16]


# Why an attempt failed, in words: the first row that fits, by the exception's type, or by the errno of its cause.
# None repeats what the exception says: an address in it may be a secret.
_FAILURES: Final[tuple[tuple[type[Exception] | int, str], ...]] = (
    (aiohttp.ClientConnectorDNSError, "the name was not found"),
    (errno.ETIMEDOUT, "the connection timed out"),
    (TimeoutError, f"timed out after {TIMEOUT_S:g} s"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not trusted"),
    (aiohttp.ClientSSLError, "the TLS handshake failed"),
    (errno.ECONNREFUSED, "the connection was refused"),
    (errno.EHOSTUNREACH, "there is no route to it"),
    (errno.ENETUNREACH, "there is no route to it"),
    (errno.EMFILE, "this process has too many files open"),
    (errno.ECONNRESET, "the connection was cut before an answer"),
    (errno.EPIPE, "the connection was cut before an answer"),
    (aiohttp.ServerDisconnectedError, "the connection was cut before an answer"),
    (aiohttp.InvalidURL, "its address is no URL"),
    (aiohttp.ClientConnectorError, "no connection could be made"),
    (aiohttp.ClientResponseError, "its answer is not HTTP"),
)


def failure(error: Exception) -> str:
    """Why an attempt to deliver failed, in words."""
    for cause, why in _FAILURES:
        if getattr(error, "errno", None) == cause if isinstance(cause, int) else isinstance(error, cause):
            return why
    return "the connection failed"


def key_of(hook: Webhook) -> bytes | None:
    """The key that its messages are signed with, empty where they are not; None where its variable is not set."""
    if not hook.secret_env:
        return b""
    return os.environ.get(hook.secret_env, "").encode() or None


class Receiver:
    """Whoever is behind one address. ``took`` is called with the id of each message that is needed no more."""

    def __init__(self, hook: Webhook, took: Callable[[str], None], *, backoff_s: float = BACKOFF_S) -> None:
        self._url = hook.url
        key = key_of(hook)
        self._key = key or b""
        self._took = took
        self._queue: deque[SpooledMessage] = deque()
        self._arrived = asyncio.Event()
        self._backoff_s = backoff_s
        self.dropped = 0
        self.unsigned = key is None  # its messages wait for a process that has the key
        if self.unsigned:
            _log.error("webhook_key_missing", host=self.host, variable=hook.secret_env)

    @property
    def host(self) -> str:
        """Where it is, as logs and metrics say it: the path of a webhook is often its secret."""
        return self._url.split("/")[2].rpartition("@")[2]

    @property
    def waiting(self) -> int:
        """How many messages it has not taken."""
        return len(self._queue)

    def put(self, message: SpooledMessage) -> None:
        """Hand a message over; never waits."""
        self._queue.append(message)
        self._bound()
        self._arrived.set()

    def put_first(self, messages: Iterable[SpooledMessage]) -> None:
        """Hand over what was to reach it before all that waits."""
        self._queue.extendleft(reversed([*messages]))
        self._bound()
        self._arrived.set()

    def _bound(self) -> None:
        while len(self._queue) > QUEUE_MAX:
            self._drop(self._queue.popleft(), "its queue is full")

    def _drop(self, message: SpooledMessage, reason: str) -> None:
        self.dropped += 1
        self._took(message.id)
        _log.warning("webhook_dropped", host=self.host, dropped=self.dropped, reason=reason)

    async def run(self) -> None:
        """Send what comes, one after the other, until cancelled."""
        if self.unsigned:
            return
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
            while True:
                while not self._queue:
                    self._arrived.clear()
                    await self._arrived.wait()
                message = self._queue[0]
                reason = await self._deliver(session, message)
                if self._queue and self._queue[0] is message:  # else it was dropped meanwhile
                    self._queue.popleft()
                    if reason is None:
                        self._took(message.id)
                    else:
                        self._drop(message, reason)

    async def _deliver(self, session: aiohttp.ClientSession, message: SpooledMessage) -> str | None:
        """Send a message until it is taken; why not, where it is given up."""
        attempt = refused = 0
        while True:
            attempt += 1
            problem, is_refused = await self._send(session, message)
            if problem is None:
                if attempt > 1:
                    _log.info("webhook_delivered", host=self.host, attempt=attempt, waiting=len(self._queue) - 1)
                return None
            refused += is_refused
            if attempt & (attempt - 1) == 0:  # 1, 2, 4, 8: a receiver that is away for hours does not fill the log
                _log.warning("webhook_failed", host=self.host, attempt=attempt, reason=problem)
            if refused >= ATTEMPTS:
                return problem
            backoff_s = min(BACKOFF_MAX_S, self._backoff_s * 2.0 ** min(attempt - 1, 16))
            await asyncio.sleep(backoff_s * random.uniform(*JITTER))  # noqa: S311 - spreads attempts, guards nothing

    async def _send(self, session: aiohttp.ClientSession, message: SpooledMessage) -> tuple[str | None, bool]:
        """One attempt: what went wrong, and whether the message itself is refused."""
        body = bytes(message.body)
        headers = {
            "Content-Type": "application/json",
            "X-Phasegate-Event": message.event,
            "X-Phasegate-Delivery": message.id,
        }
        if self._key:
            headers["X-Phasegate-Signature"] = signature(self._key, int(time.time()), body)
        try:
            async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                if 200 <= response.status < 300:
                    return None, False
                return f"status {response.status}", response.status in REFUSED
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return failure(error), False
