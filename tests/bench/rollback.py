"""Measures how long a rollback takes; run by hand: ``python -m tests.bench.rollback [--runs 20] [--connections 16]``.

Real processes, the real emulator, and two loads of wrk: one with as many requests as the machine allows, which the
target's view answers, and one of CALLS connections whose every request is a call to the target, each for another user
so that no cache answers. It rolls back from each of the five phases, ``--runs`` times with a healthy target and as
often with one that hangs (SIGSTOP on the emulator, until requests wait for it). All times are of CLOCK_MONOTONIC:

    last start  from the POST to the start of the last request on Firestore, of all workers (0: none after the POST)
    complete    from the POST to its answer
    within      how many rollbacks the control plane itself reports as within the phase's deadline

If the system permits, this program runs at the control process's niceness, because a real operator's machine is not
the one under load. A failed request of any client fails the run. Exit code 1 if a limit is exceeded: 50 ms for the
last start; to complete, 1 s with a healthy target, the phase's deadline with one that hangs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from backends.kinds.firestore.channel import EMULATOR
from backends.kinds.firestore.emulator import Emulator
from control.api.client import ControlClient
from control.demo.children import Children
from control.lead.priority import NICENESS
from control.plan.phases import DEFAULT_PHASES
from control.plan.settings import load
from loadtest.stage import procfs
from proxy.board.board import Board, boot_id
from proxy.board.layout import Layout
from proxy.migration.routes import layout

LAST_START_MS: Final = 50.0
HEALTHY_MS: Final = 1000.0
HUNG_FOR_S: Final = 0.3  # minimum, before the POST
WAIT_S: Final = 120.0  # timeout of every wait

CONFIG: Final = """
[app]
origin = "{origin}"
[proxy]
listen = ["127.0.0.1:0"]
workers = {workers}
sticky = ["random"]
run_dir = "run"
[backends.mock]
kind = "mock"
[backends.firestore]
kind = "firestore"
project = "demo-rollback"
deadline = "5s"
[migrations.phase6]
source = "mock"
target = "firestore"
routes = ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"]
# The judge must not interfere: with these limits it holds every phase and never rolls back.
min_samples = 1000000000
lease = "30s"
# The first copy opens the gate. Compared is nothing: that would take processor time while something is measured.
data = {{ compare_every = "0" }}
[migrations.phase6.thresholds]
error_rate = 0.99
p95_ms = 60000
p99_ms = 90000
memory_mb = 100000
cpu = 100
[control]
listen = "127.0.0.1:0"
"""

CALLS: Final = 4  # connections whose requests call the target
USERS: Final = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", "/api/analytics/users/u" .. n)
end
"""


@dataclass
class Figures:
    """The figures of one phase with one kind of target."""

    last_start_ms: list[float] = field(default_factory=list)
    complete_ms: list[float] = field(default_factory=list)
    within: int = 0


