"""Processes that are started as a user starts them, and ended together with their children."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadtest.stage.errors import StageError
from loadtest.stage.leash import leashed
from loadtest.stage.ports import free_port

ROOT: Final = Path(__file__).parents[2]
STARTED_WITHIN_S: Final = 60.0  # a JVM on a busy machine takes ten
END_WITHIN_S: Final = 4.0  # after each SIGTERM: phasegate drains on the first and ends at once on the second
LOOK_EVERY_S: Final = 0.05  # between polls
ANSWER_WITHIN_S: Final = 2.0  # of a readiness probe
_HEAP: Final = "1g"  # of the emulator; a rehearsal's data needs a fraction of it
# phasegate knows how to find an emulator, but loadtest must not import phasegate: a child process does.
_FIND: Final = """\
import json, sys
from backends.kinds.firestore.emulator import EmulatorError, find_command
try:
    print(json.dumps(find_command(sys.argv[1])))
except EmulatorError as error:
    sys.exit(str(error))
"""


async def until(condition: Callable[[], Any], within_s: float) -> bool:
    """Call ``condition()`` in a thread until it is true; returns whether it was within the time."""
    deadline = time.monotonic() + within_s
    while True:
        if await asyncio.to_thread(condition):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_EVERY_S)


class Process:
    """A child process that leads its own process group; ended with the group. It may be started again.

    Its output goes to ``log``; with ``read`` its standard output is read by ``line``. Start it from the main thread:
    the kernel ends it when the starting thread ends.
    """

    def __init__(
        self, name: str, command: list[str], log: Path, env: dict[str, str] | None = None, *, read: bool = False
    ) -> None:
        self.name = name
        self.command = command
        self.env = env or {}
        self.limit = 0  # of file descriptors; 0: as this process
        self._read = read
        self._log = log
        self._popen: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []  # of every start, because a killed leader's children may live on

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
        """Start it."""
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                leashed(self.command, self.limit),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._read else log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.env},
                start_new_session=True,
            )
        self._groups.append(self._popen.pid)

    def ready(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` is true. Raises ``StageError`` if it ends instead, or on timeout."""
        deadline = time.monotonic() + STARTED_WITHIN_S
        while self.running and time.monotonic() < deadline:
            if condition():
                return
            time.sleep(LOOK_EVERY_S)
        raise StageError(f"{self.name} did not start:\n{self.log()}")

    def line(self) -> dict[str, Any]:
        """Its next line of output, as JSON. Raises ``StageError`` if it ended instead."""
        assert self._popen is not None
        assert self._popen.stdout is not None, "not made with read"
        line = self._popen.stdout.readline()
        if not line:
            raise StageError(f"{' '.join(self.command)} ended:\n{self.log()}")
        document: dict[str, Any] = json.loads(line)
        return document

    def finish(self, within_s: float) -> None:
        """Wait until it ends by itself. Raises ``StageError`` on timeout."""
        assert self._popen is not None
        try:
            self._popen.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise StageError(f"{' '.join(self.command)} did not end within {within_s:g} s") from None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, within_s: float) -> bool:
        """Wait for its end; returns whether it ended within the time."""
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
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def log(self, lines: int = 12) -> str:
        """The last lines of its log."""
        text = self._log.read_text("utf-8", "replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def logged(self, word: str) -> bool:
        """Whether its log contains ``word``."""
        return self._log.exists() and word in self._log.read_text("utf-8", "replace")


def get(address: str, path: str, fields: Mapping[str, str], within_s: float) -> tuple[int, bytes]:
    """Status and body of one GET. Raises ``OSError`` without an answer."""
    connection = http.client.HTTPConnection(address, timeout=within_s)
    try:
        connection.request("GET", path, headers=dict(fields))
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__} {error}".strip()) from error
    finally:
        connection.close()


def answers(address: str, path: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return get(address, path, {}, ANSWER_WITHIN_S)[0] == 200
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The ids of a process's children; empty if it has ended."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def emulator(log: Path, prefix: Sequence[str] = ()) -> tuple[Process, str]:
    """A Firestore emulator, not started yet, and its address. Raises ``StageError`` if none is installed."""
    search = subprocess.run(
        [sys.executable, "-c", _FIND, _HEAP], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if search.returncode:
        raise StageError(search.stderr.strip())
    port = free_port()
    command = [*prefix, *json.loads(search.stdout), "--host=127.0.0.1", f"--port={port}"]
    return Process("the Firestore emulator", command, log), f"127.0.0.1:{port}"


@contextlib.contextmanager
def running_emulator(log: Path, prefix: Sequence[str] = ()) -> Iterator[str]:
    """The address of an emulator for the length of a block: a running one, or one started for the block."""
    running = os.environ.get("FIRESTORE_EMULATOR_HOST")
    if running:
        yield running
        return
    process, address = emulator(log, prefix)
    try:
        process.start()
        process.ready(lambda: answers(address, "/"))
        yield address
    finally:
        process.end()
