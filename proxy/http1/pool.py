"""The connections to one origin: a stack of idle ones, and a count of all open ones.

The connection used last is used next, so that surplus connections stay idle and are closed. No request causes a scan.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from backends.origin import origin_of
from proxy.http1.head import Response
from proxy.http1.headcache import HeadCache
from proxy.http1.refusal import BAD_GATEWAY
from proxy.http1.upstream import Failure, Owner, Upstream
from proxy.settings import App
from proxy.tls import dialer, why

_log = structlog.get_logger("phasegate.pool")
# Errors of this machine when it has no resources for another connection.
_NO_MORE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL)
_IDLE_S: Final = 55.0  # below the minute after which most servers close an idle connection

Dial = Callable[[Upstream], Awaitable[object]]


class Pool(Owner):
    """One worker's connections to one origin.

    Limits: ``timeout_s`` until an answer begins, ``quiet_s`` between two pieces of an answer and in a tunnel, and
    ``max_body`` for a request in bytes, 0 for any. ``dial`` replaces the usual way to open a connection.
    """

    __slots__ = (
        "_app",
        "_dial",
        "_down",
        "_idle",
        "_now",
        "host",
        "host_asked",
        "idle_timeout_s",
        "max_body",
        "max_idle",
        "opened",
        "origin",
        "quiet_s",
        "timeout_s",
    )

    def __init__(self, app: App, heads: HeadCache, now: Callable[[], float], dial: Dial | None = None) -> None:
        self._app = app
        self._dial = dial or dialer(app.origin, app.tls)
        self.origin = app.origin
        self.host = origin_of(app.origin).authority.encode()
        self.host_asked = (app.host or "").encode()
        self.heads = heads
        self.timeout_s = app.timeout_s
        self.quiet_s = app.quiet_timeout_s
        self.max_body = app.max_body
        self.idle_timeout_s = _IDLE_S
        self.max_idle = app.max_idle
        self._now = now
        self._idle: deque[Upstream] = deque()
        self._down = False  # the last attempt to connect failed and was logged
        self.opened = 0

    def take(self) -> Upstream | None:
        """The idle connection that was used last; None if there is none."""
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if not (upstream.closed or upstream.transport.is_closing()):
                return upstream
        return None

    def put(self, upstream: Upstream, response: Response) -> None:
        """An answer is complete: keep its connection if it can be reused."""
        idle = self._idle
        if response.close or upstream.sending or upstream.choked or upstream.closed or len(idle) >= self.max_idle:
            upstream.abort()
            return
        upstream.resume_reading()
        upstream.idle_since = self._now()
        idle.append(upstream)

    def lost(self) -> None:
        """A connection of this pool ended."""
        self.opened -= 1

    def sweep(self, now: float) -> None:
        """Close connections idle too long. The oldest are at the bottom, so it stops at the first young one."""
        idle = self._idle
        while idle and (idle[0].closed or idle[0].idle_since + self.idle_timeout_s < now):
            idle.popleft().abort()

    async def connect(self) -> Upstream | Failure:
        """Open a connection, or return a failure for the client, which does not name the origin; the log does."""
        if self.opened >= self._app.max_connections:
            return _overloaded(f"{self.opened} connections to the upstream are open")
        self.opened += 1  # counted before it is open, or a burst would exceed the limit
        upstream = Upstream(self)
        try:
            async with asyncio.timeout(self._app.connect_timeout_s):
                await self._dial(upstream)
        except TimeoutError:
            upstream.abort()
            return self._unreachable("the upstream did not accept a connection in time", "timeout")
        except OSError as error:
            upstream.abort()
            if error.errno in _NO_MORE:
                return _overloaded("no further connection can be opened")
            return self._unreachable("the upstream cannot be reached", why(error))
        except Exception as error:  # for example an invalid host name; the client must get an answer
            upstream.abort()
            return self._unreachable("the upstream cannot be reached", repr(error))
        except BaseException:
            upstream.abort()
            raise
        if upstream.closed:
            return self._unreachable("the upstream closed the connection at once", "closed at once")
        if self._down:
            self._down = False
            _log.info("origin_reached_again", origin=self.origin)
        return upstream

    def _unreachable(self, message: str, reason: str) -> Failure:
        """A failure for the client. It is logged too, once until a connection succeeds again."""
        if not self._down:
            self._down = True
            _log.warning("origin_unreachable", origin=self.origin, reason=reason)
        return Failure(502, BAD_GATEWAY, message)

    def close(self) -> None:
        """Close the idle connections; those in use end with their requests."""
        self.max_idle = 0
        while self._idle:
            self._idle.pop().abort()


def _overloaded(message: str) -> Failure:
    """A failure because a limit is reached: the client should retry later."""
    return Failure(503, "overloaded", message)
