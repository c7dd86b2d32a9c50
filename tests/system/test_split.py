"""Every visitor keeps its side, on real processes: a worker killed, control killed, all restarted, a run of 0.1's."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest

from control.api.client import ControlClient
from control.api.unanswered import ApiError
from control.lead import splitkey
from control.rollout.model import Entry
from control.store.sqlite import Store, verify_file
from proxy.board.layout import SplitKey
from proxy.migration import buckets
from tests.support.servers import unix

REPOSITORY = Path(__file__).parents[2]
WEIGHT = 50
VISITORS = [f"visitor-{i}" for i in range(60)]
CONFIG = """
[app]
origin = "unix:{folder}/old.sock"
[proxy]
listen = ["127.0.0.1:0"]
workers = 2
run_dir = "run"
[backends.old]
kind = "http"
origin = "unix:{folder}/old.sock"
[backends.new]
kind = "http"
origin = "unix:{folder}/new.sock"
[migrations.shop]
source = "old"
target = "new"
routes = ["/shop/*"]
lease = "30s"
min_samples = 1000000
phases = [{{ name = "half", weight = 50, min_soak = "10m" }}, {{ name = "all", weight = 100 }}]
thresholds = {{ cpu = 100, p95_ms = 8000, p99_ms = 9000 }}
[control]
listen = "127.0.0.1:0"
"""
# As version 0.1 wrote it: paused in its first phase.
CHECKPOINT = """{"rollout": {"state": "paused", "mode": "hybrid", "phase": 0, "weight_bp": 5000, "revision": 3,
    "generation": 2, "started_at": 1.0, "entered_at": 1.0, "resume_phase": 0}}"""
Sides = dict[str, str]


class Stage:
    """phasegate in front of two origins that answer with their names."""

    def __init__(self, folder: Path, until: Callable[..., None]) -> None:
        self.folder, self._until = folder, until
        self.run_dir = folder / "run"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "control.cli", "serve", "--config", str(self.folder / "phasegate.toml")]
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stderr=log)
        ready = self.run_dir / "ready.json"
        self._until(ready.exists, 60, "the start")
        found = json.loads(ready.read_text())
        self.address = found["proxy"][0]
        self.client = ControlClient(f"http://{found['control']}", "", "shop")
        self._until(self.client.ready, 60, "the control plane")
        self._until(lambda: len(self.children("proxy.process.worker")) == 2, 60, "the workers")

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def children(self, module: str) -> list[psutil.Process]:
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it ended while it was looked at
                if module in child.cmdline():
                    found.append(child)
        return found

    def side(self, visitor: str) -> str:
        """Which origin answers; on a new connection, so from either worker."""
        request = Request(f"http://{self.address}/shop/x", headers={"X-User-Id": visitor, "Connection": "close"})
        with urlopen(request, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def sides(self) -> Sides:
        return {visitor: self.side(visitor) for visitor in VISITORS}

    def settled(self, expected: Sides) -> bool:
        """Whether everybody is on the expected side, whichever worker answers."""
        return all(self.sides() == expected for _ in range(3))


@pytest.fixture
def stage(tmp_path: Path, until: Callable[..., None]) -> Iterator[Stage]:
    (tmp_path / "phasegate.toml").write_text(CONFIG.format(folder=tmp_path))
    with ExitStack() as opened:
        for name in ("old", "new"):
            opened.enter_context(unix(tmp_path / f"{name}.sock", name.encode()))
        made = Stage(tmp_path, until)
        opened.callback(made.end)
        yield made


def sides_by(split: SplitKey) -> Sides:
    state = buckets.begin(split)
    return {v: "new" if buckets.bucket(state, v.encode()) < WEIGHT * 100 else "old" for v in VISITORS}


def killed(stage: Stage, module: str, until: Callable[..., None]) -> None:
    victims = stage.children(module)
    before = {victim.pid for victim in victims}
    victims[0].send_signal(signal.SIGKILL)

    def back() -> bool:
        now = {child.pid for child in stage.children(module)}
        return len(now) == len(before) and now != before

    until(back, 60, f"another {module}")


def test_every_visitor_keeps_its_side_whatever_process_is_killed_or_restarted(
    stage: Stage, until: Callable[..., None]
) -> None:
    stage.start()
    file = stage.run_dir / splitkey.FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = splitkey.read(stage.run_dir)
    assert secret is not None
    expected = sides_by(buckets.keyed(secret, "shop"))
    assert set(expected.values()) == {"old", "new"}
    assert expected != sides_by(buckets.plain("shop")), "the test can tell them apart"
    stage.client.act("start", reason="the test")
    until(lambda: stage.settled(expected), 60, "the run's split")
    killed(stage, "proxy.process.worker", until)
    assert stage.settled(expected)
    killed(stage, "control.serve", until)
    until(stage.client.ready, 60, "the control plane")
    assert stage.settled(expected)
    stage.end()
    file.unlink()  # the run keeps its split by its checkpoint
    stage.start()
    assert stage.settled(expected)
    assert splitkey.read(stage.run_dir) not in (None, secret)


def test_a_run_of_version_0_1_keeps_its_sides_until_the_next_start(stage: Stage, until: Callable[..., None]) -> None:
    stage.run_dir.mkdir(mode=0o700)
    store = Store(stage.run_dir / "control.db")
    store.save("shop", CHECKPOINT, [], time.time())
    store.close()
    stage.start()
    old = sides_by(buckets.plain("shop"))
    stage.client.act("resume", reason="the test")  # a board that is new holds it at 0 until then
    until(lambda: stage.settled(old), 60, "version 1's split")
    os.kill(stage.process.pid if stage.process else 0, signal.SIGHUP)
    until(lambda: "reloading" in (stage.folder / "log").read_text(), 60, "the reload")
    until(stage.client.ready, 60, "the control plane")
    assert stage.settled(old)
    stage.end()
    stage.start()
    assert stage.settled(old)
    stage.client.act("abort", reason="the test")
    assert set(stage.sides().values()) == {"old"}
    stage.client.act("start", reason="the test")
    secret = splitkey.read(stage.run_dir)
    assert secret is not None
    new = sides_by(buckets.keyed(secret, "shop"))
    assert new != old
    until(lambda: stage.settled(new), 60, "the new run's split")


def test_a_secret_that_cannot_be_trusted_is_refused_in_words(stage: Stage) -> None:
    stage.run_dir.mkdir(mode=0o700)
    (stage.run_dir / splitkey.FILE).write_bytes(b"short")
    command = [sys.executable, "-m", "control.cli", "serve", "--config", str(stage.folder / "phasegate.toml")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "split.key has 5 bytes, expected 32; move it away" in done.stderr


@pytest.mark.parametrize("first", ["keyed", "of version 0.1"])
def test_a_chain_of_renames_keeps_weight_trail_and_sides(
    stage: Stage, until: Callable[..., None], first: str
) -> None:
    """A restart, a reload and a restart, each under another name with ``was``."""
    config = stage.folder / "phasegate.toml"
    if first == "of version 0.1":
        stage.run_dir.mkdir(mode=0o700)
        store = Store(stage.run_dir / "control.db")
        store.save("shop", CHECKPOINT, [(time.time(), Entry("start", "ann", {}))], time.time())
        store.close()
    stage.start()
    stage.client.act("start" if first == "keyed" else "resume", reason="the test")
    secret = splitkey.read(stage.run_dir)
    assert secret is not None
    expected = sides_by(buckets.keyed(secret, "shop") if first == "keyed" else buckets.plain("shop"))
    until(lambda: stage.settled(expected), 60, "the run's split")

    def rename(old: str, new: str) -> None:
        table = f"[migrations.{new}]\n"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("was = ")]
        config.write_text("\n".join(lines).replace(f"[migrations.{old}]\n", f'{table}was = "{old}"\n'))

    def goes_on(name: str) -> None:
        client = ControlClient(stage.client.url, "", name)
        until(client.ready, 60, "the control plane")
        assert client.status().weight == WEIGHT
        assert client.verify().whole
        assert next(iter(client.audit(10).entries)).kind in ("recovered", "renamed")
        assert client.report().started_at is not None
        assert stage.settled(expected)

    rename("shop", "store")
    stage.end()
    stage.start()
    goes_on("store")

    rename("store", "till")
    os.kill(stage.process.pid if stage.process else 0, signal.SIGHUP)
    until(lambda: '"reloading"' in (stage.folder / "log").read_text(), 60, "the reload")
    until(lambda: "till" in names_of(stage), 60, "the new name")
    goes_on("till")

    rename("till", "desk")
    stage.end()
    stage.start()
    goes_on("desk")
    trails = verify_file(stage.run_dir / "control.db")
    assert not any(trail.problems for trail in trails.values())
    assert set(trails) == {"shop", "store", "till", "desk"}
    kinds = [entry.kind for entry in reversed(ControlClient(stage.client.url, "", "desk").audit(10).entries)]
    assert kinds[0] == "renamed"


def names_of(stage: Stage) -> set[str]:
    try:
        return {each.name for each in stage.client.migrations().migrations}
    except ApiError:
        return set()
