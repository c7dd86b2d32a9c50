"""The stage: the processes of a rehearsal, started as a user starts them, and ended on every way out.

One emulator and one app serve a whole run of rehearsals; each rehearsal has a phasegate of its own, with a run
directory of its own and a Firestore project of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, Self

from loadtest.api import Api, ApiError, Json
from loadtest.rehearse.faults import Setting
from loadtest.rehearse.relay import Cable, Relay

ROOT: Final = Path(__file__).parents[2]
STARTED_WITHIN_S: Final = 60.0
END_WITHIN_S: Final = 4.0
WORKERS: Final = 2
_JAR: Final = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
_MAIN: Final = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
_FAKETIME: Final = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")

_PHASES: Final = {
    # Nothing is promoted by itself: where the weight changes, the fault changed it.
    "held": (("early", 25, "1h", "1h"), ("half", 50, "1h", "1h"), ("complete", 100, "1h", "1h")),
    # What has proven itself goes on.
    "climbing": (("half", 50, "2s", "1h"), ("complete", 100, "2s", "1h")),
    "walk": (
        *(("initial", 5, "2s", "2s"), ("early", 25, "2s", "2s"), ("half", 50, "2s", "2s")),
        *(("majority", 75, "2s", "2s"), ("complete", 100, "2s", "2s")),
    ),
}

_CONFIG: Final = """\
[app]
origin = "http://127.0.0.1:{app}"

[proxy]
listen = ["{listen}"]
workers = {workers}
run_dir = "{run_dir}"
drain_timeout = "5s"

[backends.mock]
kind = "mock"

[backends.firestore]
kind = "firestore"
project = "{project}"
deadline = "{deadline}s"

[migrations.phase6]
source = "mock"
target = "firestore"
routes = ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"]
validate_every = "1s"
lease = "{lease}s"
min_samples = 5
on_low_traffic = "{low}"
phases = [
{phases}
]

[migrations.phase6.thresholds]
{thresholds}

