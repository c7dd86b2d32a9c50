"""The grammar of message heads: bytes in, what they mean out, or ``Refused``. Nothing is repaired.

RFC 9112 sections 2, 3, 5 and 6. A head is taken apart once: what a browser repeats to the byte on its next request
(its whole block of fields) is found again by ``Heads`` with one look-up, so the grammar below is walked on the first
request of a kind and not on every one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from proxy.http1.refusal import BAD_GATEWAY, Refused

CRLF: Final = b"\r\n"
HEAD_END: Final = b"\r\n\r\n"

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Possessive: a block that fails, fails at once, whatever it holds.
_FIELDS: Final = re.compile(rb"(?:" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+")
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb"++) ([\x21-\x22\x24-\x7e]++) HTTP/(\d)\.(\d)")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*+))?")
_LENGTH: Final = re.compile(rb"\d{1,18}")
# A reg-name, an IPv4 address or a bracketed IPv6 address, and a port (RFC 3986 section 3.2.2).
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z\-._~%!$&'()*+,;=]*)(?::\d{0,5})?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"chunked", re.IGNORECASE)

# These end at this hop (RFC 9110 section 7.6.1); so does whatever Connection names.
_HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
) | frozenset((b"proxy-authenticate", b"proxy-authorization"))
# Set by this hop from what it knows (see ``forwarding``).
FORWARDING: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via"))
# What Connection may not take away: naming one of these is an attack on the next hop or a mistake.
_PROTECTED: Final = frozenset((b"host", b"content-length", b"cookie", b"authorization", b"content-type"))
# Fields that appear once; two of them are two meanings.
_SINGLE: Final = frozenset((b"host", b"content-length", b"transfer-encoding"))

NO_LENGTH: Final = -1


class Line:
    """A request line. ``target`` is in origin-form whatever came; ``authority`` that of an absolute-form, or None.

    ``route`` belongs to the data plane: what the path leads to, resolved once for as long as the line is remembered.
    """

    __slots__ = ("authority", "http10", "idempotent", "is_head", "method", "route", "target", "wire")

    def __init__(self, method: bytes, target: bytes, authority: bytes | None, http10: bool) -> None:
        self.method = method
        self.target = target
        self.authority = authority
        self.http10 = http10
        self.is_head = method == b"HEAD"
        # RFC 9110 section 9.2.2: these may be repeated on a fresh connection when a reused one turns out dead.
        self.idempotent = method in _IDEMPOTENT
        self.wire = b"%b %b HTTP/1.1\r\n" % (method, target)
        self.route: object = None


_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


class Fields:
    """A request's block of fields. ``kept`` goes on to the next hop as it is, each field ending in CRLF.

    ``length`` is the body's in bytes or ``NO_LENGTH``; ``values`` the fields asked for, by lower-case name.
    ``sticky`` belongs to the data plane: the bucket by migration, as long as the block is remembered.
    """

    __slots__ = (
        "chunked",
        "close",
        "expects_continue",
        "has_body",
        "host",
        "keep_alive",
        "kept",
        "length",
        "sticky",
        "upgrade",
        "values",
    )

    def __init__(self) -> None:
        self.kept = b""
        self.host: bytes | None = None
        self.length = NO_LENGTH
        self.chunked = False
        self.has_body = False
        self.close = False
        self.keep_alive = False
        self.expects_continue = False
        self.upgrade = b""
        self.values: dict[bytes, bytes] = {}
        self.sticky: object = None


class Response:
    """An answer's head. ``wire`` is the status line and the kept fields, without the empty line that ends them."""

    __slots__ = ("chunked", "close", "length", "status", "upgrade", "wire")

    def __init__(self, status: int, wire: bytes, length: int, chunked: bool, close: bool, upgrade: bytes) -> None:
        self.status = status
        self.wire = wire
        self.length = length
        self.chunked = chunked
        self.close = close
        self.upgrade = upgrade


