"""The calls about a migration's data: what they take and answer, and a real process behind them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.copy.calm import NOTHING_KNOWN
from control.data import differences
from control.data.differences import StaleCursorError
from control.data.documents import Difference
from control.data.runner import TaskRunner, command
from control.data.state import AskedTask, task_orders
from control.lead.datakeeper import DataSetup
from tests.shell.conftest import ControlPlane
from tests.shell.test_api import OPERATOR, TOKENS, VIEWER, code
from tests.support.patience import WITHIN_S
from tests.support.played_task import PlayedData

Make = Callable[..., Awaitable[ControlPlane]]
ROOT = Path(__file__).parents[2]
LISTED = [
    {"path": f"scans/{i:03d}", "kind": "different", "fields": ["state"]}
    | ({"source": {"state": "done"}, "target": {"state": "open"}} if i % 2 else {})
    for i in range(250)
]


def listed(folder: Path, entries: list[Any], name: str = "phase6") -> Path:
    """As a task lists differences: a new file, renamed into its place."""
    new = folder / "new"
    new.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    new.rename(path := differences.path_of(folder, name))
    return path


async def test_between_arms_that_are_no_stores_there_is_no_data(control_plane: Make) -> None:
    plane = await control_plane()
    assert await plane.call("GET", "data") == (200, None)
    assert (await plane.status())["data"] is None
    for method, path, body in (("POST", "data", {"action": "copy"}), ("GET", "data/differences", None)):
        status, found = await plane.call(method, path, body)
        assert (status, code(found)) == (409, "not_allowed")
        assert "not between document stores" in found["error"]["message"]


async def test_the_document_is_the_promised_one_and_the_status_has_it(control_plane: Make) -> None:
    data = PlayedData()
    plane = await control_plane(data=data.setup())
    assert await plane.call("GET", "data") == (
        200,
        {
            "complete": False,
            "copied_at": None,
            "behind": {"changes": 0, "oldest_s": 0.0},
            "lost": 0,
            "compare": None,
            "task": None,
            "gated": True,
            "lacks": "the target lacks the source's data: 0 of its documents are known to have been copied",
            "mend": "phasegate copy --migration phase6",
        },
    )
    status, begun = await plane.call("POST", "data", {"action": "copy"})
    assert status == 200
    assert begun["data"]["task"] == {"kind": "copy", "done": 0, "of": None, "rate": None, "left_s": None}
    data.copied()
    data.gauges = data.gauges._replace(pending=3, oldest_s=0.5)
    await plane.call("POST", "data", {"action": "compare"})
    data.compared(2)
    document = (await plane.status())["data"]
    assert (document["complete"], document["behind"]) == (False, {"changes": 3, "oldest_s": 0.5})
    assert document["copied_at"] is not None
    assert (document["gated"], document["lacks"]) == (True, "2 documents differ between source and target")
    assert document["mend"] == "phasegate compare --migration phase6 --repair"
    assert {**document["compare"], "at": ""} == {"at": "", "equal": False, "differences": 2, "documents": 12}


async def test_a_gate_that_holds_is_a_conflict_that_names_the_command(control_plane: Make) -> None:
    plane = await control_plane(data=PlayedData().setup())
    status, found = await plane.call("POST", "", {"action": "start"})
    assert (status, code(found)) == (409, "data_incomplete")
    assert "`phasegate copy --migration phase6`" in found["error"]["message"]
    (check,) = [one for one in (await plane.act("start", dry_run=True))["checks"] if one["name"] == "data"]
    assert (check["ok"], "phasegate copy" in check["found"]) == (False, True)
    await plane.act("start", force=True, reason="a test")


async def test_a_second_task_is_busy_and_stop_tells_the_one_under_way(control_plane: Make) -> None:
    data = PlayedData()
    plane = await control_plane(data=data.setup())
    assert (await plane.call("POST", "data", {"action": "stop"}))[1]["task"] is None
    task = (await plane.call("POST", "data", {"action": "copy"}))[1]["task"]
    status, found = await plane.call("POST", "data", {"action": "repair", "from": "source"})
    assert (status, code(found)) == (409, "busy")
    status, found = await plane.call("POST", "data", {"action": "stop"})
    assert (status, found["task"], data.runner.stopped) == (200, task, True)
    data.failed("stopped")
    status, found = await plane.call("GET", f"data/tasks/{task}")
    assert (status, found["failure"], found["result"]) == (200, "stopped", None)
    status, found = await plane.call("GET", "data/tasks/copy-none")
    assert (status, code(found)) == (404, "no_such_task")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"action": "tea"}, "action"),
        ({}, "action: missing"),
        ([], "expected an object"),
        ({"action": "copy", "from": "source"}, 'from: goes with "repair", not with copy'),
        ({"action": "copy", "delete": True, "from": "source"}, "delete: goes with"),
        ({"action": "repair", "from": "left"}, "from: expected"),
        ({"action": "repair", "delete": True}, "from: with delete it must say which side is right"),
        ({"action": "compare", "sample": 0}, "sample: expected a whole number"),
        ({"action": "copy", "sample": 5}, 'sample: goes with "compare"'),
        ({"action": "compare", "dry_run": True}, 'dry_run: goes with "copy"'),
        ({"action": "stop", "collections": ["scans"]}, "collections: goes with"),
        ({"action": "copy", "collections": [""]}, "collections[0]"),
        ({"action": "copy", "collections": ["scans"] * 101}, "collections"),
        ({"action": "copy", "odd": 1}, "odd: unknown key"),
    ],
)
async def test_every_mistake_in_a_body_is_said(control_plane: Make, body: object, said: str) -> None:
    data = PlayedData()
    plane = await control_plane(data=data.setup())
    status, found = await plane.call("POST", "data", body)
    assert (status, code(found)) == (400, "malformed")
    assert said in found["error"]["message"]
    assert data.runner.begun == []


async def test_a_viewer_looks_at_the_data_and_changes_nothing(control_plane: Make) -> None:
    data = PlayedData()
    plane = await control_plane(TOKENS, data=data.setup())
    for path in ("data", "data/differences"):
        assert (await plane.call("GET", path, headers=VIEWER))[0] == 200
    for action in ("copy", "compare", "repair", "stop"):
        status, found = await plane.call("POST", "data", {"action": action}, VIEWER)
        assert (status, code(found)) == (403, "forbidden")
    assert data.runner.begun == []
    assert (await plane.call("POST", "data", {"action": "copy"}, OPERATOR))[0] == 200


async def test_differences_are_read_by_pages_and_a_replaced_list_says_so(control_plane: Make, tmp_path: Path) -> None:
    plane = await control_plane({"proxy": {"run_dir": str(tmp_path)}}, data=PlayedData().setup())
    assert await plane.call("GET", "data/differences") == (200, {"items": [], "next_cursor": None})
    listed(tmp_path, LISTED)
    found: list[Any] = []
    cursor = ""
    while True:
        status, page = await plane.call("GET", f"data/differences?limit=100{cursor}")
        assert status == 200
        assert len(page["items"]) <= 100
        found += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == LISTED
    listed(tmp_path, LISTED[:1])
    status, refused = await plane.call("GET", f"data/differences?limit=100{cursor}")
    assert (status, code(refused)) == (409, "stale_cursor")
    for query in ("limit=0", "limit=1001", "cursor=x", "cursor=1-1--5", "cursor=1-1-99999999999999999999"):
        status, refused = await plane.call("GET", f"data/differences?{query}")
        assert (status, code(refused)) == (400, "malformed")


def test_a_page_ends_after_so_many_bytes_and_leaves_out_what_is_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    monkeypatch.setattr(differences, "PAGE_BYTES", 1000)
    path = listed(tmp_path, LISTED)
    page = differences.page(path, 1000, None)
    assert 5 < len(page.items) < 30
    listed(tmp_path, [*LISTED[:1], {"path": "tea"}, "tea", *LISTED[1:2]])
    page = differences.page(path, 1000, None)
    assert [item.path for item in page.items] == ["scans/000", "scans/001"]
    assert page.next_cursor is None
    assert [line["event"] for line in logged] == ["difference_not_understood"] * 2
    path.unlink()
    with pytest.raises(StaleCursorError):
        differences.page(path, 10, "1-1-1")


def test_a_difference_is_written_as_it_was_listed() -> None:
    for entry in LISTED[:2]:
        read = msgspec.json.decode(json.dumps(entry).encode(), type=Difference)
        assert json.loads(msgspec.json.encode(read)) == entry


async def test_metrics_have_the_data_in_numbers(control_plane: Make) -> None:
    data = PlayedData()
    plane = await control_plane(data=data.setup())
    await plane.call("POST", "data", {"action": "copy"})
    data.copied()
    data.lose(2)
    data.gauges = data.gauges._replace(pending=3, oldest_s=0.5)
    await plane.call("POST", "data", {"action": "compare"})
    text = (await plane.call("GET", "/metrics"))[1]
    for line in (
        'phasegate_data_complete{migration="phase6"} 0.0',
        'phasegate_data_pending_changes{migration="phase6"} 3.0',
        'phasegate_data_behind_seconds{migration="phase6"} 0.5',
        'phasegate_data_lost_changes{migration="phase6"} 2.0',
        'phasegate_data_differences{migration="phase6"} 0.0',
        'phasegate_data_compared_timestamp_seconds{migration="phase6"} 0.0',
        'phasegate_data_compare_every_seconds{migration="phase6"} 600.0',
        'phasegate_data_task_documents{kind="compare",migration="phase6",which="done"} 0.0',
        'phasegate_held{migration="phase6",reason_kind="data"} 0.0',
    ):
        assert line in text.splitlines()
    assert 'phasegate_data_copied_timestamp_seconds{migration="phase6"} 1.' in text


async def test_a_task_in_a_process_of_its_own_is_begun_followed_and_in_the_trail(
    control_plane: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = {"equal": False, "collections": [], "repaired": 0}
    steps: list[list[Any]] = [
        ["say", {"event": "progress", "kind": "compare", "done": 5, "of": 10, "rate": 100.0, "left_s": 0.05}],
        ["until_file", "go on"],
        ["say", {"event": "done", "result": result, "differences": 1, "documents": 10}],
    ]
    (tmp_path / "script.json").write_text(json.dumps(steps))

    def orders(asked: AskedTask) -> Any:
        return task_orders(asked, "phase6", b"{}", str(tmp_path), 500)

    def runner() -> TaskRunner:
        return TaskRunner("phase6", lambda: NOTHING_KNOWN, command(2, "tests.support.scripted_task"))

    played = PlayedData()
    setup: DataSetup = played.setup()._replace(orders=orders, runner=runner)
    plane = await control_plane(data=setup)
    task = (await plane.call("POST", "data", {"action": "compare"}))[1]["task"]
    found = await plane.until(lambda status: (status["data"]["task"] or {}).get("done"))
    assert found["data"]["task"] == {"kind": "compare", "done": 5, "of": 10, "rate": 100.0, "left_s": 0.05}
    (tmp_path / "go on").touch()
    found = await plane.until(lambda status: status["data"]["compare"])
    assert found["data"]["compare"]["differences"] == 1
    ended = (await plane.call("GET", f"data/tasks/{task}"))[1]
    assert (ended["result"], ended["differences"], ended["documents"]) == (result, 1, 10)
    async with asyncio.timeout(WITHIN_S):
        while True:
            entries = (await plane.call("GET", "audit"))[1]["entries"]
            if "compared" in [entry["kind"] for entry in entries]:
                break
            await asyncio.sleep(0.02)
    assert [entry["actor"] for entry in entries if entry["kind"] == "compare"] == ["local"]
