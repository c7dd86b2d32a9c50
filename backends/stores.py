"""From a backend's settings to its document store."""

from __future__ import annotations

from pathlib import Path

from backends import settings
from backends.documents import DocumentStore
from backends.firestore.store import FirestoreStore
from backends.fixtures import initial
from backends.journal import Journal
from backends.memory import MemoryStore


def build_store(backend: settings.Backend, journal: Path | None) -> DocumentStore:
    """The store, not started. A mock shares ``journal`` with every process that names it; None keeps it to itself.

    Raises ``FixtureError``, and ``ValueError`` for a backend that keeps no documents.
    """
    match backend:
        case settings.Mock():
            return MemoryStore(initial(backend), Journal(journal) if journal is not None else None)
        case settings.Firestore():
            return FirestoreStore(backend)
        case settings.Http():
            raise ValueError("an http backend is forwarded to by the data plane, it has no document store")


def journal_of(run_dir: Path, name: str) -> Path:
    """Where the mock of the migration keeps its journal."""
    return run_dir / f"{name}.mock.journal"