def parse_request_line(line: bytes) -> Line:
    """RFC 9112 section 3. Raises ``Refused`` (400, 405, 501, 505)."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise Refused(400, "bad_request_line", "expected METHOD, one space, a target, one space, HTTP/1.1")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise Refused(505, "version_not_supported", "expected HTTP/1.1 or HTTP/1.0")
    authority = None
    if method == b"CONNECT":
        raise Refused(501, "method_not_implemented", "this is no forward proxy: CONNECT leads nowhere")
    if method == b"TRACE":
        raise Refused(405, "method_not_allowed", "TRACE would show a client's credentials to its scripts")
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return Line(method, target, None, minor == b"0")
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refused(400, "bad_target", "expected a target that begins with /, or an http:// address")
        authority, rest = absolute.groups()
        target = rest if rest.startswith(b"/") else b"/" + rest
    return Line(method, target, authority, minor == b"0")


def _length(value: bytes) -> int:
    if not _LENGTH.fullmatch(value):
        raise Refused(400, "bad_content_length", "expected one run of digits")
    return int(value)


def _split(block: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Each field as (lower-case name, value, its whole line with CRLF). Raises ``Refused``."""
    if not _FIELDS.fullmatch(block):
        raise Refused(400, "bad_field", "a header field breaks RFC 9110's grammar")
    fields = []
    for line in block.split(CRLF)[:-1]:
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" \t"), line + CRLF))
    return fields


def _options(connection: list[bytes]) -> frozenset[bytes]:
    """The lower-case options of all Connection fields."""
    names = (option.strip(b" \t").lower() for value in connection for option in value.split(b","))
    return frozenset(name for name in names if name)


def _single(fields: list[tuple[bytes, bytes, bytes]]) -> dict[bytes, bytes]:
    """The fields that frame or address a message. Raises ``Refused`` where one comes twice."""
    found: dict[bytes, bytes] = {}
    for name, value, _ in fields:
        if name in _SINGLE:
            if name in found:
                raise Refused(400, "repeated_field", f"{name.decode()} comes more than once")
            found[name] = value
    return found


def parse_fields(block: bytes, wanted: frozenset[bytes]) -> Fields:
    """A request's fields (RFC 9112 sections 5, 6; RFC 9110 section 7). Raises ``Refused``.

    ``block`` is all lines of fields, each with its CRLF; ``wanted`` the lower-case names to keep values of.
    """
    lines = _split(block)
    single = _single(lines)
    options = _options([value for name, value, _ in lines if name == b"connection"])
    if options & _PROTECTED:
        raise Refused(400, "bad_connection", "Connection names a field that it may not take away")
    fields = Fields()
    fields.host = single.get(b"host")
    if fields.host is not None and not _HOST.fullmatch(fields.host):
        raise Refused(400, "bad_host", "Host is no host and port")
    if b"transfer-encoding" in single:
        if b"content-length" in single:
            raise Refused(400, "ambiguous_length", "both Content-Length and Transfer-Encoding")
        if not _CHUNKED.fullmatch(single[b"transfer-encoding"]):
            raise Refused(501, "transfer_coding_not_implemented", "expected Transfer-Encoding: chunked and no other")
        fields.chunked = True
    elif b"content-length" in single:
        fields.length = _length(single[b"content-length"])
    fields.has_body = fields.chunked or fields.length > 0
    fields.close = b"close" in options
    fields.keep_alive = b"keep-alive" in options
    kept = []
    for name, value, line in lines:
        if name == b"expect":
            if value.lower() != b"100-continue":
                raise Refused(417, "expectation_failed", "expected Expect: 100-continue and no other")
            fields.expects_continue = True
        elif name == b"upgrade" and b"upgrade" in options:
            fields.upgrade = value
        if name in wanted or name in FORWARDING:
            before = fields.values.get(name)
            # A Cookie may come in pieces (HTTP/2 gateways do that); others join with a comma (RFC 9110 section 5.3).
            joint = b"; " if name == b"cookie" else b", "
            fields.values[name] = value if before is None else before + joint + value
        if name not in _HOP_BY_HOP and name not in FORWARDING and name not in options:
            kept.append(line)
    fields.kept = b"".join(kept)
    return fields


