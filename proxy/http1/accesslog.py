"""The access log: what is noted of each request of a connection, and the line of JSON that is made of it.

A connection has an ``AccessEntry`` where the log is on and none where it is off, so that what is off costs a
comparison. A line is written when its answer is, or when the client has gone before.
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

_ALWAYS: Final = 500  # from this status on a request is logged whatever the sample says
WANTED: Final = frozenset((b"traceparent",))  # the fields that a line tells of


class AccessEntry:
    """The current request of one connection, as it will stand in the log."""

    __slots__ = ("_began_ns", "_bytes", "_file", "_sample", "_source", "_status")

    def __init__(self, file: LogFile, sample: float) -> None:
        self._file = file
        self._sample = sample
        self._began_ns = 0  # 0: no request is under way
        self._status = 0
        self._bytes = 0
        self._source = APP

    def begin(self) -> None:
        """A request was taken."""
        self._began_ns = monotonic_ns()
        self._status = self._bytes = 0
        self._source = APP

    @property
    def under_way(self) -> bool:
        """A request was taken whose line is yet to be written."""
        return self._began_ns != 0

    @property
    def status(self) -> int:
        """Of its answer; 0: none has begun."""
        return self._status

    def answered(self, status: int, source: bytes, size: int) -> None:
        """Its answer is written, or begins, with ``size`` bytes of its body."""
        self._status = status
        self._source = source
        self._bytes = size

    def refused(self, status: int) -> None:
        """What came cannot be passed on. It may have been answered in part already."""
        self._status = status

    def add(self, size: int) -> None:
        """So many more bytes of its answer's body are written."""
        self._bytes += size

    def end(self, address: str, line: Line, fields: Fields, note: str = "") -> None:
        """Write the line of the request under way."""
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
        """Write the line of what was no request."""
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
