"""``phasegate copy`` and ``compare``: in a run directory of their own, and by a control plane that serves."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.kinds.firestore.settings import EMULATOR
from control.plan.settings import load
from proxy.process import rundir
from proxy.process.rundir import ReadyNote
from tests.shell.conftest import ControlPlane
from tests.support.datacommand import DataFolder, Said
from tests.support.patience import WITHIN_S

Make = Callable[..., Awaitable[ControlPlane]]
SOURCE = {"scans": {f"s{n}": {"status": "done", "revision": 2, "files": n} for n in range(5)}}
# Of the source's five scans it has one alike and one that lacks a count, and one of its own.
TARGET = {
    "scans": {
        "s0": {"status": "done", "revision": 2, "files": 0},
        "s1": {"status": "done", "revision": 2, "files": 0},
        "own": {"status": "done", "revision": 1, "files": 9},
    }
}
HTTP = {"kind": "http", "origin": "http://127.0.0.1:1"}
WEB = {"routes": ["/web/*"], "phases": [{"name": "half", "weight": 50, "min_soak": "1h"}]}
JOURNAL = "phase6.mock.journal.0"  # which a task's process opens
FIELDS = ("source", "target", "equal", "missing_on_target", "missing_on_source", "different", "pending")


@pytest.fixture
async def data(tmp_path: Path) -> AsyncIterator[DataFolder]:
    made = DataFolder(tmp_path, SOURCE, TARGET)
    yield made
    await made.close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Firestore is at an address that nobody has."""
    monkeypatch.setenv(EMULATOR, "127.0.0.1:1")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Firestore takes connections and says nothing: a task that asks it is under way for long."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv(EMULATOR, f"127.0.0.1:{server.getsockname()[1]}")
        yield


@contextmanager
def served(data: DataFolder, control: str) -> Iterator[None]:
    """This process has the run directory, and says where its control plane is, as a supervisor does."""
    with rundir.take(data.run_dir):
        rundir.note_ready(data.run_dir, ReadyNote(os.getpid(), ("127.0.0.1:1",), control))
        yield


@pytest.fixture(params=["alone", "served"])
async def served_or_not(
    request: pytest.FixtureRequest, data: DataFolder, control_plane: Make
) -> AsyncIterator[Callable[[], Awaitable[DataFolder]]]:
    """The folder, in which a control plane serves or does not. Called once the configuration is as it shall be."""
    locks = []

    async def begin() -> DataFolder:
        if request.param == "served":
            settings = load(data.config)
            change = {
                "proxy": {"run_dir": str(data.run_dir)},
                "backends": {"old": {"kind": "mock"}, "new": {"kind": "mock"}, "site": HTTP, "other-site": HTTP},
                "migrations": {
                    "phase6": {"source": "old", "target": "new"},
                    "web": {**WEB, "source": "site", "target": "other-site"},
                },
            }
            plane = await control_plane(change, data=data.setup(settings))
            lock = served(data, plane.url.removeprefix("http://"))
            lock.__enter__()
            locks.append(lock)
        return data

    yield begin
    for lock in locks:
        lock.__exit__(None, None, None)


Begin = Callable[[], Awaitable[DataFolder]]


def scans(said: Said) -> tuple[int, ...]:
    """The row of ``scans`` in a command's document."""
    assert said.document.keys() >= {"equal", "collections", "repaired"}
    for row in said.document["collections"]:
        assert row.keys() == {"name", *FIELDS}
        assert all(type(row[field]) is int for field in FIELDS)
    (row,) = [row for row in said.document["collections"] if row["name"] == "scans"]
    return tuple(row[field] for field in FIELDS)


def lines(path: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["path"] for entry in found] == sorted(entry["path"] for entry in found)
    return {entry.pop("path"): entry for entry in found}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.02)


async def test_compare_lists_what_differs_and_repair_mends_it(served_or_not: Begin, tmp_path: Path) -> None:
    data = await served_or_not()
    report = tmp_path / "report.jsonl"
    found = await data.phasegate("compare", "--json", "--report", str(report))
    assert (found.code, found.document["equal"]) == (3, False)
    assert scans(found) == (5, 3, 1, 3, 1, 1, 0)
    missing: dict[str, Any] = {"kind": "missing_on_target", "fields": []}
    assert lines(report) == {
        "scans/own": {"kind": "missing_on_source", "fields": []},
        "scans/s1": {"kind": "different", "fields": ["files"]},
        **{f"scans/s{n}": missing for n in (2, 3, 4)},
    }

    mended = await data.phasegate("compare", "--repair", "--from", "source", "--delete", "--json")
    assert (mended.code, mended.document["repaired"], mended.document["equal"]) == (0, 5, True)
    equal = await data.phasegate("compare", "--collection", "scans", "--report", str(report))
    assert (equal.code, equal.out.splitlines()[-1]) == (0, "phase6: both sides are equal, in 5 documents")
    assert report.read_bytes() == b""
    assert [path.name for path in tmp_path.glob(".report*")] == []


