"""The stage: the processes of a rehearsal, started as a user starts them, and always ended.

One emulator and one app serve a whole run of rehearsals; each rehearsal has its own phasegate, run directory and
Firestore project.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from loadtest.stage.api import ControlApi, ControlApiError, Json
from loadtest.stage.config import WORKERS, config
from loadtest.stage.errors import StageError
from loadtest.stage.ports import free_port
from loadtest.stage.processes import Process, answers, children, emulator
from loadtest.stage.relay import Cable, GrpcRelay
from loadtest.stage.setting import Setting

AUDIT_PAGE: Final = 1000  # entries; a rehearsal makes fewer
AUDIT_PAGES_MOST: Final = 50  # enough for a soak
_FAKETIME: Final = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")


class World:
    """The processes that all rehearsals of a run share: the emulator and the app."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target, self.target_address = emulator(folder / "target.log")
        self.app_port = free_port()
        app = [sys.executable, "-m", "loadtest.stage.app", str(self.app_port)]
        self.app = Process("the app", app, folder / "app.log")

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(self.start_target(), self.start_app())
        except BaseException:
            self.end()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """End both."""
        self.app.end()
        self.target.end()

    async def start_target(self) -> None:
        """Start the emulator and wait until it answers."""
        self.target.start()
        await asyncio.to_thread(self.target.ready, lambda: answers(self.target_address, "/"))

    async def start_app(self) -> None:
        """Start the app and wait until it answers."""
        self.app.start()
        await asyncio.to_thread(self.app.ready, lambda: answers(f"127.0.0.1:{self.app_port}", "/page/1"))


class StagedPhasegate:
    """One rehearsal's phasegate, and the relay or cable between it and the emulator."""

    def __init__(self, world: World, setting: Setting, name: str) -> None:
        self.world = world
        self.setting = setting
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=world.folder))
        self.run_dir = self.folder / "run"
        self.listen = f"127.0.0.1:{free_port()}"
        self.control = f"127.0.0.1:{free_port()}"
        self.file = self.folder / "phasegate.toml"
        self.project = f"demo-{name}-{secrets.token_hex(3)}"
        self.clock_file = self.folder / "clock"
        self.relay: GrpcRelay | None = None
        self.cable: Cable | None = None
        self._token = secrets.token_urlsafe(24)
        self._mounted = False
        self.credentials = {"authorization": f"Bearer {self._token}"}
        self.api = ControlApi(f"http://{self.control}", self._token)
        self.phasegate = self._cli("phasegate", "serve")
        self._ways = contextlib.AsyncExitStack()

    def _cli(self, name: str, *args: str) -> Process:
        command = [sys.executable, "-m", "control.cli", *args, "--config", str(self.file)]
        return Process(name, command, self.folder / f"{name}.log")

    async def __aenter__(self) -> Self:
        try:
            await self._set()
        except BaseException:
            await self._strike()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._strike()

    async def _set(self) -> None:
        address = self.world.target_address
        if self.setting.hop == "relay":
            self.relay = await self._ways.enter_async_context(GrpcRelay(address))
            address = f"127.0.0.1:{self.relay.port}"
        elif self.setting.hop == "cable":
            self.cable = await self._ways.enter_async_context(Cable(address))
            address = f"127.0.0.1:{self.cable.port}"
        if self.setting.disk_mb:
            self._mount()
        self.write_config()
        self.phasegate.env = {"FIRESTORE_EMULATOR_HOST": address, **self._clock()}
        self.phasegate.limit = self.setting.descriptors
        self.phasegate.start()
        await self.ready()
        try:
            await asyncio.to_thread(self.api.copy)
        except ControlApiError as error:
            raise StageError(f"the target was not filled: {error}\n{self.phasegate.log()}") from error

    def write_config(self, *, thresholds: tuple[tuple[str, float], ...] = (), spoil: str = "") -> None:
        """Write the configuration; ``thresholds`` override the setting's, ``spoil`` is appended."""
        text = config(
            self.setting,
            app=self.world.app_port,
            listen=self.listen,
            control=self.control,
            run_dir=str(self.run_dir),
            project=self.project,
            sha256=hashlib.sha256(self._token.encode()).hexdigest(),
            thresholds=thresholds,
        )
        self.file.write_text(text + spoil)

    async def ready(self) -> None:
        """Wait until phasegate serves and control leads. Raises ``StageError``."""
        await asyncio.to_thread(self.phasegate.ready, lambda: self.leads() and answers(self.listen, "/page/1"))

    def leads(self) -> bool:
        """Whether control reports that it is ready, and every worker runs."""
        try:
            return answers(self.control, "/readyz") and len(self.api.status()["workers"]) == WORKERS
        except ControlApiError:
            return False

    def status(self) -> Json:
        """The migration's status; empty if control does not answer."""
        try:
            return self.api.status()
        except ControlApiError:
            return {}

    def workers(self) -> dict[int, int]:
        """The workers' process ids by slot, from the status."""
        return {worker["slot"]: worker["pid"] for worker in self.status().get("workers", ())}

    def control_pid(self) -> int:
        """The control process's id; 0 if there is none."""
        for pid in children(self.phasegate.pid):
            with contextlib.suppress(OSError):
                if b"control.serve" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return 0

    def audit(self) -> list[Json]:
        """The audit trail, oldest first."""
        entries: list[Json] = []
        cursor = ""
        for _ in range(AUDIT_PAGES_MOST):
            page = self.api.call("GET", f"{self.api.path}/audit?limit={AUDIT_PAGE}{cursor}")
            entries += page["entries"]
            if not page.get("next_cursor"):
                break
            cursor = f"&cursor={page['next_cursor']}"
        return entries[::-1]

    # Options of the setting.

    def _mount(self) -> None:
        self.run_dir.mkdir()
        size = f"size={self.setting.disk_mb}m"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "none", str(self.run_dir)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StageError(f"a small disk cannot be mounted ({done.stderr.strip()}): this rehearsal needs root")
        self._mounted = True

    def _clock(self) -> dict[str, str]:
        if not self.setting.clock:
            return {}
        libraries = [str(path) for pattern in _FAKETIME for path in Path("/").glob(pattern[1:])]
        if not libraries:
            raise StageError("libfaketime is missing, which sets one process's clock: apt-get install libfaketime")
        self.set_clock(0)
        # The monotonic clock is not changed: phasegate's decisions depend on it.
        return {
            "LD_PRELOAD": libraries[0],
            "FAKETIME_TIMESTAMP_FILE": str(self.clock_file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def set_clock(self, offset_s: int) -> None:
        """Set phasegate's wall clock ``offset_s`` from the real one."""
        new = self.clock_file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}s")
        new.rename(self.clock_file)

    async def _strike(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            await asyncio.to_thread(self.phasegate.end)
        await self._ways.aclose()
        if self._mounted:
            umount = ["umount", "-l", str(self.run_dir)]
            await asyncio.to_thread(subprocess.run, umount, check=False, capture_output=True)
            self._mounted = False


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder, removed unless the block raises: then it is kept for its logs."""
    path = Path(tempfile.mkdtemp(prefix="phasegate-rehearse-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
