"""``scan`` and ``size`` mean the same on the emulator as in memory: order, pages, nested collections."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator

import pytest

from backends.documents.patterns import order
from backends.documents.port import Context, Document, DocumentStore, put
from backends.kinds.firestore.codec import PbWrite
from backends.kinds.firestore.messages import firestore
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.store import FirestoreStore
from backends.kinds.mock.memory import MemoryStore

# Ids whose order is told apart by segments, by code points, by UTF-16, by length.
IDS = ("a", "a!", "a-b", "aa", "A", "b", "é", "z", "\uffee", "\U0001f600", "0", "10", "2", " ", "~")
NESTED = ("scans/{}/results", "scans/{}/groups", "scans!/{}/results", "other/{}/results", "scans/{}/deep/x/results")
PATTERNS = ("scans", "scans/*/results", "scans/*/groups", "other", "nothing", "nothing/*/results")


def ctx() -> Context:
    return Context(asyncio.get_running_loop().time() + 60)


@pytest.fixture
async def stores(emulated: str) -> AsyncIterator[tuple[FirestoreStore, MemoryStore]]:
    firestore, memory = FirestoreStore(Firestore(emulated)), MemoryStore()
    await firestore.start()
    await memory.start()
    yield firestore, memory
    await firestore.close()
    await memory.close()


async def pages(store: DocumentStore, pattern: str, limit: int) -> list[Document]:
    """Everything that the pattern has, page by page."""
    documents: list[Document] = []
    after = None
    while page := await store.scan(pattern, after, limit, ctx()):
        assert len(page) <= limit
        documents += page
        after = page[-1].path
    return documents


async def test_both_stores_give_the_same_documents_in_the_same_order(
    stores: tuple[FirestoreStore, MemoryStore],
) -> None:
    dice = random.Random(4)
    paths = [f"scans/{name}" for name in IDS] + [f"other/{name}" for name in IDS[:4]]
    paths += [f"{each.format(above)}/{name}" for each in NESTED for above in IDS[:10] for name in dice.sample(IDS, 4)]
    for some in itertools.batched(paths, 400) if hasattr(itertools, "batched") else [paths[:400], paths[400:]]:
        for store in stores:
            await store.commit([put(path, {"n": len(path)}) for path in some], ctx())
    for pattern, limit in itertools.product(PATTERNS, (1000, 7)):
        found, expected = [await pages(store, pattern, limit) for store in stores]
        assert [one.path for one in found] == [one.path for one in expected], pattern
        assert [one.path for one in found] == sorted((one.path for one in found), key=order)
        assert [one.fields for one in found] == [one.fields for one in expected]
    for pattern in ("scans", "scans/*/groups", "nothing"):
        sizes = [await store.size(pattern, ctx()) for store in stores]
        assert sizes == [len(await pages(stores[1], pattern, 1000))] * 2


async def test_a_document_that_nobody_here_wrote_is_skipped_counted_and_named(
    stores: tuple[FirestoreStore, MemoryStore],
) -> None:
    store, _ = stores
    for name in "abc":
        await store.commit((put(f"scans/{name}", {"n": 1}),), ctx())
    foreign = PbWrite()
    foreign.update.name = store._open().root + "scans/b"
    foreign.update.fields["place"].geo_point_value.latitude = 47.5
    channel = store._open()
    request = firestore.CommitRequest.pb()(database=channel.database, writes=[foreign])
    await channel.commit(request, timeout=60, metadata=channel.metadata)
    for _ in range(2):  # again: it is counted once
        assert [one.path for one in await pages(store, "scans", 1)] == ["scans/a", "scans/c"]
    assert store.skipped.count == 1
    assert "geographical point" in store.skipped.named["scans/b"]
