"""Listening sockets: bound once, by the supervisor, and handed to the workers."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from time import monotonic, sleep
from typing import Final

from proxy.settings import CannotStartError

_BACKLOG: Final = 1024
_RETRY_S: Final = 0.05  # between two tries for an address that is in use


def parse_address(text: str) -> tuple[str, int]:
    """``host:port`` → (host, port). Raises ``CannotStartError``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise CannotStartError(f"cannot listen on {text!r}: expected host:port, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def bind(text: str, count: int, patience_s: float = 0.0) -> list[socket.socket]:
    """``count`` listening sockets on one address; one in use is tried again for ``patience_s``.

    Raises ``CannotStartError`` where the address is taken or not ours.
    """
    end = monotonic() + patience_s
    while True:
        try:
            return _bind(*parse_address(text), count)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or monotonic() >= end:
                mend = "stop what listens there, or choose another address in the config"
                raise CannotStartError(f"cannot listen on {text}: {error.strerror}; {mend}") from None
        sleep(_RETRY_S)


def _bind(host: str, port: int, count: int) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Sockets with SO_REUSEPORT would share the address with those of another phasegate, which would then take half
    # of the traffic. A socket without it finds out whether the address is free.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
    with ExitStack() as undo:
        sockets = []
        for _ in range(count):
            sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            port = sock.getsockname()[1]
            sock.listen(_BACKLOG)
            sock.setblocking(False)
            sockets.append(sock)
        undo.pop_all()
        return sockets


def address_of(sock: socket.socket) -> str:
    """Where a socket listens, as ``host:port``."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
