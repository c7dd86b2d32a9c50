"""schemathesis asks at random what the two published OpenAPI documents describe, and holds every answer to them.

But for event streams, which it would read for as long as they last: others read those.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., Any]

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


def ask(folder: Path, *args: str, checks: tuple[str, ...] = CHECKS) -> int:
    """Run schemathesis where what it writes may lie; the number of cases, all of which passed."""
    found = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", *args, "--checks", ",".join(checks)),
            *("--exclude-operation-id-regex", "stream|events", "--max-examples", "15", "--seed", "1"),
            *("--generation-database", "none", "--no-color"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    cases = re.search(r"(\d+) generated", found.stdout)
    assert cases is not None, found.stdout[-3000:]
    return int(cases[1])


@pytest.fixture
def running(serving: Start, emulated: str) -> Any:
    """A phasegate with half of its data requests on Firestore."""
    made = serving(emulated, [("half", 50, "10m")])
    assert made.phasegate("start", "--detach").returncode == 0
    return made


def test_every_answer_to_a_data_request_is_as_its_document_says(running: Any, tmp_path: Path) -> None:
    document, proxy = f"http://{running.control}/openapi-data.json", f"http://{running.listen}"
    assert ask(tmp_path, document, "--url", proxy, checks=(*CHECKS, "negative_data_rejection")) > 100
    arms = running.client.status().arms
    assert arms.source.requests > 20
    assert arms.target.requests > 20
    assert (arms.source.errors, arms.target.errors) == (0, 0)


def test_every_answer_of_the_control_port_is_as_its_document_says(running: Any, tmp_path: Path) -> None:
    document = f"http://{running.control}/openapi.json"
    assert ask(tmp_path, document, "--header", f"Authorization: Bearer {running.token}") > 100
    assert running.phasegate("verify").returncode == 0


def test_without_credentials_nothing_changes_and_every_refusal_is_as_the_document_says(
    running: Any, tmp_path: Path
) -> None:
    before, trail = running.client.status(), running.client.audit(100)
    assert ask(tmp_path, f"http://{running.control}/openapi.json") > 100
    after = running.client.status()
    assert (after.state, after.weight, after.revision) == (before.state, before.weight, before.revision)
    assert running.client.audit(100) == trail
