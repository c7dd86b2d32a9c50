"""In which form the data plane is installed: compiled, or as plain Python. Both do the same at a different cost."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec


def form() -> str:
    """``"compiled"`` or ``"plain Python"``: what an import of the request's path finds. Imports none of it."""
    found = find_spec("proxy.http1.downstream")
    compiled = found is not None and (found.origin or "").endswith(tuple(EXTENSION_SUFFIXES))
    return "compiled" if compiled else "plain Python"
