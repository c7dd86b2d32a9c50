"""The Firestore emulator, for works that need two kinds of backend: one that runs, or one of the benchmark's own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from loadtest.bench.contenders import BenchError, Child, Place, free_port

_STARTED_WITHIN_S: Final = 60.0
# phasegate knows where an emulator may be; it is asked in a process of its own, for nothing of it is imported here.
_WHERE: Final = (
    "import json; from backends.kinds.firestore.emulator import find_command; print(json.dumps(find_command()))"
)


@contextmanager
def emulator(place: Place) -> Iterator[str]:
    """Its address, for the length of a block. Raises ``BenchError`` where there is none."""
    running = os.environ.get("FIRESTORE_EMULATOR_HOST")
    if running:
        yield running
        return
    found = subprocess.run([sys.executable, "-c", _WHERE], capture_output=True, text=True, check=False)
    if found.returncode:
        raise BenchError(found.stderr.strip().splitlines()[-1])
    port = free_port()
    command = [*place.load, *json.loads(found.stdout), "--host=127.0.0.1", f"--port={port}"]
    child = Child.start(command, place.folder / "emulator.log")
    try:
        _wait(child, port)
        yield f"127.0.0.1:{port}"
    finally:
        child.end()


def _wait(child: Child, port: int) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN_S
    while time.monotonic() < deadline and child.process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise BenchError(f"the Firestore emulator did not start: {child.tail()}")
