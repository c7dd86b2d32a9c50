"""Whether a client is still there: the kernel's state of a connection that is not read, or that has sent FIN."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

_NO_LINGER: Final = struct.pack("ii", 1, 0)  # closing discards unsent data and sends a reset
_TCP_CLOSE: Final = 7  # linux/include/net/tcp_states.h
_KEEPALIVE_S: Final = 5  # idle time before the kernel's first probe, and between two probes
_FIRST_LOOK_S: Final = 0.02  # doubles after each look, because the client's round trip time is unknown
_LOOK_MAX_S: Final = 2.0


def reset(transport: asyncio.Transport) -> None:
    """End a connection with a reset, so that an incomplete answer cannot look complete."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def end_if_reset(transport: asyncio.Transport) -> bool:
    """End a connection that its peer has reset. True: it has, or the connection is closing already."""
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
    """Turn on TCP keepalive for a silent peer, and end the connection when the peer answers with a reset."""
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
