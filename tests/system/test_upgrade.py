"""A run directory that version 0.1 left in the midst of a migration is taken over whole; no emulator.

``tests/support/run_dir_0_1`` was made by version 0.1.0: two migrations of which ``phase6`` is running at 50 %, a scan
that a client made, and an operator's session. Of its board only the head is kept. Boot and moments in it are made
this machine's, as they would be where the new version is started in place of the old one.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from control.api.client import ControlClient
from proxy.board.board import boot_id

REPOSITORY = Path(__file__).parents[2]
LEFT = REPOSITORY / "tests/support/run_dir_0_1"
TOKEN = "a-token-of-the-tests"
CELL = 8
BOOT, HEARTBEAT, LEASES = 2, 4, (16 + 1, 24 + 1)  # cells of version 0.1's board
ENDED_S = 100.0  # ago, many leases
KILLED = "{}"  # in ready.json


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The directory, as version 0.1 left it a while ago on this boot."""
    folder = tmp_path / "site"
    shutil.copytree(LEFT, folder)
    board = bytearray((folder / "run" / "board").read_bytes())
    heartbeat = time.monotonic_ns() - int(ENDED_S * 1e9)
    boot = boot_id()
    for cell, value in ((BOOT, boot), (HEARTBEAT, heartbeat), *((lease, heartbeat + 10**10) for lease in LEASES)):
        board[cell * CELL : (cell + 1) * CELL] = value.to_bytes(CELL, sys.byteorder)
    (folder / "run" / "board").write_bytes(board)
    sessions = json.loads((folder / "run" / "sessions.json").read_text())
    sessions["about"] = f"{boot:x} {sessions['about'].split()[1]}"
    for session in sessions["sessions"].values():
        session["expires"] = time.monotonic() + 3600
    (folder / "run" / "sessions.json").write_text(json.dumps(sessions))
    return folder


@pytest.fixture
def started(
    left: Path, free_port: Callable[[], int], until: Callable[..., None]
) -> Iterator[Callable[..., ControlClient]]:
    """Serve from the directory, with changes to the configuration; whoever operates it."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*changes: tuple[str, str]) -> ControlClient:
        config = left / "phasegate.toml"
        text = config.read_text()
        for old, new in (("28411", str(free_port())), ("28412", str(free_port())), *changes):
            assert old in text
            text = text.replace(old, new)
        config.write_text(text)
        with (left / "log").open("ab") as log:
            command = [sys.executable, "-m", "control.cli", "serve", "--config", str(config)]
            processes.append(subprocess.Popen(command, cwd=REPOSITORY, stderr=log, stdout=log))
        ready = left / "run" / "ready.json"

        def serves() -> bool:
            assert processes[-1].poll() is None, (left / "log").read_text()
            return ready.exists() and ready.read_text() != KILLED

        until(serves, 90, "its start")
        name = "renamed" if "[migrations.renamed]" in text else "phase6"
        client = ControlClient(f"http://{json.loads(ready.read_text())['control']}", TOKEN, name)
        until(client.ready, 90, "the control plane")
        until(lambda: client.status().workers, 90, "a worker")
        return client

    yield start
    for process in processes:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


def told(client: ControlClient) -> tuple[str, float, str | None]:
    status = client.status()
    return status.state, status.weight, None if status.phase is None else status.phase.name


def get(address: str, path: str, **headers: str) -> tuple[int, Any]:
    with closing(HTTPConnection(address, timeout=30)) as connection:
        connection.request("GET", path, headers={"Connection": "close", **headers})
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())


def test_it_goes_on_at_its_weight_with_its_trail_its_documents_and_its_sessions(
    started: Callable[..., ControlClient], left: Path, until: Callable[..., None]
) -> None:
    client = started()
    assert told(client) == ("running", 50.0, "half")
    until(lambda: client.status().checkpoint.unsaved_entries == 0, 30, "all is written")
    trail = client.audit(100).entries
    assert [entry.kind for entry in reversed(trail)][:1] == ["recovered"]
    assert {"start", "advance"} <= {entry.kind for entry in trail}
    assert client.verify().whole
    proxy = json.loads((left / "run" / "ready.json").read_text())["proxy"][0]
    for user in range(8):  # on either side
        status, scans = get(proxy, "/api/scans", **{"X-User-Id": str(user)})
        assert (status, [scan["name"] for scan in scans["scans"]]) == (200, ["made under 0.1", "first"])
    (key,) = json.loads((left / "run" / "sessions.json").read_text())["sessions"]
    assert key, "the session has not been dropped"
    assert (left / "run" / "version").read_text() == "2\n"


@pytest.mark.parametrize(
    "changes",
    [
        (("workers = 2", "workers = 3"),),
        (('[migrations.idle]\nsource = "old"\ntarget = "new"\nroutes = ["/idle/*"]\n', ""),),
        (
            ("[migrations.phase6]\n", '[migrations.renamed]\nwas = "phase6"\n'),
            ("[migrations.phase6.", "[migrations.renamed."),
        ),
    ],
    ids=["more workers", "one migration less", "renamed"],
)
def test_it_keeps_its_weight_with_another_configuration_too(
    started: Callable[..., ControlClient], changes: tuple[tuple[str, str], ...]
) -> None:
    client = started(*changes)
    assert told(client) == ("running", 50.0, "half")


def test_where_it_was_killed_its_lease_decides(started: Callable[..., ControlClient], left: Path) -> None:
    (left / "run" / "ready.json").write_text(KILLED)  # which an orderly end removes
    client = started()
    assert told(client)[:2] == ("rolled_back", 0.0)


def test_after_a_reboot_it_is_held_at_0(started: Callable[..., ControlClient], left: Path) -> None:
    board = left / "run" / "board"
    content = bytearray(board.read_bytes())
    content[BOOT * CELL] ^= 1
    board.write_bytes(content)
    client = started()
    assert told(client)[:2] == ("paused", 0.0)


def test_a_newer_run_directory_is_refused_in_words(left: Path) -> None:
    (left / "run" / "version").write_text("3\n")
    command = [sys.executable, "-m", "control.cli", "serve", "--config", str(left / "phasegate.toml")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=90)
    assert done.returncode == 2
    for said in ("written by a newer phasegate (form 3; this version knows 2 and older)", "restore the backup"):
        assert said in done.stderr
    assert not (left / "run" / "ready.json").exists()
