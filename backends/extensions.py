"""Adapters and kinds of backend from outside the product: added by name, and the same in every process of a run.

``register("shop.orders:ADAPTER")`` or ``register("shop.shelf:KIND")`` before ``serve`` is all that is needed. An
extension is given by the name of its module, not as a value, because the workers and the control process are
processes of their own. The supervisor hands the names to each of them, and each imports the modules before it decodes
its plan, which may hold the settings of a kind from outside, and before it looks at the board, whose cells follow the
table of adapters.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

from backends.adapters import registry as adapter_table
from backends.adapters.adapter import Adapter, AdapterError
from backends.kinds import registry as kind_table
from backends.kinds.registry import Kind, KindError

_EXPECTED: Final = "expected MODULE:NAME of an Adapter or a Kind that can be imported, such as shop.orders:ADAPTER"

_added: tuple[str, ...] = ()


class ExtensionError(ValueError):
    """An extension cannot be had, or claims what is another's; the message says which, and what was expected."""


def register(reference: str) -> None:
    """Add the adapter or kind ``MODULE:NAME`` to this process's tables; one that was added before stays as it is.

    Raises ``ExtensionError`` where it cannot be had or claims what is another's, and ``AdapterError`` or
    ``KindError`` where it is wrong in itself. The tables are then as before.
    """
    use((*_added, reference))


def use(references: Sequence[str]) -> None:
    """Make the tables the house's own rows and these, whatever was added before. Raises as ``register``."""
    loaded = {reference: _load(reference) for reference in references}
    adapters = (*adapter_table.BUILT_IN, *(found for found in loaded.values() if isinstance(found, Adapter)))
    kinds = (*kind_table.BUILT_IN, *(found for found in loaded.values() if isinstance(found, Kind)))
    problems = [*adapter_table.conflicts(adapters), *kind_table.conflicts(kinds)]
    if problems:
        raise ExtensionError("\n".join(problems))
    adapter_table.install(adapters)
    kind_table.install(kinds)
    global _added
    _added = tuple(loaded)


def added() -> tuple[str, ...]:
    """The references of what is not built in: what another process must ``use``."""
    return _added


def _load(reference: str) -> Adapter | Kind:
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (AdapterError, KindError):
        raise  # the module was found, and what it defines is wrong: the message says how
    except (ImportError, AttributeError, ValueError) as error:
        raise ExtensionError(f"extension {reference!r}: {error}; {_EXPECTED}") from error
    if not isinstance(found, Adapter | Kind):
        raise ExtensionError(f"extension {reference!r}: expected an Adapter or a Kind, found {type(found).__name__}")
    return found
