"""Measures the cost of a live view: staleness under load, and growth with its documents.

``tests.bench.backends`` runs it. The Listen server is in another process and sends only what changed, as in
production.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from backends.documents.port import Context, Query
from backends.kinds.firestore.channel import EMULATOR
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.store import FirestoreStore
from tests.support.listen_server import ListenServer

PROJECT = "demo-bench"
ROOT = f"projects/{PROJECT}/databases/(default)/documents/"
RATE = 500  # changes a second
READS = 20_000


def serve_changes(pipe: Connection, documents: int, seconds: int) -> None:
    """The server's process: sends its address, waits for a message, then changes documents at ``RATE``."""

    async def main() -> None:
        server = ListenServer()
        for nth in range(documents):
            server.put(f"{ROOT}things/{nth:06}", {"n": nth, "at": 0.0, "text": "x" * 60}, tell=False)
        pipe.send(await server.start())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, pipe.recv)
        dice = random.Random(1)
        start = loop.time()
        for nth in range(RATE * seconds):
            wait = start + nth / RATE - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            fields = {"n": nth, "at": time.monotonic(), "text": "x" * 60}
            server.put(f"{ROOT}things/{dice.randrange(documents):06}", fields)
        await loop.run_in_executor(None, pipe.recv)
        await server.stop()

    uvloop.run(main())


def tick(pipe: Connection, seconds: int) -> None:
    """The baseline's process: only wakes up at ``RATE``, and reports how late it woke, in seconds."""

    async def main() -> None:
        late = []
        start = time.monotonic()
        for nth in range(RATE * seconds):
            await asyncio.sleep(max(0.0, start + nth / RATE - time.monotonic()))
            late.append(time.monotonic() - start - nth / RATE)
        pipe.send(late)

    uvloop.run(main())


@dataclass
class Figures:
    """Figures of one view. Times in seconds; CPU of this process."""

    filling: float  # CPU of applying the first snapshot
    memory: int  # bytes by which this process grew with it
    a_read: float  # CPU of one document
    a_change: float  # CPU of one change
    staleness: list[float]  # of every change, sorted
    late: list[float]  # how late an idle process woke meanwhile, sorted


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def _server(documents: int, seconds: int) -> AsyncIterator[Connection]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve_changes, args=(there, documents, seconds))
    process.start()
    named = os.environ.get(EMULATOR)
    os.environ[EMULATOR] = here.recv()
    try:
        yield here
    finally:
        here.send("stop")
        process.join()
        del os.environ[EMULATOR]
        if named is not None:
            os.environ[EMULATOR] = named


async def measure(documents: int, seconds: int) -> Figures:
    """Fill a view, read from it, and change its documents at ``RATE``. A missed change ends the process."""
    async with _server(documents, seconds) as server:
        store = FirestoreStore(Firestore(project=PROJECT), (Query("things"),))
        before, began = _rss(), time.process_time()
        await store.start()
        known = store._views["things"]
        while not known.fresh:
            await asyncio.sleep(0.01)
        filling, memory = time.process_time() - began, _rss() - before
        a_read = await _read(store, documents)
        a_change, staleness, late = await _changes(known, server, seconds)
        await store.close()
    return Figures(filling, memory, a_read, a_change, staleness, late)


async def _read(store: FirestoreStore, documents: int) -> float:
    dice = random.Random(2)
    paths = [f"things/{dice.randrange(documents):06}" for _ in range(READS)]
    context = Context(asyncio.get_running_loop().time() + 60)
    began = time.process_time()
    for path in paths:
        assert await store.get(path, context) is not None
    return (time.process_time() - began) / READS


async def _changes(known: Any, server: Connection, seconds: int) -> tuple[float, list[float], list[float]]:
    seen: list[float] = []
    collection = known.collection
    plain = collection.put

    class Watching(type(collection)):  # type: ignore[misc]
        """Records when each change is applied."""

        __slots__ = ()

        def put(self, document: Any) -> None:
            plain(document)
            seen.append(time.monotonic() - document.fields["at"])

    known._state.collection = Watching.__new__(Watching)
    for slot in ("documents", "cell", "_indexes"):
        setattr(known._state.collection, slot, getattr(collection, slot))
    idle, its = multiprocessing.Pipe()
    ticker = multiprocessing.get_context("spawn").Process(target=tick, args=(its, seconds))
    ticker.start()
    began = time.process_time()
    server.send("go")
    deadline = time.monotonic() + seconds + 20
    while len(seen) < RATE * seconds and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    cpu = time.process_time() - began
    late = sorted(await asyncio.get_running_loop().run_in_executor(None, idle.recv))
    ticker.join()
    if len(seen) < RATE * seconds:
        sys.exit(f"{RATE * seconds - len(seen)} changes were missed")
    return cpu / len(seen), sorted(seen), late


def _ms(values: list[float]) -> str:
    p50, p99 = (1000 * values[int(len(values) * share)] for share in (0.5, 0.99))
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {1000 * values[-1]:.2f} ms"


async def view(documents: int = 10_000, seconds: int = 20) -> None:
    """Staleness and cost of a large, busy view; as a baseline, how late an idle process wakes meanwhile."""
    figures = await measure(documents, seconds)
    print(f"view of {documents} documents, {RATE} changes/s for {seconds} s: {len(figures.staleness)} seen")
    print(f"  staleness {_ms(figures.staleness)}; CPU {figures.a_change * 1e6:.0f} µs a change")
    print(f"  an idle process meanwhile woke late: {_ms(figures.late)}\n")


def _alone(documents: int) -> Figures:
    return uvloop.run(measure(documents, 5))


async def scale() -> None:
    """The same from 1 to 100,000 documents, as a table in Markdown; each in a fresh process."""
    print("| documents | filling, CPU s | memory, KiB a document | a read, CPU µs | a change, CPU µs | staleness |")
    print("|---|---|---|---|---|---|")
    loop, fresh = asyncio.get_running_loop(), multiprocessing.get_context("spawn")
    for documents in (1, 100, 1_000, 10_000, 30_000, 100_000):
        with ProcessPoolExecutor(1, mp_context=fresh) as process:
            figures = await loop.run_in_executor(process, _alone, documents)
        memory = f"{figures.memory / documents / 1024:.1f}" if documents >= 1_000 else "-"
        read_us, change_us = f"{figures.a_read * 1e6:.1f}", f"{figures.a_change * 1e6:.0f}"
        row = (documents, f"{figures.filling:.2f}", memory, read_us, change_us)
        print("|", " | ".join(map(str, row)), "|", _ms(figures.staleness), "|", flush=True)
