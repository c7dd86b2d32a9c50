"""The mock is one store though its processes are killed: what was answered is there, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.documents.port import Context, Query
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore

# Each line on the output is a commit that was answered.
WRITER = """
import asyncio, sys
from pathlib import Path
from backends.documents.port import Context, Transform, merge, put
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore

async def main(path, name):
    store = MemoryStore(log=Journal(Path(path), compact_bytes=20_000))
    await store.start()
    nth = 0
    while True:
        ctx = Context(asyncio.get_running_loop().time() + 10)
        add = merge("a/n", {}, [Transform(("x",), "increment", 1)])
        await store.commit((add, put(f"b/{name}", {"nth": nth, "text": "x" * 500})), ctx)
        print(nth, flush=True)
        nth += 1

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def writer(tmp_path: Path, repository: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a process that writes for ever; every one is ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> subprocess.Popen[bytes]:
        out = (tmp_path / f"{name}.out").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "m.mock.journal"), name],
            stdout=out,
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )
        out.close()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


async def test_no_answered_write_is_lost_or_doubled_by_a_kill(
    tmp_path: Path, writer: Callable[[str], subprocess.Popen[bytes]], until: Callable[..., None]
) -> None:
    def answered(name: str) -> int:
        return (tmp_path / f"{name}.out").read_bytes().count(b"\n")

    names = ["w0", "w1", "w2", "w3", "w4", "w5"]
    for wave in (names[:2], names[2:4], names[4:]):
        processes = [writer(name) for name in wave]
        for name in wave:
            until(lambda name=name: answered(name) > 100, 30, f"writes by {name}")
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    store = MemoryStore(log=Journal(tmp_path / "m.mock.journal"))
    await store.start()
    ctx = Context(0.0)
    counted = await store.get("a/n", ctx)
    last = {found.id: found.fields["nth"] for found in await store.query(Query("b"), ctx)}
    await store.close()
    assert counted is not None
    # A kill can come between the commit and the word of it: each process may have one more than it said.
    for name in names:
        assert last[name] in (answered(name) - 1, answered(name))
    assert counted.fields["x"] == sum(int(str(nth)) + 1 for nth in last.values())
