"""The access log: what is recorded of each request, and the JSON line written from it.

A connection has an ``AccessEntry`` if the log is on, else None, so that a disabled log costs one comparison. A line
is written when the answer is complete, or when the client leaves before that.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from time import monotonic_ns
from typing import Final

import orjson

from proxy.http1.client import APP
from proxy.http1.head import Fields, Line
from proxy.http1.logfile import LogFile

_ALWAYS: Final = 500  # requests with this status or above are always logged, without sampling
WANTED: Final = frozenset((b"traceparent",))  # request fields that appear in a line


class AccessEntry:
    """The log entry of a connection's current request."""

    __slots__ = ("_began_ns", "_bytes", "_file", "_sample", "_source", "_status")

    def __init__(self, file: LogFile, sample: float) -> None:
        self._file = file
        self._sample = sample
        self._began_ns = 0  # 0: no request is under way
        self._status = 0
        self._bytes = 0
        self._source = APP

    def begin(self) -> None:
        """A request begins."""
        self._began_ns = monotonic_ns()
        self._status = self._bytes = 0
        self._source = APP

    @property
    def under_way(self) -> bool:
        """A request has begun and its line is not written yet."""
        return self._began_ns != 0

    @property
    def status(self) -> int:
        """Of the answer; 0 before it begins."""
        return self._status

    def answered(self, status: int, source: bytes, size: int) -> None:
        """The answer begins or is written, with ``size`` bytes of its body."""
        self._status = status
        self._source = source
        self._bytes = size

    def refused(self, status: int) -> None:
        """The request is refused; a part of an answer may have been written already."""
        self._status = status

    def add(self, size: int) -> None:
        """``size`` more bytes of the answer's body are written."""
        self._bytes += size

    def end(self, address: str, line: Line, fields: Fields, note: str = "") -> None:
        """Write the line of the current request."""
        began, self._began_ns = self._began_ns, 0
        if not self._is_chosen():
            return
        entry = self._common(address)
        entry["method"] = line.method.decode()
        entry["target"] = line.target.decode()
        entry["host"] = (fields.host or b"").decode()
        entry["ms"] = round((monotonic_ns() - began) / 1e6, 3)
        entry["source"] = self._source.decode()
        trace = fields.values.get(b"traceparent")
        if trace is not None:
            entry["traceparent"] = trace.decode("latin-1")
        self._write(entry, note)

    def unreadable(self, address: str) -> None:
        """Write a line for bytes that are not a valid request."""
        self._bytes = 0
        if self._is_chosen():
            self._write(self._common(address), "unreadable")

    def _is_chosen(self) -> bool:
        return self._status >= _ALWAYS or random.random() < self._sample  # noqa: S311 - a sample is no secret

    def _common(self, address: str) -> dict[str, object]:
        return {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "client": address}

    def _write(self, entry: dict[str, object], note: str) -> None:
        entry["status"] = self._status
        entry["bytes"] = self._bytes
        if note:
            entry["note"] = note
        self._file.add(orjson.dumps(entry) + b"\n")
