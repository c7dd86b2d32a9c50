"""Whether a backend can answer what the adapters ask: each shape of query once, and which fields it indexes.

A missing index shows in no other check: reading and writing a document works without it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Final

from backends.adapters import registry
from backends.backend import Backend
from backends.documents.port import Context, DocumentStore, Rejected
from backends.documents.shape import Ask
from backends.errors import Fault
from backends.kinds.registry import Kind, opener
from control.checks.check import Check

QUERY_S: Final = 10.0  # deadline of one query
SOMEONE: Final = "phasegate-check"  # stands for the id of a document that a query is below


async def indexed(title: str, backend: Backend, kind: Kind) -> list[Check]:
    """Ask each query once, with limit 1; a query costs one read, also where nothing is found."""
    checks: list[Check] = []
    asks = registry.asks()
    asked = 0
    store = opener(backend)(backend, None)
    await store.start()
    try:
        for ask in asks:
            asked += 1
            try:
                await _make(store, ask)
            except (Fault, Rejected) as problem:
                mend = "" if problem.trouble is None else problem.trouble.mend
                checks.append(Check(f"{title}, query", False, f"{ask.shape}: {problem}", mend))
                if problem.trouble is None or problem.trouble.whole:
                    break  # the others would fail for the same reason
    finally:
        await store.close()
    found = f"{asked} of {len(asks)} queries asked, {asked - len(checks)} answered ({asked} reads)"
    checks.append(Check(f"{title}, queries", not checks, found, "See the queries above." if checks else ""))
    unsaid = "the adapter does not say what it asks (`asks`)"
    checks += [Check(f"{title}, queries of {name}", None, unsaid) for name in registry.undeclared()]
    if kind.still_indexed is not None:
        checks.append(await _exemptions(f"{title}, exemptions", backend, kind))
    return checks


async def _make(store: DocumentStore, ask: Ask) -> None:
    ctx = Context(asyncio.get_running_loop().time() + QUERY_S)
    query = ask.query
    collection = query.collection.replace("*", SOMEONE)
    if ask.counted:
        await store.count(dataclasses.replace(query, collection=collection), ctx, ask.total)
    else:
        await store.query(dataclasses.replace(query, collection=collection, limit=1), ctx)


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
