"""The demo as a stranger runs it: it completes and proves it, and leaves nothing behind however it is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]


def demo(*args: str, **env: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "control.cli",
        "demo",
        "--listen",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
        *args,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "FIRESTORE_EMULATOR_HOST"} | env
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_the_demo_walks_all_phases_and_proves_it(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    running = demo("--once", "--phase-seconds", "3", "--report", str(path), PHASEGATE_TOKEN="the-operators")
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert "the-operators" in said
    assert "/admin/migration" in said
    assert "Traceback" not in said
    before, _, after = said.partition("phase6: copied ")
    assert "Next       `phasegate copy --migration phase6`, without which no phase begins" in before
    assert "Next       `phasegate start`" in after

    report = json.loads(path.read_text())
    assert report["outcome"] == "completed"
    assert report["rollbacks"] == []
    assert report["data"]["complete"]
    assert report["data"]["copied_at"] < report["started_at"]
    assert [phase["weight"] for phase in report["phases"]] == [5, 25, 50, 75, 100]
    for phase in report["phases"]:
        weight = phase["weight"] / 100
        requests = sum(arm["requests"] for arm in phase["arms"].values())
        assert requests > 100
        assert abs(phase["target_share"] - weight) <= 3 * sqrt(weight * (1 - weight) / requests)
    assert report["started_at"] < report["ended_at"]
    assert {criterion["name"] for criterion in report["criteria"]} >= {"error rate", "latency"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_the_demo_is_ended_nothing_is_left_running(
    number: signal.Signals, emulator_address: str, until: Callable[..., None]
) -> None:
    running = demo("--phase-seconds", "600", FIRESTORE_EMULATOR_HOST=emulator_address)
    assert running.stdout is not None
    with running:
        for line in running.stdout:
            if "phase 1 of 5" in line:
                break
        family = psutil.Process(running.pid).children(recursive=True)
        assert len(family) >= 5, "the app, the load, the supervisor, control and workers"
        running.send_signal(number)
        running.stdout.read()
        running.wait(60)
    until(lambda: not [child for child in family if child.is_running() and child.status() != "zombie"], 60)
    assert running.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)


def test_without_an_emulator_the_demo_says_how_to_get_one(tmp_path: Path) -> None:
    alone = demo("--once", PATH=str(tmp_path), HOME=str(tmp_path), FIRESTORE_EMULATOR_JAR=str(tmp_path / "none.jar"))
    said, _ = alone.communicate(timeout=120)
    assert alone.returncode == 3
    assert "FIRESTORE_EMULATOR_JAR" in said
    assert "npx" in said
    assert "Traceback" not in said
