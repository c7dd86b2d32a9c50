"""Processes that are started as a user starts them, and ended with everything they started."""

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
STARTED_WITHIN_S: Final = 60.0  # a JVM beside other work takes ten
END_WITHIN_S: Final = 4.0  # of either SIGTERM: phasegate drains on the first and ends at once on the second
LOOK_EVERY_S: Final = 0.05
ANSWER_WITHIN_S: Final = 2.0  # of something that is asked only whether it is there
_HEAP: Final = "1g"  # of the emulator's: what it holds in a rehearsal fits many times
# Where an emulator may be is known to phasegate, of which nothing is imported here: a process of its own is asked.
_FIND: Final = """\
import json, sys
from backends.kinds.firestore.emulator import EmulatorError, find_command
try:
    print(json.dumps(find_command(sys.argv[1])))
except EmulatorError as error:
    sys.exit(str(error))
"""


async def until(condition: Callable[[], Any], within_s: float) -> bool:
    """Ask ``condition()``, in a thread, until it is true; whether it was within the time."""
    deadline = time.monotonic() + within_s
    while True:
        if await asyncio.to_thread(condition):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_EVERY_S)


class Process:
    """A child that leads a group of its own; ended with the group. It may be started again by the same command.

    What it writes goes to ``log``; with ``read`` its standard output is for ``line``. To be started from the main
    thread: the kernel ends it with the thread that did.
    """

    def __init__(
        self, name: str, command: list[str], log: Path, env: dict[str, str] | None = None, *, read: bool = False
    ) -> None:
        self.name = name
        self.command = command
        self.env = env or {}
        self.limit = 0  # of file descriptors; 0: ours
        self._read = read
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
        """Wait until it is, as ``condition`` says. Raises ``StageError`` where it ends instead, or never is."""
        deadline = time.monotonic() + STARTED_WITHIN_S
        while self.running and time.monotonic() < deadline:
            if condition():
                return
            time.sleep(LOOK_EVERY_S)
        raise StageError(f"{self.name} did not start:\n{self.log()}")

    def line(self) -> dict[str, Any]:
        """Its next line of output, as JSON. Raises ``StageError`` where it ended instead."""
        assert self._popen is not None
        assert self._popen.stdout is not None, "not made with read"
        line = self._popen.stdout.readline()
        if not line:
            raise StageError(f"{' '.join(self.command)} ended:\n{self.log()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def finish(self, within_s: float) -> None:
        """Let it end by itself, whatever it writes. Raises ``StageError`` where it does not within the time."""
        assert self._popen is not None
        try:
            self._popen.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise StageError(f"{' '.join(self.command)} did not end within {within_s:g} s") from None

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
        """The last lines that it wrote."""
        text = self._log.read_text("utf-8", "replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def logged(self, word: str) -> bool:
        """Whether it has written a line with this word in it."""
        return self._log.exists() and word in self._log.read_text("utf-8", "replace")


def get(address: str, path: str, fields: Mapping[str, str], within_s: float) -> tuple[int, bytes]:
    """Status and body of one GET. Raises ``OSError`` where there is no answer."""
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
    """The ids of a process's children; none where it has ended."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def emulator(log: Path, prefix: Sequence[str] = ()) -> tuple[Process, str]:
    """A Firestore emulator that is yet to be started, and its address. Raises ``StageError`` where there is none."""
    found = subprocess.run(
        [sys.executable, "-c", _FIND, _HEAP], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise StageError(found.stderr.strip())
    port = free_port()
    command = [*prefix, *json.loads(found.stdout), "--host=127.0.0.1", f"--port={port}"]
    return Process("the Firestore emulator", command, log), f"127.0.0.1:{port}"


@contextlib.contextmanager
def running_emulator(log: Path, prefix: Sequence[str] = ()) -> Iterator[str]:
    """The address of an emulator for the length of a block: of one that runs, or of one of our own."""
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
