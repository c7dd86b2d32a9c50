"""A small HTTP/1.1 client, which keeps connections and says exactly what became of each request.

A request whose kept connection turns out to be closed before any byte of its answer is sent once more on a fresh one
where it is idempotent, as browsers do (RFC 9112, section 9.3.1). Nothing else is hidden from the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final, NamedTuple

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_HEAD_MAX: Final = 64 * 1024


class Answer(NamedTuple):
    """A whole answer; field names in lower case. ``repeated``: it is the second attempt's."""

    status: int
    fields: dict[str, str]
    body: bytes
    repeated: bool = False


class Failed(Exception):  # noqa: N818 - an outcome
    """No whole answer. ``kind``: refused (nobody listens), broken (the connection ended), timeout."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class _Unanswered(Exception):  # noqa: N818 - an outcome
    """The connection ended before the first byte of the answer."""


class Connection:
    """One connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.used = False

    @property
    def alive(self) -> bool:
        """Whether the other side has not closed it, as far as is known here."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    async def exchange(self, request: bytes, head_only: bool) -> tuple[Answer, bool]:
        """Send a request; its answer, and whether the connection may be kept. Raises ``OSError`` and the like."""
        self._writer.write(request)
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if not getattr(error, "partial", b""):
                raise _Unanswered from error
            raise
        status_line, *lines = head[:-4].decode("latin-1").split("\r\n")
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        status = int(status_line.split(" ", 2)[1])
        body = b"" if head_only or status in (204, 304) else await self._body(fields)
        self.used = True
        return Answer(status, fields, body), fields.get("connection", "").lower() != "close"

    async def _body(self, fields: dict[str, str]) -> bytes:
        if "chunked" in fields.get("transfer-encoding", "").lower():
            parts: list[bytes] = []
            while True:
                size = int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16)
                if not size:
                    await self._reader.readuntil(b"\r\n")
                    return b"".join(parts)
                parts.append(await self._reader.readexactly(size))
                await self._reader.readexactly(2)
        if "content-length" in fields:
            return await self._reader.readexactly(int(fields["content-length"]))
        return await self._reader.read()

    def close(self) -> None:
        """Close it, without waiting."""
        self._writer.close()

    async def closed(self) -> None:
        """Wait until it is."""
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Client:
    """At most ``connections`` to one address; a request waits for a free one."""

    def __init__(self, address: str, connections: int, timeout_s: float) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._address = address
        self._timeout_s = timeout_s
        self._free: list[Connection] = []
        self._closing: deque[Connection] = deque(maxlen=2 * connections)
        self._places = asyncio.Semaphore(connections)

    async def ask(self, method: str, target: str, fields: dict[str, str], body: bytes = b"") -> Answer:
        """Send one request and wait for its whole answer. Raises ``Failed``."""
        lines = [f"{method} {target} HTTP/1.1", f"host: {self._address}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        if body or method in ("POST", "PUT", "PATCH"):
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
        request = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        try:
            async with asyncio.timeout(self._timeout_s), self._places:
                return await self._attempts(method, request)
        except TimeoutError:
            raise Failed("timeout", f"no answer within {self._timeout_s:g} s") from None

    async def _attempts(self, method: str, request: bytes) -> Answer:
        kept = self._kept()
        if kept is not None:
            try:
                return await self._on(kept, method, request)
            except _Unanswered:
                if method not in IDEMPOTENT:
                    raise Failed("broken", "a kept connection was closed, with no byte of an answer") from None
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port, limit=_HEAD_MAX)
        except OSError as error:
            raise Failed("refused", str(error)) from None
        try:
            answer = await self._on(Connection(reader, writer), method, request)
        except _Unanswered:
            raise Failed("broken", "the connection was closed, with no byte of an answer") from None
        return answer._replace(repeated=kept is not None)

    def _kept(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.alive:
                return connection
            self._close(connection)
        return None

    async def _on(self, connection: Connection, method: str, request: bytes) -> Answer:
        keep = False
        try:
            answer, keep = await connection.exchange(request, method == "HEAD")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
            raise Failed("broken", f"the answer was cut short ({type(error).__name__})") from None
        except OSError as error:
            raise Failed("broken", str(error) or type(error).__name__) from None
        finally:
            if keep:
                self._free.append(connection)
            else:
                self._close(connection)
        return answer

    async def close(self) -> None:
        """Close every kept connection, and wait until those closed last are."""
        while self._free:
            self._close(self._free.pop())
        for connection in self._closing:
            await connection.closed()

    def _close(self, connection: Connection) -> None:
        connection.close()
        self._closing.append(connection)
