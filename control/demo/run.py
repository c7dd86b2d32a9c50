"""The demo: the main job with nothing to set up, and a check that it was done.

Starts a small app, the Firestore emulator, phasegate exactly as ``serve`` does, and a stream of requests; walks all
phases; compares what the client saw with what phasegate counted. Every child is ended on every way out.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from backends.copy.fixtures import initial
from backends.kinds.firestore.emulator import EmulatorError, find_command
from backends.kinds.mock.settings import Mock
from control.api.client import ApiError, Client
from control.demo.children import ENDING, Children, wait_for
from control.demo.findings import findings
from control.terminal.exits import GATE, INTERRUPTED, OK, ROLLED_BACK, UNREACHABLE, USAGE, Stop
from control.terminal.follow import follow
from control.terminal.tables import print_findings, print_report

STARTED_WITHIN_S: Final = 90.0
PROJECT: Final = "demo-phasegate"
MIGRATION: Final = "phase6"
FIREBASE_TOOLS: Final = "firebase-tools@15"
FETCHED_WITHIN_S: Final = 900.0


PHASES: Final = (("initial", 5, 10), ("early", 25, 15), ("half", 50, 20), ("majority", 75, 25), ("complete", 100, 38))

CONFIG: Final = """\
# Written by `phasegate demo`; gone when it ends.
[app]
origin = "{app}"

[proxy]
listen = ["{listen}"]
workers = {workers}
run_dir = "run"

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
# A demo's phases are too short for proof at any usual rate: what has kept its limits goes on.
min_samples = 5
max_soak = "{soak}"
on_low_traffic = "promote"
phases = [
{phases}
]

# The emulator is no Firestore, and shares this machine with everything else.
[migrations.phase6.thresholds]
p95_ms = 2500
p99_ms = 5000

