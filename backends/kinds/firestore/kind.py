"""Firestore as a kind of backend: a document store that many machines share, filled by ``phasegate seed``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from backends.documents.port import DocumentStore, Mutation, Query
from backends.kinds.firestore.address import emulator_address
from backends.kinds.firestore.settings import EMULATOR, Firestore

MEND_WRITING: Final = "Give the account roles/datastore.user on the project, or use other credentials."


def open_store(
    backend: Firestore,
    shared: Path | None,
    *,
    views: Sequence[Query] = (),
    initial: Callable[[], Sequence[Mutation]] = tuple,
) -> DocumentStore:
    """Its store. ``initial`` is ignored: only ``phasegate seed`` writes initial data."""
    from backends.kinds.firestore.store import FirestoreStore  # imports gRPC, which other kinds do not need

    fence = None if shared is None else shared.with_name(f"{shared.name}.firestore.fence")
    return FirestoreStore(backend, views, fence)


def project(backend: Firestore) -> str:
    """Its Google Cloud project."""
    return backend.project


def seeded(backend: Firestore) -> tuple[str, bool]:
    """Where ``phasegate seed`` writes to, in words, and whether it must ask first: for a real project it must."""
    emulator = os.environ.get(EMULATOR)
    return (f"the emulator at {emulator}", False) if emulator else (f"the real project {backend.project}", True)


def environment() -> Iterator[str]:
    """What is wrong with the environment variables that it is found by."""
    try:
        emulator_address()
    except ValueError as error:
        yield str(error)


def place(backend: Firestore) -> str:
    """Which documents it has: another project or database has others."""
    return f"project {backend.project}, database {backend.database}"


def mend(backend: Firestore) -> str:
    """What to do when its health check fails."""
    if any(environment()):
        return f"Correct {EMULATOR} as said, or unset it to use the real service."
    emulator = os.environ.get(EMULATOR)
    if emulator:
        return f"Start the emulator at {emulator}, or unset {EMULATOR} to use the real service."
    return (
        f"Check that the project {backend.project} has a Firestore database and that there are credentials "
        f"(`gcloud auth application-default login`), or set {EMULATOR}."
    )
