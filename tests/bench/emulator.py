"""What phasegate's emulator takes: documents a second by each kind of call, and its memory.

    python -m tests.bench.emulator [DOCUMENTS]

It is asked over gRPC by phasegate's own store of Firestore, in this process, with calls beside each other. Processor
time is the emulator's alone.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable

import psutil

from backends.documents.port import Context, Mutation, Query, put
from backends.kinds.firestore.settings import EMULATOR, Firestore
from backends.kinds.firestore.store import FirestoreStore
from tests.support.own_emulator import OwnEmulator

BATCH = 500
SINGLE = 20_000  # documents that are written and read one by one
BESIDE = 32  # calls under way at a time


def document(dice: random.Random) -> Mutation:
    """A small one, with an id as the adapters make them."""
    fields = {"n": dice.randrange(10**6), "user": f"u{dice.randrange(99)}", "type": "view", "item": "item-7"}
    return put(f"events/{dice.getrandbits(80):020x}", fields)


async def row(
    what: str, documents: int, process: psutil.Process, calls: list[Callable[[], Awaitable[object]]]
) -> None:
    """Make all the calls, and print what they took."""
    began, used = time.perf_counter(), process.cpu_times()
    left = iter(calls)

    async def one() -> None:
        for call in left:
            await call()

    await asyncio.gather(*(one() for _ in range(BESIDE)))
    took, now = time.perf_counter() - began, process.cpu_times()
    cpu = now.user + now.system - used.user - used.system
    print(
        f"{what:<26}{documents:>9} documents {documents / took:>9.0f}/s "
        f"{1e6 * cpu / documents:>7.1f} µs of a processor each {process.memory_info().rss / 2**20:>6.0f} MB",
        flush=True,
    )


async def work(documents: int, process: psutil.Process) -> None:
    """All rows."""
    store = FirestoreStore(Firestore("demo-bench"))
    await store.start()
    dice = random.Random(1)
    ctx = Context(asyncio.get_running_loop().time() + 3600)
    newest = Query("events", order="n", descending=True, limit=100)
    await store.query(newest, ctx)
    written = [document(dice) for _ in range(SINGLE)]
    paths = [mutation.path for mutation in written]

    def commit(size: int) -> Callable[[], Awaitable[object]]:
        return lambda: store.commit([document(dice) for _ in range(size)], ctx)

    await row("commits of 500", documents, process, [commit(BATCH) for _ in range(documents // BATCH)])
    await row("commits of 1", SINGLE, process, [lambda one=one: store.commit([one], ctx) for one in written])
    await row("get", SINGLE, process, [lambda path=path: store.get(path, ctx) for path in paths])
    await row("query of 100", SINGLE, process, [lambda: store.query(newest, ctx) for _ in range(SINGLE // 100)])
    after, began, count = None, time.perf_counter(), 0
    while page := await store.scan("events", after, 1000, ctx):
        after, count = page[-1].path, count + len(page)
    print(f"{'walk in pages of 1000':<26}{count:>9} documents {count / (time.perf_counter() - began):>9.0f}/s")
    await store.close()


def main() -> None:
    documents = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with OwnEmulator() as emulator:
        os.environ[EMULATOR] = emulator.address
        process = psutil.Process(emulator.pid)
        print(f"{'with nothing in it':<26}{process.memory_info().rss / 2**20:>80.0f} MB")
        asyncio.run(work(documents, process))


if __name__ == "__main__":
    main()
