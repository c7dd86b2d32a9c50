"""phasegate's own emulator as a child process, as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

REPOSITORY: Final = Path(__file__).parents[2]
VARIABLE: Final = "FIRESTORE_EMULATOR_HOST="


class OwnEmulator:
    """One running ``phasegate emulator``; a context manager that ends it. Used as ``Emulator`` is."""

    def __init__(self) -> None:
        self.address = ""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "control.cli", "emulator", "--listen", "127.0.0.1:0"]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(VARIABLE), f"the emulator said {line!r}"
        self.address = line.removeprefix(VARIABLE).strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.signal(signal.SIGCONT)
        self._process.terminate()
        try:
            assert self._process.wait(10) == 0
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            assert self._process.stdout is not None
            self._process.stdout.close()
