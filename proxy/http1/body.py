"""The framing of bodies (RFC 9112 sections 6 and 7): wire bytes in, payload out, and an end that cannot be
mistaken. Pure.

A decoder's ``feed`` takes what arrived and returns ``(payload, rest)``; ``rest`` is what lies beyond the body's end
and is empty until ``done``. Payload goes on in canonical framing (``chunk``, ``last_chunk``), so nothing that was
merely tolerated here, a chunk extension say, reaches the next hop to be understood in another way.
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
# Extensions and leading zeros carry nothing: more of them than this beyond a body's own size is an attack.
_EXCESS_MAX: Final = 16 * 1024
_SIZE_LINE_USUAL: Final = 16
# RFC 9110 section 6.5.1: these mean something only in a head, for its reader or for this hop.
_NO_TRAILER: Final = (
    HOP_BY_HOP
    | FORWARDING
    | frozenset(
        b"content-length host trailer content-encoding content-type content-range authorization www-authenticate "
        b"cookie set-cookie cache-control expect max-forwards".split()
    )
)


class Decoder:
    """A body on its way in: a base, for calls at C's cost."""

    __slots__ = ("done", "trailers")

    done: bool
    trailers: bytes

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return ``(payload, rest)``. Raises ``Refused`` where the framing is bad."""
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
    """An answer's body that ends when its connection does: only the connection's owner can say that it is done."""

    __slots__ = ()

    def __init__(self) -> None:
        self.done = False
        self.trailers = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""


class Chunked(Decoder):
    """The chunked transfer-coding, with no tolerance beyond its grammar."""

    __slots__ = ("_excess", "_held", "_left", "_trailing")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0  # of the chunk and its CRLF; 0: a size line comes next
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
        """Take the size line at ``at``; return where it ends. What is not whole yet is held."""
        match = _SIZE_LINE.match(data, at)
        if match is None:
            part = data[at : at + _SIZE_LINE_MAX + 1]
            # What can no longer become a size line is refused now, not when a line end comes.
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
        """Take the trailer section from ``at`` on; return what lies beyond it."""
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
    """A request's body on its way through: decoded, held to a limit, and framed anew for the next hop."""

    __slots__ = ("_chunked", "_decoder", "_received", "ended", "limit", "rest")

    def __init__(self, fields: Fields) -> None:
        self._decoder: Decoder = Chunked() if fields.chunked else ByLength(fields.length)
        self._chunked = fields.chunked
        self._received = 0
        self.limit = 0  # of the whole body, in bytes; 0: any
        self.ended = False
        self.rest = b""  # what came behind the body, once it has ended

    def feed(self, data: bytes) -> bytes:
        """What of ``data`` is payload. Raises ``Refused`` where the framing is bad, or beyond the limit."""
        payload, self.rest = self._decoder.feed(data)
        self._received += len(payload)
        if self.limit and self._received > self.limit:
            raise too_large(self.limit)
        self.ended = self._decoder.done
        return payload

    def framed(self, payload: bytes) -> bytes:
        """The payload as the next hop gets it, with the end where it has come."""
        if not self._chunked:
            return payload
        framed = chunk(payload) if payload else b""
        return framed + last_chunk(self._decoder.trailers) if self.ended else framed


def too_large(limit: int) -> Refused:
    """The refusal of a body beyond its limit in bytes."""
    return Refused(413, "body_too_large", f"expected a body of at most {limit} bytes")


def chunk(payload: bytes) -> bytes:
    """One chunk on the wire; ``payload`` must not be empty, for that would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: bytes) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n%b\r\n" % trailers
