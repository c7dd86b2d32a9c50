"""The access log: a client's connection that tells of each request, and the file that it tells it to.

It is a class beside the plain one, so that what is off costs nothing. A line is written when its answer is, or when
the client has gone before; lines are collected and appended together.
"""

from __future__ import annotations

import os
import random
import re
from datetime import UTC, datetime
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from proxy.http1.downstream import Downstream
from proxy.http1.head import Fields, Line, Response
from proxy.settings import AccessLog

if TYPE_CHECKING:
    from proxy.process.gateway import Gateway

_log = structlog.get_logger("phasegate.access")
_BUFFER_MAX: Final = 64 * 1024
_SOURCE: Final = re.compile(rb"x-data-source: ([a-z]+)")
_ALWAYS: Final = 500  # from this status on a request is logged whatever the sample says


class LogFile:
    """An append-only file of lines, written when enough have come or a second has passed."""

    def __init__(self, settings: AccessLog) -> None:
        self.sample = settings.sample
        self._path = settings.path
        self._fd = -1
        self._lines: list[bytes] = []
        self._held = 0
        self._lost = 0

    def add(self, line: bytes) -> None:
        """Take a line, with its end."""
        self._lines.append(line)
        self._held += len(line)
        if self._held > _BUFFER_MAX:
            self.flush()

    def flush(self) -> None:
        """Append what has come; called every second. A file that was renamed is left, and begun anew."""
        if not self._lines:
            return
        data = b"".join(self._lines)
        lines = len(self._lines)
        self._lines.clear()
        self._held = 0
        try:
            self._reopen()
            while data:  # a disk that is nearly full takes a part
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            if not self._lost:
                _log.error("access_log_lost", path=self._path, reason=error.strerror)
            self._lost += lines
        else:
            if self._lost:
                _log.warning("access_log_back", path=self._path, lost_lines=self._lost)
                self._lost = 0

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _reopen(self) -> None:
        if self._fd >= 0:
            try:
                there, ours = os.stat(self._path), os.fstat(self._fd)
                if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                    return
            except FileNotFoundError:
                pass
            os.close(self._fd)
            self._fd = -1
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


class Logged(Downstream):
    """A client's connection that is written about."""

    __slots__ = ("_began_ns", "_bytes", "_file", "_source", "_status")

    def __init__(self, gateway: Gateway, scheme: bytes, address: str, file: LogFile) -> None:
        super().__init__(gateway, scheme, address)
        self._file = file
        self._began_ns = 0  # 0: no request is under way
        self._status = 0
        self._bytes = 0
        self._source = "app"

    def _begin(self, line: Line, fields: Fields, rest: bytes) -> None:
        self._began_ns = monotonic_ns()
        self._status = self._bytes = 0
        self._source = "app"
        super()._begin(line, fields, rest)

    def whole(self, response: Response, tail: bytes) -> None:
        self._answered(response.status, b"" if self.exchange is None else self.exchange.extra)
        self._bytes = len(tail) - 2
        super().whole(response, tail)

    def head(self, response: Response, size: int) -> None:
        self._answered(response.status, b"" if self.exchange is None else self.exchange.extra)
        super().head(response, size)

    def payload(self, data: bytes) -> None:
        self._bytes += len(data)
        super().payload(data)

    def tunnel(self, response: Response, data: bytes) -> None:
        self._answered(response.status, b"")
        super().tunnel(response, data)

    def write(self, head: bytes, body: bytes) -> None:
        self._answered(int(head[9:12]), head)
        self._bytes = len(body)
        super().write(head, body)

    def stream_head(self, head: bytes) -> None:
        self._answered(int(head[9:12]), head)
        super().stream_head(head)

    def answer_error(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        self._answered(status, b"")
        super().answer_error(status, code, message, extra)

    def refuse(self, status: int, code: str, message: str, extra: bytes = b"") -> None:
        begun = self._began_ns
        self._answered(status, b"")
        super().refuse(status, code, message, extra)
        self._tell("refused" if begun else "unreadable")

    def complete(self) -> None:
        self._tell("")
        super().complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._began_ns:
            self._tell("ended" if self._status == 101 else "client gone")
        super().connection_lost(exc)

    def _answered(self, status: int, head: bytes) -> None:
        self._status = status
        match = _SOURCE.search(head)
        if match is not None:
            self._source = match[1].decode()

    def _tell(self, note: str) -> None:
        began, self._began_ns = self._began_ns, 0
        if self._status < _ALWAYS and random.random() >= self._file.sample:  # noqa: S311 - a sample is no secret
            return
        entry: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": self.address,
        }
        if began:
            entry["method"] = self.line.method.decode()
            entry["target"] = self.line.target.decode()
            entry["host"] = (self.fields.host or b"").decode()
            entry["ms"] = round((monotonic_ns() - began) / 1e6, 3)
            entry["source"] = self._source
            trace = self.fields.values.get(b"traceparent")
            if trace is not None:
                entry["traceparent"] = trace.decode("latin-1")
        entry["status"] = self._status
        entry["bytes"] = self._bytes
        if note:
            entry["note"] = note
        self._file.add(orjson.dumps(entry) + b"\n")
