"""Measures the cost of backends; run by hand: ``python -m tests.bench.backends [WHAT …] [--events N]``.

    read    CPU of reading one document from the service: the raw stub, our store, and the client library's
            AsyncClient, in turn in one run against the emulator
    view    a live view of 10,000 documents at 500 changes/s, with a Listen server in another process that sends only
            changes: CPU per change, and staleness, from when a change is written to when the view has it
    views   the same from 1 to 100,000 documents: memory, and CPU of filling, of a read and of a change
    live    CPU of a read answered from memory on both arms: a memoised answer, and a new one from the view
    events  N events (1,000,000) spread over a day, each sent to either arm; then compares both arms' sums with the
            generator's

Absolute figures depend on the machine; compare the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.cloud import firestore

from backends.adapters.registry import operations
from backends.arm import GAUGES, SOURCE, TARGET
from backends.documents.port import Context, put
from backends.durations import Duration
from backends.kinds.firestore.channel import EMULATOR
from backends.kinds.firestore.emulator import Emulator
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.store import FirestoreStore
from backends.kinds.mock.settings import Mock
from backends.operations import Call
from backends.pair.manager import Source, build_source
from loadtest.stage import procfs
from tests.bench import views

BY_NAME = {operation.name: operation for operation in operations()}
PROJECT = "demo-bench"


def header() -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), "|", procfs.cpu_model(), "|", os.cpu_count(), "cores")
    print(
        platform.release(), "| Python", platform.python_version(), "| grpcio", grpc.__version__, "| uvloop", end=" "
    )
    print(uvloop.__version__, "| google-cloud-firestore", firestore.__version__)
    print("command:", " ".join(sys.orig_argv), "\n")


def call(name: str, body: Any = None, query: dict[str, str] | None = None, now: float | None = None) -> Call:
    content = b"" if body is None else json.dumps(body).encode()
    target = f"{name}{query}".encode()
    return Call(BY_NAME[name], target, {}, query or {}, content, now or time.time(), secrets.token_hex(16))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):7.1f}  ({min(values):.1f} to {max(values):.1f})"


# ---------------------------------------------------------------------------------------------------------- read


async def cpu_us(ask: Callable[[], Awaitable[object]], calls: int, concurrent: int = 32) -> float:
    """Microseconds of this process's CPU time per call."""

    async def asker() -> None:
        for _ in range(calls // concurrent):
            await ask()

    began = time.process_time()
    await asyncio.gather(*(asker() for _ in range(concurrent)))
    return (time.process_time() - began) / (calls // concurrent * concurrent) * 1e6


async def read() -> None:
    """CPU of a read from the service."""
    fields = {
        "status": "running",
        "progress": 42.0,
        "root": "/home",
        "files": 12_345,
        "message": "",
        "name": "weekly",
    }
    store = FirestoreStore(Firestore(project=PROJECT))
    await store.start()
    await store.commit((put("bench/one", dict(fields)),), Context(asyncio.get_running_loop().time() + 10))
    client = firestore.AsyncClient(project=PROJECT)
    document = client.document("bench/one")
    channel = store._open()
    from backends.kinds.firestore.codec import decode_document
    from backends.kinds.firestore.store import _Get

    async def raw() -> None:
        message = await channel.get_document(
            _Get(name=channel.names.name("bench/one")), timeout=5, metadata=channel.metadata
        )
        decode_document(message, channel.names)

    async def ours() -> None:
        await store.get("bench/one", Context(asyncio.get_running_loop().time() + 5))

    async def theirs() -> None:
        (await document.get()).to_dict()

    asks = {"raw stub": raw, "store.get": ours, "AsyncClient": theirs}
    took: dict[str, list[float]] = {name: [] for name in asks}
    for turn in range(6):
        for name, ask in asks.items():
            figure = await cpu_us(ask, 1600)
            if turn:  # the first is to warm up
                took[name].append(figure)
    print("read-through of one document, CPU µs a call: median (spread) of 5 turns, 32 at once")
    for name, figures in took.items():
        ratio = statistics.median(figures) / statistics.median(took["AsyncClient"])
        print(f"  {name:12} {spread(figures)}   {ratio:.2f} of AsyncClient")
    await store.close()


# ---------------------------------------------------------------------------------------------------------- live


async def opened(folder: str, mode: str = "hybrid") -> Source:
    firestore_ = Firestore(project=f"demo-{secrets.token_hex(4)}", deadline_s=Duration(10.0))
    fixtures = Path(folder) / "fixtures"
    fixtures.mkdir(exist_ok=True)
    (fixtures / "dashboard_snapshots.json").write_text("{}")
    source = build_source(Mock(fixtures=str(fixtures)), firestore_, run_dir=Path(folder), name="bench", mode=mode)
    await source.start()
    while gauges(source)["view_age_ms"] > 60_000:
        await asyncio.sleep(0.05)
    return source


def gauges(source: Source) -> dict[str, int]:
    return dict(zip(GAUGES, source.gauges(), strict=True))


async def live() -> None:
    """CPU of a read that needs no call to the service."""
    with tempfile.TemporaryDirectory() as folder:
        source = await opened(folder)
        for nth in range(50):
            metrics = {"active_users": nth, "requests_per_minute": 2 * nth, "error_rate": 0.01, "revenue": 12.5}
            await source.answer(TARGET, call("dashboard.publish", {"metrics": metrics}))
        await asyncio.sleep(0.5)
        request = call("dashboard.current")
        took: dict[str, list[float]] = {}
        for turn in range(6):
            for arm, name in ((SOURCE, "mock"), (TARGET, "firestore")):
                await source.answer(arm, request)
                assert source.peek(arm, request.operation, request.key) is not None
                for what, calls, ask in (
                    ("again", 100_000, lambda arm=arm: source.peek(arm, request.operation, request.key)),
                    ("anew", 10_000, lambda arm=arm: driven(source, arm, request)),
                ):
                    began = time.process_time()
                    for _ in range(calls):
                        ask()
                    if turn:
                        figures = took.setdefault(f"{name}, {what}", [])
                        figures.append((time.process_time() - began) / calls * 1e6)
        print("live read of the newest snapshot, CPU µs: median (spread) of 5 turns")
        for name, figures in sorted(took.items()):
            print(f"  {name:18} {spread(figures)}")
        print()
        await source.close()


def driven(source: Source, arm: int, request: Call) -> None:
    """Answer without suspending; a read that suspends fails the run."""
    try:
        source.answer(arm, request).send(None)
    except StopIteration:
        return
    sys.exit("a live read had to wait")


# ---------------------------------------------------------------------------------------------------------- events


async def events(count: int) -> None:
    """A day of events, with both sides' sums checked."""
    dice = random.Random(7)
    items: Counter[str] = Counter()
    types: Counter[str] = Counter()
    now = time.time()
    day = now - now % 86_400 - 86_400
    with tempfile.TemporaryDirectory() as folder:
        source = await opened(folder)
        began = time.monotonic()
        for first in range(0, count, 500):
            batch = [
                {
                    "id": f"event-{nth}",
                    "user": f"u{dice.randrange(10_000)}",
                    "type": dice.choice(("view", "click", "purchase")),
                    "item": f"i{min(dice.randrange(2000), dice.randrange(2000))}",
                    "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(day + nth * 86_400 // count)),
                }
                for nth in range(first, min(first + 500, count))
            ]
            items.update(event["item"] for event in batch)
            types.update(event["type"] for event in batch)
            outcome = await source.answer(dice.choice((SOURCE, TARGET)), call("analytics.ingest", batch))
            if outcome.answer.status != 202:
                sys.exit(f"refused: {outcome}")
            # One batch at a time: commits that contend for a counter make the emulator wait for a second.
            while gauges(source)["mirror_pending"]:
                await asyncio.sleep(0.005)
            if first % 100_000 == 0:
                print(f"  {first + len(batch)} after {time.monotonic() - began:.0f} s", flush=True)
        while gauges(source)["mirror_pending"]:
            await asyncio.sleep(0.05)
        took = time.monotonic() - began
        print(f"{count} events over a day, each to one arm and mirrored to the other: {took:.0f} s")
        ranked = sorted(items.items(), key=lambda entry: (-entry[1], entry[0]))[:100]
        for arm, name in ((SOURCE, "mock"), (TARGET, "firestore")):
            system = json.loads((await source.answer(arm, call("analytics.system"))).answer.body)
            trending_call = call("analytics.trending", None, {"window": "24h", "limit": "100"}, day + 86_399)
            trending = json.loads((await source.answer(arm, trending_call)).answer.body)
            top = [(entry["item"], entry["events"]) for entry in trending["items"]]
            equal = (system["events"], system["types"], trending["events"], top) == (count, types, count, ranked)
            verdict = "equal" if equal else "NOT EQUAL"
            print(f"  {name:10} system {system['events']}, trending {trending['events']}: {verdict}")
            if not equal:
                sys.exit("the sums differ")
        print(" ", {name: value for name, value in gauges(source).items() if value})
        await source.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="*", choices=["read", "view", "views", "live", "events"], default=["read", "view", "live"]
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    arguments = parser.parse_args()
    header()
    with Emulator(heap="8g" if "events" in arguments.what and arguments.events > 100_000 else "2g") as emulator:
        os.environ[EMULATOR] = emulator.address
        for what in arguments.what:
            works = {"read": read, "view": views.view, "views": views.scale, "live": live}
            await (events(arguments.events) if what == "events" else works[what]())


if __name__ == "__main__":
    uvloop.run(main())
