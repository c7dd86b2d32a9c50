"""Starts the demo's processes: the app, the Firestore emulator, and phasegate as a user starts it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from backends.kinds.firestore.emulator import EmulatorError, answers, find_command
from backends.kinds.firestore.settings import EMULATOR
from control.api.client import ControlClient
from control.demo.children import Children, wait_for
from control.lead import splitkey
from control.terminal.exits import OK

STARTED_WITHIN_S: Final = 90.0  # for each process, on a busy machine
RUN_DIR: Final = "run"
# Fixed, so that the same visitors move in every demo. Anybody can read it here: it protects nobody.
SPLIT_SECRET: Final = b"phasegate's demo hides no split."
PROJECT: Final = "demo-phasegate"
MIGRATION: Final = "phase6"
FIREBASE_TOOLS: Final = "firebase-tools@15"
FETCHED_WITHIN_S: Final = 900.0  # to download the emulator over a slow line
VALIDATIONS_A_PHASE: Final = 4  # at least, however short the phases are
VALIDATED_AT_LEAST_EVERY_S: Final = 30.0
LOG_TAIL: Final = 400  # characters of a failed tool's output that are shown

# Name, weight in percent, seconds within which a rollback out of the phase must be complete.
PHASES: Final = (("initial", 5, 10), ("early", 25, 15), ("half", 50, 20), ("majority", 75, 25), ("complete", 100, 38))

CONFIG: Final = """\
# Written by `phasegate demo`, and deleted when it ends.
[app]
origin = "{app}"

[proxy]
listen = ["{listen}"]
workers = {workers}
run_dir = "{run_dir}"

[backends.mock]
kind = "mock"

[backends.firestore]
kind = "firestore"
project = "{project}"
deadline = "5s"

[migrations.phase6]
source = "mock"
target = "firestore"
routes = ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"]
validate_every = "{every}"
# A demo's phases are too short for proof: a target that kept its limits is promoted without it.
min_samples = 5
max_soak = "{soak}"
on_low_traffic = "promote"
phases = [
{phases}
]

# Wider limits: the emulator is slower than Firestore, and shares this machine with all other processes.
[migrations.phase6.thresholds]
p95_ms = 2500
p99_ms = 5000

