"""What a running phasegate writes on standard error, whatever goes wrong: JSON lines of every package, no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.kinds.firestore.settings import EMULATOR
from control.api.client import ControlClient
from control.demo.children import Children
from tests.support.loglines import lines
from tests.system.conftest import TOKEN

REPOSITORY = Path(__file__).parents[2]
PHASES = [("half", 50, "10m")]
# Run by every Python that is started with it on its path: a library that speaks, a thread that fails and C code that
# writes, in each worker; and a control process whose first start fails before it can log.
LIBRARY = """
import os, sys, threading, time
from pathlib import Path

def speak():
    import logging, warnings
    while threading.excepthook is threading.__excepthook__:  # until the log is set up
        time.sleep(0.01)
    logging.getLogger("some.library").error("said by %s", "a library")
    warnings.warn("mind this")
    os.write(2, b"E0101 written by C code\\n")
    1 / 0

if "proxy.process.worker" in sys.orig_argv:
    threading.Thread(target=speak, name="library", daemon=True).start()
first = Path(__file__).with_name("first")
if "control.serve" in sys.orig_argv and not first.exists():
    first.touch()
    sys.modules["uvloop"] = None
"""


class Log:
    """The log of a phasegate that runs: every line so far, each held against the page."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[dict[str, Any]]:
        whole, _, _ = self._path.read_text().rpartition("\n")  # a last line may be on its way
        return lines(whole)

    def has(self, process: str, event: str, **fields: Any) -> Callable[[], bool]:
        """Whether a process whose name begins so has logged the event, with these words in its fields."""

        def found() -> bool:
            return any(
                line["process"].startswith(process)
                and line["event"] == event
                and all(str(value) in str(line[field]) for field, value in fields.items())
                for line in self.lines()
            )

        return found


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every Python process of phasegate run LIBRARY first."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(LIBRARY)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{REPOSITORY}")
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")


def put(address: str, path: str, body: object) -> int:
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        status: int = answer.status
        return status


def test_every_package_logs_as_json_with_its_fields_and_nothing_else_is_written(
    configured: Callable[..., Path],
    children: Children,
    library: None,
    until: Callable[..., None],
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    firestore, app = f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"  # nobody listens at either
    monkeypatch.setenv(EMULATOR, firestore)
    config = configured("demo-log", PHASES, origin=app)
    serving = children.python("phasegate", "control.cli", "serve", "--config", str(config))
    log = Log(tmp_path / "logs" / "phasegate.log")
    ready = tmp_path / "run" / "ready.json"
    until(ready.exists, 60, "its start")
    found = json.loads(ready.read_text())
    (proxy,), control = found["proxy"], ControlClient(f"http://{found['control']}", TOKEN)
    until(control.ready, 60, "the control plane")
    until(lambda: len(control.status().workers) == 2, 60, "both workers")

    # proxy, in the supervisor and in a worker
    assert log.has("supervisor", "listening", proxy=proxy)()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://{proxy}/", timeout=30)
    until(log.has("worker-", "origin_unreachable", origin=app, reason="Connection refused"), 30)
    # control
    control.act("start", reason="a rehearsal", force=True)
    until(log.has("control", "rollout_changed", kind="start", migration="phase6", reason="a rehearsal"), 30)
    assert log.has("control", "control_serving", migrations="phase6")()
    # backends
    until(log.has("worker-", "view_unreadable", backend="firestore", collection="scans", reason="UNAVAILABLE"), 30)
    assert put(proxy, "/api/dashboard/metrics", {"metrics": {"a": 1}}) == 200
    late = {"backend": "firestore", "documents": "dashboard", "fault": "unavailable", "reason": firestore}
    until(log.has("worker-", "change_not_mirrored_yet", **late, tries=8), 60, "the eighth try")
    # libraries, threads and C code
    for worker in ("worker-0", "worker-1"):
        until(log.has(worker, "library_message", logger="some.library", message="said by a library"), 30)
        until(log.has(worker, "library_message", logger="py.warnings", message="UserWarning: mind this"), 30)
        until(log.has(worker, "uncaught_exception", where="thread library", exception="ZeroDivisionError"), 30)
    for child in ("worker 0", "worker 1"):
        until(log.has("supervisor", "stray_output", child=child, text="E0101 written by C code"), 30)
    # a control process that cannot start, and a worker that crashes
    until(log.has("supervisor", "stray_output", child="control", text="Traceback"), 30)
    assert log.has("supervisor", "child_ended", child="control", code=1)()
    os.kill(control.status().workers[0].pid, signal.SIGSEGV)
    until(log.has("supervisor", "child_ended", code=-signal.SIGSEGV), 30)
    crash = [line for line in log.lines() if "Segmentation fault" in line.get("text", "")]
    assert [line["event"] for line in crash] == ["stray_output"]
    ends = [line.get("code") for line in log.lines()]
    assert log.lines().index(crash[0]) < ends.index(-signal.SIGSEGV), "its last words come before its end"
    # The end: what could not be handed on waits for the next start.
    assert put(proxy, "/api/dashboard/metrics", {"metrics": {"a": 2}}) == 200
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(60) == 0
    assert log.has("worker-", "changes_left", backend="firestore")()
    assert not log.has("worker-", "change_not_mirrored")()
    assert log.has("supervisor", "stopping", signal="SIGTERM")()
    packages = {line["event"] for line in lines((tmp_path / "logs" / "phasegate.log").read_text())}
    assert {"listening", "worker_left", "recovered", "changes_left", "library_message"} <= packages


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("", ["phasegate init"]),
        ('[app]\norigin = 3\n[proxy]\nlisten = ["here"]\n', ["app.origin", "proxy.listen", "backends"]),
    ],
)
def test_a_phasegate_that_cannot_start_says_so_in_the_log(config: str, told: list[str], tmp_path: Path) -> None:
    if config:
        (tmp_path / "phasegate.toml").write_text(config)
    command = [sys.executable, "-m", "control.cli", "serve"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True
    )
    assert done.returncode == 2
    (line,) = lines(done.stderr.decode())
    assert line["event"] == "cannot_start"
    assert all(word in line["reason"] for word in told)


def test_a_mistake_of_ours_at_the_start_is_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['msgspec'] = None\n")
    command = [sys.executable, "-m", "control.cli", "serve"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 1
    (line,) = lines(done.stderr.decode())
    assert (line["event"], line["process"]) == ("uncaught_exception", "supervisor")
    assert "msgspec" in line["exception"]
