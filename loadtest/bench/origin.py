"""The app behind the contenders, with as little work per request as Python allows.

``python -m loadtest.bench.origin`` listens on two free ports of loopback, for the two arms of a split, and prints
them as one line of JSON.

    GET  /bytes/N                 N bytes
    GET  /api/dashboard/metrics   a snapshot in JSON, as the mock has one
    GET  anything else            thirteen bytes of text
    HEAD                          as GET of anything else, without the bytes
    PUT, POST                     the number of bytes, when all have arrived
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Final, cast

import uvloop

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_BLOCK: Final = bytes(256 * 1024)


def _answer(content_type: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


HELLO: Final = b"Hello, world!"
_HELLO: Final = _answer(b"text/plain", HELLO)
_HELLO_HEAD: Final = _HELLO.removesuffix(HELLO)
_METRICS: Final = _answer(
    b"application/json",
    b'{"id":"0123456789abcdef0123456789abcdef","published_at":"2026-01-01T00:00:00Z","metrics":'
    b'{"active_users":1042,"error_rate":0.0042,"requests_per_minute":10512,"revenue":1498.61}}',
)


class OriginConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._head = b""
        self._upload = -1  # bytes of a body still to come
        self._received = 0
        self._left = 0  # bytes of a download still to send
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        transport.set_write_buffer_limits(high=1 << 20)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self._upload >= 0:
            self._more(data)
            return
        if self._head:
            data, self._head = self._head + data, b""
        if data[:4] == b"GET " and data[-4:] == _HEAD_END:
            path = data[4:11]
            if path == b"/api/da":
                self._transport.write(_METRICS * data.count(_HEAD_END))
            elif path == b"/bytes/":
                self._left = int(data[11 : data.index(b" ", 11)])
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n"
                self._transport.write(head % self._left)
                self._fill()
            else:
                self._transport.write(_HELLO * data.count(_HEAD_END))
            return
        end = data.find(_HEAD_END)
        if end < 0:
            self._head = data
            return
        if data[:5] == b"HEAD ":
            self._transport.write(_HELLO_HEAD)
            return
        if b"\r\nexpect:" in data[:end].lower():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = _LENGTH.search(data, 0, end)
        self._upload = int(length[1]) if length else 0
        self._received = 0
        self._more(data[end + 4 :])

    def _more(self, data: bytes) -> None:
        self._upload -= len(data)
        self._received += len(data)
        if self._upload <= 0:
            self._upload = -1
            self._transport.write(_answer(b"text/plain", b"%d" % self._received))

    def _fill(self) -> None:
        while self._left and not self._full:
            block = _BLOCK if self._left >= len(_BLOCK) else _BLOCK[: self._left]
            self._left -= len(block)
            self._transport.write(block)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._fill()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(OriginConnection, "127.0.0.1", 0, backlog=4096) for _ in range(2)]
    sys.stdout.write(json.dumps({"ports": [server.sockets[0].getsockname()[1] for server in servers]}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
