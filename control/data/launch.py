"""Starts a task: ``python -m control.data.launch PARENT LOG MODULE``, with the task's orders on standard input.

The process takes the lowest priority and ends with control, however that ends: a copy that went on alone would write
beside the one that the next control process begins. PARENT is control's process id, LOG the descriptor to log to.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Final

from proxy.process import logs
from proxy.process.child import die_with_parent

NICENESS: Final = 19  # the lowest: neither workers nor control wait for a task


def main(parent: int, log: int, module: str) -> None:
    """Become the task ``module``."""
    die_with_parent()
    if os.getppid() != parent:  # it died before the kernel was asked to tell us
        sys.exit(f"process {parent}, which started this task, has ended")
    # Ctrl-C reaches every process at once, and is control's to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS - os.nice(0))
    logs.configure("task", log)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
