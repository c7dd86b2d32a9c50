"""The circumstances of a measurement: date, machine, kernel, versions, load average."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from loadtest.bench.contenders import BenchError
from loadtest.stage import procfs

_NEEDED: Final = ("taskset", "wrk", "nginx", "haproxy")
_PACKAGES: Final = ("uvloop", "aiohttp", "httptools")
_PROGRAMS: Final = {"nginx": "-v", "haproxy": "-v", "wrk": "-v"}


def describe(module: str, arguments: list[str]) -> dict[str, object]:
    """All circumstances, and the command."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m", module, *arguments]),
        "cpu": procfs.cpu_model(),
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        **{name: _says([name, flag]) for name, flag in _PROGRAMS.items()},
        "phasegate": _says(["git", "-C", str(Path(__file__).parent), "log", "-1", "--format=%h of %cs"]),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _says(command: list[str]) -> str:
    """The version in a command's output; "unknown" if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "missing"
    lines = [] if done.returncode > 1 else (done.stdout + done.stderr).strip().splitlines()  # wrk -v ends with 1
    words = re.search(r"\d+\.\d+[\w.+-]*|\w+ of [\d-]+", lines[0]) if lines else None
    return words[0] if words else "unknown"


def need_tools(names: tuple[str, ...] = _NEEDED) -> None:
    """Raise ``BenchError`` where a program is missing."""
    # Debian installs daemons in folders that a user's PATH lacks.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise BenchError(
            f"{', '.join(missing)} cannot be found: `make bench` installs nginx, haproxy and wrk with apt"
        )


def default_cpus() -> tuple[str, str]:
    """The first two processors that this process may use: one for the proxy, one for the load."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        raise BenchError("two processors are needed: one for the proxy, one for the load")
    return str(mine[0]), str(mine[1])


def said(machine: dict[str, object]) -> list[str]:
    """The circumstances as lines of text."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("phasegate", "python", *_PACKAGES, *_PROGRAMS))
    after = f", after: {machine['load_average_after']}" if "load_average_after" in machine else ""
    return [
        f"{machine['date']}  {machine['command']}",
        f"{machine['cpu']}, {machine['processors']} processors, Linux {machine['kernel']}",
        versions,
        f"load average before: {machine['load_average']}{after}",
    ]
