"""Harmful clients: slow, idle or greedy ones, and a flood. Their requests are not part of the judged load."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Final, Literal

from loadtest.stage.errors import StageError

EVERY_S: Final = 0.5  # between a slow client's bytes
SPARE_FILES: Final = 200  # descriptors for everything else in this process
OPEN_WITHIN_S: Final = 5.0
REFUSED_WITHIN_S: Final = 1.0  # a connection that no worker accepts is closed at once
AGAIN_AFTER_S: Final = 0.05  # pause of a flooding connection before it reconnects
_HEAD: Final = b"GET /api/dashboard/metrics HTTP/1.1\r\nhost: slow\r\nx-slow: " + b"a" * 400  # lasts 200 s
_BATCH: Final = 16  # requests that a flooding connection sends before it reads
_FLOOD: Final = b"GET /api/dashboard/metrics?n=%d HTTP/1.1\r\nhost: flood\r\nx-user-id: flood-%d\r\n\r\n"
_OPENED_AT_ONCE: Final = 500  # well within a listener's backlog
_HOLD: Final = b"GET /hold HTTP/1.1\r\nhost: hoard\r\n\r\n"
# Pipelined requests, as many bytes as a connection may send ahead, which the worker has to hold in memory.
_FURTHER: Final = b"GET /page/1 HTTP/1.1\r\nhost: hoard\r\nx-padding: %b\r\n\r\n" % (b"a" * 1000) * 200
FLOOD_FROM: Final = "127.0.0.9"  # no other client has this address, so it can be limited alone


class BadClients:
    """Connections to one address that never complete a request, or never get an answer."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._writers: list[asyncio.StreamWriter] = []
        self._feeding: asyncio.Task[None] | None = None
        self.came = 0
        self.turned_away = 0

    async def come(self, kind: Literal["idle", "slow", "hoarding"], count: int) -> None:
        """Open ``count`` connections.

        The slow ones send a byte of a head each half second. The hoarding ones request a page that never answers, and
        pipeline further requests, which the worker has to hold in memory.
        """
        least = count + SPARE_FILES
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < least:
            raise StageError(f"{count} clients need {least} file descriptors: ulimit -n {least}")
        for begin in range(0, count, _OPENED_AT_ONCE):
            await asyncio.gather(*(self._open() for _ in range(begin, min(count, begin + _OPENED_AT_ONCE))))
        if kind == "hoarding":
            for writer in self._writers:
                writer.write(_HOLD + _FURTHER)
        if kind == "slow":
            self._feeding = asyncio.create_task(self._feed())

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                reader, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            self.turned_away += 1
            return
        self._writers.append(writer)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await reader.read(1)
                self.turned_away += 1
                return
        self.came += 1

    async def _feed(self) -> None:
        for position in range(len(_HEAD)):
            for writer in self._writers:
                if not writer.is_closing():
                    writer.write(_HEAD[position : position + 1])
            await asyncio.sleep(EVERY_S)

    async def leave(self) -> None:
        """Close every connection."""
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


class Flood:
    """Connections from one address, each of which sends batches of requests as fast as they are answered."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._tasks: list[asyncio.Task[None]] = []
        self.answered = 0
        self.refused = 0  # answered 429 or 503, or the connection was closed

    def begin(self, connections: int) -> None:
        """Start flooding."""
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(connections)]

    async def _ask(self, number: int) -> None:
        batch = b"".join(_FLOOD % (k, k) for k in range(number * _BATCH, (number + 1) * _BATCH))
        while True:
            writer = None
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port, local_addr=(FLOOD_FROM, 0))
                while True:
                    writer.write(batch)
                    await self._answers(reader)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                self.refused += 1
                await asyncio.sleep(AGAIN_AFTER_S)
            finally:
                if writer is not None:
                    writer.close()

    async def _answers(self, reader: asyncio.StreamReader) -> None:
        for _ in range(_BATCH):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            if head[9:12] in (b"429", b"503"):
                self.refused += 1
            else:
                self.answered += 1

    async def end(self) -> None:
        """Stop flooding and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
