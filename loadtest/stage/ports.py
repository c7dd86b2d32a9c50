"""Free ports for the processes that are measured or broken."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import Final

from loadtest.stage.errors import StageError

PORTS_TRIED: Final = 100  # at random; if all are in use, something is wrong
_BELOW: Final = 12_000  # size of the range below the kernel's ephemeral ports; above the well-known ports


def free_port() -> int:
    """A free port of loopback, below the kernel's ephemeral ports. Raises ``StageError``.

    An ephemeral port could be taken by any outgoing connection while no process listens on it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    dice = random.Random()  # noqa: S311 - no secret
    for _ in range(PORTS_TRIED):
        port = dice.randrange(max(1024, lowest - _BELOW), lowest)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise StageError(f"no free port of 127.0.0.1 below {lowest} was found in {PORTS_TRIED} attempts")
