"""The emulators that tests run against: Google's, and phasegate's own as a process that a test starts and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc

from backends.kinds.firestore.emulator import Emulator

REPOSITORY: Final = Path(__file__).parents[2]
_WITHIN_S: Final = 60.0


class OwnEmulator:
    """``phasegate emulator`` on a free port; a context manager that ends it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id; only while it runs."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "control.cli", "emulator", "--listen", self.address]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        try:
            with grpc.insecure_channel(self.address) as channel:
                grpc.channel_ready_future(channel).result(_WITHIN_S)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def emulator(whose: str) -> AbstractContextManager[OwnEmulator | Emulator]:
    """``phasegate``'s or ``google``'s."""
    return OwnEmulator() if whose == "phasegate" else Emulator(heap="3g")
