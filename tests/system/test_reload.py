"""A new configuration that changes what is counted, taken while phasegate serves: real processes, no emulator."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from control.api.client import ControlClient
from tests.support.patience import WITHIN_S
from tests.support.two_mocks import TWO_MOCKS

REPOSITORY = Path(__file__).parents[2]
CONFIG = (
    """
[app]
origin = "http://127.0.0.1:1"
[proxy]
listen = ["127.0.0.1:0"]
workers = 2
run_dir = "run"
body_timeout = "10m"
"""
    + TWO_MOCKS
    + """\
routes = [{routes}]
[control]
listen = "127.0.0.1:0"
"""
)
# As after a minute of serving: a child that shows no life for as long as that is ended.
SERVE = """
import sys
from control.serve import serve
from proxy.process import logs
from proxy.process.supervisor import Supervisor
reload = Supervisor._reload
def a_minute_later(supervisor):
    for child in supervisor._children():
        child.started_ns -= 60 * 10**9
    reload(supervisor)
Supervisor._reload = a_minute_later
logs.configure("supervisor")
sys.exit(serve(sys.argv[1]))
"""


@pytest.fixture
def served(tmp_path: Path, until: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """What ``ready.json`` says, once both workers serve."""
    config = tmp_path / "phasegate.toml"
    config.write_text(CONFIG.format(routes='"/api/dashboard/*"'))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVE, str(config)], cwd=REPOSITORY, stderr=log)
    try:
        ready = tmp_path / "run" / "ready.json"
        until(ready.exists, 60, "its start")
        found = json.loads(ready.read_text())
        until(lambda: status(found, "/api/dashboard/metrics")[0] == 200, 60, "an answer")
        until(ControlClient(f"http://{found['control']}", "").ready, 60, "the control plane")
        yield found | {"config": config, "log": tmp_path / "log"}
    finally:
        process.terminate()
        process.wait(60)


def status(found: dict[str, Any], path: str) -> tuple[int, str | None]:
    connection = HTTPConnection(found["proxy"][0], timeout=WITHIN_S)
    with closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})
        with connection.getresponse() as response:
            response.read()
            return response.status, response.getheader("x-data-source")


def test_a_new_route_costs_nothing_that_is_under_way(served: dict[str, Any], until: Callable[..., None]) -> None:
    host, port = served["proxy"][0].split(":")
    with socket.create_connection((host, int(port)), WITHIN_S) as sock:
        sock.sendall(b"PUT /api/dashboard/metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 19\r\n\r\n{")
        assert status(served, "/api/scans") == (502, None), "no data request yet, and there is no app"
        served["config"].write_text(CONFIG.format(routes='"/api/dashboard/*", "/api/scans"'))
        os.kill(served["pid"], signal.SIGHUP)
        until(lambda: status(served, "/api/scans") == (200, "mock"), 60, "the new route")
        sock.sendall(b'"metrics":{"a":1}}')
        assert sock.recv(100).startswith(b"HTTP/1.1 200"), "a write that had begun is taken to its end"
    log = served["log"].read_text()
    assert "reloading" in log
    assert "child_hung" not in log
    assert '"code": -9' not in log.replace('"code":-9', '"code": -9')
