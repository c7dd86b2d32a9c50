"""``phasegate copy`` and ``compare`` as an operator calls them, and the process that works: its memory, its death."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from typing import Any, Final

import psutil

from tests.support.datasite import DataSite

MODULE: Final = "control.data.task"
LOOK_S: Final = 0.05
MIB: Final = 2**20
WITHIN_S: Final = float(6 * 3600)  # a task of a million documents on a busy machine; what hangs is ended by hand


class TaskCommand:
    """One call of the command line, and the process that does its work."""

    def __init__(self, site: DataSite, *args: str) -> None:
        self._site = site
        self.peak_mib = 0.0  # of the process that does the work
        self.began = time.monotonic()
        self.took_s = 0.0
        self.process = site.begun(*args, "--migration", "shop", "--json")

    @property
    def ended(self) -> bool:
        """Whether the command has ended."""
        return self.process.poll() is not None

    def look(self) -> int:
        """Measure the working process; returns how many documents it has gone through."""
        time.sleep(LOOK_S)
        assert time.monotonic() - self.began < WITHIN_S, "the command does not end"
        working = self._working()
        if working is not None:
            self.peak_mib = max(self.peak_mib, _peak_mib(working.pid))
        with contextlib.suppress(OSError, ValueError):
            task = self._site.client.data().task
            return 0 if task is None else task.done
        return 0

    def _working(self) -> psutil.Process | None:
        for process in self._site.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                if MODULE in process.cmdline():
                    return process
        return None

    def kill(self) -> bool:
        """SIGKILL the working process and wait for the command's end. False where there is none to kill any more."""
        while not self.ended:
            working = self._working()
            if working is not None:
                working.kill()
                break
            time.sleep(LOOK_S)
        out, err = self.process.communicate(timeout=WITHIN_S)
        assert self.process.returncode == 0 or "process" in err, (self.process.returncode, out, err)
        return self.process.returncode != 0

    def result(self) -> dict[str, Any]:
        """Look until the command has ended well; what it printed."""
        while not self.ended:
            self.look()
        self.took_s = time.monotonic() - self.began
        out, err = self.process.communicate()
        assert self.process.returncode == 0, (self.process.returncode, out, err, self._site.log())
        document: dict[str, Any] = json.loads(out)
        return document

    def end(self) -> None:
        """End it, whatever it does."""
        if not self.ended:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=10)


def _peak_mib(pid: int) -> float:
    """The largest resident memory that the process has ever had, MiB; 0 once it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0
