"""Measures a mirror's throughput and cost; run by hand: ``python -m tests.bench.mirror``. Needs no emulator.

    rate   changes per second that one process mirrors to a store whose every call takes 50 ms: a write of one call
           (Put), and one of two (Newest: read, then write with a precondition)
    cpu    the mirror's own CPU per change: the store is in memory, changes come in batches of 10, each when the one
           before is mirrored

Absolute figures depend on the machine; compare the ratios.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

import uvloop

from backends.documents.changes import Change, Newest, Put
from backends.documents.port import Context, Document, Fields, Mutation, put
from backends.kinds.mock.memory import MemoryStore
from backends.pair.mirror import Mirror
from tests.bench.backends import header

CALL_S = 0.05
SECONDS = 4.0
PORTION = 10


class Far(MemoryStore):
    """A store whose calls take 50 ms."""

    kind = "firestore"

    async def get(self, path: str, ctx: Context) -> Document | None:
        await asyncio.sleep(CALL_S)
        return await super().get(path, ctx)

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        await asyncio.sleep(CALL_S)
        return await super().commit(mutations, ctx)


class Near(MemoryStore):
    """A store that suspends once, as a network call does, and does nothing."""

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        await asyncio.sleep(0)
        return 1


def newer(mine: Fields, stored: Fields) -> bool:
    return True


def change(kind: str, nth: int) -> Change:
    if kind == "Put":
        return Put((put(f"a/{nth}", {"x": nth}),))
    return Newest(f"a/{nth}", {"x": nth}, newer)


async def rate(kind: str) -> None:
    """Keep 2,000 changes pending, and measure how many per second are mirrored."""
    mirror = Mirror(Far(), at_once=False)
    mirror.start()
    sent = 0
    began = time.monotonic()
    while time.monotonic() < began + SECONDS:
        while mirror.pending < 2000:
            await mirror.tell(change(kind, sent))
            sent += 1
        await asyncio.sleep(0.01)
    figure = mirror.mirrored / (time.monotonic() - began)
    print(f"  {kind:8} {figure:8.0f} changes/s")
    while mirror.pending:
        await asyncio.sleep(0.05)
    await mirror.close()


async def cpu(portion: int, changes: int = 20_000) -> None:
    mirror = Mirror(Near(), at_once=False)
    mirror.start()
    one = change("Put", 0)
    took = []
    for turn in range(6):
        began = time.process_time()
        for _ in range(changes // portion):
            for _ in range(portion):
                await mirror.tell(one)
            mirror.behind_since()
            while mirror.pending:
                await asyncio.sleep(0)
        if turn:  # the first is to warm up
            took.append((time.process_time() - began) / changes * 1e6)
    await mirror.close()
    print(f"  {portion:5} at once  {statistics.median(took):6.1f} µs  ({min(took):.1f} to {max(took):.1f})")


async def main() -> None:
    header()
    print(f"carried to a store whose every call takes {CALL_S * 1000:.0f} ms")
    for kind in ("Put", "Newest"):
        await rate(kind)
    print("CPU of the mirror a change: median (spread) of 5 turns")
    for portion in (1, PORTION, 1000):
        await cpu(portion)


if __name__ == "__main__":
    uvloop.run(main())
