"""The Firestore emulator as a child process: find it, start it, wait until it answers, stop it.

For the demo and the tests only; serving traffic does not need it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_MAIN: Final = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
# Java's quick compiler (C1) only: half the CPU time to start, and no minutes in which the optimizing compiler takes
# CPU from requests (on two busy cores 185 of the first 188 contended commits exceeded 5 s; with this, none).
_QUICK_START: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_PLATFORM: Final = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
# Answering this reads the emulator's storage, which takes a second the first time.
_PROBE: Final = "/v1/projects/demo-probe/databases/(default)/documents/probe/probe"

HOW_TO_GET: Final = """no Firestore emulator was found. Any one of these will do:
  - Debian: apt-get install google-cloud-cli-firestore-emulator (from Google's repository), or
    gcloud components install cloud-firestore-emulator
  - npx firebase-tools setup:emulators:firestore
  - set FIRESTORE_EMULATOR_JAR to the path of a cloud-firestore-emulator jar
  - set FIRESTORE_EMULATOR_HOST to the host:port of one that is running
The jar also needs Java 11 or newer on PATH (apt-get install openjdk-17-jre-headless)."""


class EmulatorError(RuntimeError):
    """The emulator cannot be found or started; the message says what to do."""


def _jars() -> Iterator[Path]:
    named = os.environ.get("FIRESTORE_EMULATOR_JAR")
    if named:
        yield Path(named)
        return
    gcloud = shutil.which("gcloud")
    roots = [Path(gcloud).resolve().parents[1]] if gcloud else []
    roots += [Path(root) for root in (os.environ.get("CLOUDSDK_ROOT_DIR"),) if root]
    roots += [
        Path("/usr/lib/google-cloud-sdk"),
        Path("/usr/lib64/google-cloud-sdk"),
        Path("/opt/google-cloud-sdk"),
        Path("/snap/google-cloud-sdk/current"),
        Path.home() / "google-cloud-sdk",
    ]
    for root in roots:
        yield root / _PLATFORM
    cache = Path.home() / ".cache/firebase/emulators"
    yield from sorted(cache.glob("cloud-firestore-emulator-*.jar"), reverse=True)


def find_command(heap: str = "2g") -> list[str]:
    """The command that runs the emulator, without its address. Raises ``EmulatorError`` if there is none."""
    jar = next((jar for jar in _jars() if jar.is_file()), None)
    if jar is None:
        raise EmulatorError(HOW_TO_GET)
    java = shutil.which("java")
    if java is None:
        raise EmulatorError(f"{jar} was found, but no java on PATH:\napt-get install openjdk-17-jre-headless")
    return [java, "-Duser.language=en", f"-Xmx{heap}", *_QUICK_START, "-cp", str(jar), _MAIN]


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def answers(address: str) -> bool:
    """Whether an emulator answers at this ``HOST:PORT``."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", _PROBE)
        return connection.getresponse().status in (200, 404)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Emulator:
    """One running emulator; a context manager that stops it."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1", heap: str = "2g") -> None:
        """``port`` 0: a free one. ``heap`` limits its memory, as Java's ``-Xmx`` takes it."""
        self._heap = heap
        port = port or _free_port(host)
        self.address = f"{host}:{port}"
        self._host, self._port = host, port
        self._process: subprocess.Popen[bytes] | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    @property
    def pid(self) -> int:
        """The process's id; only while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self, within_s: float = 60.0) -> Self:
        """Start it and wait until it answers. Raises ``EmulatorError``."""
        command = [*find_command(self._heap), f"--host={self._host}", f"--port={self._port}"]
        # Its own process group: a Ctrl-C at the terminal must reach only this process, which then stops it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, start_new_session=True
        )
        deadline = time.monotonic() + within_s
        while not answers(self.address):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                why = "ended at once" if ended else f"did not answer within {within_s:.0f} s"
                raise EmulatorError(f"the Firestore emulator at {self.address} {why}:\n{self._last_words()}")
            time.sleep(0.05)
        return self

    def _last_words(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-2000:].strip()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP to hang it, SIGCONT to let it go on, SIGKILL to kill it."""
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Stop it, whatever state it is in, also when SIGSTOPped."""
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._output.close()
