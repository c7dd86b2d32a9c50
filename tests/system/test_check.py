"""`phasegate check` beside a serving phasegate: passes what a reload takes, fails what it refuses. No emulator."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.api.client import ControlClient
from control.api.unanswered import ApiError
from control.demo.children import Children

REPOSITORY = Path(__file__).parents[2]
CONFIG = """
[app]
origin = "{origin}"
connect_timeout = "60s"
[proxy]
listen = ["127.0.0.1:0"]
workers = 2
run_dir = "run"
[backends.mock]
kind = "mock"
[backends.other]
kind = "mock"
[migrations.{name}]
{was}source = "mock"
target = "other"
routes = ["/api/dashboard/*"]
lease = "38s"
thresholds = {{ memory_mb = 1 }}
[control]
listen = "127.0.0.1:0"
tokens = [{{ name = "ci", sha256 = "{sha256}", role = "operator" }}]
"""
TOKEN = "a-token-of-this-test"


class Served:
    """phasegate in front of the demo's app, with one migration; its configuration can be edited."""

    def __init__(self, folder: Path, origin: str, children: Children, until: Callable[..., None]) -> None:
        self.config = folder / "phasegate.toml"
        self._facts = {"origin": origin, "sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
        self._children, self._until = children, until
        self.edit("shop")
        children.python("phasegate", "control.cli", "serve", "--config", str(self.config))
        ready = folder / "run" / "ready.json"
        until(ready.exists, 60, "phasegate's start")
        self.found: dict[str, Any] = json.loads(ready.read_text())
        self.url = f"http://{self.found['control']}"
        until(ControlClient(self.url, TOKEN).ready, 60, "the control plane")

    def edit(self, name: str, was: str = "") -> None:
        was = f'was = "{was}"\n' if was else ""
        self.config.write_text(CONFIG.format(name=name, was=was, **self._facts))

    def client(self, name: str) -> ControlClient:
        return ControlClient(self.url, TOKEN, name)

    def check(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.phasegate("check", *args)

    def phasegate(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PHASEGATE_URL": self.url, "PHASEGATE_TOKEN": TOKEN}
        line = [sys.executable, "-m", "control.cli", command, "--config", str(self.config), *args]
        return subprocess.run(line, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)

    def reload(self, event: str) -> str:
        """Have the configuration taken or refused, which the log tells by ``event``; the log's end."""
        before = self._children.log("phasegate", 1000).count(event)
        os.kill(self.found["pid"], signal.SIGHUP)
        self._until(lambda: self._children.log("phasegate", 1000).count(event) > before, 60, event)
        return self._children.log("phasegate", 20)


@pytest.fixture
def served(tmp_path: Path, children: Children, until: Callable[..., None]) -> Served:
    app = children.python("app", "control.demo.app", read=True)
    assert app.stdout is not None
    origin = f"http://127.0.0.1:{json.loads(app.stdout.readline())['port']}"
    return Served(tmp_path, origin, children, until)


def test_a_rename_passes_and_its_mistakes_fail_as_in_the_reload(served: Served, until: Callable[..., None]) -> None:
    started = served.client("shop").act("start", force=True, reason="a rehearsal")
    assert started.weight == 5

    served.edit("store", was="shpo")
    mistyped = served.check("--json")
    assert mistyped.returncode == 3, mistyped.stdout
    log = served.reload("reload_refused")
    for told in (mistyped.stdout.replace('\\"', '"'), log.replace('\\"', '"')):
        assert 'migration "shop" is running at 5 %, and this configuration has no [migrations.shop]' in told
        assert 'migrations.store.was: nothing is in flight under the name "shpo"; did you mean "shop"?' in told

    served.edit("store", was="shop")
    renamed = served.check()
    assert renamed.returncode == 0, renamed.stdout + renamed.stderr
    assert "dry run of store, served as shop" in renamed.stdout
    assert "store (was shop) is running at 5 %" in renamed.stdout
    assert "Next: send phasegate SIGHUP" in renamed.stdout

    served.reload("reloading")
    until(served.client("store").ready, 60, "the control plane")
    until(lambda: _weight(served) == 5, 60, "the migration under its new name")
    done = served.check("--json")
    assert done.returncode == 0, done.stdout
    (dry_run,) = (check for check in json.loads(done.stdout)["checks"] if check["name"].startswith("dry run"))
    assert (dry_run["name"], dry_run["ok"]) == ("dry run of store", None)  # it is running already
    assert "start is not possible in state running" in dry_run["found"]


def test_a_migration_that_is_not_served_yet_is_no_failure(served: Served) -> None:
    served.edit("other")
    checked = served.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "does not serve it yet" in checked.stdout
    assert "Next: send phasegate SIGHUP" in checked.stdout


def _weight(served: Served) -> float | None:
    try:
        return served.client("store").status().weight
    except ApiError:
        return None


def test_what_only_a_restart_changes_is_told(served: Served) -> None:
    copied = served.phasegate("copy", "--migration", "shop")
    assert copied.returncode == 0, copied.stderr
    served.config.write_text(served.config.read_text().replace("workers = 2", "workers = 3"))
    checked = served.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "proxy.workers: not as the serving phasegate has it" in checked.stdout
    assert "Next: restart phasegate" in checked.stdout
    assert "proxy.workers can be changed by a restart only" in served.reload("reload_refused")


def test_a_reset_and_a_mistyped_phase_are_told(served: Served) -> None:
    assert served.client("shop").act("start", force=True, reason="a rehearsal").weight == 5
    for command in ("advance", "rollback"):
        mistyped = served.phasegate(command, "--to", "hlaf")
        assert mistyped.returncode == 3
        assert 'no phase is called "hlaf"; did you mean "half"?' in mistyped.stderr
        assert 'The phases are "initial" (5 %), "early" (25 %), "half" (50 %)' in mistyped.stderr
    done = served.phasegate("reset", "--yes", "--reason", "wrong day")
    assert done.returncode == 0, done.stderr
    reasons = {entry.kind: entry.detail.get("reason") for entry in served.client("shop").audit(10).entries}
    assert reasons["reset"] == "wrong day"
