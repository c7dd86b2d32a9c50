"""What a person is told when something is in the way: one clear message, what to do, and an exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.rollout.model import Entry
from control.store.sqlite import Store

REPOSITORY = Path(__file__).parents[2]
PHASES = [("half", 50, "10m")]


def phasegate(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PHASEGATE_")}
    return subprocess.run(
        [sys.executable, "-m", "control.cli", *args],
        env=clean | {"PYTHONPATH": str(REPOSITORY)} | env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_every_mistake_of_a_configuration_is_told_at_once_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "phasegate.toml").write_text('[app]\norigin = 3\n[proxy]\nlisten = ["here"]\nspeed = 1\n')
    for command in ("serve", "check", "seed"):
        done = phasegate(command, cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        for path in ("app.origin", "proxy.listen", "proxy.speed", "backends", "migrations"):
            assert path in done.stderr


def test_fixtures_that_cannot_be_read_are_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "phasegate.toml").write_text(
        '[app]\norigin = "http://127.0.0.1:1"\n[proxy]\nlisten = ["127.0.0.1:0"]\n'
        '[backends.mock]\nkind = "mock"\nfixtures = "nowhere"\n[backends.other]\nkind = "mock"\n'
        '[migrations.phase6]\nsource = "mock"\ntarget = "other"\nroutes = ["/api/scans/*"]\n'
    )
    done = phasegate("serve", cwd=tmp_path)
    assert done.returncode == 2
    assert "backends.mock.fixtures" in done.stderr
    assert "nowhere does not exist; expected a folder of JSON files, one a collection" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_configuration_says_how_to_get_one(tmp_path: Path) -> None:
    done = phasegate("serve", cwd=tmp_path)
    assert done.returncode == 2
    assert "phasegate init" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_in_use_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        phasegate("init", "--yes", "--listen", listen, cwd=tmp_path)
        done = phasegate("serve", cwd=tmp_path)
    assert done.returncode == 2
    assert listen in done.stderr
    assert "another address" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_trail_that_was_changed_is_told_with_the_entry(tmp_path: Path) -> None:
    store = Store(tmp_path / "control.db")
    store.save("phase6", "{}", [(1.0, Entry(kind, "ann", {})) for kind in ("start", "abort")], 2.0)
    store.close()
    with sqlite3.connect(tmp_path / "control.db") as other:
        other.execute("UPDATE audit SET actor = 'bob' WHERE seq = 2")
    other.close()
    changed = phasegate("verify", "--store", "control.db", cwd=tmp_path)
    assert changed.returncode == 3
    assert changed.stdout == "phase6: NOT whole, 2 entries:\n  entry 2 is not what was written\n"
    mistyped = phasegate("verify", "--store", "control.db", "--migration", "phase7", cwd=tmp_path)
    assert mistyped.returncode == 2
    assert "'phase7'" in mistyped.stderr
    assert "phase6" in mistyped.stderr
    (tmp_path / "notes.txt").write_text("nothing of the kind")
    other_file = phasegate("verify", "--store", "notes.txt", cwd=tmp_path)
    assert other_file.returncode == 2
    assert "notes.txt" in other_file.stderr
    assert "control.db" in other_file.stderr


def test_an_unreachable_control_plane_has_its_own_exit_code(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    for command in ("status", "start", "rollback", "watch", "audit", "verify", "report", "advance", "pause", "abort"):
        done = phasegate(command, cwd=tmp_path, PHASEGATE_URL=url)
        assert done.returncode == 5, command
        assert url in done.stderr
        assert "phasegate serve" in done.stderr


def test_the_wrong_port_is_recognised(tmp_path: Path) -> None:
    app = subprocess.Popen(
        [sys.executable, "-m", "control.demo.app"], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
    )
    with app:
        assert app.stdout is not None
        port = json.loads(app.stdout.readline())["port"]
        done = phasegate("status", cwd=tmp_path, PHASEGATE_URL=f"http://127.0.0.1:{port}")
        app.terminate()
    assert done.returncode == 5
    assert "not as a control plane does" in done.stderr


def test_check_finds_an_unreachable_app_and_firestore_and_says_how_to_mend_them(
    tmp_path: Path,
) -> None:
    phasegate("init", "--yes", "--app", f"http://127.0.0.1:{closed_port()}", cwd=tmp_path)
    done = phasegate("check", "--json", cwd=tmp_path, FIRESTORE_EMULATOR_HOST=f"127.0.0.1:{closed_port()}")
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is False
    failed = {check["name"]: check for check in found["checks"] if check["ok"] is False}
    assert {"app", "backend firestore"} <= failed.keys()
    assert "connection refused" in failed["app"]["found"]
    assert all(check["mend"] for check in failed.values())
    table = phasegate("check", cwd=tmp_path, FIRESTORE_EMULATOR_HOST=f"127.0.0.1:{closed_port()}")
    assert "FAILED" in table.stdout


def test_an_unreachable_app_is_a_bad_gateway_and_data_is_answered_all_the_same(
    serving: Callable[..., Any], emulated: str
) -> None:
    running = serving(emulated, PHASES, origin=f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{running.listen}/", timeout=30)
    with refused.value as answer:
        assert answer.code == 502
        assert json.load(answer)["error"]["message"]
    with urllib.request.urlopen(f"http://{running.listen}/api/dashboard/metrics", timeout=30) as answer:
        assert answer.headers["x-data-source"] == "mock"


def test_a_start_on_an_unreachable_firestore_is_refused_by_its_gate_and_changes_nothing(
    serving: Callable[..., Any], own_emulator: Any
) -> None:
    running = serving("demo-gate", PHASES)
    own_emulator.stop()
    done = running.phasegate("start", "--detach")
    assert done.returncode == 3
    assert "firestore" in done.stderr
    assert running.client.status().state == "idle"
    rehearsed = running.phasegate("start", "--dry-run")
    assert rehearsed.returncode == 3
    assert "FAILED" in rehearsed.stdout


def test_a_wrong_token_and_an_action_out_of_turn_are_told_apart(serving: Callable[..., Any], emulated: str) -> None:
    running = serving(emulated, PHASES)
    url = running.environment["PHASEGATE_URL"]
    missing = phasegate("status", cwd=running.folder, PHASEGATE_URL=url)
    wrong = phasegate("status", cwd=running.folder, PHASEGATE_URL=url, PHASEGATE_TOKEN="no")
    early = running.phasegate("advance")
    nameless = running.phasegate("status", "--migration", "other")
    assert (missing.returncode, wrong.returncode, early.returncode, nameless.returncode) == (2, 2, 3, 2)
    assert "PHASEGATE_TOKEN" in missing.stderr
    assert "idle" in early.stderr
    assert "phase6" in nameless.stderr
    second = phasegate("serve", "--config", str(running.config), cwd=running.folder)
    assert second.returncode == 2
    assert "another phasegate" in second.stderr


def test_what_is_shown_can_be_read_by_scripts(serving: Callable[..., Any], emulated: str, tmp_path: Path) -> None:
    running = serving(emulated, PHASES)
    assert running.phasegate("start", "--detach").returncode == 0
    status = json.loads(running.phasegate("status", "--json").stdout)
    assert (status["state"], status["weight"]) == ("running", 50)
    assert "phase6" in running.phasegate("status").stdout
    assert "paused" in running.phasegate("pause", "--reason", "lunch").stdout
    assert json.loads(running.phasegate("resume", "--json").stdout)["state"] == "running"
    assert "aborted" in running.phasegate("abort").stdout
    trail = json.loads(running.phasegate("audit", "--json").stdout)
    newest = trail["entries"][0]["hash"]
    assert any(entry["detail"].get("reason") == "lunch" for entry in trail["entries"])
    assert "lunch" in running.phasegate("audit").stdout
    asked = running.phasegate("verify")
    read = running.phasegate("verify", "--store", str(running.folder / "run" / "control.db"))
    assert (asked.returncode, read.returncode) == (0, 0)
    assert asked.stdout == read.stdout == f"phase6: whole, {len(trail['entries'])} entries, the last is {newest}\n"
    assert json.loads(running.phasegate("report", "--json").stdout)["outcome"] == "aborted"
    nowhere = running.phasegate("report", "--html", str(tmp_path / "nowhere" / "report.html"))
    assert nowhere.returncode == 2
    assert "cannot be written" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr
    log = [json.loads(line) for line in (tmp_path / "logs" / "phasegate.log").read_text().splitlines()]
    assert {"supervisor", "control"} <= {line["process"] for line in log}
    page = tmp_path / "report.html"
    assert running.phasegate("report", "--html", str(page)).returncode == 0
    assert "<svg" in page.read_text()
    assert "aborted" in running.phasegate("report").stdout
    assert "idle" in running.phasegate("reset", "--yes").stdout
    nothing = running.phasegate("rollback").stdout
    assert "Nothing had to be taken back" in nothing
    assert "Rolled back" not in nothing, "that was another time"
    assert running.phasegate("start", "--force").returncode == 2


def test_help_names_every_command_once_and_where_to_begin(tmp_path: Path) -> None:
    from control.cli.base import SECTIONS
    from control.cli.main import main

    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted(main.commands)
    shown = phasegate("--help", cwd=tmp_path).stdout
    assert "phasegate init" in shown
    assert not [line for line in shown.splitlines()[1:] if line.endswith("...")], "a command's line is cut short"
    assert phasegate("--version", cwd=tmp_path).stdout.startswith("phasegate")
    lost = phasegate("status", "--config", "other.toml", cwd=tmp_path)
    assert (lost.returncode, "other.toml" in lost.stderr) == (2, True)
    near = phasegate("rolback", cwd=tmp_path)
    assert near.returncode == 2
    assert "rollback" in near.stderr


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--phase", "half", "--html", "nowhere/r.html"), "nowhere"),
        (("--phase", "half", "--run-time", "soon"), "90s"),
        (
            (
                "--phase",
                "most",
            ),
            "majority",
        ),
    ],
)
def test_a_load_test_that_cannot_be_is_refused_before_it_begins(
    asked: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    done = phasegate("loadtest", *asked, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["status", "check", "start"])
def test_ctrl_c_while_nothing_answers_is_one_line(command: str, tmp_path: Path) -> None:
    phasegate("init", "--yes", cwd=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and says nothing
        silent.settimeout(60)
        env = os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "PHASEGATE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        program = [sys.executable, str(REPOSITORY / "bin" / "phasegate"), command]
        started = subprocess.Popen(program, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        asking, _ = silent.accept()
        with asking, started:
            assert asking.recv(1)
            started.send_signal(signal.SIGINT)
            _, said = started.communicate(timeout=60)
    assert started.returncode == 130, said
    assert "Traceback" not in said
    assert said.count("\n") == 1
    assert "interrupted" in said


def test_a_package_of_another_project_in_place_of_ours_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "__init__.py").write_text('"""Control systems library."""\n')
    command = [sys.executable, str(REPOSITORY / "bin" / "phasegate"), "--version"]
    search = f"{tmp_path}:{REPOSITORY}"
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": search}, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "python-control" in done.stderr
    assert str(tmp_path / "control") in done.stderr
    ours = subprocess.run(
        [*command[:-1], "--help"], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert ours.returncode == 0, ours.stderr


def test_help_imports_click_and_little_else() -> None:
    script = (
        "import sys; from control.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "click" in loaded
    assert not loaded & {
        "rich",
        "aiohttp",
        "grpc",
        "google.cloud.firestore",
        "msgspec",
        "orjson",
        "asyncio",
        "psutil",
    }
