"""Firestore as a kind of backend: a document store that many machines share, filled by ``phasegate seed``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from backends.documents.port import DocumentStore, Mutation, Query
from backends.documents.shape import Ask
from backends.kinds.firestore import indexes
from backends.kinds.firestore.address import emulator_address
from backends.kinds.firestore.settings import EMULATOR, Firestore

PREFIX_LENGTH: Final = 64  # characters; every index entry repeats the name of its collection
# Fewer characters than Firestore allows, so that no tool has to quote the names; and not `__…__`, which is reserved.
_PREFIX: Final = re.compile(rf"([A-Za-z][A-Za-z0-9_-]{{0,{PREFIX_LENGTH - 1}}})?")
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


def index_file(backend: Firestore, asks: Sequence[Ask], unindexed: Sequence[tuple[str, str]]) -> str:
    """The text of the file that ``firebase deploy`` makes its indexes from."""
    return indexes.index_file(asks, unindexed, backend.prefix)


async def still_indexed(backend: Firestore, unindexed: Sequence[tuple[str, str]]) -> list[str] | None:
    """Which of these fields its database indexes all the same; None where it cannot be asked. Raises ``Fault``."""
    from backends.kinds.firestore.deployed import still_indexed as asked  # imports gRPC

    return await asked(backend, unindexed)


def mistakes(backend: Firestore) -> Iterator[tuple[str, str]]:
    """What is wrong with its settings, as (key, what was expected and found)."""
    if not _PREFIX.fullmatch(backend.prefix):
        yield (
            "prefix",
            f"expected up to {PREFIX_LENGTH} letters, digits, _ and -, which begin with a letter, such as "
            f'"pg_", found "{backend.prefix[:100]}"',
        )


def place(backend: Firestore) -> str:
    """Which documents it has: another project or database has others, and so has another prefix."""
    prefix = f", prefix {backend.prefix}" if backend.prefix else ""
    return f"project {backend.project}, database {backend.database}{prefix}"


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
