"""``phasegate indexes``: the file that a backend's indexes are made from, by the adapters and its prefix."""

from __future__ import annotations

from backends.adapters import registry
from backends.kinds.registry import KINDS
from control.plan.settings import Settings
from control.terminal.exits import USAGE, Stop


def indexes(settings: Settings, name: str | None) -> str:
    """The file's text. Raises ``Stop`` where it is not certain which backend is meant, or that one has no indexes."""
    having = [each for each, backend in settings.backends.items() if KINDS[backend.kind].index_file is not None]
    found = ", ".join(having) or "none"
    if name is None and len(having) != 1:
        raise Stop(USAGE, f"expected --backend with the name of a backend that has indexes; there are: {found}")
    chosen = having[0] if name is None else name
    write = KINDS[settings.backends[chosen].kind].index_file if chosen in settings.backends else None
    if write is None:
        raise Stop(USAGE, f"--backend: expected a backend that has indexes ({found}), found {chosen!r}")
    return write(settings.backends[chosen], registry.asks(), registry.unindexed())
