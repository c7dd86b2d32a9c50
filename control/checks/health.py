"""The health check of a backend or of the app. Pre-flight, the check before a raise and probes all use it.

A document store is checked through an arm. An HTTP origin (http, https or a unix socket) is connected to in the same
way as the data plane does it, and gets one GET request:

    origin                     path      is healthy with
    a backend with `health`    `health`  2xx or 3xx
    any other                  /         any answer, because phasegate does not know which paths an origin has

Pre-flight also fails an origin without `health` that answers 5xx (``below_500``): it runs before any traffic is
moved, and a person reads the result.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from backends.arm import Health
from backends.backend import Backend
from backends.copy.marker import read_marker
from backends.errors import Fault
from backends.kinds.registry import KINDS
from backends.origin import Reach, origin_of
from backends.pair.manager import store_arm
from backends.pair.storearm import StoreArm
from control.checks.check import Check
from control.checks.indexed import Unanswered, ask_each
from control.plan.settings import Migration, Settings
from proxy.settings import reach_of
from proxy.tls import dialer, why

# Shorter than any caller's own timeout on a check. A caller that times out first can only say that it waited; the
# check's own timeout says which backend did not answer.
LONGEST_S: Final = 4.5
_HEAD_MAX: Final = 64 * 1024  # bytes of an answer's head
_INTERIM_MAX: Final = 16  # 1xx answers before a final one
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r\n)")
_DATE: Final = re.compile(rb"\r\ndate:[ \t]*([^\r]*)", re.IGNORECASE)


class OriginHealth(NamedTuple):
    """An origin's health, and the Date field of its answer."""

    health: Health
    date: str | None = None
    mend: str | None = None  # where it was never asked: what to do on this side


class _NoAnswerError(Exception):
    """The origin's answer is not HTTP; the message says what is wrong with it."""


class _UnusableTlsError(Exception):
    """A file of our own `tls` cannot be used; the message says which, and what is wrong with it."""


