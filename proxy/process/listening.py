"""Listening sockets: bound once, by the supervisor, handed to the workers, and closed without losing a client."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from contextlib import ExitStack, suppress
from time import monotonic, sleep
from typing import Final

from proxy.settings import CannotStartError

_BACKLOG: Final = 1024
_RETRY_S: Final = 0.05  # between two tries for an address that is in use

# From <linux/filter.h> and <asm/socket.h>; the socket module has no names for them.
_SO_ATTACH_FILTER: Final = 26
_INSTRUCTION: Final = struct.Struct("HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_PROGRAM: Final = struct.Struct("HL")  # struct sock_fprog: how many instructions, and where they are
# It sees a segment from its TCP header on. A segment with SYN and without ACK asks for a new connection.
_NO_NEW_CONNECTIONS: Final = b"".join(
    _INSTRUCTION.pack(*instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte of the flags
        (0x54, 0, 0, 0x12),  # keep SYN (0x02) and ACK (0x10)
        (0x15, 0, 1, 0x02),  # SYN alone?
        (0x06, 0, 0, 0),  # then drop the segment
        (0x06, 0, 0, 0xFFFFFFFF),  # else take it whole
    )
)
_TCP_INFO_BYTES: Final = 28  # up to and with the field that is read
_TCP_INFO_UNACKED_AT: Final = 24  # of a listening socket: how many connections wait to be accepted


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


def take_no_more(sock: socket.socket) -> None:
    """Let no new connection begin on a listening socket, in whichever processes it is open.

    Those that are in its queue, and handshakes under way, are not touched: so it can be closed without a loss once
    the queue is empty. A new client's first packet is ignored; where the socket is closed by the time of the second,
    a second later, the client is refused. On a system without such filters nothing changes here, and a client that
    connects in the last moment may be lost.
    """
    program = ctypes.create_string_buffer(_NO_NEW_CONNECTIONS, len(_NO_NEW_CONNECTIONS))
    count = len(_NO_NEW_CONNECTIONS) // _INSTRUCTION.size
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(count, ctypes.addressof(program)))


def waiting(sock: socket.socket) -> int:
    """How many clients have connected to a listening socket, and no process has accepted them yet."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return int.from_bytes(info[_TCP_INFO_UNACKED_AT:_TCP_INFO_BYTES], sys.byteorder)


def address_of(sock: socket.socket) -> str:
    """Where a socket listens, as ``host:port``."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
