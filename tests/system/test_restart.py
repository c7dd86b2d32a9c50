"""Restarts that keep every weight: real processes under load, with another configuration each time; no emulator.

The suite restarts once in each state and once with each change. ``PHASEGATE_RESTARTS=20`` goes round so many times:
``PHASEGATE_RESTARTS=20 python -m pytest tests/system/test_restart.py -k restart_keeps``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import pytest

from control.api.client import ControlClient

REPOSITORY: Final = Path(__file__).parents[2]
ROUNDS: Final = int(os.environ.get("PHASEGATE_RESTARTS", "1"))
WITHIN_S: Final = 90.0
USERS: Final = 30
LEASE: Final = "6s"
DRAIN_S: Final = 8.0  # longer than the lease: what is open for so long must not cost it
SLOW_S: Final = 7.0
CONFIG: Final = """
{head}
[app]
origin = "{source}"
[proxy]
listen = ["127.0.0.1:{port}"]
workers = {workers}
run_dir = "run"
sticky = ["header:x-user-id"]
drain_timeout = "{drain}s"
[backends.old]
kind = "http"
origin = "{source}"
deadline = "30s"
[backends.new]
kind = "http"
origin = "{target}"
deadline = "30s"
{migrations}
[control]
listen = "127.0.0.1:0"
"""
MIGRATION: Final = """
[migrations.{name}]
source = "old"
target = "new"
routes = ["/{path}/*"]
lease = "{lease}"
min_samples = 1000000
{more}
phases = [
  {{ name = "half", weight = 50, min_soak = "1h", rollback_within = "5s" }},
  {{ name = "most", weight = 75, min_soak = "1h", rollback_within = "5s" }},
  {{ name = "all", weight = 100, min_soak = "1h", rollback_within = "5s" }},
]
[migrations.{name}.thresholds]
cpu = 100
memory_mb = 100000
p95_ms = 60000
p99_ms = 60000
"""


class Origin(BaseHTTPRequestHandler):
    """Says which arm it is: at once, after ``SLOW_S`` or, on a stream, again and again."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.arm.encode()  # type: ignore[attr-defined]
        if self.path.endswith("/slow"):
            self.server.slow += 1  # type: ignore[attr-defined]
            time.sleep(SLOW_S)
        stream = self.path.endswith("/events")
        self.send_response(200)
        self.send_header("connection", "close")
        if not stream:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            while stream:
                time.sleep(0.2)
                self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class OriginServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, arm: str) -> None:
        super().__init__(("127.0.0.1", 0), Origin)
        self.arm = arm
        self.slow = 0  # slow requests that have begun
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Site:
    """A phasegate in a folder between two origins, which is started, restarted and killed."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.origins = OriginServer("source"), OriginServer("target")
        self.process: subprocess.Popen[bytes] | None = None
        self.workers = 2
        self.client = ControlClient("http://127.0.0.1:1", "", "shop")

    def configure(self, *names: str, head: str = "", more: str = "", workers: int = 2, lease: str = LEASE) -> None:
        """Write the configuration: these migrations; a store has the path of the shop that it was.

        ``more`` is said of the first.
        """
        self.workers = workers
        tables = "".join(
            MIGRATION.format(name=name, path=name.replace("store", "shop"), lease=lease, more="" if i else more)
            for i, name in enumerate(names)
        )
        source, target = (origin.url for origin in self.origins)
        text = CONFIG.format(
            head=head,
            source=source,
            target=target,
            port=self.port,
            workers=workers,
            drain=DRAIN_S,
            migrations=tables,
        )
        (self.folder / "phasegate.toml").write_text(text)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        command = [sys.executable, "-m", "control.cli", "serve", "--config", str(self.folder / "phasegate.toml")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stderr=log, stdout=log)

    def serve(self, migration: str = "shop") -> None:
        """Start, and wait until it leads and every worker serves."""
        self.start()
        ready = self.folder / "run" / "ready.json"
        wait(lambda: self.alive() and self._is_of_this_process(ready), self.log)
        control = json.loads(ready.read_text())["control"]
        self.client = ControlClient(f"http://{control}", "", migration)
        wait(lambda: self.alive() and self.client.ready(), self.log)
        wait(lambda: len(self.client.status().workers) == self.workers, self.log)
        wait(lambda: self.client.status().checkpoint.saved_at, self.log)  # and was read

    def _is_of_this_process(self, ready: Path) -> bool:
        with contextlib.suppress(ValueError, FileNotFoundError):
            assert self.process is not None
            return bool(json.loads(ready.read_text())["pid"] == self.process.pid)
        return False

    def alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()[-3000:]
        return True

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(WITHIN_S) == 0, self.log()[-3000:]

    def refused(self) -> str:
        """Start, and the reason why it ended at once."""
        before = len(self.log())
        self.start()
        assert self.process is not None
        assert self.process.wait(WITHIN_S) == 2, self.log()[-3000:]
        lines = [json.loads(line) for line in self.log()[before:].splitlines() if line.startswith("{")]
        (reason,) = [line["reason"] for line in lines if line["event"] == "cannot_start"]
        return str(reason)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(WITHIN_S)

    def arm(self, user: int) -> str:
        """Which arm answers a visitor."""
        status, body = self.ask(user)
        assert status == 200
        return body

    def ask(self, user: int, path: str = "/shop/x") -> tuple[int, str]:
        """Status and body of an answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"X-User-Id": str(user), "Connection": "close"})
            with connection.getresponse() as response:
                return response.status, response.read().decode()

    def sides(self) -> list[str]:
        """Which arm answers each visitor."""
        return [self.arm(user) for user in range(USERS)]

    def bring_to(self, state: str) -> None:
        """Have the migration in a state, with half of the visitors on the target; completed with all of them."""
        act = self.client.act
        act("start", reason="a rehearsal")
        for _ in range({"completed": 3, "rolled_back": 1}.get(state, 0)):
            act("advance", reason="a rehearsal")
        if state == "rolled_back":
            act("rollback", reason="a rehearsal")
        if state == "paused":
            act("pause", reason="a rehearsal")
        wait(lambda: self.client.status().state == state, self.log)
        # For a moment after a run's start, nobody is sent to the target: a new split has been published.
        wait(lambda: "target" in self.sides(), self.log)

    def stands(self) -> tuple[Any, ...]:
        """State, phase and weight."""
        status = self.client.status()
        phase = status.phase
        return status.state, phase and (phase.name, phase.entered_at), status.weight


