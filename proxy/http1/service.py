"""Where a request line leads, and who answers data requests: what ``http1`` asks of ``migration``."""

from __future__ import annotations

from dataclasses import dataclass

from backends.operations import Operation
from proxy.http1.client import Client


@dataclass(slots=True)
class Endpoint:
    """What a data request leads to: operation ``number`` of migration ``migration``, with its path and query."""

    migration: int
    number: int
    operation: Operation
    params: dict[str, str]
    query: dict[str, str]


@dataclass(frozen=True, slots=True)
class NotAllowed:
    """The path is a data path, the method none of its."""

    allow: bytes


@dataclass(frozen=True, slots=True)
class Options:
    """OPTIONS of an origin: a request that Max-Forwards may end at this hop. ``beyond``: None is the app."""

    beyond: Endpoint | None


class Service:
    """Who answers the data requests of one migration: a base, for calls at C's cost."""

    def begin(self, client: Client, endpoint: Endpoint, rest: bytes) -> None:
        """A data request's head is here, and ``rest`` of its body."""
        raise NotImplementedError

    def ready(self, client: Client, endpoint: Endpoint, body: bytes) -> None:
        """A data request whose body was gathered is here whole."""
        raise NotImplementedError

    def tick(self, now_ns: int) -> None:
        """The weight and a rollback's deadlines: called every tick."""
        raise NotImplementedError

    def gauge(self) -> None:
        """Figures onto the board: called every second."""
        raise NotImplementedError
