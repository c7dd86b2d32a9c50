"""Ports for what is started to be measured or broken."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import Final

from loadtest.stage.errors import StageError

PORTS_TRIED: Final = 100  # at random: that many in use means that something is wrong
_BELOW: Final = 12_000  # how far below the kernel's own ports: enough to choose from, and above the well-known ones


def free_port() -> int:
    """A port of loopback that nothing listens on, below those that the kernel gives out. Raises ``StageError``.

    One of those could be taken by anybody's connection before, or while, nobody listens on it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    dice = random.Random()  # noqa: S311 - no secret
    for _ in range(PORTS_TRIED):
        port = dice.randrange(max(1024, lowest - _BELOW), lowest)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise StageError(f"no free port of 127.0.0.1 below {lowest} was found in {PORTS_TRIED} attempts")
