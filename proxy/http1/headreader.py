"""Cuts the heads of one connection's requests out of the bytes that arrive. Pure."""

from __future__ import annotations

import re
from typing import Final

from proxy.http1.head import CRLF, HEAD_END, Fields, Line
from proxy.http1.headcache import HeadCache
from proxy.http1.refusal import Refused

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_BEGINS_REQUEST: Final = re.compile(rb"[\r!#$%&'*+\-.^_`|~0-9A-Za-z]")
_SEAM: Final = len(HEAD_END) - 1  # bytes before a new piece that may be the beginning of a head's end


class HeadReader:
    """Reads one head at a time. ``line`` and ``fields`` are those of the last head.

    ``close``: the request asks to close the connection. ``head_only``: its answer has no body, even if it is a
    refusal. A refused head is a connection's last, so nothing is read after it.
    """

    __slots__ = ("_block", "_cache", "_max", "close", "fields", "head_only", "line")

    line: Line
    fields: Fields

    def __init__(self, cache: HeadCache, max_head: int) -> None:
        self._cache = cache
        self._max = max_head
        self._block: bytes | None = None  # of the last request; clients often repeat it byte for byte
        self.close = False
        self.head_only = False

    def read(self, data: bytes) -> int:
        """Read the head at the start of ``data``; returns its length, 0 if it is incomplete. Raises ``Refused``."""
        end = data.find(HEAD_END)
        if end < 0 or end > self._max:
            self.head_only = False
            self._check_part(data, end)
            return 0
        eol = data.find(CRLF)
        if eol == 0:  # RFC 9112 section 2.2: one empty line before a request is ignored, more are refused
            if data.startswith(CRLF, 2):
                self.head_only = False
                raise Refused(400, "bad_request_line", "expected a request, found empty lines")
            return 2 + self.read(data[2:])
        cache = self._cache
        self.head_only = False  # for the refusal, if the line is bad
        raw = data[:eol]
        line = cache.lines.get(raw)
        if line is None:
            line = cache.line(raw)
        self.head_only = line.is_head
        block = data[eol + 2 : end + 2]
        if line.http10:
            self._block = None
            fields = cache.fields_http10(block)
        elif block == self._block:
            fields = self.fields
        else:
            known = cache.blocks.get(block)
            fields = cache.fields(block) if known is None else known
            self._block = block
        self.close = fields.close
        if line.authority is not None or fields.host is None or line.http10:
            self._check_unusual(line, fields)
        self.line = line
        self.fields = fields
        return end + len(HEAD_END)

    def is_decided(self, held: bytes, data: bytes) -> bool:
        """Whether ``data`` after an incomplete head completes it, or shows that it is invalid.

        Only the seam and the new piece are searched, so many small pieces do not cause repeated searches of the
        whole.
        """
        seam = held[-_SEAM:] + data
        return (
            HEAD_END in seam
            or len(held) + len(data) > self._max
            or _BARE_LF.search(seam, min(_SEAM, len(held))) is not None
        )

    def _check_part(self, data: bytes, end: int) -> None:
        """Check an incomplete head, or one that is too large. Raises ``Refused``."""
        if end > 0 or len(data) > self._max:
            raise Refused(431, "head_too_large", f"expected a head of at most {self._max} bytes")
        if _BARE_LF.search(data):
            raise Refused(400, "bad_line_end", "expected every line to end in CRLF")
        if not _BEGINS_REQUEST.match(data):
            raise Refused(400, "bad_request_line", "expected a method")

    def _check_unusual(self, line: Line, fields: Fields) -> None:
        """Check an absolute-form, a request without a Host, or HTTP/1.0. Raises ``Refused``."""
        if line.http10:
            self.close = not fields.keep_alive or fields.close
        if fields.host is None:
            if not line.http10:
                raise Refused(400, "missing_host", "expected a Host field")
        elif line.authority is not None and line.authority.lower() != fields.host.lower():
            raise Refused(400, "bad_host", "Host and the target's authority differ")
