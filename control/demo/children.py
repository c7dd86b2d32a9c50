"""Child processes that always end with this process: the demo's app, its traffic, the emulator and phasegate."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

_PR_SET_PDEATHSIG: Final = 1  # of prctl(2)
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
END_WITHIN_S: Final = 12.0  # from SIGTERM to SIGKILL
POLL_S: Final = 0.05  # between two looks of ``wait_for``
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Children:
    """Child processes, ended in reverse order on leaving the block: SIGTERM, then SIGKILL to the process group.

    Each child leads its own process group, so a terminal's Ctrl-C reaches this process only, which then ends the
    children in order. If this process dies without leaving the block, the kernel sends each child SIGTERM. Start
    children from the main thread: the kernel sends that SIGTERM when the thread that started a child ends.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # a second Ctrl-C must not leave a child running
        try:
            for name in reversed(self._started):
                self.end(name)
            for child in self._started.values():
                if child.stdout is not None:
                    child.stdout.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        told: bytes | None = None,
        env: Mapping[str, str] | None = None,
        read: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a child. It may take the name of a child that has ended.

        ``told`` is its whole standard input. With ``read`` its standard output is a pipe. Everything else that it
        writes goes to ``<name>.log``.
        """
        with open(self._logs / f"{name}.log", "ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if told is None else subprocess.PIPE,
                stdout=subprocess.PIPE if read else log,
                stderr=log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self._started[name] = child
        if told is not None:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(told)
                child.stdin.close()
        return child

    def python(
        self, name: str, module: str, *args: str, told: bytes | None = None, read: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start ``python -m module``."""
        return self.start(name, [sys.executable, "-m", module, *args], told=told, read=read)

    def end(self, name: str) -> int | None:
        """End one child and return its exit status; None where there is no such child."""
        child = self._started.get(name)
        if child is None:
            return None
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(END_WITHIN_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        return child.wait()

    def log(self, name: str, lines: int = 8) -> str:
        """The last lines that a child wrote."""
        path = self._logs / f"{name}.log"
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def wait_for(condition: Callable[[], bool], within_s: float) -> bool:
    """Wait until ``condition()`` is true, at most ``within_s``. Returns whether it became true."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
