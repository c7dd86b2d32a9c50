"""A target without an index, with real processes: visitors are answered, and everybody else is told with the link."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backends.kinds.firestore.settings import EMULATOR
from control.demo.children import Children
from tests.support.refusing_server import INDEX_LINK


def by_status(running: Any) -> tuple[int, str | None, str | None]:
    """A list that needs the index: its status, who answered it, and why not the target."""
    with closing(http.client.HTTPConnection(running.listen, timeout=30)) as connection:
        connection.request("GET", "/api/scans?status=queued", headers={"x-user-id": "u"})
        response = connection.getresponse()
        body = response.read()
        assert b"secret-1" not in body
        return response.status, response.getheader("x-data-source"), response.getheader("x-data-fallback")


def test_a_missing_index_is_in_the_answer_the_log_the_audit_trail_the_metrics_and_check(
    emulated: str,
    emulator_address: str,
    children: Children,
    serving: Callable[..., Any],
    until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    proxy = children.python("proxy", "tests.support.without_an_index", emulator_address, read=True)
    assert proxy.stdout is not None
    monkeypatch.setenv(EMULATOR, proxy.stdout.readline().decode().strip())
    running = serving(emulated, [("all", 100, "10m")])

    done = running.phasegate("check", "--json", "--config", str(running.config))
    checks = json.loads(done.stdout)["checks"]
    (missing,) = [check for check in checks if check["name"] == "backend firestore, query"]
    assert "scans where status == order by created_at desc" in missing["found"]
    assert INDEX_LINK in missing["mend"]
    assert any(check["found"].startswith("12 of 12 queries asked, 11 answered") for check in checks)

    assert running.phasegate("start", "--detach", "--force", "--reason", "a test").returncode == 0
    until(lambda: by_status(running) == (200, "mock", "setup"), 60, "a list from the source")

    def written() -> list[Any]:
        by_status(running)
        entries = json.loads(running.phasegate("audit", "--json", "--limit", "50").stdout)
        found = entries["entries"]
        return [entry for entry in found if entry["kind"] == "target_not_right"]

    until(written, 60, "the entry of the audit trail")
    (entry,) = written()
    assert entry["detail"]["trouble"] == "missing_index"
    assert any(INDEX_LINK in mend for mend in entry["detail"]["mend"])
    log = (tmp_path / "logs" / "phasegate.log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if "backend_not_right" in line]
    assert any(line["process"].startswith("worker") and INDEX_LINK in line["mend"] for line in lines), log
    request = urllib.request.Request(f"http://{running.control}/metrics")
    request.add_header("authorization", f"Bearer {running.token}")
    with urllib.request.urlopen(request) as answer:
        metrics = answer.read().decode()
    assert 'kind="setup"' in metrics
    assert 'phasegate_source_foreign_documents{migration="' in metrics
