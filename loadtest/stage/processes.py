"""Processes that are started as a user starts them, and ended with everything they started."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from loadtest.stage import ports

ROOT: Final = Path(__file__).parents[2]
END_WITHIN_S: Final = 4.0
_JAR: Final = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
_MAIN: Final = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"


class StageError(Exception):
    """The stage cannot be set: what was found, and what to do."""


def free_port() -> int:
    """As ``ports.free_port``. Raises ``StageError``."""
    try:
        return ports.free_port()
    except OSError as error:
        raise StageError(str(error)) from None


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
        self._log = log
        self._popen: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []  # of every start: a killed leader's children may live on

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

    def start(self) -> None:
        """Start it; what it writes goes to its log."""
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "loadtest.stage.leash", str(self.limit), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.env},
                start_new_session=True,
            )
        self._groups.append(self._popen.pid)

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
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        self._popen.wait()

    def log(self, lines: int = 12) -> str:
        """The last lines that it wrote."""
        text = self._log.read_text("utf-8", "replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def logged(self, word: str) -> bool:
        """Whether it has written a line with this word in it."""
        return self._log.exists() and word in self._log.read_text("utf-8", "replace")


def answers(address: str, path: str) -> bool:
    """Whether a GET is answered with 200."""
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def children(pid: int) -> list[int]:
    """The ids of a process's children; none where it has ended."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def emulator() -> list[str]:
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
