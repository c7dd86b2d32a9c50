"""What a figure depends on beside the code: the day, the machine, the kernel, the versions, the load it was under."""

from __future__ import annotations

import os
import platform
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from loadtest.bench.contenders import BenchError

_NEEDED: Final = ("setpriv", "taskset", "wrk", "nginx", "haproxy")
_PACKAGES: Final = ("uvloop", "aiohttp", "httptools")


def describe(module: str, arguments: list[str]) -> dict[str, object]:
    """All of it, and the command."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m", module, *arguments]),
        "cpu": _cpu(),
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def need_tools(names: tuple[str, ...] = _NEEDED) -> None:
    """Raise ``BenchError`` where a program is missing."""
    # Debian keeps daemons where a user's PATH does not look.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise BenchError(
            f"{', '.join(missing)} cannot be found: `make bench` installs nginx, haproxy and wrk with apt"
        )


def default_cpus() -> tuple[str, str]:
    """For the proxy and for the load: the first two processors that this process may use."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        raise BenchError("two processors are needed: one for the proxy, one for what puts load on it")
    return str(mine[0]), str(mine[1])


def said(machine: dict[str, object]) -> list[str]:
    """For a person."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", *_PACKAGES))
    return [
        f"{machine['date']}  {machine['command']}",
        f"{machine['cpu']}, {machine['processors']} processors, Linux {machine['kernel']}, {versions}",
        f"load average before: {machine['load_average']}",
    ]
