"""A task's process that does what the test has written: ``script.json`` in the run directory, one step after another.

It keeps what it was told in ``told.jsonl`` there, and its own process id and niceness in ``alive.json``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import structlog


class Scripted:
    """The steps, by name."""

    def __init__(self, folder: Path, orders: dict[str, Any]) -> None:
        self._folder = folder
        self._told = (folder / "told.jsonl").open("a", buffering=1)
        self._keep(orders)
        alive = folder / "alive.new"
        alive.write_text(json.dumps({"pid": os.getpid(), "niceness": os.nice(0)}))
        alive.rename(folder / "alive.json")

    def _keep(self, document: Any) -> None:
        self._told.write(json.dumps(document) + "\n")

    def _read(self) -> dict[str, Any]:
        line = sys.stdin.readline()
        if not line:
            sys.exit("control has gone")
        found: dict[str, Any] = json.loads(line)
        self._keep(found)
        return found

    def say(self, document: Any) -> None:
        print(json.dumps(document), flush=True)

    def write(self, text: str, times: int = 1) -> None:
        sys.stdout.write(text * times)
        sys.stdout.flush()

    def until_stopped(self) -> None:
        while "stop" not in self._read():
            pass

    def until_arrived(self, before: float) -> None:
        while self._read().get("arrival", {}).get("before") != before:
            pass

    def until_file(self, name: str) -> None:
        while not (self._folder / name).exists():
            time.sleep(0.01)

    def hang(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (self._folder / "hangs").touch()
        while True:
            time.sleep(60)

    def log(self, event: str) -> None:
        structlog.get_logger("phasegate.data").warning(event)

    def exit(self, code: int) -> None:
        sys.exit(code)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    orders = json.loads(sys.stdin.readline())
    folder = Path(orders["run_dir"])
    scripted = Scripted(folder, orders)
    for name, *values in json.loads((folder / "script.json").read_text()):
        getattr(scripted, name)(*values)


if __name__ == "__main__":
    main()
