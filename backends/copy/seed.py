"""Fills a backend with the data a migration starts from: the same documents on both sides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from backends.backend import Backend
from backends.copy.fixtures import initial
from backends.documents.port import COMMIT_LIMIT, Context, Mutation, put
from backends.kinds.registry import KINDS, opener

MARKER: Final = "phasegate/seeded"
_CALL_S: Final = 30.0  # deadline of one call


def can_be_seeded(backend: Backend, data: Backend) -> bool:
    """Whether ``seed`` has something to write: its kind can be filled, and phasegate gives ``data`` its content."""
    return KINDS[backend.kind].seeded is not None and KINDS[data.kind].begins_with is not None


async def is_seeded(backend: Backend) -> bool:
    """Whether ``seed`` has filled the backend before. Raises ``Fault``."""
    store = opener(backend)(backend, None)
    await store.start()
    try:
        return await store.get(MARKER, _context()) is not None
    finally:
        await store.close()


async def seed(backend: Backend, *, data: Backend, run_dir: Path, name: str) -> int:
    """Write the initial content of the backend ``data`` into ``backend``; returns how many documents were written.

    A backend that was seeded before is left unchanged: 0. Raises ``FixtureError``, ``Fault``, and ``ValueError`` for
    a backend that keeps no documents.
    """
    mutations = initial(data)()
    store = opener(backend)(backend, run_dir / name, initial=initial(backend))
    await store.start()
    try:
        if await store.get(MARKER, _context()) is not None:
            return 0
        # The marker is written last: an interrupted seeding starts over, which writes the same documents again.
        batch: list[Mutation] = [*mutations, put(MARKER, {"documents": len(mutations)})]
        for start in range(0, len(batch), COMMIT_LIMIT):
            await store.commit(batch[start : start + COMMIT_LIMIT], _context())
        return len(mutations)
    finally:
        await store.close()


def _context() -> Context:
    return Context(asyncio.get_running_loop().time() + _CALL_S)
