"""HTTP servers of the standard library, over TCP, TLS (with OpenSSL's own alerts) and unix sockets."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer, ThreadingMixIn, UnixStreamServer
from typing import Any


class Answering(BaseHTTPRequestHandler):
    """Answers with the server's ``body``; ``/healthz`` with its ``health``."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.body  # type: ignore[attr-defined]
        self.send_response(self.server.health if self.path == "/healthz" else 200)  # type: ignore[attr-defined]
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")  # so that a server that is shut down is gone for earlier clients too
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Tcp(ThreadingHTTPServer):
    context: ssl.SSLContext | None = None
    body = b""
    health = 200

    def finish_request(self, request: Any, client_address: Any) -> None:
        with suppress(OSError):  # a client that rejects the certificate, or disconnects
            if self.context is None:
                super().finish_request(request, client_address)
                return
            with self.context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)


class Unix(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    body = b""
    health = 200


@contextmanager
def running(server: BaseServer) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def tcp(context: ssl.SSLContext | None = None, body: bytes = b"") -> Iterator[Tcp]:
    """A server on loopback, with TLS if there is a context."""
    server = Tcp(("127.0.0.1", 0), Answering)
    server.context, server.body = context, body
    with running(server):
        yield server


@contextmanager
def unix(path: Path, body: bytes = b"") -> Iterator[Unix]:
    """A server on a unix socket."""
    server = Unix(str(path), Answering)
    server.body = body
    with running(server):
        yield server
