"""A process is killed at each step of a write: afterwards both sides hold the same, and all that was acknowledged."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.disk import Disk, Sync
from backends.documents.port import Document
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from backends.pair.changelog import ChangeLog
from backends.pair.mirror import Mirror

# Each line on the output is a write that was acknowledged. It is killed by itself, so that the step is exact.
WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from backends.disk import Disk, Sync
from backends.documents.changes import Once, write
from backends.documents.port import Context, Transform, merge
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from backends.pair.changelog import ChangeLog
from backends.pair.mirror import Mirror, WriteAhead

KILLED_AT = 7  # the commit of that number


class Store(MemoryStore):
    def __init__(self, path, before, after):
        super().__init__(log=Journal(Path(path)))
        self.before, self.after, self.nth = before, after, 0

    async def commit(self, mutations, ctx):
        self.nth += 1
        if self.before and self.nth == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        when = await super().commit(mutations, ctx)
        if self.after and self.nth == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.001)
        return when


async def main(folder, name, step, at_once):
    own = Store(f"{folder}/own", step == "intended", step == "committed")
    other = Store(f"{folder}/other", step == "settled", step == "applied")
    for store in (own, other):
        await store.start()
    log = ChangeLog(Path(folder) / "m.changes", "target", Disk(Sync.OFF))
    mirror = Mirror(own, other, at_once=at_once == "1", log=log)
    mirror.start()
    nth = 0
    while nth < 40 or step == "none":
        change = Once(f"b/{name}-{nth}", {"nth": nth}, (merge("a/n", {}, [Transform(("x",), "increment", 1)]),))
        ctx = Context(asyncio.get_running_loop().time() + 30)
        ahead = WriteAhead(mirror)
        ctx.intend = ahead.intend
        await write(change, own, ctx)
        await ahead.finish(change)
        print(f"b/{name}-{nth}", flush=True)
        nth += 1
        if step == "none" and nth >= 10:
            await asyncio.sleep(0.2)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def writer(tmp_path: Path, repository: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process that writes; every one is ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, step: str, at_once: bool) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.out").open("wb") as out, (tmp_path / f"{name}.err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path), name, step, str(int(at_once))],
                stdout=out,
                stderr=err,
                cwd=repository,
                env={**os.environ, "PYTHONPATH": str(repository)},
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


async def contents(path: Path) -> dict[str, Any]:
    store = MemoryStore(log=Journal(path))
    await store.start()
    found: list[Document] = list(store.documents())
    await store.close()
    return {document.path: document.fields for document in found}


def answered(folder: Path, name: str) -> list[str]:
    """What a writer said to be acknowledged; its log is on the same output."""
    return [line for line in (folder / f"{name}.out").read_text().splitlines() if line.startswith("b/")]


STEPS = ("intended", "committed", "settled", "applied")


def check(own: dict[str, Any], other: dict[str, Any], acknowledged: list[str]) -> None:
    assert own == other
    assert set(acknowledged) <= set(own)
    assert own["a/n"]["x"] == len(own) - 1, "each write counts once"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("step", STEPS)
async def test_after_a_kill_at_any_step_the_next_process_makes_both_sides_equal(
    tmp_path: Path,
    writer: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    at_once: bool,
) -> None:
    monkeypatch.setattr("backends.pair.doubting.AGAIN_S", 0.1)
    for process in [writer(name, step, at_once) for name in ("one", "two")]:
        assert process.wait(60) == -signal.SIGKILL
    acknowledged = [path for name in ("one", "two") for path in answered(tmp_path, name)]
    assert acknowledged
    own, other = (MemoryStore(log=Journal(tmp_path / name)) for name in ("own", "other"))
    for store in (own, other):
        await store.start()
    mirror = Mirror(own, other, at_once=at_once, log=ChangeLog(tmp_path / "m.changes", "target", Disk(Sync.OFF)))
    mirror.start()
    assert mirror.pending
    assert await mirror.drained(60) == 0
    assert mirror.lost == 0
    await mirror.close()
    for store in (own, other):
        await store.close()
    check(await contents(tmp_path / "own"), await contents(tmp_path / "other"), acknowledged)
    assert list((tmp_path / "m.changes").iterdir()) == []


async def test_a_living_process_goes_on_with_what_a_killed_one_left(
    tmp_path: Path, writer: Callable[..., subprocess.Popen[bytes]], until: Callable[..., None]
) -> None:
    living = writer("living", "none", False)
    until(lambda: len(answered(tmp_path, "living")) > 3, 60, "writes")
    assert writer("killed", "settled", False).wait(60) == -signal.SIGKILL
    acknowledged = answered(tmp_path, "killed")

    def handed_on() -> bool:
        other = asyncio.run(contents(tmp_path / "other"))
        return set(acknowledged) <= set(other)

    await asyncio.to_thread(until, handed_on, 60, "the killed process's writes on the other side")
    assert living.poll() is None
    living.kill()
    living.wait()


async def test_without_the_log_the_same_kill_leaves_the_sides_different(
    tmp_path: Path, writer: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """The positive control: it is the log that makes them equal."""
    assert writer("one", "settled", False).wait(60) == -signal.SIGKILL
    own, other = await contents(tmp_path / "own"), await contents(tmp_path / "other")
    assert own != other
    with pytest.raises(AssertionError):
        check(own, other, [])
