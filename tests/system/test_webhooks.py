"""A receiver of webhooks that is away over a reload, a restart and a killed control process: real processes.

By hand with a minute: ``PHASEGATE_AWAY_S=60 python -m pytest tests/system/test_webhooks.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from control.api.client import ControlClient
from control.api.unanswered import ApiError
from control.data.documents import DataBody
from control.lead.commands import Action

REPOSITORY: Final = Path(__file__).parents[2]
AWAY_S: Final = float(os.environ.get("PHASEGATE_AWAY_S", "4"))
CONFIG: Final = """
[app]
origin = "http://127.0.0.1:1"
[proxy]
listen = ["127.0.0.1:0"]
workers = 1
run_dir = "run"
[backends.mock]
kind = "mock"
[backends.other]
kind = "mock"
seed = 2
[migrations.phase6]
source = "mock"
target = "other"
routes = [{routes}]
lease = "38s"
min_samples = 1000000
# The target has documents of its own, which a compare would tell the receiver of.
data = {{ compare_every = "0" }}
phases = [
  {{ name = "first", weight = 5, rollback_within = "5s" }},
  {{ name = "second", weight = 25, rollback_within = "5s" }},
]
[migrations.phase6.thresholds]
cpu = 100
memory_mb = 100000
[[migrations.phase6.webhooks]]
url = "http://127.0.0.1:{port}/hook"
[control]
listen = "127.0.0.1:0"
"""
SERVE: Final = """
import sys
from control.serve import serve
from proxy.process import logs
logs.configure("supervisor")
sys.exit(serve(sys.argv[1]))
"""
Event = tuple[str, float]  # its name, and the weight that it says


class ComingAndGoing:
    """A receiver on a port of its own, which listens there or does not."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.got: list[tuple[str, Event]] = []  # by delivery, in the order in which they came
        self._server: ThreadingHTTPServer | None = None

    def come(self) -> None:
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                weight = message["weight"] if "weight" in message else message["to_weight"]
                got.append((self.headers["X-Phasegate-Delivery"], (message["event"], weight)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def go(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def events(self) -> list[Event]:
        """What came, each delivery once, at the place where it came first."""
        return list(dict(self.got).values())


class Running:
    """phasegate with one migration, and what its receiver is to be told."""

    def __init__(self, folder: Path, port: int, until: Callable[..., None]) -> None:
        self._folder, self._port, self._until = folder, port, until
        self._config = folder / "phasegate.toml"
        self.expected: list[Event] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, routes: str = '"/api/dashboard/*"') -> None:
        self._config.write_text(CONFIG.format(routes=routes, port=self._port))
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(self._config)], cwd=REPOSITORY, stderr=log
            )
        ready = self._folder / "run" / "ready.json"
        self._until(ready.exists, 60, "its start")
        self.client = ControlClient(f"http://{json.loads(ready.read_text())['control']}", "")
        self.ready()

    def ready(self) -> None:
        self._until(self._leads, 60, "the control plane and its worker")

    def _leads(self) -> bool:
        with suppress(ApiError):
            return bool(self.client.ready() and self.client.status().workers)
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def control(self) -> int | None:
        """The control process, if there is one."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):
                if "control.serve" in child.cmdline():
                    return int(child.pid)
        return None

    def renewed(self, act: Callable[[int], None]) -> None:
        """Do what ends the control process, and wait for its successor."""
        before = self.control()
        assert before is not None
        act(before)
        self._until(lambda: self.control() not in (None, before), 60, "another control process")
        self.ready()

    def reload(self) -> None:
        self._config.write_text(CONFIG.format(routes='"/api/dashboard/*", "/api/scans"', port=self._port))
        assert self.process is not None
        supervisor = self.process.pid
        self.renewed(lambda control: os.kill(supervisor, signal.SIGHUP))

    def act(self, action: Action, *events: Event) -> None:
        self.client.act(action, reason="a rehearsal")
        self.expected += events

    def copy(self) -> None:
        """Open the data's gate, which holds every phase until there was a copy."""
        task = self.client.act_on_data(DataBody("copy")).task
        assert task is not None
        self._until(lambda: self.client.data_task(task).ended_at is not None, 60, "the copy")
        assert self.client.data().complete

    def up_and_down(self) -> None:
        """From the first phase to the second, and back."""
        self.act("advance", ("phase_change", 25.0))
        self.act("rollback", ("rollback", 5.0), ("rollback_complete", 5.0))
        self.act("resume", ("phase_change", 5.0))

    def log(self) -> str:
        return (self._folder / "log").read_text()


@pytest.fixture
def running(tmp_path: Path, free_port: Callable[[], int], until: Callable[..., None]) -> Iterator[Running]:
    made = Running(tmp_path, free_port(), until)
    made.start()
    yield made
    made.stop()


def test_a_receiver_that_was_away_is_told_everything_in_order(running: Running, until: Callable[..., None]) -> None:
    receiver = ComingAndGoing(running._port)
    receiver.come()
    running.copy()
    running.act("start", ("phase_change", 5.0))
    until(lambda: receiver.events == running.expected, 60, "the first message")
    receiver.go()
    left = time.monotonic()

    running.up_and_down()
    running.reload()
    running.up_and_down()
    running.stop()
    running.start('"/api/dashboard/*", "/api/scans"')
    running.up_and_down()
    running.renewed(lambda control: os.kill(control, signal.SIGKILL))
    running.up_and_down()
    until(lambda: time.monotonic() - left >= AWAY_S, AWAY_S + 1, "the time that the receiver is away")
    assert len(receiver.events) == 1, "nobody was there to take anything"

    receiver.come()
    until(lambda: len(receiver.events) >= len(running.expected), 120, "everything that happened")
    running.act("abort", ("rollback", 0.0), ("rollback_complete", 0.0))
    until(lambda: len(receiver.events) >= len(running.expected), 60, "what happens now")
    receiver.go()
    assert receiver.events == running.expected
    assert len(running.expected) == 1 + 4 * 4 + 2
    assert "webhook_dropped" not in running.log()
    assert "webhook_spool" not in running.log()
