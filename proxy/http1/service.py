"""The interface of ``http1`` to ``migration``: routes, and the service that answers data requests."""

from __future__ import annotations

from dataclasses import dataclass

from backends.operations import Operation
from proxy.http1.client import Client


@dataclass(slots=True)
class Endpoint:
    """The route of a data request: operation ``number`` of migration ``migration``, with its path and query.

    ``key`` is the request's ``Call.key``.
    """

    migration: int
    number: int
    operation: Operation
    params: dict[str, str]
    query: dict[str, str]
    key: bytes


@dataclass(frozen=True, slots=True)
class NotAllowed:
    """The route of a data path with a method that it does not have; ``allow`` lists those it has."""

    allow: bytes


@dataclass(frozen=True, slots=True)
class Options:
    """The route of OPTIONS, which Max-Forwards may end at this hop. ``beyond``: the endpoint, None for the app."""

    beyond: Endpoint | None


class Service:
    """Answers the data requests of one migration. A base class, so that compiled code calls it as cheaply as C."""

    def begin(self, client: Client, endpoint: Endpoint, rest: bytes) -> None:
        """A data request's head has arrived, and ``rest`` of its body."""
        raise NotImplementedError

    def ready(self, client: Client, endpoint: Endpoint, body: bytes) -> None:
        """The collected body of a data request is complete."""
        raise NotImplementedError

    def tick(self, now_ns: int) -> None:
        """Apply the published weight and a rollback's deadlines; called every tick."""
        raise NotImplementedError

    def gauge(self) -> None:
        """Write figures to the board; called every second."""
        raise NotImplementedError
