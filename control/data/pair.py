"""Which two stores a migration has, as its configuration says, and the counts of their changes on a board."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from backends.arm import SOURCE
from backends.copy.calm import ArrivalLook
from backends.copy.fixtures import fixtures_digest
from backends.kinds.registry import KINDS
from control.data.gauges import ChangeCounts, arrival
from control.data.state import DataPair
from control.plan.settings import Settings
from proxy.board.board import Board
from proxy.migration.routes import operations_of


def pair_of(settings: Settings, name: str) -> DataPair | None:
    """The stores of the migration ``name``; None where an arm is no document store. Raises ``FixtureError``."""
    migration = settings.migrations[name]
    backends = [settings.backends[arm] for arm in (migration.source, migration.target)]
    kinds = [KINDS[backend.kind] for backend in backends]
    if any(kind.open_store is None for kind in kinds):
        return None
    places = [
        f"{kind.name} ({kind.place(backend)})" if kind.place else kind.name
        for kind, backend in zip(kinds, backends, strict=True)
    ]
    return DataPair(name, " → ".join(places), migration.data.gate, fixtures_digest(backends[SOURCE]))


def counts_of(settings: Settings, board: Board, name: str) -> ChangeCounts:
    """The counts of its changes on a board of this configuration."""
    (route,) = (route for route in settings.plan().migrations if route.name == name)
    writes = {operation.name for operation in operations_of(route, settings.backends) if operation.kind == "write"}
    return ChangeCounts(board, _index(settings, name), writes, settings.migrations[name].mode)


def arrival_of(settings: Settings, board: Board, name: str) -> Callable[[], ArrivalLook]:
    """Says what of its changes has reached both sides, by a board of this configuration."""
    return partial(arrival, board, _index(settings, name))


def _index(settings: Settings, name: str) -> int:
    return [*settings.migrations].index(name)
