"""An orderly end: who has connected is answered, who comes later is refused. Real processes, no emulator."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from control.api.client import ControlClient
from control.demo.children import Children
from tests.support.patience import WITHIN_S
from tests.support.servers import running
from tests.support.two_mocks import TWO_MOCKS

CONFIG = (
    """
[app]
origin = "{origin}"
timeout = "10m"
connect_timeout = "60s"
[proxy]
listen = ["127.0.0.1:0"]
workers = 2
run_dir = "run"
drain_timeout = "10m"
"""
    + TWO_MOCKS
    + """\
routes = ["/api/dashboard/*"]
[control]
listen = "127.0.0.1:0"
"""
)
BACKLOG = 20  # connections that no worker has accepted when the end begins


class App(ThreadingHTTPServer):
    """Answers at once, but for ``/held``: that waits until it is let go."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.held, self.let_go = threading.Event(), threading.Event()


class Asked(BaseHTTPRequestHandler):
    server: App

    def do_GET(self) -> None:
        if self.path == "/held":
            self.server.held.set()
            self.server.let_go.wait(WITHIN_S)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def app() -> Iterator[App]:
    server = App()
    with running(server):
        yield server
        server.let_go.set()


@pytest.fixture
def served(app: App, tmp_path: Path, children: Children, until: Callable[..., None]) -> dict[str, Any]:
    """phasegate in front of the app, both workers and control ready: what its ready.json says."""
    config = tmp_path / "phasegate.toml"
    config.write_text(CONFIG.format(origin=f"http://127.0.0.1:{app.server_port}"))
    process = children.python("phasegate", "control.cli", "serve", "--config", str(config))
    ready = tmp_path / "run" / "ready.json"
    until(ready.exists, 60, "phasegate's start")
    found = dict(json.loads(ready.read_text()))
    client = ControlClient(f"http://{found['control']}", None)
    until(client.ready, 60, "the control plane")
    until(lambda: len(client.status().workers) == 2, 60, "both workers")
    return found | {"process": process, "client": client}


def ask(served: dict[str, Any], path: str) -> socket.socket:
    host, port = served["proxy"][0].split(":")
    sock = socket.create_connection((host, int(port)), WITHIN_S)
    sock.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
    return sock


def status_on(sock: socket.socket) -> int:
    with HTTPResponse(sock) as response:
        response.begin()
        response.read()
        return response.status


def is_refused(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), WITHIN_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_who_connected_before_an_end_is_answered_and_who_comes_during_it_is_refused(
    served: dict[str, Any], app: App, children: Children, until: Callable[..., None]
) -> None:
    with ExitStack() as stack:
        held = stack.enter_context(ask(served, "/held"))
        until(app.held.is_set, 60, "the slow request at the app")
        workers = [psutil.Process(worker.pid) for worker in served["client"].status().workers]
        for worker in workers:
            worker.suspend()
            stack.callback(_go_on, worker)
        waiting = [stack.enter_context(ask(served, "/")) for _ in range(BACKLOG)]
        os.kill(served["pid"], signal.SIGTERM)
        until(lambda: "stopping" in children.log("phasegate", 50), 60, "the beginning of the end")
        for worker in workers:
            worker.resume()

        assert [status_on(sock) for sock in waiting] == [200] * BACKLOG
        until(lambda: is_refused(served["proxy"][0]), 60, "a refusal")
        assert all(is_refused(served["proxy"][0]) for _ in range(50)), "and so is everybody after it"
        assert served["process"].poll() is None, "while the slow request is still under way"
        assert served["client"].ready(), "and control answers"

        app.let_go.set()
        assert status_on(held) == 200
    assert served["process"].wait(60) == 0
    assert is_refused(served["control"])


def _go_on(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()
