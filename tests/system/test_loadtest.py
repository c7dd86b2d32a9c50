"""Load tests against a running phasegate: the phase's load, its judgement, its reports and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Start = Callable[..., Any]
REPOSITORY = Path(__file__).parents[2]
PHASES = [("initial", 5, "10m"), ("half", 50, "10m"), ("complete", 100, "10m")]


def load(running: Any, *more: str) -> subprocess.CompletedProcess[str]:
    """``phasegate loadtest`` against it, with three times as many requests as a judgement needs."""
    host = ("--host", f"http://{running.listen}")
    return module(running, "control.cli", "loadtest", *host, "--users", "60", "--run-time", "15s", *more)


def module(running: Any, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", name, *more],
        env=running.environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_load_of_a_phase_is_judged_by_phasegates_own_histograms(
    serving: Start, emulated: str, tmp_path: Path
) -> None:
    running = serving(emulated, PHASES)

    early = load(running, "--phase", "half")
    assert early.returncode == 3, early.stdout
    assert "phase6 is idle" in early.stdout

    report = tmp_path / "half.html"
    done = load(running, "--phase", "half", "--enter", "--html", str(report), "--csv", str(tmp_path / "half"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed, by phasegate's own histograms" in done.stdout
    assert "half dashboard.current" in done.stdout + done.stderr
    assert "<html" in report.read_text().lower()
    assert "half dashboard.current" in (tmp_path / "half_stats.csv").read_text()

    status = running.client.status()
    assert status.phase.name == "half"
    assert status.arms.target.requests >= 100

    running.client.act("rollback", to="start", reason="a test")
    assert load(running, "--phase", "half").returncode == 3


def test_a_load_test_without_a_control_plane_says_so(serving: Start, emulated: str) -> None:
    running = serving(emulated, PHASES)
    lost = load(running, "--phase", "half", "--url", "http://127.0.0.1:1")
    assert lost.returncode == 5, lost.stdout
    assert "does not answer" in lost.stdout


def test_the_open_loop_finds_every_answer_right(serving: Start, emulated: str, tmp_path: Path) -> None:
    running = serving(emulated, PHASES)
    running.client.act("start")
    out = tmp_path / "out.json"
    url = f"http://{running.listen}"
    done = module(
        running,
        "loadtest.generator.openloop",
        url,
        "--visitors",
        "guest",
        "--rate",
        "40",
        "--for",
        "5",
        "--json",
        str(out),
    )
    # 3: the machine was too busy for the schedule, which says nothing of the answers.
    assert done.returncode in (0, 3), done.stdout + done.stderr
    (target,) = json.loads(out.read_text())["targets"]
    assert (target["sent"], target["failed"]) == (200, 0), target["examples"]
    assert target["sources"]["mock"] > 0
