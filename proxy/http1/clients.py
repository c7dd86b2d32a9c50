"""A worker's client connections: limits in total and per address, and their deadlines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxy.http1.addresses import household
from proxy.http1.client import Client
from proxy.http1.shared import Shared

# When the worker leaves, idle connections stay open this long, for requests that are already on their way.
_GRACE_S: Final = 0.5
_REFUSED_MAX: Final = 32  # connections above the limit that get a 503 at a time; further ones are just closed
_RETRY_AFTER: Final = b"retry-after: 1\r\n"


class Clients:
    """Every open HTTP connection, and a count of them by address."""

    def __init__(self, shared: Shared, limit: int, limit_by_address: int) -> None:
        self._shared = shared
        self._open: set[Client] = set()
        self.limit = limit
        self._limit_by_address = limit_by_address  # 0: any
        self._by_address: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._open)

    def admit(self, client: Client) -> tuple[int, str, str, bytes] | None:
        """Count a client. Returns the refusal if a limit is exceeded."""
        self._open.add(client)
        beyond = len(self._open) - self.limit
        if beyond > _REFUSED_MAX:
            client.transport.abort()
            return None
        if beyond > 0:
            return 503, "overloaded", f"{self.limit} connections are open", _RETRY_AFTER
        if client.place is None and not self.count(client):
            message = f"expected at most {self._limit_by_address} connections from one address"
            return 429, "too_many_connections", message, _RETRY_AFTER
        return None

    def left(self, client: Client) -> None:
        """A client is gone. Idempotent."""
        self._open.discard(client)
        place, client.place = client.place, None
        if place is not None:  # None if it was refused before it was counted
            self._by_address[place] -= 1
            if not self._by_address[place]:
                del self._by_address[place]

    def count(self, client: Client) -> bool:
        """Count a client for its address, until it has ``left``. False: the address has too many."""
        if not self._limit_by_address:
            return True
        place = client.place = household(client.address)
        count = self._by_address[place] = self._by_address.get(place, 0) + 1
        return count <= self._limit_by_address

    def sweep(self) -> None:
        """Once a second: expire deadlines, and detect resets on connections whose reading is paused."""
        now = self._shared.now
        for client in [client for client in self._open if client.deadline < now or client.paused]:
            if client.deadline < now:
                client.expire()
            else:
                client.end_if_reset()

    def drain(self) -> None:
        """Accept no further request on any connection."""
        shared = self._shared
        shared.draining = True
        shared.linger_s = _GRACE_S
        shared.idle_timeout_s = min(shared.idle_timeout_s, _GRACE_S)  # also for answers that end from now on
        for client in list(self._open):
            client.close_when_idle(_GRACE_S)

    def close(self) -> None:
        """End every connection now."""
        for client in list(self._open):
            client.transport.abort()
