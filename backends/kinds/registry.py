"""From a backend's settings to its document store."""

from __future__ import annotations

from pathlib import Path

from backends.adapters.registry import views
from backends.copy.fixtures import initial
from backends.documents.port import DocumentStore
from backends.kinds import settings
from backends.kinds.firestore.store import FirestoreStore
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore


def build_store(backend: settings.Backend, shared: Path | None, *, live: bool = False) -> DocumentStore:
    """The store, not started. ``shared`` begins the names of the files through which this machine's processes keep
    one view of it; None keeps it to this process. ``live``: keep live views.

    Raises ``FixtureError``, and ``ValueError`` for a backend that keeps no documents.
    """
    match backend:
        case settings.Mock():
            return MemoryStore(
                initial(backend), Journal(_file(shared, "mock.journal")) if shared is not None else None
            )
        case settings.Firestore():
            fence = _file(shared, "firestore.fence") if shared is not None else None
            return FirestoreStore(backend, views() if live else (), fence)
        case settings.Http():
            raise ValueError("an http backend is forwarded to by the data plane, it has no document store")


def _file(shared: Path, suffix: str) -> Path:
    return shared.with_name(f"{shared.name}.{suffix}")