async def ask_origin(reach: Reach, *, below_500: bool = False) -> OriginHealth:
    """Connect to an origin and send it one request, within its timeout. Never raises ``OSError``."""
    path = reach.health or "/"
    began = time.perf_counter()
    status, date, transport, mend = 0, None, None, None
    try:
        async with asyncio.timeout(reach.timeout_s):
            dial = _dialer(reach)
            reader = asyncio.StreamReader(_HEAD_MAX)
            transport = await dial(asyncio.StreamReaderProtocol(reader))
            status, date = await _exchange(transport, reader, reach.url, path)
        detail = f"{reach.url} answers {status}" + (f" to GET {path}" if reach.health else "")
    except _UnusableTlsError as error:
        detail = f"{reach.url} was not asked: its `tls` cannot be used: {error}"
        mend = "Correct the file, or the key under `tls` that names it."
    except TimeoutError:
        stage = "it accepted no connection" if transport is None else f"it gave no answer to GET {path}"
        detail = f"{reach.url} does not answer: {stage} within {reach.timeout_s:g} s"
    except (OSError, _NoAnswerError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        detail = f"{reach.url} does not answer: {_reason(error, reach)}"
    finally:
        if transport is not None:
            transport.abort()
    took_ms = (time.perf_counter() - began) * 1000
    if reach.health:
        ok = 200 <= status < 400
        if status and not ok:
            detail += "; expected 2xx or 3xx"
    else:
        ok = bool(status) and (status < 500 or not below_500)
    return OriginHealth(Health(ok, took_ms, detail), date, mend)


def _dialer(reach: Reach) -> Callable[[asyncio.BaseProtocol], Awaitable[asyncio.Transport]]:
    try:
        return dialer(reach.url, reach.tls)
    except OSError as error:
        raise _UnusableTlsError(why(error)) from None


async def _exchange(
    transport: asyncio.Transport, reader: asyncio.StreamReader, url: str, path: str
) -> tuple[int, str | None]:
    """Send one request and read the head of its answer: the status and the Date field."""
    fields = ("user-agent: phasegate-check", "accept: */*", "connection: close")
    lines = (f"GET {path} HTTP/1.1", f"host: {origin_of(url).authority}", *fields, "", "")
    transport.write("\r\n".join(lines).encode())
    for _ in range(_INTERIM_MAX):
        head = await reader.readuntil(b"\r\n\r\n")
        line = _STATUS.match(head)
        if line is None:
            raise _NoAnswerError("its answer is not HTTP/1")
        if (status := int(line[1])) >= 200:
            date = _DATE.search(head)
            return status, date[1].decode("latin-1").strip() if date else None
    raise _NoAnswerError(f"it sent more than {_INTERIM_MAX} interim answers")


def _reason(error: Exception, reach: Reach) -> str:
    match error:
        case asyncio.IncompleteReadError(partial=partial) if partial:
            return "it closed the connection in the middle of its answer, or its answer is not HTTP/1"
        case asyncio.LimitOverrunError():
            return f"its answer is not HTTP/1, or has a head of more than {_HEAD_MAX // 1024} KiB"
        case asyncio.IncompleteReadError() | ConnectionResetError() | ConnectionAbortedError():
            return f"it closed the connection without an answer{_perhaps(reach)}"
        case socket.gaierror():
            return "the host's name is not known"
        case OSError(errno=int(number)) if not isinstance(error, ssl.SSLError):
            return os.strerror(number).lower()
        case _:
            return why(error)


def _perhaps(reach: Reach) -> str:
    """The likely cause where an origin closes the connection without an answer.

    It is a guess: many origins send no TLS alert, or reset the connection before the alert arrives.
    """
    if reach.url.startswith("http:"):
        return "; where it speaks TLS, write https://"
    if not reach.url.startswith("https:"):
        return ""
    if reach.tls is None or reach.tls.certificate is None:
        return "; where it asks for a client certificate, set `tls.certificate` and `tls.key`"
    return "; where it does not accept our certificate, look at `tls.certificate`"


class _StoreHealth(NamedTuple):
    """A document store's health, and what a person has to do, where the store knows."""

    health: Health
    mend: str | None = None


async def _of_store(arm: StoreArm) -> _StoreHealth:
    """Ask a document store; the detail begins with its kind. Never raises."""
    began = time.perf_counter()
    mend = None
    try:
        # Not the arm's own ``health``, whose answer drops what a person has to do.
        detail, ok = await arm.store.health(arm.deadline_s), True
    except Fault as fault:
        detail, ok = str(fault), False
        mend = None if fault.trouble is None else fault.trouble.mend
    return _StoreHealth(Health(ok, (time.perf_counter() - began) * 1000, f"{arm.kind}: {detail}"), mend)


def _check(name: str, backend: Backend, health: Health, known: str | None = None) -> Check:
    """``known``: what to do, where more is known than the kind of backend."""
    mend = ""
    if not health.ok:
        mend = KINDS[backend.kind].mend(backend) if known is None else known
    return Check(f"backend {name}", health.ok, f"{health.detail} ({health.latency_ms:.0f} ms)", mend)


async def ask_once(settings: Settings, name: str) -> Check:
    """One backend's health, for pre-flight. A store gets an arm that is opened for this check and closed after it.

    Raises ``FixtureError``.
    """
    backend = settings.backends[name]
    reach = reach_of(backend, settings.app)
    if reach is not None:
        asked = await ask_origin(reach, below_500=True)
        return _check(name, backend, asked.health, asked.mend)
    arm = store_arm(backend, None, live=False)
    await arm.start()
    try:
        return _check(name, backend, *await _of_store(arm))
    finally:
        await arm.close()


class Arms:
    """The backends as health checks reach them: an arm per document store, used for checks only, and the origins."""

    def __init__(self, settings: Settings) -> None:
        self._backends = settings.backends
        self._origins: dict[str, Reach] = {}
        self._arms: dict[str, StoreArm] = {}
        for name, backend in settings.backends.items():
            reach = reach_of(backend, settings.app)
            if reach is None:
                self._arms[name] = store_arm(backend, None, live=False)
            else:
                self._origins[name] = reach._replace(timeout_s=min(reach.timeout_s, LONGEST_S))
        self._opened = asyncio.Event()

    async def run(self) -> None:
        """Open the arms, then run until cancelled. An unreachable backend shows in its health check, not here.

        Only checks wait for the opening. Getting credentials may take seconds, and a control loop that waited for
        them could not renew its lease.
        """
        await asyncio.gather(*(arm.start() for arm in self._arms.values()))
        self._opened.set()
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Close the arms."""
        await asyncio.gather(*(arm.close() for arm in self._arms.values()), return_exceptions=True)

    async def check(self, name: str) -> Check:
        """One backend's health; waits until the arms are open."""
        await self._opened.wait()
        backend = self._backends[name]
        if name in self._origins:
            asked = await ask_origin(self._origins[name])
            return _check(name, backend, asked.health, asked.mend)
        return _check(name, backend, *await _of_store(self._arms[name]))

    def diagnosis_of(self, migration: Migration) -> Callable[[], Awaitable[Sequence[Unanswered]]]:
        """A function that asks a migration's target what it does not answer; of an origin it says nothing."""

        async def diagnose() -> Sequence[Unanswered]:
            await self._opened.wait()
            arm = self._arms.get(migration.target)
            if arm is None:
                return ()
            try:
                await arm.store.health(LONGEST_S)
            except Fault as fault:
                return (Unanswered("health", str(fault), fault.trouble),)
            return (await ask_each(arm.store)).failed

        return diagnose

    def health_of(self, migration: Migration) -> Callable[[], Awaitable[list[Check]]]:
        """A function that checks both backends of a migration."""

        async def health() -> list[Check]:
            return list(await asyncio.gather(self.check(migration.source), self.check(migration.target)))

        return health

    def seed_of(self, migration: Migration) -> Callable[[], Awaitable[str | None]]:
        """A function that asks a migration's target which fixtures it was seeded with, all of them: their digest.

        None where it was not, and of a store in memory, whose documents are not ours to see. Raises ``Fault``.
        """

        async def seed() -> str | None:
            await self._opened.wait()
            arm = self._arms.get(migration.target)
            if arm is None or KINDS[self._backends[migration.target].kind].local:
                return None
            marker = await read_marker(arm.store, arm.deadline_s)
            return marker.digest if marker is not None and marker.whole else None

        return seed

    def probe_of(self, migration: Migration) -> Callable[[], Awaitable[bool]]:
        """A function that says whether a migration's target answers."""

        async def probe() -> bool:
            return (await self.check(migration.target)).ok is not False

        return probe