[control]
listen = "{control}"
tokens = [{{ name = "demo", sha256 = "{sha256}", role = "operator" }}]
"""


class DemoError(Exception):
    """The demo cannot go on. The message says what was found and what to do."""


class DemoStage:
    """The demo's processes and their addresses. ``listen`` and ``control`` may have port 0 until ``settle``."""

    def __init__(
        self,
        children: Children,
        folder: Path,
        phase_seconds: float,
        listen: str,
        control: str,
        workers: int,
    ) -> None:
        self.children = children
        self.folder = folder
        self.listen = listen
        self.control = control
        self.phase_seconds = phase_seconds
        self.workers = workers
        self.token = os.environ.get("PHASEGATE_TOKEN") or secrets.token_urlsafe(24)
        self.project = PROJECT

    @property
    def client(self) -> ControlClient:
        """A client of the demo's phasegate, with an operator's token."""
        return ControlClient(f"http://{self.control}", self.token, MIGRATION)

    def config(self, app_port: int) -> Path:
        """Write the configuration of the demo's phasegate."""
        path = self.folder / "phasegate.toml"
        soak = f"{self.phase_seconds:g}s"
        phases = "\n".join(
            f'  {{ name = "{name}", weight = {weight}, min_soak = "{soak}", rollback_within = "{within}s" }},'
            for name, weight, within in PHASES
        )
        path.write_text(
            CONFIG.format(
                app=f"http://127.0.0.1:{app_port}",
                listen=self.listen,
                workers=self.workers,
                run_dir=RUN_DIR,
                project=self.project,
                every=f"{min(VALIDATED_AT_LEAST_EVERY_S, self.phase_seconds / VALIDATIONS_A_PHASE):g}s",
                soak=soak,
                phases=phases,
                control=self.control,
                sha256=hashlib.sha256(self.token.encode()).hexdigest(),
            )
        )
        return path

    def app(self) -> int:
        """Start the small app and return its port."""
        child = self.children.python("app", "control.demo.app", read=True)
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise DemoError(f"the demo's app did not start:\n{self.children.log('app')}")
        return int(json.loads(line)["port"])

    def emulator(self) -> None:
        """Start the Firestore emulator, unless the environment names one. ``warm_up`` waits until it answers."""
        if os.environ.get(EMULATOR):
            self.project = f"{PROJECT}-{secrets.token_hex(3)}"  # a project of its own: that emulator may have data
            return
        port = _free_port()
        try:
            command = find_command()
        except EmulatorError as error:
            command = _fetched_emulator(str(error))
        self.children.start("emulator", [*command, "--host=127.0.0.1", f"--port={port}"])
        os.environ[EMULATOR] = f"127.0.0.1:{port}"

    def copy(self) -> str:
        """Copy the mock's documents by ``phasegate copy``, as a user does; returns what it printed."""
        child = self.children.start(
            "copy",
            [sys.executable, "-m", "control.cli", "copy", "--migration", MIGRATION],
            env={"PHASEGATE_URL": self.client.url, "PHASEGATE_TOKEN": self.token},
            read=True,
        )
        assert child.stdout is not None
        printed = child.stdout.read().decode()
        if child.wait() != OK:
            raise DemoError(f"the mock's documents could not be copied to Firestore:\n{self.children.log('copy')}")
        return printed.rstrip()

    def warm_up(self) -> None:
        """Send the emulator some requests first: otherwise the first phases would measure Java's warm-up."""
        address = os.environ[EMULATOR]
        if not wait_for(lambda: answers(address), STARTED_WITHIN_S):
            raise DemoError(f"no Firestore emulator answers at {address}:\n{self.children.log('emulator')}")
        warming = self.children.python("warm-up", "control.demo.warm")
        with contextlib.suppress(subprocess.TimeoutExpired):
            warming.wait(STARTED_WITHIN_S)
        self.children.end("warm-up")

    def serve(self, config: Path) -> subprocess.Popen[bytes]:
        """Start phasegate with ``phasegate serve``, with the demo's own secret in its run directory."""
        run_dir = self.folder / RUN_DIR
        run_dir.mkdir(mode=0o700, exist_ok=True)
        splitkey.write(run_dir, SPLIT_SECRET)
        return self.children.python("phasegate", "control.cli", "serve", "--config", str(config))

    def settle(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until phasegate is ready and proxies the app's page. Then ``listen`` and ``control`` are final."""

        def settled() -> bool:
            return child.poll() is not None or (self._listens() and self.client.ready() and self._proxies())

        if not wait_for(settled, STARTED_WITHIN_S) or child.poll() is not None:
            raise DemoError(f"phasegate did not start:\n{self.children.log('phasegate')}")

    def _listens(self) -> bool:
        """Whether phasegate has written its addresses. It picks free ports itself, so nothing else can take them."""
        try:
            ready = json.loads((self.folder / RUN_DIR / "ready.json").read_text())
        except FileNotFoundError:
            return False
        (self.listen,), self.control = ready["proxy"], ready["control"]
        return True

    def _proxies(self) -> bool:
        """Whether the app's page comes through the proxy."""
        connection = http.client.HTTPConnection(self.listen, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def counters(self) -> dict[str, int]:
        """phasegate's own counts since its start."""
        operations = self.client.metrics().operations
        return {
            "source": sum(each.arms.source.requests for each in operations),
            "target": sum(each.arms.target.requests for each in operations),
            "fallbacks": sum(each.fallbacks for each in operations),
        }


def _free_port() -> int:
    """A free port for the emulator, which cannot pick one itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _fetched_emulator(missing: str) -> list[str]:
    """Download Google's emulator with Firebase's own tool, to the place where ``find_command`` looks; its command.

    The npm package @firestore-emulator/server is smaller, but has no GetDocument, no precondition on a document's
    update time, and only some transforms.
    """
    npx = shutil.which("npx")
    if npx is None or shutil.which("java") is None:
        raise DemoError(
            f"{missing}\nWith Node.js 20 (npx) and Java installed, the demo downloads the emulator by itself."
        )
    print(
        "No Firestore emulator was found: npx firebase-tools downloads Google's, once. This takes minutes …",
        flush=True,
    )
    try:
        done = subprocess.run(
            [npx, "--yes", FIREBASE_TOOLS, "setup:emulators:firestore"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCHED_WITHIN_S,
            check=False,
        )
        problem = f"{done.stdout}\n{done.stderr}".strip()[-LOG_TAIL:]
    except subprocess.TimeoutExpired:
        problem = f"it took longer than {FETCHED_WITHIN_S:.0f} s"
    try:
        return find_command()
    except EmulatorError:
        raise DemoError(f"{missing}\nnpx firebase-tools could not download one either: {problem}") from None
