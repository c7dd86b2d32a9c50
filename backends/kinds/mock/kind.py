"""The mock as a kind of backend: a document store in this machine's memory, with initial data of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from backends.documents.port import DocumentStore, Mutation, Query
from backends.kinds.mock.settings import Mock


class Rehearsal(NamedTuple):
    """Deliberate trouble in a backend: seconds added to every call, and the share of calls that fail."""

    latency_s: float
    fault_rate: float
    dice: random.Random


class Beginning(NamedTuple):
    """How a store began: the writes of its first commit, and whether any other came after it."""

    mutations: Sequence[Mutation]
    written: bool


def open_store(
    backend: Mock,
    shared: Path | None,
    *,
    views: Sequence[Query] = (),
    initial: Callable[[], Sequence[Mutation]] = tuple,
) -> DocumentStore:
    """Its store, which needs no views: all of it is in memory."""
    from backends.kinds.mock.journal import Journal
    from backends.kinds.mock.memory import MemoryStore

    return MemoryStore(initial, None if shared is None else Journal(_journal(shared)))


def began(backend: Mock, shared: Path) -> Beginning | None:
    """The documents that its store began with, and whether it was written to since; None before it has begun.

    Reads the start of the journal alone. Raises ``OSError``.
    """
    from backends.kinds.mock.journal import first_record

    found = first_record(_journal(shared))
    return None if found is None else Beginning(found[0].mutations, written=found[1])


def _journal(shared: Path) -> Path:
    return shared.with_name(f"{shared.name}.mock.journal")


def begins_with(backend: Mock) -> tuple[str | None, int]:
    """The folder of its fixtures, or None, and the seed of the made-up data that it has without fixtures."""
    return backend.fixtures, backend.seed


def rehearsal(backend: Mock) -> Rehearsal | None:
    """The deliberate trouble that its settings ask for."""
    if not (backend.latency_s or backend.fault_rate):
        return None
    dice = random.Random(backend.seed)  # noqa: S311 - no secret
    return Rehearsal(backend.latency_s, backend.fault_rate, dice)


def place_files(backend: Mock, place: Callable[[str], str]) -> Mock:
    """The settings with ``place`` applied to each file path in them."""
    if not backend.fixtures:
        return backend
    return msgspec.structs.replace(backend, fixtures=place(backend.fixtures))


def mend(backend: Mock) -> str:
    """What to do when its health check fails."""
    return "Correct its fixtures."
