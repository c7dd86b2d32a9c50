"""Fills an empty side with the fixtures of the other: what is there already is never replaced.

What is done is noted in the marker, before the first write and after the last. So a seed that was interrupted goes on
when it is run again, and does not take its own half of the documents for somebody's data.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from backends.adapters import registry
from backends.backend import Backend
from backends.copy.fixtures import digest, fixture_documents, initial
from backends.copy.marker import MARKER, Marker, beginning, read, read_marker
from backends.documents.port import (
    Context,
    Document,
    DocumentStore,
    Fields,
    Mutation,
    Query,
    Reason,
    Rejected,
    create,
)
from backends.documents.portions import portions
from backends.documents.semantics import same
from backends.errors import Fault, FaultKind
from backends.kinds.registry import KINDS, opener

_CALL_S: Final = 30.0  # deadline of one call
_READ_AT_ONCE: Final = 20  # documents; at 1 MiB each they are 20 MiB in memory
_UNREADABLE: Final = "(a document that phasegate cannot read)"


async def seeded_with(backend: Backend) -> str | None:
    """The digest of the fixtures that ``seed`` has filled the backend with, all of them. Raises ``Fault``."""
    store = opener(backend)(backend, None)
    await store.start()
    try:
        marker = await read_marker(store)
    finally:
        await store.close()
    return marker.digest if marker is not None and marker.whole else None


class SeedRefusedError(Exception):
    """Nothing was written, for the reason in the message, which says what to do. ``force`` goes on nevertheless."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """What a seed did; what is neither written nor ``left`` was there already, as the fixtures have it.

    ``left``: the paths of documents that held something else and were left as they were.
    """

    documents: int  # of the fixtures
    written: int
    left: tuple[str, ...] = ()
    before: bool = False  # these fixtures were written before, and nothing was written now


@dataclass(frozen=True, slots=True)
class Began:
    """How the source began, as its files on this machine say it."""

    digest: str | None  # of the fixtures that it began with; None: it cannot be told
    written: bool  # whether it was written to since


def began(backend: Backend, run_dir: Path, name: str) -> Began | None:
    """How the migration's source began; None where it has not, or where its kind cannot tell. Cheap.

    It may be in use. Raises ``OSError``, which says what to do.
    """
    look = KINDS[backend.kind].began
    found = None if look is None else look(backend, run_dir / name)
    if found is None:
        return None
    markers = (mutation.fields for mutation in found.mutations if mutation.path == MARKER)
    fields = next(markers, None)
    return Began(None if fields is None else read(fields).digest, found.written)


async def seed(
    backend: Backend,
    *,
    data: Backend,
    run_dir: Path,
    name: str,
    weight: float = 0.0,
    force: bool = False,
    agree: Callable[[int], None] = lambda documents: None,
) -> Seeded:
    """Write the fixtures of ``data``, the source of the migration ``name``, into ``backend``, its target.

    ``weight`` is the share of visitors, in percent, that the target answers by now. ``agree`` is called with the
    number of documents before anything is written, and may raise to stop that. Raises ``SeedRefusedError``,
    ``FixtureError``, ``Fault``, ``Rejected`` where the backend refuses a document, ``OSError`` for a source whose
    files cannot be read, unless forced, and ``ValueError`` for a backend that keeps no documents.
    """
    documents = fixture_documents(data)()
    source = _source(data, run_dir, name, force=force)
    store = opener(backend)(backend, run_dir / name, initial=initial(backend))
    await store.start()
    try:
        before = await read_marker(store)
        fixtures = digest(documents)
        held = await first_document(store, _collections(documents))
        if not force and (held is not None or not documents) and _seeded_before(before, fixtures):
            return Seeded(len(documents), 0, before=True)
        problem = refusal(before, fixtures, held, written=source is not None and source.written, weight=weight)
        if problem is not None and not force:
            raise SeedRefusedError(problem)
        agree(len(documents))
        forced = problem is not None or (before is not None and not before.finished and before.forced)
        return await _write(store, documents, Marker(len(documents), fixtures, finished=False, forced=forced))
    finally:
        await store.close()


def _source(data: Backend, run_dir: Path, name: str, *, force: bool) -> Began | None:
    try:
        return began(data, run_dir, name)
    except OSError:
        if not force:
            raise
        return Began(None, written=True)  # it may have been: the marker will say that the seed was forced


def _seeded_before(before: Marker | None, fixtures: str) -> bool:
    # Version 0.2 wrote no digest. It seeded once, whatever the fixtures were the next time.
    return before is not None and before.finished and before.digest in (None, fixtures)


def refusal(before: Marker | None, fixtures: str, held: str | None, *, written: bool, weight: float) -> str | None:
    """Why fixtures of this digest are not to be written; None where they may be.

    ``before`` is the side's marker, ``held`` the path of a document that it holds, ``written`` whether the source was
    written to since it began, ``weight`` the percentage of visitors that the side answers.
    """
    if weight > 0:
        return (
            f"it answers {weight:g} % of the visitors by now, who would be shown the fixtures instead of what the "
            "source holds. Nothing was written. `phasegate copy` brings what the source holds now"
        )
    if held is not None and before is not None and not before.finished and before.digest != fixtures:
        return (
            f"a seed of other fixtures was interrupted there, which wrote {held}, for one. Nothing was written. "
            "Give it the fixtures that it had, to go on; or delete what it wrote"
        )
    if held is not None and (before is None or before.finished):
        collection = held.rpartition("/")[0]
        return (
            f"it is not empty: its collection {collection} holds {held}, for one. Nothing was written, because "
            "`seed` fills empty sides only. `phasegate copy` brings what the source holds now; if these documents "
            "are another app's, set the backend's `prefix`, or choose another database"
        )
    if written:
        return (
            "the source was written to since it began, so the fixtures are not all that it holds. Nothing was "
            "written. `phasegate copy` brings what it holds now"
        )
    return None


async def first_document(store: DocumentStore, collections: Iterable[str]) -> str | None:
    """The path of some document in these top-level collections; None where all are empty. One read a collection.

    A document below one that does not exist is not found. Raises ``Fault``.
    """
    for collection in collections:
        foreign = store.foreign.count
        try:
            for document in await store.query(Query(collection, limit=1), _context()):
                return document.path
            if store.foreign.count > foreign:  # all that it holds was left out of the answer
                return f"{collection}/{_UNREADABLE}"
        except Fault as fault:
            if fault.kind is not FaultKind.CORRUPT:
                raise
            return f"{collection}/{_UNREADABLE}"  # another app's: it holds what no adapter writes
    return None


def _collections(documents: Sequence[Mutation]) -> list[str]:
    """The top-level collections of the adapters and of these documents."""
    ours = (collection for adapter in registry.adapters() for collection in adapter.collections)
    return list(dict.fromkeys((*ours, *(mutation.path.partition("/")[0] for mutation in documents))))


async def _write(store: DocumentStore, documents: Sequence[Mutation], now: Marker) -> Seeded:
    await store.commit([beginning(now)], _context())
    written = 0
    left: list[str] = []
    for portion in portions(documents):
        made, others = await _fill(store, portion)
        written += made
        left += others
    finished = Marker(now.documents, now.digest, left=len(left), forced=now.forced)
    await store.commit([beginning(finished)], _context())
    return Seeded(len(documents), written, tuple(left))


async def _fill(store: DocumentStore, portion: Sequence[Mutation]) -> tuple[int, list[str]]:
    """Create what does not exist: how many documents, and the paths of those that exist and hold something else."""
    missing = portion
    left: list[str] = []
    while missing:
        if await _create(store, missing):
            return len(missing), left
        try:
            stored = await _stored(store, portion)
        except Fault as fault:
            if fault.kind is not FaultKind.CORRUPT:
                raise
            return await _fill_singly(store, portion)
        absent = [each for each in portion if stored[each.path] is None]
        there = [each for each in portion if stored[each.path] is not None]
        left = [each.path for each in there if not _equal(each, stored[each.path])]
        if len(absent) >= len(missing):  # one is there and is not shown, or somebody creates and deletes
            made, others = await _fill_singly(store, absent)
            return made, left + others
        missing = absent
    return 0, left


async def _fill_singly(store: DocumentStore, portion: Sequence[Mutation]) -> tuple[int, list[str]]:
    """As ``_fill``, where a document cannot be read: it exists, so it is left."""
    made = 0
    left = []
    for each in portion:
        if await _create(store, [each]):
            made += 1
            continue
        try:
            document = await store.get(each.path, _context())
        except Fault as fault:
            if fault.kind is not FaultKind.CORRUPT:
                raise
            document = None
        if not _equal(each, document):
            left.append(each.path)
    return made, left


async def _create(store: DocumentStore, mutations: Sequence[Mutation]) -> bool:
    """Create them all; False, and none is created, where one exists. Raises ``Rejected`` for any other reason."""
    try:
        await store.commit([create(each.path, _fields(each)) for each in mutations], _context())
    except Rejected as problem:
        if problem.reason is Reason.EXISTS:
            return False
        which = f"one of the documents from {mutations[0].path} to {mutations[-1].path} is refused"
        raise Rejected(problem.reason, f"{which}: {problem}") from None
    return True


def _equal(mutation: Mutation, document: Document | None) -> bool:
    return document is not None and same(document.fields, _fields(mutation))


async def _stored(store: DocumentStore, portion: Sequence[Mutation]) -> dict[str, Document | None]:
    paths = iter([each.path for each in portion])
    stored: dict[str, Document | None] = {}
    while some := tuple(islice(paths, _READ_AT_ONCE)):
        stored.update(zip(some, await store.get_many(some, _context()), strict=True))
    return stored


def _fields(mutation: Mutation) -> Fields:
    assert mutation.fields is not None
    return mutation.fields


def _context() -> Context:
    return Context(asyncio.get_running_loop().time() + _CALL_S)
