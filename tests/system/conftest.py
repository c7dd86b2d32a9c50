"""The real emulator, one for all tests; each test has a project, which is a database, of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from backends.kinds.firestore.emulator import Emulator
from backends.kinds.firestore.settings import EMULATOR
from control.api.client import ControlClient
from control.demo.children import Children
from control.demo.traffic import Traffic
from tests.support.browsing import DESKTOP, Watch
from tests.support.datasite import DataSite
from tests.support.own_emulator import OwnEmulator

ROUTES = ("/api/dashboard/*", "/api/scans/*", "/api/analytics/*")
REPOSITORY = Path(__file__).parents[2]
TOKEN = "a-token-of-the-tests"
VIEWER = "a-token-that-may-only-look"
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
[backends.{target}]
kind = "{target}"
{settings}
[migrations.phase6]
source = "mock"
target = "{target}"
{more}
phases = [
{phases}
]
[migrations.phase6.data]
rate = {rate}
# However busy the machine: these tests are not about its speed.
[migrations.phase6.thresholds]
p95_ms = 8000
p99_ms = 9000
cpu = 100
[control]
listen = "127.0.0.1:0"
tokens = [
  {{ name = "tests", sha256 = "{sha256}", role = "operator" }},
  {{ name = "guest", sha256 = "{viewer}", role = "viewer" }},
]
"""

BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSER_WITHIN_MS = 60_000  # the machine may be busy; every wait is for a condition

COPIED_WITHIN_S = 300  # a copy has the lowest priority, and the machine may be busy

# A shell starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C is tested here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def emulator_address() -> Iterator[str]:
    """Where an emulator listens that no test may stop: the one the environment names, or one of ours."""
    named = os.environ.get(EMULATOR)
    if named:
        yield named
        return
    with Emulator() as emulator:
        yield emulator.address


