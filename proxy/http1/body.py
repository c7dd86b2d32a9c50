"""The framing of bodies (RFC 9112 sections 6 and 7): wire bytes in, payload and an unambiguous end out. Pure.

A decoder's ``feed`` takes received bytes and returns ``(payload, rest)``; ``rest`` is what follows the body's end,
and empty until ``done``. The payload is framed anew for the next hop (``chunk``, ``last_chunk``), so nothing that is
tolerated here, such as a chunk extension, reaches a next hop that might interpret it differently.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.http1.head import CRLF, FORWARDING, HEAD_END, HOP_BY_HOP, Fields
from proxy.http1.refusal import Refused

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_SIZE_LINE_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{1,15}(?:[ \t]*+(?:;[\t\x20-\x7e\x80-\xff]*+)?)\r?")
_TRAILERS: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+")
_SIZE_LINE_MAX: Final = 4096
_TRAILERS_MAX: Final = 16 * 1024
# Chunk extensions and leading zeros carry no payload: more bytes of them than this, beyond what the body's own size
# justifies, are an attack.
_EXCESS_MAX: Final = 16 * 1024
_SIZE_LINE_USUAL: Final = 16  # bytes of a size line that do not count as excess
# RFC 9110 section 6.5.1: these fields are meaningful only in a head, so they are dropped from trailers.
_NO_TRAILER: Final = (
    HOP_BY_HOP
    | FORWARDING
    | frozenset(
        b"content-length host trailer content-encoding content-type content-range authorization www-authenticate "
        b"cookie set-cookie cache-control expect max-forwards".split()
    )
)


class Decoder:
    """Decodes a body as it arrives. A base class, so that compiled code calls it as cheaply as C."""

    __slots__ = ("done", "trailers")

    done: bool
    trailers: bytes

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return ``(payload, rest)``. Raises ``Refused`` if the framing is bad."""
        raise NotImplementedError


class ByLength(Decoder):
    """A body of a known number of bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.trailers = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        size = len(data)
        if size < self._left:
            self._left -= size
            return data, b""
        left, self._left = self._left, 0
        self.done = True
        return (data, b"") if size == left else (data[:left], data[left:])


class UntilClose(Decoder):
    """An answer's body that ends with its connection: only the connection's owner knows when it is done."""

    __slots__ = ()

    def __init__(self) -> None:
        self.done = False
        self.trailers = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""


class Chunked(Decoder):
    """The chunked transfer-coding, strictly by its grammar."""

    __slots__ = ("_excess", "_held", "_left", "_trailing")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0  # bytes of the chunk and its CRLF; 0: a size line comes next
        self._excess = 0
        self._trailing = False
        self.done = False
        self.trailers = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        if self._held:
            data, self._held = self._held + data, b""
        payload: list[bytes] = []
        at = 0
        size = len(data)
        while at < size and not self._trailing:
            if self._left == 0:
                at = self._size_line(data, at)
                if self._held:
                    break
                continue
            left = self._left
            end = at + left - 2
            if data.startswith(CRLF, end):  # the common chunk: all of it is here
                payload.append(data[at:end])
                at = end + 2
                self._left = 0
            elif left > 2:
                piece = data[at:end]
                payload.append(piece)
                at += len(piece)
                self._left -= len(piece)
            elif data[at] == CRLF[2 - left]:
                at += 1
                self._left -= 1
            else:
                raise Refused(400, "bad_chunk", "a chunk is longer than its size says")
        rest = self._trailer(data, at) if self._trailing and at < size else b""
        return b"".join(payload) if len(payload) != 1 else payload[0], rest

    def _size_line(self, data: bytes, at: int) -> int:
        """Parse the size line at ``at``; return where it ends. An incomplete one is held back."""
        match = _SIZE_LINE.match(data, at)
        if match is None:
            part = data[at : at + _SIZE_LINE_MAX + 1]
            # Bytes that can no longer become a size line are refused now, without waiting for a line end.
            if len(part) > _SIZE_LINE_MAX or not _SIZE_LINE_BEGUN.fullmatch(part):
                raise Refused(400, "bad_chunk", "expected a chunk's size in hexadecimal and CRLF")
            self._held = part
            return len(data)
        length = int(match[1], 16)
        end = match.end()
        self._excess = max(0, self._excess + end - at - _SIZE_LINE_USUAL - 2 * length)
        if end - at > _SIZE_LINE_MAX or self._excess > _EXCESS_MAX:
            raise Refused(400, "bad_chunk", "the chunks' size lines hold more than the chunks")
        if length:
            self._left = length + 2
        else:
            self._trailing = True
        return end

    def _trailer(self, data: bytes, at: int) -> bytes:
        """Parse the trailer section at ``at``; return what follows it."""
        if data.startswith(CRLF, at):
            self.done = True
            return data[at + 2 :]
        end = data.find(HEAD_END, at)
        if end < 0:
            if len(data) - at > _TRAILERS_MAX:
                raise Refused(431, "trailers_too_large", f"expected at most {_TRAILERS_MAX} bytes of trailers")
            self._held = data[at:]
            return b""
        if end - at > _TRAILERS_MAX:
            raise Refused(431, "trailers_too_large", f"expected at most {_TRAILERS_MAX} bytes of trailers")
        section = data[at : end + 2]
        if not _TRAILERS.fullmatch(section):
            raise Refused(400, "bad_trailer", "a trailer field breaks RFC 9110's grammar")
        lines = (line + CRLF for line in section.split(CRLF)[:-1])
        self.trailers = b"".join(line for line in lines if line.partition(b":")[0].lower() not in _NO_TRAILER)
        self.done = True
        return data[end + 4 :]


class RequestBody:
    """A request's body on its way to the next hop: decoded, limited in size, and framed anew."""

    __slots__ = ("_chunked", "_decoder", "_received", "ended", "limit", "rest")

    def __init__(self, fields: Fields) -> None:
        self._decoder: Decoder = Chunked() if fields.chunked else ByLength(fields.length)
        self._chunked = fields.chunked
        self._received = 0
        self.limit = 0  # of the whole body, in bytes; 0: any
        self.ended = False
        self.rest = b""  # what follows the body, once it has ended

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``. Raises ``Refused`` if the framing is bad or the limit is exceeded."""
        payload, self.rest = self._decoder.feed(data)
        self._received += len(payload)
        if self.limit and self._received > self.limit:
            raise too_large(self.limit)
        self.ended = self._decoder.done
        return payload

    def framed(self, payload: bytes) -> bytes:
        """The payload framed for the next hop, with the body's end if that has arrived."""
        if not self._chunked:
            return payload
        framed = chunk(payload) if payload else b""
        return framed + last_chunk(self._decoder.trailers) if self.ended else framed


def too_large(limit: int) -> Refused:
    """The refusal of a body larger than ``limit`` bytes."""
    return Refused(413, "body_too_large", f"expected a body of at most {limit} bytes")


def chunk(payload: bytes) -> bytes:
    """One chunk on the wire; ``payload`` must not be empty: an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: bytes) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n%b\r\n" % trailers