def wait(condition: Callable[[], object], log: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, log()[-3000:]
        time.sleep(0.02)


class Load:
    """Visitors who ask all the time, and what became of each request: when it began and ended, and how."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        self.failures: list[tuple[float, float, str]] = []
        self.answers = 0
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait(lambda: self.answers > 20)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                status, _ = self._site.ask(number)
                what = "" if status == 200 else str(status)
            except (OSError, HTTPException) as error:
                what = repr(error)
            if what:
                self.failures.append((begun, time.monotonic(), what))
            else:
                self.answers += 1
            self._stop.wait(0.01)


@pytest.fixture
def site(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Site]:
    made = Site(tmp_path, free_port())
    yield made
    made.kill()
    for origin in made.origins:
        origin.shutdown()
        origin.server_close()


STATES: Final = ("paused", "running", "rolled_back", "completed")
CHANGES: Final[dict[str, tuple[tuple[str, ...], int]]] = {  # the migrations and workers afterwards
    "nothing": (("shop", "second"), 2),
    "more workers": (("shop", "second"), 3),
    "fewer workers": (("shop", "second"), 1),
    "one migration more": (("shop", "second", "third"), 2),
    "one migration less": (("shop",), 2),
    "another order and more workers": (("second", "shop"), 3),
}
# Each round has every change once, in the next state: after four rounds every pair has been met.
CASES: Final = [
    (STATES[(k + k // len(CHANGES)) % len(STATES)], change)
    for k, change in enumerate(islice(cycle(CHANGES), len(CHANGES) * ROUNDS))
]


@pytest.mark.parametrize(("state", "change"), CASES)
def test_a_restart_keeps_weight_phase_and_sides_whatever_it_changes(site: Site, state: str, change: str) -> None:
    site.configure("shop", "second")
    site.serve()
    site.bring_to(state)
    before, sides = site.stands(), site.sides()
    assert set(sides) == ({"target"} if state == "completed" else {"source", "target"})
    slow: list[object] = []
    on_target = sides.index("target")
    with Load(site) as load, socket.create_connection(("127.0.0.1", site.port), 30) as stream:
        stream.sendall(b"GET /shop/events HTTP/1.1\r\nHost: a\r\nX-User-Id: %d\r\n\r\n" % on_target)
        assert b"200" in stream.recv(1000)
        asking = threading.Thread(target=lambda: slow.append(site.ask(on_target, "/shop/slow")), daemon=True)
        asking.start()
        wait(lambda: site.origins[1].slow, site.log)
        gap_from = time.monotonic()
        site.stop()
        names, workers = CHANGES[change]
        site.configure(*names, workers=workers)
        site.serve()
        gap_to = time.monotonic()
        asking.join()
        answers = load.answers
        wait(lambda: load.answers > answers + 20, site.log)
        assert site.stands() == before
        assert site.sides() == sides
    assert slow == [(200, "target")], "what had begun is answered"
    unexplained = [failure for failure in load.failures if failure[1] < gap_from or failure[0] > gap_to]
    assert not unexplained
    kinds = [entry.kind for entry in site.client.audit(100).entries]
    assert "lease_lost" not in str(kinds)
    assert site.client.verify().whole
    site.stop()


def test_after_an_orderly_end_the_weight_is_kept_however_long_nothing_ran(site: Site) -> None:
    site.configure("shop", lease="3s")
    site.serve()
    site.bring_to("running")
    before, sides = site.stands(), site.sides()
    site.stop()
    time.sleep(7)  # two leases
    site.serve()
    assert (site.stands(), site.sides()) == (before, sides)


def test_after_a_kill_the_lease_decides(site: Site) -> None:
    """The other side of the promise: nobody said that it ended, so what ran out while nothing ran is lost."""
    site.configure("shop", lease="3s")
    site.serve()
    site.bring_to("running")
    board = (site.folder / "run" / "board").read_bytes()
    site.kill()
    until_s = int.from_bytes(board[17 * 8 : 18 * 8], sys.byteorder) / 1e9
    wait(lambda: time.monotonic() > until_s + 1.5)
    site.serve()
    assert site.stands()[::2] == ("rolled_back", 0.0)
    assert set(site.sides()) == {"source"}


def test_a_migration_in_flight_is_renamed_or_abandoned_on_purpose_only(site: Site) -> None:
    site.configure("shop", "second")
    site.serve()
    site.bring_to("paused")
    before, sides = site.stands(), site.sides()

    site.configure("store", "second")
    os.kill(site.process.pid, signal.SIGHUP)  # type: ignore[union-attr]
    wait(lambda: "reload_refused" in site.log(), site.log)
    for said in ('migration \\"shop\\" is paused at 50 %', 'was = \\"shop\\"', 'abandon = [\\"shop\\"]'):
        assert said in site.log()
    assert (site.stands(), site.sides()) == (before, sides)
    site.stop()
    reason = site.refused()
    assert 'migration "shop" is paused at 50 %' in reason
    assert 'was = "shop"' in reason
    assert 'abandon = ["shop"]' in reason

    site.configure("store", "second", more='was = "shop"')
    site.serve("store")
    assert (site.stands(), site.sides()) == (before, sides)
    assert [entry.kind for entry in site.client.audit(10).entries][-1] == "renamed"
    assert site.client.verify().whole

    site.configure("second", head='abandon = ["store"]')
    os.kill(site.process.pid, signal.SIGHUP)  # type: ignore[union-attr]
    wait(lambda: "migration_abandoned" in site.log(), site.log)
    wait(lambda: site.ask(0, "/second")[0] == 200, site.log)
    site.stop()
    site.configure("second")
    site.serve("second")
    site.stop()


def test_a_rename_at_a_reload_keeps_the_weight_and_fails_nobody(site: Site) -> None:
    site.configure("shop", lease="10s")
    site.serve()
    site.bring_to("running")
    before, sides = site.stands(), site.sides()
    with Load(site) as load:
        site.configure("store", more='was = "shop"', lease="10s")
        os.kill(site.process.pid, signal.SIGHUP)  # type: ignore[union-attr]
        site.client = ControlClient(site.client.url, "", "store")

        def renamed() -> bool:
            with contextlib.suppress(Exception):
                return len(site.client.status().workers) == 2 and site.client.ready()
            return False

        wait(renamed, site.log)
        wait(lambda: site.log().count('"worker_left"') == 2, site.log)
        assert (site.stands(), site.sides()) == (before, sides)
    assert not load.failures
