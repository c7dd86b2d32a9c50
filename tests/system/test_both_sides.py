"""Writers on both arms while parts die: what was acknowledged is on both sides, once, and compare finds them equal.

Real processes, the real emulator. The suite makes a few rounds with short outages; by hand
``PHASEGATE_DATA_ROUNDS=100 PHASEGATE_OUTAGE_S=60 python -m pytest tests/system/test_both_sides.py -k rounds -s``.
The emulator keeps its documents in memory, so it is stopped (SIGSTOP) and its connections are cut, but not killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from backends.kinds.firestore.emulator import Emulator
from control.api.client import ControlClient
from tests.support import sides
from tests.support.writers import Ledger, Writers

REPOSITORY: Final = Path(__file__).parents[2]
ROUNDS: Final = int(os.environ.get("PHASEGATE_DATA_ROUNDS", "3"))
OUTAGE_S: Final = float(os.environ.get("PHASEGATE_OUTAGE_S", "3"))
WRITING_S: Final = 2.0  # in a round, around what is done to the processes
WITHIN_S: Final = 180.0
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
kind = "mock"
deadline = "10s"
[backends.new]
kind = "firestore"
project = "{project}"
deadline = "10s"
[migrations.shop]
source = "old"
target = "new"
routes = ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"]
lease = "60s"
min_samples = 1000000
phases = [{{ name = "half", weight = 50, min_soak = "1h", rollback_within = "5s" }}]
[migrations.shop.data]
compare_every = "0"
[migrations.shop.thresholds]
cpu = 100
memory_mb = 100000
p95_ms = 60000
p99_ms = 60000
error_rate = 1.0
[control]
listen = "127.0.0.1:0"
"""


class Site:
    """A phasegate in a folder, which is started, restarted and killed."""

    def __init__(self, folder: Path, port: int, emulator: Emulator) -> None:
        self.folder = folder
        self.port = port
        self.emulator = emulator
        self.workers = 2
        self.process: subprocess.Popen[bytes] | None = None
        self.client = ControlClient("http://127.0.0.1:1", "", "shop")

    def log(self) -> str:
        return (self.folder / "log").read_text()[-4000:]

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while True:
            with contextlib.suppress(OSError, ValueError):
                if condition():
                    return
            assert time.monotonic() < deadline, f"{what} did not come: {self.log()}"
            time.sleep(0.05)

    def serve(self, workers: int = 2) -> None:
        """Start with so many workers, and wait until all serve and control leads."""
        self.workers = workers
        config = self.folder / "phasegate.toml"
        config.write_text(CONFIG.format(port=self.port, workers=workers, project=PROJECT))
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
        """Run ``phasegate`` with these arguments."""
        config = self.folder / "phasegate.toml"
        command = [sys.executable, "-m", "control.cli", *args, "--config", str(config)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)

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

    def settled(self) -> bool:
        """Whether no change waits any more, and every worker serves."""
        status = self.client.status()
        if len(status.workers) != self.workers:
            return False
        data = self.client.get("/api/migration/shop/data")
        return data["behind"]["changes"] == 0


@pytest.fixture
def site(tmp_path: Path, free_port: Callable[[], int], own_emulator: Emulator) -> Iterator[Site]:
    made = Site(tmp_path, free_port(), own_emulator)
    yield made
    own_emulator.signal(signal.SIGCONT)
    if made.process is not None and made.process.poll() is None:
        made.kill_everything()


def equal_by_both_walks(site: Site, ledger: Ledger) -> list[str]:
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


def disturb(site: Site, what: str, dice: random.Random) -> None:
    """Do to the processes what a round does."""
    match what:
        case "kill one":
            site.kill_one_worker(dice)
        case "kill all":
            site.kill_everything()
            site.serve(site.workers)
        case "restart":
            site.stop()
            site.serve(site.workers)
        case "other workers":
            site.stop()
            site.serve(dice.choice([n for n in (1, 2, 3) if n != site.workers]))
        case "reload":
            assert site.process is not None
            site.process.send_signal(signal.SIGHUP)


DISTURBANCES: Final = ("kill one", "kill all", "restart", "other workers", "reload", "nothing")


def test_what_was_acknowledged_is_on_both_sides_once_after_rounds_of_kills_and_outages(site: Site) -> None:
    site.serve()
    copied = site.phasegate("copy", "--migration", "shop", "--json")
    assert copied.returncode == 0, copied.stderr
    site.client.act("start", reason="rounds")
    ledger = Ledger()
    for nth in range(ROUNDS):
        dice = random.Random(f"round {nth}")
        what = DISTURBANCES[nth % len(DISTURBANCES)] if ROUNDS < 20 else dice.choice(DISTURBANCES)
        outage = dice.uniform(0.2, OUTAGE_S) if dice.random() < 0.8 else 0.0
        began, before = time.monotonic(), ledger.acknowledged
        with Writers(site.port, ledger, seed=nth):
            time.sleep(WRITING_S)  # the writers write: what a round is about
            if outage:
                site.emulator.signal(signal.SIGSTOP)
                over = threading.Timer(outage, site.emulator.signal, (signal.SIGCONT,))
                over.start()
            time.sleep(dice.uniform(0.0, min(outage, 3.0)))
            disturb(site, what, dice)
            if outage:
                over.join()
            time.sleep(WRITING_S)
        site.wait(site.settled, "every change on the other side")
        wrong = equal_by_both_walks(site, ledger)
        took, acknowledged = time.monotonic() - began, ledger.acknowledged - before
        told = f"round {nth}: {what}, outage {outage:.1f} s, {acknowledged} acknowledged, {took:.0f} s"
        print(told, flush=True)
        assert not wrong, f"{told}: {len(wrong)} wrong\n" + "\n".join(wrong[:40])
        assert acknowledged > 20, f"{told}; by status {dict(ledger.answers)}"