[control]
listen = "{control}"
tokens = [{{ name = "demo", sha256 = "{sha256}", role = "operator" }}]
"""


class DemoError(Exception):
    """The demo cannot go on: what was found and what to do."""


def demo(
    *,
    once: bool,
    phase_seconds: float,
    listen: str | None,
    control: str | None,
    rate: float,
    workers: int,
    report: str | None,
) -> int:
    """Run it and give the exit code: 0 only where everything held."""
    listens = _free(listen, 8080), _free(control, 9090)
    folder = Path(tempfile.mkdtemp(prefix="phasegate-demo-"))
    code = GATE
    try:
        with _ended_by_signals(), Children(folder) as children:
            stage = Stage(children, folder, phase_seconds, *listens, workers)
            code = _walk(stage, once, rate, report)
    except DemoError as error:
        print(f"phasegate demo: {error}", file=sys.stderr)
    except ApiError as error:
        print(f"phasegate demo: {error}", file=sys.stderr)
        code = UNREACHABLE
    except KeyboardInterrupt:
        print("Ended; every part of the demo has been stopped.", flush=True)
        code = INTERRUPTED
    if code in (OK, INTERRUPTED):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"The parts' logs are in {folder}", file=sys.stderr)
    return code


class Stage:
    """Everything that runs in a demo, and where."""

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
        self.client = Client(f"http://{control}", self.token, MIGRATION)
        self.project = PROJECT

    def config(self, app_port: int) -> Path:
        """Write the configuration that the demo's phasegate runs by."""
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
                project=self.project,
                every=f"{min(30.0, self.phase_seconds / 4):g}s",
                soak=soak,
                phases=phases,
                control=self.control,
                sha256=hashlib.sha256(self.token.encode()).hexdigest(),
            )
        )
        return path

    def app(self) -> int:
        """Start the small app and give its port."""
        child = self.children.python("app", "control.demo.app", read=True)
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise DemoError(f"the demo's app did not start:\n{self.children.log('app')}")
        return int(json.loads(line)["port"])

    def emulator(self) -> None:
        """Start the Firestore emulator, unless one is named in the environment; it is waited for by ``seed``."""
        if os.environ.get("FIRESTORE_EMULATOR_HOST"):
            self.project = f"{PROJECT}-{secrets.token_hex(3)}"  # somebody else's emulator may hold anything already
            return
        port = _free_port()
        try:
            command = find_command()
        except EmulatorError as error:
            command = _fetched_emulator(str(error))
        self.children.start("emulator", [*command, "--host=127.0.0.1", f"--port={port}"])
        os.environ["FIRESTORE_EMULATOR_HOST"] = f"127.0.0.1:{port}"

    def seed(self, config: Path) -> None:
        """Give Firestore what the mock begins with, by ``phasegate seed``, as soon as the emulator answers."""

        def seeded() -> bool:
            child = self.children.python("seed", "control.cli", "seed", "--config", str(config), "--yes")
            return child.wait() == OK

        if not wait_for(seeded, STARTED_WITHIN_S):
            logs = f"{self.children.log('seed')}\n{self.children.log('emulator')}"
            raise DemoError(f"the Firestore emulator could not be given its data:\n{logs}")

    def warm_up(self) -> None:
        """Have the emulator work a little, so that the first phases do not measure its compiler."""
        self.children.python("warm-up", "control.demo.warm").wait(STARTED_WITHIN_S)

    def serve(self, config: Path) -> subprocess.Popen[bytes]:
        """Start phasegate, by ``phasegate serve``."""
        return self.children.python("phasegate", "control.cli", "serve", "--config", str(config))

    def settle(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until phasegate is ready and the app's page comes through it."""

        def settled() -> bool:
            return child.poll() is not None or (self.client.ready() and self._proxies())

        if not wait_for(settled, STARTED_WITHIN_S) or child.poll() is not None:
            raise DemoError(f"phasegate did not start:\n{self.children.log('phasegate')}")

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
        """phasegate's own counts since it was started."""
        operations = self.client.metrics()["operations"]
        arms = {arm: sum(found["arms"][arm]["requests"] for found in operations) for arm in ("source", "target")}
        return arms | {"fallbacks": sum(found["fallbacks"] for found in operations)}


class Traffic:
    """The stream of requests, a child of its own; ``counts`` is what it said last."""

    def __init__(self, children: Children, listen: str, rate: float) -> None:
        orders = {"url": f"http://{listen}", "rate": rate, "scans": _ids("scans")}
        self.counts: dict[str, Any] = {}
        self._children = children
        self._child = children.python("load", "control.demo.load", told=json.dumps(orders).encode(), read=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self.counts = json.loads(line)

    def end(self) -> dict[str, Any]:
        """Let what is in flight end, and give the final counts."""
        self._children.end("load")
        self._reader.join(5)
        if not self.counts.get("final"):
            raise DemoError(f"the stream of requests broke off:\n{self._children.log('load')}")
        return self.counts

    def note(self) -> str:
        """One line on what the client has seen so far."""
        counts = self.counts
        if not counts:
            return "Client   no answer yet"
        sources = ", ".join(f"{count:,} from {name}" for name, count in sorted(counts["sources"].items()))
        failed = f"; the last failure: {counts['examples'][-1]}" if counts["examples"] else ""
        return f"Client   {counts['answered']:,} answers, {sources}, {counts['failed']} failed{failed}"


def _walk(stage: Stage, once: bool, rate: float, report: str | None) -> int:
    """The demo from its first process to its verdict."""
    _say("Starting the app and the Firestore emulator …")
    stage.emulator()
    config = stage.config(stage.app())
    phasegate = stage.serve(config)
    stage.seed(config)
    stage.warm_up()
    stage.settle(phasegate)
    _say(f"Proxy      http://{stage.listen}")
    _say(f"Dashboard  http://{stage.control}/admin/migration")
    _say(f"Token      {stage.token}")
    traffic = Traffic(stage.children, stage.listen, rate)
    stage.client.act("start", reason="the demo")
    state = follow(stage.client, may_act=True, may_detach=False, note=traffic.note)
    wire = traffic.end() if once else traffic.counts
    made = stage.client.report()
    if report is not None:
        Path(report).write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print_report(made)
    if once:
        found = findings(made, ("mock", "firestore"), stage.counters(), wire)
        print_findings(found)
        held = all(finding.held for finding in found)
        return OK if held else ROLLED_BACK if state != "completed" else GATE
    _say(f"Everything stays up: http://{stage.listen}, http://{stage.control}/admin/migration. Ctrl-C ends it.")
    while True:
        signal.pause()


def _say(line: str) -> None:
    print(line, flush=True)


def _ids(collection: str) -> list[str]:
    """The ids of a top-level collection's documents among those that both sides begin with."""
    parts = (mutation.path.split("/") for mutation in initial(Mock())())
    return [ids[1] for ids in parts if len(ids) == 2 and ids[0] == collection]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _free(asked: str | None, usual: int) -> str:
    """The address to listen on: what was asked for (port 0: any), or else the usual port if it is free, or any."""
    if asked is not None:
        host, _, port = asked.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise Stop(USAGE, f"{asked!r} is no address: expected HOST:PORT, such as 127.0.0.1:{usual}")
        return asked if int(port) else f"{host}:{_free_port()}"
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", usual))
        return f"127.0.0.1:{usual}"
    return f"127.0.0.1:{_free_port()}"


def _fetched_emulator(missing: str) -> list[str]:
    """Have Firebase's own tool fetch Google's emulator, once, to where ``find_command`` looks; and give its command.

    npm's @firestore-emulator/server would be smaller, but has no GetDocument, no precondition on a document's update
    time and only some transforms.
    """
    npx = shutil.which("npx")
    if npx is None or shutil.which("java") is None:
        raise DemoError(
            f"{missing}\nWhere Node.js 20 with npx and Java are installed, the demo fetches one by itself."
        )
    _say("No Firestore emulator was found; fetching Google's with npx firebase-tools, once. This takes minutes …")
    try:
        done = subprocess.run(
            [npx, "--yes", FIREBASE_TOOLS, "setup:emulators:firestore"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCHED_WITHIN_S,
            check=False,
        )
        told = f"{done.stdout}\n{done.stderr}".strip()[-400:]
    except subprocess.TimeoutExpired:
        told = f"it took longer than {FETCHED_WITHIN_S:.0f} s"
    try:
        return find_command()
    except EmulatorError:
        raise DemoError(f"{missing}\nnpx firebase-tools could not fetch one either: {told}") from None


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, even where the shell had Ctrl-C ignored."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
