"""A client's connection, whatever is said on it: reading and writing with back-pressure, a deadline, a clean end.

    HEAD    a request's head is awaited
    BODY    the head is dealt with, the body is passing through (or gathered, for a data request)
    BUSY    the request is complete, its answer is on the way
    TUNNEL  another protocol: bytes pass both ways until both sides have ended
    LINGER  the last answer is written; what still comes is thrown away until the client has seen the end
    CLOSED

One ``deadline`` stands for whatever is waited for; the gateway's sweep calls ``expire`` when it has passed. A client
that takes what it asked for too slowly is looked at the same way: by how much has left the buffer in a while.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

from proxy.http1 import forwarding

if TYPE_CHECKING:
    from proxy.process.gateway import Gateway

HEAD, BODY, BUSY, TUNNEL, LINGER, CLOSED = range(6)

NEVER: Final = float("inf")
LINGER_S: Final = 2.0  # how long a client may take to see the end
_RESET: Final = struct.pack("ii", 1, 0)  # linger for no time: what is unsent is thrown away, and the peer told
_TCP_CLOSE: Final = 7  # linux/include/net/tcp_states.h


class Connection(asyncio.Protocol):
    """What ``Downstream`` builds upon. Knows of no request."""

    __slots__ = (
        "_begun",
        "_chunking",
        "_eof",
        "_state",
        "_unsent",
        "_writing_paused",
        "address",
        "deadline",
        "gateway",
        "paused",
        "place",
        "scheme",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, gateway: Gateway, scheme: bytes = b"http", address: str = "") -> None:
        self.gateway = gateway
        self.scheme = scheme
        self.address = address  # the peer's, where nobody has told it already
        self.place: str | None = None  # the address that it is counted under, if it is
        self.deadline = NEVER
        self._state = HEAD
        self._begun = False  # a byte of the current answer has been written
        self._chunking = False  # and its body goes in chunks
        self.paused = False  # the client is not read
        self._writing_paused = False
        self._eof = False  # the client has sent its FIN
        self._unsent = 0  # in the write buffer when it was last looked at

    @property
    def closed(self) -> bool:
        """The connection is gone."""
        return self._state == CLOSED

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        if not self.address:
            peer = transport.get_extra_info("peername")
            self.address = forwarding.address_of(peer[0]) if isinstance(peer, tuple) else ""
        self.deadline = self.gateway.now + self.gateway.head_timeout_s

    # Reading

    def _pause_reading(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self.paused and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    # Writing

    def _watch_sending(self) -> None:
        """From now on the client has to take what is written at the least rate."""
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = self.gateway.now + self.gateway.body_timeout_s

    def _still_sending(self) -> bool:
        """Whether the client took enough of what is written since it was last looked at, and of what is left."""
        gateway = self.gateway
        left = self.transport.get_write_buffer_size()
        if not left or left > self._unsent - gateway.min_rate * gateway.body_timeout_s:
            return False
        self._unsent = left
        self.deadline = gateway.now + gateway.body_timeout_s
        return True

    # The end

    def _linger(self, more: bool) -> None:
        """Close without a reset that would take the answer away from the client's buffer (RFC 9112 section 9.6).

        ``more``: the client may be sending still. A FIN then tells it to stop; TLS has no such half of an end, and
        the client ends the connection when it has read the answer, or the deadline does.
        """
        self._state = LINGER
        if self.paused:
            self._resume_reading()
        if self.transport.can_write_eof():
            if self._eof:
                self.transport.close()
            else:
                self.transport.write_eof()
        elif not more:
            self.transport.close()
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = self.gateway.now + (self.gateway.body_timeout_s if self._unsent else self.gateway.linger_s)

    def reset(self) -> None:
        """Break off what was begun: a FIN would be the proper end of an answer that goes on until close."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _end_lingering(self) -> None:
        """The deadline passed: go on as long as the client takes its answer, and a moment beyond."""
        if self._still_sending():
            return
        if self._unsent and not self.transport.get_write_buffer_size():
            self._unsent = 0
            self.deadline = self.gateway.now + self.gateway.linger_s
            return
        self.transport.abort()

    # Is anybody there?

    def _probe(self, http10: bool) -> None:
        """Find out whether a client that sent FIN still reads: something harmless makes a closed socket reset.

        Before an answer that is an interim one, which every client must be able to take (RFC 9110 section 15.2);
        within a chunked answer the leading zero of the next chunk's size, which may have any number of them. In what
        is left the kernel asks, and is told when the client's own kernel has forgotten the connection: a minute.
        """
        if self._chunking:
            self.transport.write(b"0")
        elif not self._begun and not http10:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
            self._look_for_reset(sock, 0.02)

    def _look_for_reset(self, sock: socket.socket, delay: float) -> None:
        if self._state in (LINGER, CLOSED) or self.transport.is_closing() or self.end_if_reset(sock):
            return
        again = min(2.0, 2 * delay)  # round trips are short or long
        asyncio.get_running_loop().call_later(delay, self._look_for_reset, sock, again)

    def end_if_reset(self, sock: socket.socket | None = None) -> bool:
        """Notice a reset though nothing is read; a client that is paused is looked at every second."""
        sock = sock or self.transport.get_extra_info("socket")
        if sock is None or self.transport.is_closing():
            return True
        gone = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
        if gone:
            self.transport.abort()
        return gone
