"""The process of a task, a real one that speaks the protocol as each test has written it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backends.copy.calm import NOTHING_KNOWN, ArrivalLook
from control.data.messages import OrderedTask, TaskDone, TaskEnd, TaskFailed, TaskKind
from control.data.runner import LINE_MAX, TaskBusyError, TaskRunner, command
from control.data.state import AskedTask, task_orders
from tests.support.patience import WITHIN_S

ROOT = Path(__file__).parents[2]
SCRIPTED = "tests.support.scripted_task"
SCANS = {"name": "scans", "source": 12, "target": 12, "equal": 12}
NONE = dict.fromkeys(("missing_on_target", "missing_on_source", "different", "pending"), 0)
RESULT = {
    "equal": True,
    "collections": [SCANS | NONE],
    "repaired": 0,
    "skipped": {"source": {"count": 1, "documents": {"scans/a": "it holds a reference"}}},
}
DONE = {"event": "done", "result": RESULT, "differences": 0, "documents": 12}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


class Task:
    """A runner, and what its process is to do."""

    def __init__(self, folder: Path, log: int, **more: Any) -> None:
        self.folder = folder
        self.arrived = 0.0
        self.ends: list[TaskEnd] = []
        self.runner = TaskRunner("phase6", self.arrival, command(log, SCRIPTED), log=log, **more)

    def arrival(self) -> ArrivalLook:
        return ArrivalLook(self.arrived, 2.0, 3.0)

    def begin(self, *steps: list[Any], kind: TaskKind = TaskKind.COPY) -> None:
        (self.folder / "script.json").write_text(json.dumps(steps))
        self.runner.begin(self.orders(kind), self.ends.append)

    def orders(self, kind: TaskKind = TaskKind.COPY) -> OrderedTask:
        asked = AskedTask(kind, ("scans",), from_="source", delete=True)
        return task_orders(asked, "phase6", b'{"a": 1}', str(self.folder), 500)

    async def alive(self) -> dict[str, Any]:
        await until((self.folder / "alive.json").exists)
        found: dict[str, Any] = json.loads((self.folder / "alive.json").read_text())
        return found

    async def end(self) -> TaskEnd:
        await until(lambda: self.ends)
        return self.ends[0]

    async def failure(self) -> TaskFailed:
        end = await self.end()
        assert isinstance(end, TaskFailed)
        return end

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "told.jsonl").read_text().splitlines()]


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    yield fd
    os.close(fd)


@pytest.fixture
async def task(tmp_path: Path, log_file: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Task]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Task(tmp_path, log_file, stop_within_s=0.5)
    yield made
    await made.runner.close()


async def test_it_is_told_what_to_do_and_its_progress_and_end_are_read(task: Task) -> None:
    task.begin(
        ["say", {"event": "cost", "reads": 7, "writes": 3, "usd": 0.5}],
        ["say", {"event": "progress", "kind": "copy", "done": 4, "of": 12, "rate": 500.0, "left_s": 0.1}],
        ["until_file", "go on"],
        ["say", DONE],
    )
    await until(lambda: task.runner.progress)
    progress, cost = task.runner.progress, task.runner.cost
    assert progress is not None
    assert (progress.done, progress.of, progress.rate, progress.left_s) == (4, 12, 500.0, 0.1)
    assert cost is not None
    assert (cost.reads, cost.writes, cost.usd) == (7, 3, 0.5)
    assert task.runner.busy
    (task.folder / "go on").touch()
    end = await task.end()
    assert isinstance(end, TaskDone)
    assert (end.result.equal, end.documents) == (True, 12)
    assert not task.runner.busy
    assert task.told()[0] == {
        "kind": "copy",
        "migration": "phase6",
        "plan": {"a": 1},
        "run_dir": str(task.folder),
        "rate": 500,
        "collections": ["scans"],
        "from": "source",
        "delete": True,
        "sample": None,
        "values": False,
        "served": True,
        "report": None,
    }


async def test_it_has_the_lowest_priority_and_ends_only_once(task: Task) -> None:
    task.begin(["say", DONE])
    assert (await task.alive())["niceness"] == 19
    await task.end()
    assert len(task.ends) == 1


async def test_it_hears_what_has_arrived_whenever_that_changes_and_also_when_it_does_not(task: Task) -> None:
    task.arrived = 5.0
    task.begin(["until_arrived", 5], ["until_arrived", 5], ["until_arrived", 6], ["say", DONE])
    said = {"arrival": {"before": 5.0, "looked": 2.0, "at": 3.0}}
    await until(lambda: task.folder.joinpath("told.jsonl").exists() and task.told().count(said) >= 2)
    task.arrived = 6.0
    assert isinstance(await task.end(), TaskDone)


async def test_there_is_one_at_a_time(task: Task) -> None:
    task.begin(["until_file", "go on"], ["say", DONE])
    with pytest.raises(TaskBusyError):
        task.runner.begin(task.orders(), task.ends.append)
    (task.folder / "go on").touch()
    await task.end()
    task.ends.clear()
    task.begin(["say", DONE])
    assert isinstance(await task.end(), TaskDone)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([["exit", 3]], "exit code 3"),
        ([["exit", 0]], "exit code 0"),
        ([["die"]], "signal 9"),
        ([["no_such_step"]], "exit code 1"),
    ],
)
async def test_one_that_ends_without_its_last_line_has_crashed(task: Task, steps: list[Any], said: str) -> None:
    task.begin(*steps)
    failure = await task.failure()
    assert failure.kind == "crashed"
    assert said in failure.message


async def test_one_that_cannot_be_started_has_crashed(tmp_path: Path) -> None:
    ends: list[TaskEnd] = []
    runner = TaskRunner("phase6", lambda: NOTHING_KNOWN, [str(tmp_path / "no such program")])
    runner.begin(task_orders(AskedTask(TaskKind.COPY), "phase6", b"{}", str(tmp_path), 1), ends.append)
    await until(lambda: ends)
    (end,) = ends
    assert isinstance(end, TaskFailed)
    assert end.kind == "crashed"
    assert "could not be started" in end.message
    assert not runner.busy


async def test_its_own_word_of_why_it_failed_is_kept(task: Task) -> None:
    task.begin(
        ["say", {"event": "failed", "message": "the target does not answer", "kind": "unreachable"}], ["exit", 1]
    )
    assert await task.failure() == TaskFailed("the target does not answer", "unreachable")


async def test_what_it_writes_besides_is_left_out_and_logged_once(task: Task, logged: list[Any]) -> None:
    task.begin(
        ["write", "Traceback, or whatever\n"],
        ["write", '{"event": "tea"}\n'],
        ["write", "\u2603[[[[\n"],
        ["write", "[", 100_000],
        ["write", "\n"],
        ["write", "x" * 1000, 3 * LINE_MAX // 1000],
        ["write", "\n"],
        ["say", DONE],
    )
    assert isinstance(await task.end(), TaskDone)
    (line,) = [line for line in logged if line["event"] == "task_output_not_understood"]
    assert line["text"] == "Traceback, or whatever"


async def test_told_to_stop_it_ends_in_order(task: Task) -> None:
    task.begin(["until_stopped"], ["say", {"event": "failed", "message": "stopped", "kind": "stopped"}])
    await task.alive()
    task.runner.stop()
    assert await task.failure() == TaskFailed("stopped", "stopped")


async def test_one_that_does_not_stop_is_killed(task: Task) -> None:
    task.begin(["hang"])
    pid = (await task.alive())["pid"]
    await until((task.folder / "hangs").exists)
    task.runner.stop()
    failure = await task.failure()
    assert failure.kind == "stopped"
    assert "killed" in failure.message
    assert not psutil.pid_exists(pid)


async def test_one_that_stays_after_its_last_line_is_killed_and_has_done_its_work(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.data.runner.EXIT_WITHIN_S", 0.1)
    task.begin(["say", DONE], ["hang"])
    pid = (await task.alive())["pid"]
    assert isinstance(await task.end(), TaskDone)
    assert not psutil.pid_exists(pid)


async def test_when_control_ends_it_is_ended_and_nobody_is_told_of_an_end(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.data.runner.CLOSE_WITHIN_S", 0.2)
    task.begin(["hang"])
    pid = (await task.alive())["pid"]
    await until((task.folder / "hangs").exists)
    await task.runner.close()
    assert not psutil.pid_exists(pid)
    assert task.ends == []
    assert not task.runner.busy


async def test_it_logs_to_the_log_that_it_is_given_under_its_own_name(task: Task) -> None:
    task.begin(["log", "some_event"], ["say", DONE])
    await task.end()
    (line,) = [json.loads(line) for line in (task.folder / "log").read_text().splitlines()]
    assert (line["event"], line["process"]) == ("some_event", "task")


PARENT = """
import asyncio, sys
from control.data.messages import TaskKind
from control.data.runner import TaskRunner, command
from control.data.state import AskedTask, task_orders

async def main():
    orders = task_orders(AskedTask(TaskKind.COPY), "phase6", b"{}", sys.argv[1], 500)
    TaskRunner("phase6", lambda: NOTHING_KNOWN, command(2, "tests.support.scripted_task")).begin(orders, print)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_it_dies_with_control_however_that_dies(tmp_path: Path) -> None:
    (tmp_path / "script.json").write_text(json.dumps([["until_file", "never"]]))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], env=environment)
    try:
        await until((tmp_path / "alive.json").exists)
        pid = json.loads((tmp_path / "alive.json").read_text())["pid"]
        assert psutil.pid_exists(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    finally:
        parent.kill()
        parent.wait()


async def test_one_whose_parent_has_gone_before_it_could_ask_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "script.json").write_text(json.dumps([["say", DONE]]))
    gone = [sys.executable, "-m", "control.data.launch", "1", "2", SCRIPTED]
    done = subprocess.run(gone, input=b"{}", capture_output=True, cwd=ROOT, timeout=WITHIN_S)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"has ended" in done.stderr
