"""Becomes another program, tied to the life of whoever started it: ``python -m loadtest.stage.leash N COMMAND …``.

N is how many file descriptors it may have, 0 for as many as now. Nothing is done between fork and exec in the process
that starts it, which runs gRPC's threads.
"""

from __future__ import annotations

import os
import resource
import sys

from loadtest.bench.lifeline import end_with_parent


def main() -> None:
    """Set what outlives the exec, then exec."""
    limit, command = int(sys.argv[1]), sys.argv[2:]
    end_with_parent()
    if limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.execvp(command[0], command)  # noqa: S606 - a fixed list of arguments


if __name__ == "__main__":
    main()
