"""Measures what mirroring costs and how fast it catches up; run by hand: ``python -m tests.bench.mirror``.

    write    CPU of a write, from the handler to the other store's commit, which costs nothing here: by adapter, with
             the change log and each way to sync it; ``none``: in memory only
    drain    10,000 single events that waited: commits, and how often the hottest document is written
    rate     changes per second to a store whose every call takes 50 ms: of one call (Put), and of two (Newest)
    outage   200,000 changes that wait: memory, time to read them back, size on the disk

Absolute figures depend on the machine; compare the ratios. To compare with an earlier version, run its own bench or
the parts of this one that it has, in turn.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop

from backends import disk
from backends.adapters import registry
from backends.adapters.analytics import SHARDS, Ingest
from backends.arm import SOURCE, TARGET
from backends.disk import Disk, Sync
from backends.documents import changes
from backends.documents.changes import Change, Newest, Put
from backends.documents.port import Context, Document, Mutation, put
from backends.errors import Fault, FaultKind
from backends.kinds.mock.memory import MemoryStore
from backends.operations import Call
from backends.pair.changelog import ChangeLog
from backends.pair.manager import Source
from backends.pair.mirror import Mirror, WriteAhead
from backends.pair.storearm import StoreArm
from tests.bench.backends import header

CALL_S = 0.05
SECONDS = 4.0
PORTION = 10  # writes at once
WRITES = 2_000
TURNS = 5
BODIES = {
    "dashboard.publish": b'{"metrics":{"n":1,"a":2.5,"b":"x"}}',
    "analytics.ingest": b'{"user":"u","type":"t","item":"i"}',
    "scans.create": b"{}",
}


class Far(MemoryStore):
    """A store whose calls take 50 ms."""

    kind = "firestore"

    async def get_many(self, paths: Sequence[str], ctx: Context) -> list[Document | None]:
        await asyncio.sleep(CALL_S)
        return await super().get_many(paths, ctx)

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        await asyncio.sleep(CALL_S)
        return await super().commit(mutations, ctx)


class Near(MemoryStore):
    """A store that does nothing."""

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        return 1


class Remote(Near):
    """It suspends once, as a network call does."""

    kind = "firestore"

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        await asyncio.sleep(0)
        return 1


class Counting(MemoryStore):
    """It counts commits, and the writes of each document; it may be down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = True
        self.commits = 0
        self.writes: Counter[str] = Counter()

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        await asyncio.sleep(0)
        if self.down:
            raise Fault(FaultKind.UNAVAILABLE, "down")
        self.commits += 1
        self.writes.update(mutation.path for mutation in mutations)
        return await super().commit(mutations, ctx)


async def write(sync: str) -> None:
    """CPU of a write: the least of 5 turns."""
    how = disk.use(Sync.OFF if sync == "none" else Sync(sync))
    operations = {operation.name: operation for operation in registry.operations()}
    for name, body in BODIES.items():
        figures = []
        for arm in (SOURCE, TARGET):
            with tempfile.TemporaryDirectory(dir=".") as folder:
                log = None if sync == "none" else Path(folder) / "m.changes"
                built = Source(StoreArm(Near(), 30), StoreArm(Remote(), 30), hybrid=True, changes=log)
                await built.start()
                took = []
                for turn in range(TURNS + 1):
                    began = time.process_time()
                    for nth in range(WRITES):
                        call = Call(operations[name], b"", {}, {}, body, 1.79e9, f"{turn}-{nth}")
                        await built.answer(arm, call)
                        while nth % PORTION == 0 and any(mirror.pending for mirror in built._mirrors):
                            await asyncio.sleep(0)
                    if turn:  # the first is to warm up
                        took.append((time.process_time() - began) / WRITES * 1e6)
                await built.close()
                figures.append(min(took))
        await how.close()
        print(f"  {sync:6} {name:18} to the source {figures[0]:6.1f} µs, to the target {figures[1]:6.1f} µs")


async def told(mirror: Mirror, change: Change) -> None:
    await WriteAhead(mirror).finish(change)


async def drain(count: int = 10_000) -> None:
    store = Counting()
    mirror = Mirror(MemoryStore(), store, at_once=False)
    mirror.start()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for nth in range(count):
        moment = at + timedelta(seconds=nth / 10)
        event = {"id": f"e{nth}", "user": f"u{nth % 99}", "type": "view", "item": f"i{nth % 50}", "at": moment}
        await told(mirror, Ingest((event,), nth % SHARDS))
    store.down = False
    began = time.process_time()
    while mirror.pending:
        await asyncio.sleep(0)
    cpu = (time.process_time() - began) / count * 1e6
    (hottest, most), *_ = store.writes.most_common(1)
    total = sum(store.writes.values())
    print(f"  {count} events: {store.commits} commits, {total} writes, {cpu:.0f} µs an event")
    print(f"  the hottest document, {hottest}, was written {most} times")
    await mirror.close()


async def rate(kind: str) -> None:
    """Keep 2,000 changes pending, and measure how many per second are mirrored."""
    mirror = Mirror(MemoryStore(), Far(), at_once=False)
    mirror.start()
    sent = 0
    began = time.monotonic()
    while time.monotonic() < began + SECONDS:
        while mirror.pending < 2000:
            path, fields = f"a/{sent}", {"x": sent}
            await told(mirror, Put((put(path, dict(fields)),)) if kind == "Put" else Newest(path, dict(fields)))
            sent += 1
        await asyncio.sleep(0.01)
    print(f"  {kind:8} {mirror.mirrored / (time.monotonic() - began):8.0f} changes/s")
    while mirror.pending:
        await asyncio.sleep(0.05)
    await mirror.close()


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def outage() -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = Counting()
        log = ChangeLog(Path(folder) / "m.changes", "target", Disk(Sync.EVERY_SECOND))
        mirror = Mirror(MemoryStore(), store, at_once=False, log=log)
        mirror.start()
        for count in (20_000, 100_000, 200_000):
            for nth in range(mirror.pending, count):
                await told(mirror, Put((put(f"a/{nth % 1000}", {"n": nth, "text": "x" * 200}),)))
                if nth % 100 == 0:
                    await asyncio.sleep(0)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 2**20
            print(f"  {mirror.pending} wait: {resident_mb():.0f} MB resident, {size:.0f} MB on the disk")
        store.down = False
        began, slowest = time.monotonic(), 0.0
        while mirror.pending:
            before = time.monotonic()
            await asyncio.sleep(0)
            slowest = max(slowest, time.monotonic() - before)
        took = time.monotonic() - began
        print(f"  read back and sent in {took:.1f} s, {resident_mb():.0f} MB resident")
        print(f"  the longest that the event loop was held: {slowest * 1000:.0f} ms")
        await mirror.close()
        await log.disk.close()


async def main(wanted: Sequence[str]) -> None:
    header()
    changes.install([Ingest], {"a": lambda mine, stored: True, **registry.adapters()[1].newer})
    parts: dict[str, Any] = {
        "write": [write(sync) for sync in ("none", "off", "1s")],
        "drain": [drain()],
        "rate": [rate("Put"), rate("Newest")],
        "outage": [outage()],
    }
    for name, steps in parts.items():
        if not wanted or name in wanted:
            print(name)
        for step in steps:
            if not wanted or name in wanted:
                await step
            else:
                step.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
