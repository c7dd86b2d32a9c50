"""Any number of an app's documents, as its handlers would have written them, put into a store before anybody serves.

Of each 20 documents one is a scan job, one its batch of results, three its groups, eight are events and seven are
dashboard snapshots; a few counters of all of them come last. Ids are digests of a number, so the same number of
documents means the same documents.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from backends.documents.port import COMMIT_LIMIT, Context, DocumentStore, Fields, Mutation, Value, put

IN_A_SET: Final = 20
EVENTS: Final = 8  # of a set
SNAPSHOTS: Final = 7
FILES: Final = 3
COUNTERS: Final = 4
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_CALL_S: Final = 120.0
_UNDER_WAY: Final = 4  # commits


def size(sets: int) -> int:
    """How many documents so many sets are."""
    return sets * IN_A_SET + COUNTERS


def documents(sets: int) -> Iterator[Mutation]:
    """The documents of so many sets, and their counters."""
    for number in range(sets):
        yield from _scan(number)
        at = START + timedelta(milliseconds=number)
        for nth in range(EVENTS):
            event: Fields = {
                "id": f"p-{number}-{nth}",
                "user": f"u{number % 50}",
                "type": "view",
                "at": at,
                "item": "tea",
            }
            yield put(f"analytics_events/{_id('event', number, nth)}", event)
        for nth in range(SNAPSHOTS):
            snapshot: Fields = {"published_at": at, "metrics": {"n": number, "share": nth / 8}}
            yield put(f"dashboard_snapshots/{_id('snapshot', number, nth)}", snapshot)
    events = EVENTS * sets
    newest = int(START.timestamp() * 1_000_000) + 1000 * sets
    yield put("analytics_totals/0", {"events": events, "newest_us": newest, "types": {"view": events, "(other)": 0}})
    for grain in ("minutes", "hours", "days"):
        counter: Fields = {"start": START, "items": {"tea": events, "(other)": 0}}
        yield put(f"analytics_{grain}/{_id(grain, 0, 0)}", counter)


def _scan(number: int) -> Iterator[Mutation]:
    scan, at, call = f"scans/{_id('scan', number, 0)}", START + timedelta(milliseconds=number), f"c{number}"
    state: Fields = {
        "root": "/",
        "name": f"job {number}",
        "status": "completed",
        "progress": 100.0,
        "message": "",
        "created_at": at,
        "updated_at": at,
        "revision": 2,
        "change": call,
        "edits": {"status": [at, call], "message": [at, call], "progress": 1},
    }
    yield put(scan, {**state, "files": FILES, "bytes": sum(range(1, FILES + 1))})
    files: list[Value] = [{"path": f"/{number}/{n}", "size": n + 1, "hash": f"h{n}"} for n in range(FILES)]
    yield put(f"{scan}/results/{_id('results', number, 0)}", {"posted_at": at, "files": files})
    for n in range(FILES):
        group: Fields = {"hash": f"h{n}", "size": n + 1, "copies": 1, "wasted": 0}
        yield put(f"{scan}/groups/h{n}-{n + 1}", group)


def _id(kind: str, number: int, nth: int) -> str:
    return hashlib.blake2b(f"{kind} {number} {nth}".encode(), digest_size=16).hexdigest()


async def fill(store: DocumentStore, sets: int) -> None:
    """Write them; the store is started and closed here."""
    await store.start()
    try:
        loop = asyncio.get_running_loop()
        rest = documents(sets)
        commits: set[asyncio.Task[int]] = set()
        for batch in iter(lambda: list(islice(rest, COMMIT_LIMIT)), []):
            commits.add(asyncio.create_task(store.commit(batch, Context(loop.time() + _CALL_S))))
            if len(commits) == _UNDER_WAY:
                done, commits = await asyncio.wait(commits, return_when=asyncio.FIRST_COMPLETED)
                for commit in done:
                    commit.result()
        await asyncio.gather(*commits)
    finally:
        await store.close()
