"""Executes a command that ends with its parent process: ``python -P leash.py N COMMAND …``.

N limits its file descriptors, 0 keeps the current limit. A program of its own does this, because the parent runs
gRPC's threads and so must not execute code between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def leashed(command: Sequence[str], files: int = 0) -> list[str]:
    """``command`` on a leash, with at most ``files`` file descriptors (0: the current limit)."""
    # By its file, because the command's PYTHONPATH may lead to another checkout; -P: do not search this file's folder
    return [sys.executable, "-P", __file__, str(files), *command]


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent ends."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent ended before prctl took effect
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Set the limits that survive exec, then exec."""
    limit, command = int(sys.argv[1]), sys.argv[2:]
    end_with_parent()
    if limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.execvp(command[0], command)  # noqa: S606 - a fixed list of arguments


if __name__ == "__main__":
    main()