def parse_response(head: bytes) -> Response:
    """An upstream's head, without its last empty line. Raises ``Refused`` (502): what is bad there is the app's."""
    status_line, _, block = head.partition(CRLF)
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise Refused(502, BAD_GATEWAY, "the upstream sent no valid status line")
    http10 = match[1] == b"0"
    status = int(match[2])
    try:
        lines = _split(block)
        single = _single([field for field in lines if field[0] != b"host"])
        length = NO_LENGTH
        chunked = False
        if b"transfer-encoding" in single:
            if b"content-length" in single or http10:
                raise Refused(502, BAD_GATEWAY, "ambiguous length")
            if not _CHUNKED.fullmatch(single[b"transfer-encoding"]):
                raise Refused(502, BAD_GATEWAY, "a transfer-coding other than chunked")
            chunked = True
        elif b"content-length" in single:
            length = _length(single[b"content-length"])
    except Refused as refused:
        raise Refused(502, BAD_GATEWAY, f"the upstream's answer: {refused.message}") from None
    options = _options([value for name, value, _ in lines if name == b"connection"])
    close = b"close" in options or (http10 and b"keep-alive" not in options)
    upgrade = next((value for name, value, _ in lines if name == b"upgrade"), b"") if b"upgrade" in options else b""
    reason = match[3] or _reason(status)
    wire = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
    wire += [line for name, _, line in lines if name not in _HOP_BY_HOP and name not in options]
    if status < 200 or status == 204:
        # RFC 9110 section 8.6 and RFC 9112 section 6.1 forbid both; a length here desynchronises careless clients.
        if chunked or length > 0:
            raise Refused(502, BAD_GATEWAY, "the upstream's answer: a body where its status allows none")
        length = 0
        wire = [line for line in wire if not line[:15].lower().startswith(b"content-length:")]
    return Response(status, b"".join(wire), length, chunked, close, upgrade)


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


class Heads:
    """What has been parsed lately, by its bytes: request lines, blocks of fields, answers' heads.

    Each table is emptied when it is full: a stream of ever-new heads costs a parse each, as it would have anyway, and
    memory is bounded by ``limit`` heads a table.
    """

    __slots__ = ("_limit", "_resolve", "_wanted", "blocks", "lines", "responses")

    def __init__(self, wanted: frozenset[bytes], resolve: Callable[[Line], object], limit: int = 1024) -> None:
        self._wanted = wanted
        self._resolve = resolve
        self._limit = limit
        self.lines: dict[bytes, Line] = {}
        self.blocks: dict[bytes, Fields] = {}
        self.responses: dict[bytes, Response] = {}

    def line(self, raw: bytes) -> Line:
        """The request line, parsed and routed. Raises ``Refused``."""
        line = self.lines.get(raw)
        if line is None:
            line = parse_request_line(raw)
            line.route = self._resolve(line)
            if len(self.lines) >= self._limit:
                self.lines.clear()
            self.lines[raw] = line
        return line

    def fields(self, block: bytes) -> Fields:
        """The request's fields. Raises ``Refused``."""
        fields = self.blocks.get(block)
        if fields is None:
            fields = parse_fields(block, self._wanted)
            if len(self.blocks) >= self._limit:
                self.blocks.clear()
            self.blocks[block] = fields
        return fields

    def response(self, head: bytes) -> Response:
        """The answer's head. Raises ``Refused`` (502)."""
        response = self.responses.get(head)
        if response is None:
            response = parse_response(head)
            if len(self.responses) >= self._limit:
                self.responses.clear()
            self.responses[head] = response
        return response
