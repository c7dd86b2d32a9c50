"""The process that moves data, as it is started: its protocol, its end, its death on the way, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from backends.documents.port import Context, put
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from control.data.runner import command
from tests.support.patience import WITHIN_S

KILLS = int(os.environ.get("PHASEGATE_DATA_KILLS", "3"))
DOCUMENTS = 600  # of each kind, beside the made-up ones
ROOT = Path(__file__).parents[2]


class Tasks:
    """Task processes over a run_dir with two mocks; all of them are ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.plan: dict[str, Any] = {
            "app": {"origin": "http://127.0.0.1:1"},
            "proxy": {"run_dir": str(folder)},
            "backends": {"old": {"kind": "mock"}, "new": {"kind": "mock", "fixtures": str(folder / "none")}},
            "migrations": [{"name": "m", "routes": ["/api/*"], "source": "old", "target": "new"}],
        }
        (folder / "none").mkdir()
        (folder / "none" / "scans.json").write_text("{}")

    def start(self, **orders: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command(2),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        whole = {"kind": "compare", "migration": "m", "plan": self.plan, "run_dir": str(self.run_dir)}
        whole |= {"rate": 500, "served": False} | orders
        self.tell(process, whole)
        return process

    def tell(self, process: subprocess.Popen[bytes], document: object) -> None:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(document) + b"\n")
        process.stdin.flush()

    def done(self, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
        """Its lines, once it has ended well."""
        out, err = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 0, err.decode()
        assert b"Traceback" not in out
        return [json.loads(line) for line in out.splitlines()]

    async def store(self, arm: str) -> MemoryStore:
        """The store of an arm, as a worker opens it."""
        name = "m" if arm == "source" else "m.target"
        store = MemoryStore(tuple, Journal(self.run_dir / f"{name}.mock.journal"))
        await store.start()
        return store

    async def fill(self) -> None:
        """Documents on the source that the target lacks."""
        store = await self.store("source")
        dice = random.Random(1)
        writes = []
        for number in range(DOCUMENTS):
            scan = f"scans/{dice.getrandbits(64):016x}"
            writes.append(put(scan, {"status": "queued", "revision": 1, "files": number}))
            writes.append(put(f"{scan}/groups/{number}", {"copies": number, "wasted": 0}))
            writes.append(put(f"dashboard_snapshots/{dice.getrandbits(64):016x}", {"metrics": {"n": number}}))
        for at in range(0, len(writes), 500):
            await store.commit(writes[at : at + 500], Context(asyncio.get_running_loop().time() + WITHIN_S))
        await store.close()

    async def contents(self, arm: str) -> dict[str, Any]:
        store = await self.store(arm)
        every = store.documents()
        found = {one.path: one.fields for one in every if not one.path.startswith("phasegate/")}
        await store.close()
        return found


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    made = Tasks(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # it did not read all that it was told
                    pipe.close()


async def test_a_copy_tells_its_cost_its_progress_and_its_result(tasks: Tasks) -> None:
    await tasks.fill()
    lines = tasks.done(tasks.start(kind="copy"))
    assert lines[0] == {"event": "cost", "reads": 0, "writes": 0, "usd": 0.0}  # mocks cost nothing
    assert lines[-1]["event"] == "done"
    result = lines[-1]["result"]
    assert result["copied"] == 3 * DOCUMENTS
    assert (result["equal"], result["skipped_newer"], result["repaired"]) == (True, 0, 0)
    assert lines[-1]["differences"] == 0
    assert lines[-1]["documents"] == 3 * DOCUMENTS
    assert await tasks.contents("target") == await tasks.contents("source")
    assert not (tasks.run_dir / "m.copy.json").exists()


async def test_a_copy_that_is_killed_on_the_way_goes_on_where_it_was(tasks: Tasks) -> None:
    await tasks.fill()
    source = await tasks.contents("source")
    files = [tasks.run_dir / f"{name}.mock.journal.0" for name in ("m", "m.target")]
    step = files[0].stat().st_size // (KILLS + 2)  # of what is to be written, between two kills
    parts = []
    for _ in range(KILLS):
        before = files[1].stat().st_size if files[1].exists() else 0
        process = tasks.start(kind="copy")
        while process.poll() is None and (not files[1].exists() or files[1].stat().st_size < before + step):
            time.sleep(0.0005)
        process.kill()
        process.wait()
        target = await tasks.contents("target")
        assert target.items() <= source.items()
        parts.append(len(target))
    assert any(0 < part < len(source) for part in parts), "it was never killed on the way"
    lines = tasks.done(tasks.start(kind="copy"))
    assert lines[-1]["event"] == "done"
    assert lines[-1]["result"]["equal"] is True
    assert await tasks.contents("target") == source
    assert not [*tasks.run_dir.glob("m.copy.json*")]


async def test_a_compare_writes_every_difference_to_its_file_and_to_the_report(tasks: Tasks) -> None:
    await tasks.fill()
    report = tasks.run_dir / "report.jsonl"
    lines = tasks.done(tasks.start(report=str(report), values=True, collections=["scans/*/groups"]))
    assert lines[-1]["differences"] == DOCUMENTS
    (collection,) = lines[-1]["result"]["collections"]
    assert collection == {
        "name": "scans/*/groups",
        "source": DOCUMENTS,
        "target": 0,
        "equal": 0,
        "missing_on_target": DOCUMENTS,
        "missing_on_source": 0,
        "different": 0,
        "pending": 0,
    }
    assert report.stat().st_mode & 0o077 == 0
    assert report.read_bytes() == (tasks.run_dir / "m.differences.jsonl").read_bytes()
    told = [json.loads(line) for line in report.read_text().splitlines()]
    assert len({line["path"] for line in told}) == DOCUMENTS
    assert all(line["kind"] == "missing_on_target" and line["source"] and line["target"] is None for line in told)


async def test_a_repair_follows_a_side_and_deletes_only_if_it_is_told_to(tasks: Tasks) -> None:
    await tasks.fill()
    target = await tasks.store("target")
    await target.commit((put("scans/extra", {"status": "queued"}),), Context(float("inf")))
    await target.close()
    lines = tasks.done(tasks.start(kind="repair", **{"from": "source"}))
    assert lines[-1]["result"]["repaired"] == 3 * DOCUMENTS
    assert lines[-1]["differences"] == 1
    lines = tasks.done(tasks.start(kind="repair", **{"from": "source"}, delete=True))
    assert (lines[-1]["result"]["equal"], lines[-1]["differences"]) == (True, 0)
    assert await tasks.contents("target") == await tasks.contents("source")


async def test_a_sample_says_what_it_would_have_found(tasks: Tasks) -> None:
    await tasks.fill()
    result = tasks.done(tasks.start(sample=60))[-1]["result"]
    assert result["sample"]["documents"] <= 60
    assert result["sample"]["confidence"] == 0.95
    assert 0 < result["sample"]["share"] < 0.2
    assert result["equal"] is False


@pytest.mark.parametrize("way", ["line", "signal", "end of input"])
async def test_a_task_is_ended_in_order(tasks: Tasks, way: str, until: Callable[..., None]) -> None:
    await tasks.fill()
    process = tasks.start(served=True)  # nothing is told of the change logs, so it waits
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "cost"
    if way == "line":
        tasks.tell(process, {"stop": True})
    elif way == "signal":
        process.send_signal(signal.SIGTERM)
    lines = tasks.done(process)
    assert lines[-1]["event"] == "failed"
    assert lines[-1]["kind"] == "stopped"
    assert not (tasks.run_dir / "m.differences.jsonl").exists()
    assert not [path.name for path in tasks.run_dir.glob("*.new")]


def test_a_task_ends_with_its_parent_and_gives_way_to_everybody(tasks: Tasks, until: Callable[..., None]) -> None:
    code = (
        "import subprocess, time\n"
        "from control.data.runner import command\n"
        "child = subprocess.Popen(command(2), stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    tasks.processes.append(parent)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    until(lambda: child.nice() == 19, what="its niceness")
    parent.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="the end of the task")


@pytest.mark.parametrize(
    ("orders", "words"),
    [
        ({"migration": "other"}, ["no migration other", "m"]),
        ({"collections": ["scans", "orders"]}, ["orders", "scans/*/results"]),
        ({"kind": "move"}, ["move"]),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(tasks: Tasks, orders: dict[str, Any], words: list[str]) -> None:
    (line,) = tasks.done(tasks.start(**orders))
    assert (line["event"], line["kind"]) == ("failed", "refused")
    assert all(word in line["message"] for word in words)


def test_a_side_that_cannot_be_reached_is_told_and_no_traceback(tasks: Tasks) -> None:
    tasks.plan["backends"]["new"] = {"kind": "http", "origin": "http://127.0.0.1:1"}
    (line,) = tasks.done(tasks.start())
    assert (line["event"], line["kind"]) == ("failed", "refused")
    assert "document stores" in line["message"]


async def test_two_looks_at_empty_change_logs_tell_a_difference(tasks: Tasks) -> None:
    await tasks.fill()
    process = tasks.start(served=True, collections=["scans"])
    while process.poll() is None:
        now = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it ended in between
            tasks.tell(process, {"arrival": {"before": now, "looked": now, "at": time.monotonic()}})
        await asyncio.sleep(0.02)
    assert process.stdout is not None
    last = json.loads(process.stdout.read().splitlines()[-1])
    assert last["differences"] == DOCUMENTS