@pytest.fixture
def emulated(emulator_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point this process at the shared emulator; an empty project's name."""
    monkeypatch.setenv(EMULATOR, emulator_address)
    return f"demo-{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def our_address() -> Iterator[str]:
    """Where phasegate's own emulator listens."""
    with OwnEmulator() as emulator:
        yield emulator.address


@pytest.fixture(params=["emulator_address", "our_address"], ids=["google's", "phasegate's"])
def either_emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As ``emulated``, by each of the two emulators in turn."""
    monkeypatch.setenv(EMULATOR, request.getfixturevalue(request.param))
    return f"demo-{secrets.token_hex(6)}"


@pytest.fixture
def own_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator that the test may stop and kill."""
    with Emulator() as emulator:
        monkeypatch.setenv(EMULATOR, emulator.address)
        yield emulator


class Running:
    """A phasegate in front of the demo's app, as real processes: its addresses, its command line, its children."""

    def __init__(self, folder: Path, config: Path, children: Children, module: str) -> None:
        self.folder = folder
        self.module = module
        self.config = config
        self.children = children
        self.token = TOKEN
        self.viewer = VIEWER
        ready = json.loads((folder / "run" / "ready.json").read_text())
        self.pid: int = ready["pid"]
        self.listen: str = ready["proxy"][0]
        self.control: str = ready["control"]
        self.client = ControlClient(f"http://{self.control}", TOKEN)

    @property
    def environment(self) -> dict[str, str]:
        """What the command line needs to know."""
        return {**os.environ, "PHASEGATE_URL": f"http://{self.control}", "PHASEGATE_TOKEN": TOKEN}

    def command(self, *args: str) -> list[str]:
        """``phasegate`` with these arguments, as a command."""
        return [sys.executable, "-m", self.module, *args]

    def phasegate(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run ``phasegate`` with these arguments."""
        within_s = COPIED_WITHIN_S if args[0] == "copy" else 60
        return subprocess.run(
            self.command(*args),
            env=self.environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=within_s,
        )

    def traffic(self, rate: float = 100) -> Traffic:
        """A stream of requests, which has begun; ``end`` it."""
        stream = Traffic(self.children, self.listen, rate)
        deadline = time.monotonic() + 60
        while not stream.counts.get("answered"):
            assert time.monotonic() < deadline, "no answer"
            time.sleep(0.02)
        return stream

    def kill_children(self, until: Callable[..., None]) -> None:
        """SIGKILL every worker and control, and wait until others have taken their places."""
        before = {worker.pid for worker in self.client.status().workers}
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        (control,) = self.processes("control.serve")
        control.send_signal(signal.SIGKILL)
        until(
            lambda: [p.pid for p in self.processes("control.serve")] not in ([], [control.pid]), 60, "a new control"
        )
        until(self.client.ready, 60, "the control plane")

        def replaced() -> bool:
            workers = {worker.pid for worker in self.client.status().workers}
            return len(workers) == 2 and not workers & before

        until(replaced, 60, "new workers")

    def processes(self, module: str) -> list[psutil.Process]:
        """The supervisor's living children that run ``module``."""
        found = []
        for child in psutil.Process(self.pid).children():
            # One that ends while it is looked at is not living.
            with contextlib.suppress(psutil.NoSuchProcess):  # of which ZombieProcess is a kind
                if module in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    """Processes that the test starts; ended with it."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with Children(logs) as started:
        yield started


@pytest.fixture
def configured(tmp_path: Path, children: Children) -> Callable[..., Path]:
    """Start the demo's app and write a configuration in front of it: phases, and what of the migration is said.

    The target is Firestore, in ``project``, or a backend of another kind, ``target``, with these ``settings``.
    """

    def write(
        project: str,
        phases: Sequence[tuple[str, float, str]],
        *,
        origin: str = "",
        target: str = "firestore",
        settings: str = "",
        rate: int = 500,
        **migration: Any,
    ) -> Path:
        if not origin:
            app = children.python("app", "control.demo.app", read=True)
            assert app.stdout is not None
            origin = f"http://127.0.0.1:{json.loads(app.stdout.readline())['port']}"
        rows = "\n".join(
            f'  {{ name = "{name}", weight = {weight}, min_soak = "{soak}" }},' for name, weight, soak in phases
        )
        told = {"routes": ROUTES, "validate_every": "500ms", "lease": "30s", "min_samples": 5} | migration
        more = "\n".join(f"{key} = {json.dumps(value)}" for key, value in told.items())
        path = tmp_path / "phasegate.toml"
        path.write_text(
            CONFIG.format(
                origin=origin,
                target=target,
                settings=settings or f'project = "{project}"\ndeadline = "10s"',
                phases=rows,
                rate=rate,
                more=more,
                sha256=hashlib.sha256(TOKEN.encode()).hexdigest(),
                viewer=hashlib.sha256(VIEWER.encode()).hexdigest(),
            )
        )
        return path

    return write


@pytest.fixture
def serving(
    configured: Callable[..., Path], children: Children, until: Callable[..., None]
) -> Callable[..., Running]:
    """Serve a configuration (see ``configured``) and wait until app and control plane answer through it.

    ``module`` is the command line: phasegate's own, or one that adds to the product first. The source is copied,
    unless ``copied`` is false: then it has what a mock begins with, and the target nothing.
    """

    def serve(
        project: str,
        phases: Sequence[tuple[str, float, str]],
        module: str = "control.cli",
        copied: bool = True,
        **migration: Any,
    ) -> Running:
        config = configured(project, phases, **migration)
        process = children.python("phasegate", module, "serve", "--config", str(config))
        ready = config.parent / "run" / "ready.json"

        def started() -> bool:
            assert process.poll() is None, f"phasegate ended at once: {children.log('phasegate', 20)}"
            return ready.exists()

        until(started, 120, "phasegate's start")
        running = Running(config.parent, config, children, module)
        until(running.client.ready, 120, "the control plane")
        until(lambda: len(running.client.status().workers) == 2, 120, "both workers")
        if copied:
            done = running.phasegate("copy", "--migration", "phase6")
            assert done.returncode == 0, done.stderr
        return running

    return serve


@pytest.fixture
def data_site(tmp_path: Path, free_port: Callable[[], int], own_emulator: Emulator) -> Iterator[DataSite]:
    """A phasegate between a mock and an emulator, which the test serves and disturbs."""
    made = DataSite(tmp_path, free_port(), own_emulator)
    yield made
    own_emulator.signal(signal.SIGCONT)
    if made.process is not None and made.process.poll() is None:
        made.kill_everything()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium."""
    expect.set_options(timeout=BROWSER_WITHIN_MS)
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "chromium is missing: `make browser` installs it"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the dashboard, signed in unless ``token`` is None. Nothing may go wrong on it until the end."""
    watches, contexts = [], []

    def open_page(running: Any, token: str | None = "", viewport: Any = DESKTOP) -> Page:
        context = browser.new_context(viewport=viewport, color_scheme="light", reduced_motion="reduce")
        contexts.append(context)
        context.set_default_timeout(BROWSER_WITHIN_MS)
        page = context.new_page()
        watches.append(Watch(page, running.control))
        page.goto(f"http://{running.control}/admin/migration")
        if token is not None:
            page.get_by_label("Token").fill(token or running.token)
            page.keyboard.press("Enter")
            expect(page.locator(".link.live")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [wrong for watch in watches for wrong in watch.wrong] == []


@pytest.fixture(scope="module")
def axe(repository: Path) -> str:
    """axe-core's source."""
    path = repository / "node_modules" / "axe-core" / "axe.min.js"
    assert path.exists(), "axe-core is missing: `npm ci` fetches it"
    return path.read_text()