async def test_copy_brings_what_the_target_lacks_and_deletes_nothing(data: DataFolder, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    cost = await data.phasegate("copy", "--dry-run", "--json")
    assert (cost.code, cost.document) == (0, {"reads": 0, "writes": 0, "usd": 0.0})
    copied = await data.phasegate("copy", "--json")
    assert (copied.code, copied.document["copied"]) == (0, 4)
    found = await data.phasegate("compare")
    assert (found.code, found.out.splitlines()[-1][:28]) == (3, "phase6: 1 documents differ; ")

    values = await data.phasegate("compare", "--json", "--values", "--report", str(report))
    assert scans(values) == (5, 6, 5, 0, 1, 0, 0)
    own = {"status": "done", "revision": 1, "files": 9}
    assert lines(report) == {"scans/own": {"kind": "missing_on_source", "fields": [], "source": None, "target": own}}
    kept = await data.phasegate("compare", "--repair", "--from", "source", "--json")
    assert (kept.code, kept.document["repaired"]) == (3, 0), "nothing is deleted that nobody said to delete"


async def test_a_repair_without_a_side_takes_the_newer(data: DataFolder) -> None:
    mended = await data.phasegate("compare", "--repair")
    assert mended.code == 0
    assert mended.out.splitlines()[-1] == "phase6: 5 documents were repaired; both sides are equal, in 6 documents"


async def test_a_sample_says_how_much_it_looked_at(data: DataFolder) -> None:
    assert (await data.phasegate("copy")).code == 0
    found = await data.phasegate("compare", "--sample", "3", "--json")
    sample = found.document["sample"]
    assert 0 < sample["documents"] <= 6
    assert (sample["confidence"], 0 < sample["share"] <= 1) == (0.95, True)


WRONG = {
    "no such collection": (("compare", "--collection", "tea"), "no adapter has the collection tea; expected some of"),
    "no such migration": (("copy", "--migration", "tea"), r"there is no (such )?migration"),
    "no stores": (("copy", "--migration", "web"), "between (two )?document stores"),
    "a folder that is not there": (
        ("compare", "--report", "no/such/list"),
        "no/such/list cannot be written: No such",
    ),
    "a folder": (
        ("compare", "--report", "."),
        ". cannot be written: it is a folder; name another file with --report",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_cannot_be_done_is_said_and_ends_with_2(served_or_not: Begin, wrong: str) -> None:
    args, told = WRONG[wrong]
    said = await (await served_or_not()).phasegate(*args)
    assert (said.code, said.out) == (2, "")
    assert re.search(told, said.err)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("compare", "--from", "source"), "--from and --delete go with --repair"),
        (("compare", "--delete"), "--from and --delete go with --repair"),
        (("compare", "--repair", "--delete"), "--delete needs --from"),
        (("compare", "--repair", "--from", "left"), "'left' is not one of"),
        (("compare", "--sample", "0"), "0 is not in the range"),
        (("compare", "--sample", "1000001"), "1000000"),
        (("compare", "--sample", "5", "--repair"), "--sample goes with a compare of some documents"),
        (("copy", "--collection", ""), "collections"),
        (("copy", "--repair"), "No such option"),
    ],
)
async def test_options_that_do_not_fit_are_told(data: DataFolder, args: tuple[str, ...], told: str) -> None:
    said = await data.phasegate(*args)
    assert (said.code, said.out) == (2, "")
    assert told in said.err
    assert not data.run_dir.exists()


async def test_a_list_stays_as_it_was_where_the_compare_does_not_end(
    data: DataFolder, nobody: None, tmp_path: Path
) -> None:
    data.configure(to_firestore=True)
    report = tmp_path / "report.jsonl"
    report.write_text("the last one\n")
    said = await data.phasegate("compare", "--report", str(report))
    assert said.code == 5
    assert "compare was not done: " in said.err
    assert report.read_text() == "the last one\n"
    assert sorted(path.name for path in tmp_path.glob("*report*")) == ["report.jsonl"]


async def test_a_list_may_go_to_standard_output(data: DataFolder) -> None:
    said = await data.phasegate("compare", "--json", "--report", "/dev/stdout")
    paths = [json.loads(line).get("path") for line in said.out.splitlines()]
    assert sorted(filter(None, paths)) == ["scans/own", "scans/s1", "scans/s2", "scans/s3", "scans/s4"]


async def test_a_side_that_does_not_answer_ends_with_5(served_or_not: Begin, data: DataFolder, nobody: None) -> None:
    data.configure(to_firestore=True)
    said = await (await served_or_not()).phasegate("copy")
    assert (said.code, said.out) == (5, "")
    assert "copy was not done: " in said.err


async def test_an_address_that_nobody_answers_at_ends_with_5_and_touches_nothing(data: DataFolder) -> None:
    said = await data.phasegate("compare", PHASEGATE_URL="http://127.0.0.1:1")
    assert said.code == 5
    assert "no control plane answers at http://127.0.0.1:1" in said.err
    assert not data.run_dir.exists()


async def test_a_phasegate_whose_control_does_not_answer_is_not_worked_beside(data: DataFolder) -> None:
    with served(data, "127.0.0.1:1"):
        said = await data.phasegate("copy")
    assert said.code == 5
    assert "no control plane answers at http://127.0.0.1:1" in said.err


async def test_a_second_task_is_busy(served_or_not: Begin, data: DataFolder, silent: None) -> None:
    data.configure(to_firestore=True)
    await served_or_not()
    first = await data.start("compare")
    await until((data.run_dir / JOURNAL).exists)
    second = await data.phasegate("copy")
    assert second.code == 3
    assert ("compare is under way, begun by local" in second.err) or (
        f"another phasegate (process {first.pid}) uses the run directory" in second.err
    )
    assert first.returncode is None


async def test_ctrl_c_ends_the_task_too(served_or_not: Begin, data: DataFolder, silent: None) -> None:
    data.configure(to_firestore=True)
    await served_or_not()
    process = await data.start("copy")
    await until((data.run_dir / JOURNAL).exists)
    process.send_signal(signal.SIGINT)
    said = await data.ended(process)
    assert (said.code, said.out) == (130, "")
    assert "interrupted" in said.err
    data.configure()
    async with asyncio.timeout(WITHIN_S):
        while (await data.phasegate("copy", "--collection", "scans")).code == 3:  # until the task has ended
            pass