[control]
listen = "{control}"
tokens = [{{ name = "rehearsal", sha256 = "{sha256}", role = "operator" }}]
"""


class StageError(Exception):
    """The stage cannot be set: what was found, and what to do."""


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], Any], within_s: float, every_s: float = 0.05) -> bool:
    """Ask ``condition()``, in a thread, until it is true; whether it was within the time."""
    deadline = time.monotonic() + within_s
    while True:
        if await asyncio.to_thread(condition):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(every_s)


class Process:
    """A child that leads a group of its own; ended with the group. It may be started again by the same command."""

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.command = command
        self.env = env or {}
        self.limit = 0  # of file descriptors; 0: ours
        self.out: IO[bytes] | None = None
        self._log = log
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process started last."""
        assert self._popen is not None, f"{self.name} was not started"
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._popen.poll() if self._popen is not None else None

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    def start(self, *, read: bool = False) -> None:
        """Start it; what it writes goes to its log, or with ``read`` its standard output to ``out``."""
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "loadtest.rehearse.leash", str(self.limit), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if read else log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.env},
                start_new_session=True,
            )
        self.out = self._popen.stdout

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, within_s: float) -> bool:
        """Whether it ended within the time."""
        assert self._popen is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(within_s)
            return True
        return False

    def end(self) -> None:
        """End it and everything in its group, whatever state they are in."""
        if self._popen is None:
            return
        if self.running:
            # phasegate drains on the first and ends at once on the second.
            for _ in range(2):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGCONT)
                    self.signal(signal.SIGTERM)
                if self.wait(END_WITHIN_S):
                    break
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        if self.out is not None:
            self.out.close()

    def log(self, lines: int = 12) -> str:
        """The last lines that it wrote."""
        text = self._log.read_text("utf-8", "replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def logged(self, word: str) -> bool:
        """Whether it has written a line with this word in it."""
        return self._log.exists() and word in self._log.read_text("utf-8", "replace")


class World:
    """What a whole run of rehearsals shares: the emulator and the app."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.folder = folder
        self.target_address = f"127.0.0.1:{port}"
        command = [*_emulator(), "--host=127.0.0.1", f"--port={port}"]
        self.target = Process("target", command, folder / "target.log")
        self.app_port = free_port()
        app = [sys.executable, "-m", "loadtest.rehearse.app", str(self.app_port)]
        self.app = Process("app", app, folder / "app.log")

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
        if not await until(lambda: _answers(self.target_address, "/"), STARTED_WITHIN_S):
            raise StageError(f"the Firestore emulator did not start:\n{self.target.log()}")

    async def start_app(self) -> None:
        """Start the app and wait until it answers."""
        self.app.start()
        if not await until(lambda: _answers(f"127.0.0.1:{self.app_port}", "/page/1"), STARTED_WITHIN_S):
            raise StageError(f"the app did not start:\n{self.app.log()}")


class Stage:
    """One rehearsal's phasegate, with what stands between it and the emulator."""

    def __init__(self, world: World, setting: Setting, name: str) -> None:
        self.world = world
        self.setting = setting
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=world.folder))
        self.run_dir = self.folder / "run"
        self.listen = f"127.0.0.1:{free_port()}"
        self.control = f"127.0.0.1:{free_port()}"
        self.config = self.folder / "phasegate.toml"
        self.project = f"demo-{name}-{secrets.token_hex(3)}"
        self.clock_file = self.folder / "clock"
        self.relay: Relay | None = None
        self.cable: Cable | None = None
        self._token = secrets.token_urlsafe(24)
        self._mounted = False
        self.credentials = {"authorization": f"Bearer {self._token}"}
        self.api = Api(f"http://{self.control}", self._token)
        self.phasegate = self._cli("phasegate", "serve")
        self._ways = contextlib.AsyncExitStack()

    def _cli(self, name: str, *args: str) -> Process:
        command = [sys.executable, "-m", "control.cli", *args, "--config", str(self.config)]
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
            self.relay = await self._ways.enter_async_context(Relay(address))
            address = f"127.0.0.1:{self.relay.port}"
        elif self.setting.hop == "cable":
            self.cable = await self._ways.enter_async_context(Cable(address))
            address = f"127.0.0.1:{self.cable.port}"
        if self.setting.disk_mb:
            self._mount()
        self.write_config()
        self.phasegate.env = {"FIRESTORE_EMULATOR_HOST": address, **self._clock()}
        self.phasegate.limit = self.setting.descriptors
        seed = self._cli("seed", "seed", "--yes")
        seed.env = {"FIRESTORE_EMULATOR_HOST": self.world.target_address}
        try:
            seed.start()
            self.phasegate.start()
            if not await asyncio.to_thread(seed.wait, STARTED_WITHIN_S) or seed.code:
                raise StageError(f"the target was not seeded:\n{seed.log()}")
        finally:
            await asyncio.to_thread(seed.end)
        await self.ready()

    def write_config(self, *, thresholds: tuple[tuple[str, float], ...] = (), spoil: str = "") -> None:
        """Write the configuration; ``thresholds`` beside the setting's own, ``spoil`` is appended."""
        setting = self.setting
        limits = {
            "p95_ms": 4000,
            "p99_ms": 5000,
            "memory_mb": 2048,
            "cpu": 1.0,
            **dict(setting.thresholds),
            **dict(thresholds),
        }
        text = _CONFIG.format(
            app=self.world.app_port,
            listen=self.listen,
            workers=WORKERS,
            run_dir=self.run_dir,
            project=self.project,
            lease=setting.lease_s,
            deadline=setting.deadline_s,
            low="promote" if setting.plan == "walk" else "hold",
            phases="\n".join(
                f'  {{ name = "{name}", weight = {weight}, min_soak = "{least}", max_soak = "{most}",'
                ' rollback_within = "10s" },'
                for name, weight, least, most in _PHASES[setting.plan]
            ),
            thresholds="\n".join(f"{name} = {value}" for name, value in limits.items()),
            control=self.control,
            sha256=hashlib.sha256(self._token.encode()).hexdigest(),
        )
        self.config.write_text(text + spoil)

    async def ready(self) -> None:
        """Wait until phasegate serves and control leads. Raises ``StageError``."""

        def settled() -> bool:
            return not self.phasegate.running or (self.leads() and _answers(self.listen, "/page/1"))

        if not await until(settled, STARTED_WITHIN_S) or not self.phasegate.running:
            raise StageError(f"phasegate did not start:\n{self.phasegate.log()}")

    def leads(self) -> bool:
        """Whether control says that it is ready, and every worker is there."""
        try:
            return _answers(self.control, "/readyz") and len(self.api.status()["workers"]) == WORKERS
        except ApiError:
            return False

    def status(self) -> Json:
        """The migration's status; empty where control does not answer."""
        try:
            return self.api.status()
        except ApiError:
            return {}

    def workers(self) -> dict[int, int]:
        """The workers' process ids by slot, as control shows them."""
        return {worker["slot"]: worker["pid"] for worker in self.status().get("workers", ())}

    def control_pid(self) -> int:
        """The control process's id; 0 where there is none."""
        for pid in _children(self.phasegate.pid):
            with contextlib.suppress(OSError):
                if b"control.serve" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return 0

    def audit(self) -> list[Json]:
        """The audit trail, oldest first."""
        found: list[Json] = []
        cursor = ""
        for _ in range(50):
            page = self.api.call("GET", f"{self.api.path}/audit?limit=1000{cursor}")
            found += page["entries"]
            if not page.get("next_cursor"):
                break
            cursor = f"&cursor={page['next_cursor']}"
        return found[::-1]

    # What the setting asks for.

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
        found = [str(path) for pattern in _FAKETIME for path in Path("/").glob(pattern[1:])]
        if not found:
            raise StageError("libfaketime is missing, which sets one process's clock: apt-get install libfaketime")
        self.set_clock(0)
        # The monotonic clock stays as it is: that is the one that decides.
        return {
            "LD_PRELOAD": found[0],
            "FAKETIME_TIMESTAMP_FILE": str(self.clock_file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def set_clock(self, offset_s: int) -> None:
        """Set phasegate's wall clock so far from the real one."""
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
    """A folder for everything, which goes when all went well; its path is in the error that is raised otherwise."""
    path = Path(tempfile.mkdtemp(prefix="phasegate-rehearse-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def _answers(address: str, path: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _emulator() -> list[str]:
    """The command that runs the Firestore emulator. Raises ``StageError``."""
    gcloud = shutil.which("gcloud")
    roots = [Path(gcloud).resolve().parents[1]] if gcloud else []
    roots += [Path("/usr/lib/google-cloud-sdk"), Path.home() / "google-cloud-sdk"]
    named = os.environ.get("FIRESTORE_EMULATOR_JAR")
    jars = [Path(named)] if named else [root / _JAR for root in roots]
    jars += sorted((Path.home() / ".cache/firebase/emulators").glob("cloud-firestore-emulator-*.jar"), reverse=True)
    jar = next((path for path in jars if path.is_file()), None)
    java = shutil.which("java")
    if jar is None or java is None:
        missing = "no Firestore emulator was found" if jar is None else "no java was found on PATH"
        raise StageError(f"{missing}; `phasegate demo` says how to get it, FIRESTORE_EMULATOR_JAR names one")
    # Compiled quickly rather than well: it is not what is measured, and it is started often.
    return [
        java,
        "-Duser.language=en",
        "-Xmx1g",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-cp",
        str(jar),
        _MAIN,
    ]
