"""A copy, a compare and a repair toward the real emulator, by the process that does them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.documents.port import Context, DocumentStore, Fields, delete, put
from backends.kinds.firestore.codec import PbWrite
from backends.kinds.firestore.messages import firestore
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.store import FirestoreStore
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from control.data.runner import command
from tests.support.patience import WITHIN_S

DOCUMENTS = int(os.environ.get("PHASEGATE_DATA_EMULATED", "2000"))
ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 1, tzinfo=UTC)
LARGE = 12  # documents of 900 KB: more than one commit takes


def ctx() -> Context:
    return Context(asyncio.get_running_loop().time() + WITHIN_S)


def documents() -> list[Any]:
    """Jobs with batches and groups below them, snapshots of every type of value, events; some are large."""
    dice = random.Random(9)
    writes = []
    for number in range(DOCUMENTS // 4):
        scan = f"scans/{dice.getrandbits(64):016x}"
        at = START + timedelta(microseconds=number)
        state: Fields = {"status": "running", "revision": 1, "updated_at": at, "change": "a", "files": number}
        writes.append(put(scan, state))
        writes.append(put(f"{scan}/results/{number:x}", {"posted_at": at, "files": [{"path": "/a", "size": 1}]}))
        writes.append(put(f"{scan}/groups/{number:x}", {"copies": number, "wasted": -number}))
        values: Fields = {
            "n": number,
            "f": number / 4,
            "s": "é😀",
            "b": b"\x00",
            "none": None,
            "m": {"l": [1.0, {"x": True}]},
        }
        writes.append(
            put(f"dashboard_snapshots/{dice.getrandbits(64):016x}", {"published_at": at, "metrics": values})
        )
    writes += [put(f"analytics_events/large-{number}", {"properties": "x" * 900_000}) for number in range(LARGE)]
    return writes


async def everything(store: DocumentStore) -> dict[str, Any]:
    """What a store holds, by path."""
    found: dict[str, Any] = {}
    for pattern in ("scans", "scans/*/results", "scans/*/groups", "dashboard_snapshots", "analytics_events"):
        after: str | None = None
        while page := await store.scan(pattern, after, 40, ctx()):
            found.update({one.path: one.fields for one in page})
            after = page[-1].path
    return found


class Moved:
    """A mock and an emulated Firestore, and the process that moves data between them."""

    def __init__(self, run_dir: Path, project: str) -> None:
        self.run_dir = run_dir
        self.plan = {
            "app": {"origin": "http://127.0.0.1:1"},
            "proxy": {"run_dir": str(run_dir)},
            "backends": {"old": {"kind": "mock"}, "new": {"kind": "firestore", "project": project}},
            "migrations": [{"name": "m", "routes": ["/api/*"], "source": "old", "target": "new"}],
        }
        self.source = MemoryStore(tuple, Journal(run_dir / "m.mock.journal"))
        self.target = FirestoreStore(Firestore(project))

    async def task(self, kind: str, **orders: Any) -> list[dict[str, Any]]:
        """Its lines, once it has ended well."""
        whole: dict[str, Any] = {"kind": kind, "migration": "m", "plan": self.plan, "run_dir": str(self.run_dir)}
        whole |= {"rate": 50_000, "served": False}
        done = await asyncio.to_thread(
            subprocess.run,
            command(2),
            cwd=ROOT,
            input=msgspec.json.encode(whole | orders) + b"\n",
            capture_output=True,
            timeout=4 * WITHIN_S,
        )
        assert done.returncode == 0, done.stderr.decode()
        return [json.loads(line) for line in done.stdout.splitlines()]

    def differences(self) -> dict[str, str]:
        lines = (self.run_dir / "m.differences.jsonl").read_text().splitlines()
        return {line["path"]: line["kind"] for line in map(json.loads, lines)}


@pytest.fixture
async def moved(emulated: str, tmp_path: Path) -> AsyncIterator[Moved]:
    made = Moved(tmp_path, emulated)
    await made.source.start()
    await made.target.start()
    writes = documents()
    for at in range(0, len(writes), 500):
        await made.source.commit(writes[at : at + 500], ctx())
    yield made
    await made.source.close()
    await made.target.close()


async def test_what_the_source_holds_is_copied_compared_and_mended(moved: Moved) -> None:
    total = len(documents())
    lines = await moved.task("copy")
    assert lines[0] == {"event": "cost", "reads": 0, "writes": total, "usd": round(total * 0.18 / 100_000, 3)}
    assert lines[-1]["event"] == "done", lines[-1]
    assert lines[-1]["result"]["copied"] == total
    assert await everything(moved.target) == await everything(moved.source)

    done = (await moved.task("compare"))[-1]
    assert (done["result"]["equal"], done["documents"], done["differences"]) == (True, total, 0)
    assert (await moved.task("copy"))[-1]["result"]["copied"] == 0  # once more: nothing to do

    # Ten of each kind, in nested collections too.
    paths = sorted(await everything(moved.source))
    chosen = random.Random(1).sample([path for path in paths if "large" not in path], 30)
    await moved.target.commit([put(path, {"n": 1.0}) for path in chosen[:10]], ctx())
    await moved.target.commit([delete(path) for path in chosen[10:20]], ctx())
    await moved.source.commit([delete(path) for path in chosen[20:]], ctx())
    planted = dict.fromkeys(chosen[:10], "different")
    planted |= dict.fromkeys(chosen[10:20], "missing_on_target")
    planted |= dict.fromkeys(chosen[20:], "missing_on_source")
    done = (await moved.task("compare"))[-1]
    assert moved.differences() == planted
    assert done["differences"] == 30

    done = (await moved.task("repair", **{"from": "source"}, delete=True))[-1]
    assert done["result"] | {"collections": None, "skipped": None} == {
        "equal": True,
        "collections": None,
        "repaired": 30,
        "skipped": None,
    }
    assert await everything(moved.target) == await everything(moved.source)


async def test_a_document_of_another_app_is_skipped_and_named_and_stops_nothing(moved: Moved) -> None:
    foreign = PbWrite()
    channel = moved.target._open()
    path = next(path for path in sorted(await everything(moved.source)) if path.count("/") == 1)
    foreign.update.name = channel.root + path
    foreign.update.fields["place"].geo_point_value.latitude = 47.5
    request = firestore.CommitRequest.pb()(database=channel.database, writes=[foreign])
    await channel.commit(request, timeout=WITHIN_S, metadata=channel.metadata)
    done = (await moved.task("copy"))[-1]
    assert done["event"] == "done", done
    assert done["result"]["copied"] == len(documents()) - 1
    assert done["result"]["skipped"]["target"]["count"] == 1
    assert list(done["result"]["skipped"]["target"]["documents"]) == [path]
    assert done["result"]["skipped"]["source"] == {"count": 0, "documents": {}}


async def test_an_emulator_that_is_not_there_is_told(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    done = (await moved.task("compare"))[-1]
    assert (done["event"], done["kind"]) == ("failed", "unreachable")
    assert "UNAVAILABLE" in done["message"] or "DEADLINE" in done["message"] or "breaker" in done["message"]
