"""The listening sockets as one worker serves them: plain ones by the event loop, the others by hand.

Before a connection speaks HTTP it may have to show a PROXY header and do a TLS handshake. Until it has, it is no
client yet: ``head_timeout`` bounds how long that may take. It counts against ``max_connections`` all the while, and
among the connections of its address once that is known.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from proxy.http1.addresses import address_of, is_trusted
from proxy.http1.downstream import Downstream
from proxy.http1.proxyheader import HEADER_MAX, BadHeaderError, Reader
from proxy.process.gateway import Gateway
from proxy.settings import Listener
from proxy.tls import TLS_SHUTDOWN_S, Certificate

_BACKLOG: Final = 1024
_ACCEPTED_MAX: Final = 64  # in one go, before other events have their turn
_NO_DESCRIPTORS_S: Final = 0.1  # until the next try where no descriptor was left
_UNKNOWN: Final = "unknown"  # as Forwarded calls a client of whom nothing is known (RFC 7239 section 6.3)


class Acceptor:
    """One listening socket."""

    def __init__(self, gateway: Gateway, listener: Listener, sock: socket.socket) -> None:
        """Raises ``OSError`` where the certificate cannot be used."""
        self._gateway = gateway
        self._shared = gateway.shared
        self._listener = listener
        self._sock = sock
        self._certificate = None if listener.tls is None else Certificate(listener.tls)
        self._scheme = b"http" if listener.tls is None else b"https"
        self._server: asyncio.Server | None = None
        self._entering: set[asyncio.Task[None]] = set()
        self._open = False

    async def open(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._open = True
        if self._certificate is None and not self._listener.proxy_protocol:
            gateway = self._gateway
            self._server = await loop.create_server(lambda: gateway.client(), sock=self._sock, backlog=_BACKLOG)
        else:
            self._sock.setblocking(False)
            loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more. Handshakes already begun may finish; the queue stays, for it is the supervisor's."""
        if not self._open:
            return
        self._open = False
        if self._server is not None:
            self._server.close()
        else:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()

    @property
    def entering(self) -> int:
        """How many connections have yet to finish their PROXY header or handshake."""
        return len(self._entering)

    def end_entering(self) -> None:
        """End them."""
        for task in self._entering:
            task.cancel()

    def refresh(self) -> None:
        """Look whether the certificate has changed: called every second."""
        if self._certificate is not None:
            self._certificate.refresh()

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        clients = self._gateway.clients
        for _ in range(_ACCEPTED_MAX):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors are left: the queue stays readable, so look away for a moment
                loop.remove_reader(self._sock.fileno())
                loop.call_later(_NO_DESCRIPTORS_S, self._accept_again)
                return
            if len(self._entering) + len(clients) >= clients.limit:
                sock.close()
                continue
            sock.setblocking(False)
            task = loop.create_task(self._enter(sock, address_of(str(peer[0]))))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    def _accept_again(self) -> None:
        if self._open:
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    async def _enter(self, sock: socket.socket, peer: str) -> None:
        """Take a connection to where HTTP begins, or close it."""
        shared = self._shared
        try:
            if self._listener.proxy_protocol:
                if not is_trusted(peer, shared.trusted):
                    sock.close()
                    return
                async with asyncio.timeout(shared.head_timeout_s):
                    header = await _proxy_header(sock)
                if not header.own:  # else the load balancer asks on its own behalf
                    peer = header.address or _UNKNOWN
            await self._serve(sock, self._gateway.client(self._scheme, peer))
        except (OSError, TimeoutError, BadHeaderError):
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise

    async def _serve(self, sock: socket.socket, client: Downstream) -> None:
        """Do the handshake and make a connection a client's, unless its address has enough. Raises ``OSError``."""
        clients = self._gateway.clients
        served = False
        try:
            if not clients.count(client):
                sock.close()
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls: dict[str, Any] = {}
            if self._certificate is not None:
                limits = {
                    "ssl_handshake_timeout": self._shared.head_timeout_s,
                    "ssl_shutdown_timeout": TLS_SHUTDOWN_S,
                }
                tls = {"ssl": self._certificate.context, **limits}
            await asyncio.get_running_loop().connect_accepted_socket(lambda: client, sock, **tls)
            served = True
        finally:
            if not served:
                clients.left(client)


async def _proxy_header(sock: socket.socket) -> Reader:
    """Take a PROXY header off the socket, and not a byte more."""
    loop = asyncio.get_running_loop()
    reader = Reader()
    while not reader.done:
        readable = asyncio.Event()
        loop.add_reader(sock.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(sock.fileno())
        data = sock.recv(HEADER_MAX, socket.MSG_PEEK)
        if not data:
            raise ConnectionResetError
        sock.recv(reader.feed(data))
    return reader
