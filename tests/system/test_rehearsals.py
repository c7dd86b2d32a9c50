"""A few of the rehearsals that ``make rehearse`` runs, and the soak in its short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

WITHIN_S = 240.0


def run(repository: Path, module: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *args]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=WITHIN_S, check=False)


def test_nobody_fails_and_nothing_is_lost_when_target_control_or_workers_die(
    repository: Path, tmp_path: Path
) -> None:
    names = ["target-killed", "control-stopped", "workers-killed"]
    found = tmp_path / "found.json"
    done = run(repository, "loadtest.rehearse", *names, "--rate", "30", "--json", str(found))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(found.read_text())["rehearsals"]
    assert [row["name"] for row in rows] == names
    assert all(row["figures"]["requests"] > 200 and row["figures"]["writes"] > 20 for row in rows)


def test_a_short_soak_is_flat_and_counted_to_the_request(repository: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = run(repository, "loadtest.rehearse.soak", "--minutes", "0.4", "--rate", "30", "--json", str(found))
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(found.read_text())
    assert figures["counts"]["target"] > 20
    assert figures["rollbacks"] >= 1
