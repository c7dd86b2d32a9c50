"""Whether a backend can answer what the adapters ask: each shape of query once, and which fields it indexes.

A missing index shows in no other check: reading and writing a document works without it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Final, NamedTuple

from backends.adapters import registry
from backends.backend import Backend
from backends.documents.port import Context, DocumentStore, Rejected
from backends.documents.shape import Ask
from backends.errors import Fault, Trouble
from backends.kinds.registry import Kind, opener
from control.checks.check import Check

QUERY_S: Final = 10.0  # deadline of one query
SOMEONE: Final = "phasegate-check"  # stands for the id of a document that a query is below


class Unanswered(NamedTuple):
    """A query that the backend did not answer; ``trouble`` is None where it may answer the next time."""

    asked: str  # its shape, in words
    found: str
    trouble: Trouble | None


class Asked(NamedTuple):
    """How many queries were asked, of how many, and which of them failed. Each that was asked cost one read."""

    asked: int
    of: int
    failed: list[Unanswered]


async def ask_each(store: DocumentStore) -> Asked:
    """Ask each query once, with limit 1; stops at a failure that all others would share. Never raises ``Fault``."""
    asks = registry.asks()
    failed: list[Unanswered] = []
    for asked, ask in enumerate(asks, 1):
        try:
            await _make(store, ask)
        except (Fault, Rejected) as problem:
            failed.append(Unanswered(str(ask.shape), str(problem), problem.trouble))
            if problem.trouble is None or problem.trouble.whole:
                return Asked(asked, len(asks), failed)
    return Asked(len(asks), len(asks), failed)


async def _make(store: DocumentStore, ask: Ask) -> None:
    ctx = Context(asyncio.get_running_loop().time() + QUERY_S)
    query = dataclasses.replace(ask.query, collection=ask.query.collection.replace("*", SOMEONE))
    if ask.counted:
        await store.count(query, ctx, ask.total)
    else:
        await store.query(dataclasses.replace(query, limit=1), ctx)


async def indexed(title: str, backend: Backend, kind: Kind) -> list[Check]:
    """Check a backend's queries and what it indexes. A query costs one read, also where nothing is found."""
    store = opener(backend)(backend, None)
    await store.start()
    try:
        asked = await ask_each(store)
    finally:
        await store.close()
    checks = [
        Check(f"{title}, query", False, f"{each.asked}: {each.found}", each.trouble.mend if each.trouble else "")
        for each in asked.failed
    ]
    answered = asked.asked - len(checks)
    found = f"{asked.asked} of {asked.of} queries asked, {answered} answered ({asked.asked} reads)"
    checks.append(Check(f"{title}, queries", not checks, found, "See the queries above." if checks else ""))
    unsaid = "the adapter does not say what it asks (`asks`)"
    checks += [Check(f"{title}, queries of {name}", None, unsaid) for name in registry.undeclared()]
    if kind.still_indexed is not None:
        checks.append(await _exemptions(f"{title}, exemptions", backend, kind))
    return checks


async def _exemptions(title: str, backend: Backend, kind: Kind) -> Check:
    assert kind.still_indexed is not None
    wanted = registry.unindexed()
    try:
        indexed_all_the_same = await kind.still_indexed(backend, wanted)
    except Fault as fault:
        mend = "" if fault.trouble is None else fault.trouble.mend
        return Check(title, None, f"the exemptions cannot be read: {fault}", mend)
    if indexed_all_the_same is None:
        return Check(title, None, "the emulator cannot be asked which fields it indexes")
    if indexed_all_the_same:
        found = f"{len(indexed_all_the_same)} of {len(wanted)} are not deployed: {', '.join(indexed_all_the_same)}"
        mend = (
            "Deploy them: phasegate indexes > firestore.indexes.json, firebase deploy --only firestore:indexes. "
            "Until then every value in these fields is an index entry, of which a document has at most 40,000."
        )
        return Check(title, False, found, mend)
    return Check(title, True, f"all {len(wanted)} fields that need no index are exempted")
