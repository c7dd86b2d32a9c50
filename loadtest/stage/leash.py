"""Becomes another program, tied to the life of whoever started it: ``python -m loadtest.stage.leash N COMMAND …``.

N is how many file descriptors it may have, 0 for as many as now. Nothing is done between fork and exec in the process
that starts it, which runs gRPC's threads.
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
    """The command that becomes ``command``, with at most so many file descriptors (0: as many as now)."""
    return [sys.executable, "-m", "loadtest.stage.leash", str(files), *command]


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the one that started it ends."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Set what outlives the exec, then exec."""
    limit, command = int(sys.argv[1]), sys.argv[2:]
    end_with_parent()
    if limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.execvp(command[0], command)  # noqa: S606 - a fixed list of arguments


if __name__ == "__main__":
    main()
