"""Adapters from outside the product, by name: how they get into the table of every process of a run.

Call ``register("shop.orders:ADAPTER")`` before ``serve``. An adapter is given by the name of its module, not as a
value, because the workers and the control process are separate processes: the plan carries the names to them, and
each imports the modules, and so has the same table, before it reads the board.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

from backends.adapters import registry
from backends.adapters.adapter import Adapter, AdapterError

_added: Final[dict[str, Adapter]] = {}


def register(reference: str) -> None:
    """Add the adapter ``MODULE:NAME`` to this process's table.

    Raises ``AdapterError`` if it cannot be imported or claims what belongs to another adapter; the table then stays
    as it was.
    """
    use((*_added, reference))


def use(references: Sequence[str]) -> None:
    """Set the table to the built-in adapters and these, instead of those added before. Raises as ``register``."""
    adapters = {reference: _load(reference) for reference in references}
    registry.install((*registry.BUILT_IN, *adapters.values()))
    _added.clear()
    _added.update(adapters)


def added() -> tuple[str, ...]:
    """The references of the adapters that are not built in: what another process must ``use``."""
    return tuple(_added)


def _load(reference: str) -> Adapter:
    module, _, name = reference.partition(":")
    try:
        adapter = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        # AdapterError is a ValueError: the module was found, and its adapter is wrong.
        if isinstance(error, AdapterError):
            raise
        expected = "expected MODULE:NAME of an adapter that can be imported, such as shop.orders:ADAPTER"
        raise AdapterError(f"adapter {reference!r}: {error}; {expected}") from error
    if not isinstance(adapter, Adapter):
        raise AdapterError(f"adapter {reference!r}: expected an Adapter, found {type(adapter).__name__}")
    return adapter
