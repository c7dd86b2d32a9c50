"""A phasegate between a mock and an emulator, as real processes that a test starts, restarts and kills."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import psutil

from control.api.client import ControlClient
from tests.support import sides
from tests.support.writers import Ledger

REPOSITORY: Final = Path(__file__).parents[2]
WITHIN_S: Final = 180.0
CALM_S: Final = 3.0  # a worker tells its figures once a second
PROJECT: Final = "demo-both-sides"
CONFIG: Final = """
[app]
origin = "http://127.0.0.1:1"
[proxy]
listen = ["127.0.0.1:{port}"]
workers = {workers}
run_dir = "run"
sticky = ["header:x-user-id"]
drain_timeout = "5s"
[backends.old]
{source}
[backends.new]
kind = "firestore"
project = "{project}"
deadline = "10s"
[migrations.shop]
source = "old"
target = "new"
routes = ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"]
lease = "30s"
min_samples = 1000000
{more}
phases = [{{ name = "half", weight = 50, min_soak = "1h", rollback_within = "5s" }}]
[migrations.shop.data]
compare_every = "0"
rate = {rate}
[migrations.shop.thresholds]
cpu = 100
memory_mb = 100000
p95_ms = 60000
p99_ms = 60000
error_rate = 0.99
[control]
listen = "127.0.0.1:0"
"""


class AnyEmulator(Protocol):
    """An emulator that runs."""

    address: str

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""


class DataSite:
    """A phasegate in a folder, which is started, restarted and killed.

    ``source`` is the source's backend in the configuration, ``rate`` the writes a second with which a copy begins.
    """

    def __init__(
        self, folder: Path, port: int, emulator: AnyEmulator, source: str = 'kind = "mock"', rate: int = 500
    ) -> None:
        self.folder = folder
        self.port = port
        self.emulator = emulator
        self.source = source
        self.rate = rate
        self.workers = 2
        self.process: subprocess.Popen[bytes] | None = None
        self.client = ControlClient("http://127.0.0.1:1", "", "shop")

    def log(self) -> str:
        return (self.folder / "log").read_text()[-4000:]

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while True:
            assert self.process is not None
            assert self.process.poll() is None, f"{what} did not come, phasegate ended: {self.log()}"
            with contextlib.suppress(OSError, ValueError):
                if condition():
                    return
            assert time.monotonic() < deadline, f"{what} did not come: {self.log()}"
            time.sleep(0.05)

    def serve(self, workers: int = 2, more: str = "") -> None:
        """Start with so many workers and ``more`` in the migration; wait until all serve and control leads."""
        self.workers = workers
        config = self.folder / "phasegate.toml"
        config.write_text(
            CONFIG.format(
                port=self.port, workers=workers, project=PROJECT, more=more, source=self.source, rate=self.rate
            )
        )
        command = [sys.executable, "-m", "control.cli", "serve", "--config", str(config)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stderr=log, stdout=log)
        pid = self.process.pid
        ready = self.folder / "run" / "ready.json"
        self.wait(lambda: json.loads(ready.read_text())["pid"] == pid, "the start")
        control = json.loads(ready.read_text())["control"]
        self.client = ControlClient(f"http://{control}", "", "shop")
        self.wait(self.client.ready, "the control plane")
        self.wait(lambda: len(self.client.status().workers) == workers, "the workers")

    def phasegate(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run ``phasegate`` with these arguments; it finds the control plane by its run directory."""
        process = self.begun(*args)
        try:
            out, err = process.communicate(timeout=600)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def begun(self, *args: str) -> subprocess.Popen[str]:
        """``phasegate`` with these arguments, under way. It writes less than a pipe holds."""
        config = self.folder / "phasegate.toml"
        command = [sys.executable, "-m", "control.cli", *args, "--config", str(config)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)

    def tree(self) -> list[psutil.Process]:
        """Every living process of it."""
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def kill_one_worker(self, dice: random.Random) -> None:
        """SIGKILL a worker; another takes its place."""
        pid = dice.choice([worker.pid for worker in self.client.status().workers])
        os.kill(pid, signal.SIGKILL)

    def kill_everything(self) -> None:
        """SIGKILL every process at once."""
        processes = self.tree()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, WITHIN_S)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait for the orderly end."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(WITHIN_S) == 0, self.log()

    def begin(self) -> None:
        """Copy, start, and wait until both sides are asked."""
        copied = self.phasegate("copy", "--migration", "shop", "--json")
        assert copied.returncode == 0, copied.stderr
        self.client.act("start", reason="a test")
        self.wait(lambda: self.client.status().weight == 50, "the first phase")
        # For a moment after a run's start, nobody is sent to the target: a new split has been published.
        self.wait(lambda: self.visitor("new"), "a visitor of the target")

    def visitor(self, kind_of: str) -> str:
        """A visitor whose requests go to this backend; empty if none of a hundred does."""
        kind = {"old": "mock", "new": "firestore"}[kind_of]
        for nth in range(100):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            with contextlib.closing(connection):
                connection.request("GET", "/api/analytics/system", headers={"x-user-id": f"guest-{nth}"})
                if connection.getresponse().headers["x-data-source"] == kind:
                    return f"guest-{nth}"
        return ""

    def settle(self) -> None:
        """Wait until no change waits any more, for longer than a worker's figures may be old."""
        calm_since = time.monotonic()

        def is_calm() -> bool:
            nonlocal calm_since
            status = self.client.status()
            if len(status.workers) != self.workers or self.client.data().behind.changes:
                calm_since = time.monotonic()
            return time.monotonic() - calm_since > CALM_S

        self.wait(is_calm, "every change on the other side")


def equal_by_both_walks(site: DataSite, ledger: Ledger) -> list[str]:
    """What is not right, in words: by the test's own walk of both sides, and by the product's."""
    one = sides.mock(site.folder / "run" / "shop.mock.journal")
    other = sides.firestore(site.emulator.address, PROJECT)
    told = [f"source: {line}" for line in ledger.missing(one)]
    told += [f"target: {line}" for line in ledger.missing(other)]
    told += sides.differences(one, other)
    compared = site.phasegate("compare", "--migration", "shop", "--json")
    if compared.returncode != 0:
        told.append(f"compare ended with {compared.returncode}: {compared.stdout[-1500:]} {compared.stderr[-1500:]}")
    else:
        assert json.loads(compared.stdout.splitlines()[-1])["equal"] is True
    return told
