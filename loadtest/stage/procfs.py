"""Reads /proc: CPU time, memory and children of processes, and processors. Parsers are pure, readers thin."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")


class Stat(NamedTuple):
    """A process's parent, and its CPU time, user and system, in clock ticks."""

    parent: int
    ticks: int


def parse_stat(text: str) -> Stat:
    """``/proc/PID/stat`` (proc(5)). The name may hold spaces and brackets: fields count from its last bracket."""
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(int(fields[1]), int(fields[11]) + int(fields[12]))


def parse_memory(status: str) -> tuple[int, int]:
    """``/proc/PID/status`` → (RSS, peak RSS) in bytes; zeros for a process without memory (a zombie)."""
    sizes = {"VmRSS": 0, "VmHWM": 0}
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0]) * 1024
    return sizes["VmRSS"], sizes["VmHWM"]


def parse_cpus(text: str) -> dict[int, tuple[int, int]]:
    """``/proc/stat`` → by CPU (busy, all) in clock ticks since boot. Idle and waiting for a disk are not busy."""
    by_cpu = {}
    for line in text.splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(value) for value in values[:8]]  # guest time is within user time already
            by_cpu[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return by_cpu


def family(stats: dict[int, Stat], root: int) -> list[int]:
    """``root`` and all its descendants."""
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    pids = [root]
    for pid in pids:
        pids.extend(children.get(pid, ()))
    return pids


def tree(root: int) -> list[int]:
    """The living process ``root`` and its descendants."""
    stats = {}
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            try:
                stats[int(entry)] = parse_stat((_PROC / entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended between the two
    return family(stats, root)


def cpu_s(pids: Iterable[int]) -> float:
    """The CPU seconds, user and system, of these processes. Raises ``FileNotFoundError`` if one has ended."""
    return sum(parse_stat((_PROC / str(pid) / "stat").read_text()).ticks for pid in pids) / _TICKS


def rss(pids: Iterable[int]) -> int:
    """The resident memory of these processes, in bytes; shared pages count for each."""
    return sum(parse_memory((_PROC / str(pid) / "status").read_text())[0] for pid in pids)


def cpu_model() -> str:
    """The processors' name; the machine's architecture if they have none."""
    for line in (_PROC / "cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def cpus() -> dict[int, tuple[int, int]]:
    """By CPU (busy, all) in clock ticks since boot."""
    return parse_cpus((_PROC / "stat").read_text())
