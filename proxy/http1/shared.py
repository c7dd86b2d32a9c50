"""What all connections of one worker share: the clock, limits, counters, and the destinations of requests."""

from __future__ import annotations

from email.utils import formatdate
from time import monotonic, time
from typing import Final

from proxy.board.layout import W_APP_ERRORS, W_APP_REQUESTS, W_REFUSED
from proxy.http1.addresses import networks
from proxy.http1.headcache import HeadCache
from proxy.http1.pool import Pool
from proxy.http1.refusal import Form
from proxy.http1.service import Service
from proxy.settings import App, Proxy

NEVER: Final = float("inf")  # a deadline
LINGER_S: Final = 2.0  # how long a client may take to close after the last answer


class Shared:
    """``now`` is the monotonic clock in seconds, ``date`` a whole Date field; both as of the last tick."""

    def __init__(self, proxy: Proxy, app: App, heads: HeadCache, cells: memoryview[int], row: int) -> None:
        self.heads = heads
        self.app = Pool(app, heads, lambda: self.now)
        self.services: list[Service] = []  # by migration
        self.draining = False  # the worker is leaving: each answer ends its connection
        self.trusted = networks(proxy.trusted)
        self.form = Form() if proxy.errors is None else Form(proxy.errors.content_type, proxy.errors.template)
        self.max_head = proxy.max_head
        self.max_body = proxy.max_body
        self.pipeline = proxy.pipeline
        self.min_rate = proxy.min_rate
        self.head_timeout_s = proxy.head_timeout_s
        self.body_timeout_s = proxy.body_timeout_s
        self.idle_timeout_s: float = proxy.idle_timeout_s
        self.linger_s = LINGER_S
        self._cells = cells
        self._app_requests = row + W_APP_REQUESTS
        self._app_errors = row + W_APP_ERRORS
        self._refused = row + W_REFUSED
        self._second = 0
        self.date = b""
        self.now = 0.0
        self.read_clock()

    def read_clock(self) -> None:
        """Update ``now`` and ``date``; called every tick."""
        self.now = monotonic()
        second = int(time())
        if second != self._second:
            self._second = second
            self.date = f"date: {formatdate(second, usegmt=True)}\r\n".encode()

    def count_app(self) -> None:
        """Count a request for the app."""
        self._cells[self._app_requests] += 1

    def count_app_error(self) -> None:
        """Count a request that the app failed to answer."""
        self._cells[self._app_errors] += 1

    def count_refused(self) -> None:
        """Count refused bytes or a refused request."""
        self._cells[self._refused] += 1
