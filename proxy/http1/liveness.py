"""Whether a client is still there: what the kernel knows of a connection that is not read, or that has sent FIN."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

_NO_LINGER: Final = struct.pack("ii", 1, 0)  # what is unsent is thrown away, and the peer gets a reset
_TCP_CLOSE: Final = 7  # linux/include/net/tcp_states.h
_KEEPALIVE_S: Final = 5  # idle time before the kernel's first question, and between two
_FIRST_LOOK_S: Final = 0.02  # round trips are short or long: each look waits twice as long as the one before
_LOOK_MAX_S: Final = 2.0


def reset(transport: asyncio.Transport) -> None:
    """End a connection with a reset, so that an answer half sent is not taken for a whole one."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def end_if_reset(transport: asyncio.Transport) -> bool:
    """End a connection that its peer has reset. True: it had, or the connection was ending already."""
    if transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None:
        return True
    gone = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    if gone:
        transport.abort()
    return bool(gone)


def keep_asking(transport: asyncio.Transport) -> None:
    """Have the kernel ask a silent peer whether it is there, and end the connection when it answers with a reset."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S)
        _look(transport, _FIRST_LOOK_S)


def _look(transport: asyncio.Transport, delay_s: float) -> None:
    if not end_if_reset(transport):
        again_s = min(_LOOK_MAX_S, 2 * delay_s)
        asyncio.get_running_loop().call_later(delay_s, _look, transport, again_s)