class Stage:
    """The running processes, and the board."""

    def __init__(self, folder: Path, children: Children, emulator: Emulator, workers: int, connections: int) -> None:
        self.emulator = emulator
        app = children.python("app", "control.demo.app", read=True)
        assert app.stdout is not None
        origin = f"http://127.0.0.1:{json.loads(app.stdout.readline())['port']}"
        config = folder / "phasegate.toml"
        config.write_text(CONFIG.format(origin=origin, workers=workers))
        children.python("phasegate", "control.cli", "serve", "--config", str(config))
        ready = folder / "run" / "ready.json"
        until(ready.exists, "phasegate starts")
        ready_document = json.loads(ready.read_text())
        self.client = ControlClient(f"http://{ready_document['control']}")
        until(self.client.ready, "the control plane answers")
        until(lambda: len(self.client.status().workers) == workers, "the workers serve")
        command = [sys.executable, "-m", "control.cli", "copy", "--migration", "phase6", "--url", self.client.url]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self.board = opened(folder, config)
        script = folder / "users.lua"
        script.write_text(USERS)
        address = f"http://{ready_document['proxy'][0]}"
        self._loads = {
            "views": [f"-c{connections}", f"{address}/api/dashboard/metrics"],
            "calls": [f"-c{CALLS}", "-s", str(script), address],
        }
        self._children = children
        self._loading: dict[str, subprocess.Popen[bytes]] = {}

    def load(self) -> None:
        """Start both loads."""
        for name, arguments in self._loads.items():
            command = [shutil.which("wrk") or "wrk", "-t1", "-d24h", "--timeout", "30s", *arguments]
            self._loading[name] = self._children.start(name, command, read=True)

    def end_load(self) -> None:
        """End both loads; ends the run if any request failed, by wrk's own counts."""
        for name, wrk in self._loading.items():
            wrk.send_signal(signal.SIGINT)
            assert wrk.stdout is not None
            report = wrk.stdout.read().decode()
            answered = re.search(r"(\d+) requests in", report)
            if answered is None or "Non-2xx" in report or "Socket errors" in report:
                raise SystemExit(f"requests failed for a client ({name}):\n{report}")
            print(f"{name}: {answered[1]} requests, none failed", file=sys.stderr)

    def asked(self) -> int:
        """The target's answers since the weight was published."""
        answers: int = self.client.status().arms.target.requests
        return answers

    def trusted(self) -> bool:
        """Whether all breakers are closed; after a hang they are open for a while."""
        return not any(self.client.metrics().gauges["breaker_state"])

    def last_target_start_ns(self) -> int:
        """The start of the last request on the target, of all workers."""
        return max(share.last_target_start for share in self.board.shares(0))

    def rollback_from(self, phase: int, hung: bool, into: Figures) -> None:
        """Go to a phase, perhaps hang the target, roll back to the start, and record the times."""
        client = self.client
        client.act("start", reason="the benchmark")
        for _ in range(phase):
            client.act("advance", force=True, reason="the benchmark")
        until(lambda: self.asked() > 20 and self.trusted(), "the target is asked")
        try:
            if hung:
                os.kill(self.emulator.pid, signal.SIGSTOP)
                time.sleep(HUNG_FOR_S)
                until(lambda: self.client.status().arms.target.inflight > 0, "requests wait for the target")
            posted = time.monotonic_ns()
            status = client.act("rollback", to="start", reason="the benchmark")
            answered = time.monotonic_ns()
            time.sleep(0.1)  # so that a request that began after the answer would be seen
            last = self.last_target_start_ns()
        finally:
            os.kill(self.emulator.pid, signal.SIGCONT)
        assert (status.state, status.weight) == ("rolled_back", 0), status
        into.last_start_ms.append(max(0.0, (last - posted) / 1e6))
        into.complete_ms.append((answered - posted) / 1e6)
        into.within += status.last_rollback.within_deadline
        until(lambda: self.healthy(), "the target is healthy again")

    def healthy(self) -> bool:
        """Whether the pre-flight check of the target passes."""
        checks = self.client.act("start", dry_run=True).checks
        return all(check.ok is not False for check in checks if check.name.startswith("backend firestore"))


def opened(folder: Path, config: Path) -> Board:
    """Open the running board; its number of rows follows from its size."""
    settings = load(config)
    path = folder / "run" / "board"
    size = path.stat().st_size
    for rows in range(1, 129):
        shape: Layout = layout(settings.plan(), rows)
        if shape.cells() * 8 == size:
            return Board.open(path, shape, boot_id())
    raise SystemExit("the board's size fits no number of workers")


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for ``condition``, at most ``WAIT_S``."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {WAIT_S:g} s: {what}")
        time.sleep(0.05)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not on PATH: apt-get install wrk", file=sys.stderr)
        return 2
    results: dict[tuple[int, bool], Figures] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        Emulator() as emulator,
        Children(Path(name)) as children,
    ):
        os.environ[EMULATOR] = emulator.address
        stage = Stage(Path(name), children, emulator, options.workers, options.connections)
        stage.load()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        for hung in (False, True):
            for phase in range(len(DEFAULT_PHASES)):
                figures = results[phase, hung] = Figures()
                for _ in range(options.runs):
                    stage.rollback_from(phase, hung, figures)
                label = f"{DEFAULT_PHASES[phase].name}, {'hung' if hung else 'healthy'}"
                print(f"{label}: {max(figures.complete_ms):.0f} ms at most", file=sys.stderr, flush=True)
        stage.end_load()
        stage.board.close()
    return report(options, results)


def report(options: argparse.Namespace, results: dict[tuple[int, bool], Figures]) -> int:
    """The table, and whether the limits were kept."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} of {procfs.cpu_model()}")
    print(f"Linux {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
    arguments = f"--runs {options.runs} --workers {options.workers} --connections {options.connections}"
    print(f"python -m tests.bench.rollback {arguments}\n")
    print("| from | target | last start: median | most | complete: median | most | limit | within |")
    print("|---|---|---|---|---|---|---|---|")
    all_kept = True
    for (phase, hung), figures in results.items():
        limit = DEFAULT_PHASES[phase].rollback_within_s * 1000 if hung else HEALTHY_MS
        last, complete = figures.last_start_ms, figures.complete_ms
        all_kept &= max(last) < LAST_START_MS and max(complete) < limit and figures.within == len(complete)
        cells = (
            f"{DEFAULT_PHASES[phase].weight:g} %",
            "hangs" if hung else "healthy",
            f"{statistics.median(last):.1f} ms",
            f"{max(last):.1f} ms",
            f"{statistics.median(complete):.0f} ms",
            f"{max(complete):.0f} ms",
            f"{limit:.0f} ms",
            f"{figures.within} of {len(complete)}",
        )
        print(f"| {' | '.join(cells)} |")
    print("\nEvery limit was kept." if all_kept else "\nA limit was NOT kept.")
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
