"""Parses message heads: bytes in, parsed values out, or ``Refused``. Nothing is repaired. Pure.

RFC 9112 sections 2, 3, 5 and 6. ``headcache`` keeps what was parsed here, so a head that repeats is not parsed again.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from proxy.http1.refusal import BAD_GATEWAY, Refused

CRLF: Final = b"\r\n"
HEAD_END: Final = b"\r\n\r\n"

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LINE_BYTES: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb"++) ([\x21-\x22\x24-\x7e]++) HTTP/(\d)\.(\d)")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*+))?")
_LENGTH: Final = re.compile(rb"\d{1,18}")
# A reg-name, an IPv4 address or a bracketed IPv6 address, and a port (RFC 3986 section 3.2.2). An empty host is valid
# grammar, but no http address may have one (RFC 9110 section 4.2.1).
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z\-._~%!$&'()*+,;=]+)(?::\d{0,5})?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"chunked", re.IGNORECASE)

# These fields end at this hop (RFC 9110 section 7.6.1); so do the fields that Connection names.
HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
) | frozenset((b"proxy-authenticate", b"proxy-authorization"))
# This hop sets these by itself (see ``nexthop``).
FORWARDING: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via"))
# Connection may not name these: removing one of them is an attack on the next hop or a mistake.
_PROTECTED: Final = frozenset((b"host", b"content-length", b"cookie", b"authorization", b"content-type"))
# Fields that may appear only once; with two of them a message is ambiguous.
_SINGLE: Final = (b"host", b"content-length", b"transfer-encoding")
_REQUEST_SPECIAL: Final = HOP_BY_HOP | FORWARDING | frozenset(_SINGLE) | {b"expect", b"max-forwards"}
_RESPONSE_SPECIAL: Final = HOP_BY_HOP | {b"content-length", b"date"}
# Protocols that could carry further HTTP requests through this hop without its checks.
_NO_UPGRADE: Final = re.compile(rb"(?:h2c?|http|tls)(?:/.*)?", re.IGNORECASE)
_FIELDS_MAX: Final = 200
# Options of Connection that name no field to remove, and the most frequent values.
_BARE_OPTIONS: Final = frozenset((b"close",))
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()
_USUAL_OPTIONS: Final = {name: frozenset((name,)) for name in (b"keep-alive", b"close", b"upgrade")}

NO_LENGTH: Final = -1


class Line:
    """A request line. ``target`` is always in origin-form; ``authority`` is that of an absolute-form, or None.

    ``route`` belongs to the data plane: the path's route, resolved once and kept as long as the line is cached.
    """

    __slots__ = ("authority", "http10", "idempotent", "is_head", "method", "route", "target", "wire")

    def __init__(self, method: bytes, target: bytes, authority: bytes | None, http10: bool) -> None:
        self.method = method
        self.target = target
        self.authority = authority
        self.http10 = http10  # then upgrades and expectations are ignored
        self.is_head = method == b"HEAD"
        # RFC 9110 section 9.2.2: such a request may be retried on a fresh connection when a reused one is dead.
        self.idempotent = method in _IDEMPOTENT
        self.wire = b"%b %b HTTP/1.1\r\n" % (method, target)
        self.route: object = None


_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


class Fields:
    """A request's block of fields. ``kept`` goes to the next hop unchanged, each field ending in CRLF, without Host.

    ``length`` is the body's in bytes or ``NO_LENGTH``; ``values`` has the requested fields by lower-case name.
    ``sticky`` belongs to the data plane: the bucket by migration, kept as long as the block is cached.
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
        "max_forwards",
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
        self.max_forwards: int | None = None
        self.upgrade = b""  # the protocols offered for an upgrade
        self.values: dict[bytes, bytes] = {}
        self.sticky: object = None


class Response:
    """An answer's head. ``wire`` is the status line and the kept fields, without the empty line that ends them."""

    __slots__ = ("chunked", "close", "dated", "length", "status", "upgrade", "wire")

    def __init__(self, status: int, wire: bytes) -> None:
        self.status = status
        self.wire = wire
        self.length = NO_LENGTH
        self.chunked = False
        self.close = False
        self.dated = False
        self.upgrade = b""


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
        raise Refused(501, "method_not_implemented", "CONNECT is not supported: this is not a forward proxy")
    if method == b"TRACE":
        raise Refused(405, "method_not_allowed", "TRACE would show a client's credentials to its scripts")
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return Line(method, target, None, minor == b"0")
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refused(400, "bad_target", "expected a target that begins with /, or an http:// address")
        authority, rest = absolute.groups()
        if not _HOST.fullmatch(authority):
            raise Refused(400, "bad_target", "the target's authority is not a host and port")
        target = rest if rest.startswith(b"/") else b"/" + rest
        if method == b"OPTIONS" and not rest:
            target = b"*"  # RFC 9112 section 3.2.4
    return Line(method, target, authority, minor == b"0")


def _length(value: bytes) -> int:
    if not _LENGTH.fullmatch(value):
        raise Refused(400, "bad_content_length", "expected one run of digits")
    return int(value)


def _bad_field() -> Refused:
    return Refused(400, "bad_field", "a header field breaks RFC 9110's grammar")


Special = dict[bytes, list[bytes]]


def _sort(block: bytes, special: frozenset[bytes], wanted: frozenset[bytes]) -> tuple[list[bytes], Special]:
    """The lines to pass on, and by lower-case name the values of ``special`` and ``wanted`` fields.

    The grammar is RFC 9112 section 5: after removing all bytes that a line may hold, only a CRLF per line may be
    left; and each line begins with a token and a colon. Raises ``Refused``.
    """
    lines = block.split(CRLF)
    lines.pop()
    if len(lines) > _FIELDS_MAX:
        raise Refused(431, "too_many_fields", f"expected at most {_FIELDS_MAX} header fields")
    if block.translate(None, _LINE_BYTES) != CRLF * len(lines):
        raise _bad_field()
    kept = []
    values: Special = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not (name and colon) or name.translate(None, _TOKEN_BYTES):
            raise _bad_field()
        name = name.lower()
        if name in special:
            values.setdefault(name, []).append(value.strip(b" \t"))
            continue
        if name in wanted:
            values.setdefault(name, []).append(value.strip(b" \t"))
        kept.append(line)
    return kept, values


def _options(special: Special) -> frozenset[bytes]:
    """The lower-case options of all Connection fields."""
    values = special.get(b"connection")
    if values is None:
        return _NO_OPTIONS
    usual = _USUAL_OPTIONS.get(values[0].lower())
    if usual is not None and len(values) == 1:
        return usual
    return frozenset(option.strip(b" \t").lower() for value in values for option in value.split(b",")) - {b""}


def _is_disguised(line: bytes) -> bool:
    """Whether an app that reads "_" as "-" (CGI and WSGI do) would take the field for one that this hop decides."""
    return line.partition(b":")[0].lower().replace(b"_", b"-") in _REQUEST_SPECIAL


def _without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """The lines whose field is not one of ``names``."""
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


def _once(special: Special, name: bytes) -> bytes | None:
    """The value of a field that may appear only once. Raises ``Refused`` if it appears twice."""
    values = special.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise Refused(400, "repeated_field", f"{name.decode()} appears more than once")
    return values[0]


def _framing(special: Special) -> tuple[int, bool]:
    """The body's length or ``NO_LENGTH``, and whether it is chunked (RFC 9112 section 6.3). Raises ``Refused``."""
    coding, length = _once(special, b"transfer-encoding"), _once(special, b"content-length")
    if coding is not None:
        if length is not None:
            raise Refused(400, "ambiguous_length", "both Content-Length and Transfer-Encoding")
        if not _CHUNKED.fullmatch(coding):
            raise Refused(501, "transfer_coding_not_implemented", "expected Transfer-Encoding: chunked and no other")
        return NO_LENGTH, True
    return (NO_LENGTH if length is None else _length(length)), False


def parse_fields(block: bytes, wanted: frozenset[bytes], http10: bool = False) -> Fields:
    """A request's fields (RFC 9112 sections 5, 6; RFC 9110 section 7). Raises ``Refused``.

    ``block`` is all lines of fields, each with its CRLF; ``wanted`` the lower-case names to keep values of.
    """
    kept, special = _sort(block, _REQUEST_SPECIAL, wanted)
    if b"_" in block:
        kept = [line for line in kept if not _is_disguised(line)]
    fields = Fields()
    options = _options(special)
    if options:
        fields.close = b"close" in options
        fields.keep_alive = b"keep-alive" in options
        named = options - _REQUEST_SPECIAL - _BARE_OPTIONS
        if options & _PROTECTED:
            raise Refused(400, "bad_connection", "Connection names a field that must not be removed")
        if named:
            kept = _without(kept, named)
    fields.host = _once(special, b"host")
    if fields.host is not None and not _HOST.fullmatch(fields.host):
        raise Refused(400, "bad_host", "Host is not a host and port")
    fields.length, fields.chunked = _framing(special)
    fields.has_body = fields.chunked or fields.length > 0
    if fields.length >= 0:
        kept.append(b"content-length: %d" % fields.length)
    if http10:
        if fields.chunked:
            raise Refused(400, "ambiguous_length", "HTTP/1.0 knows no Transfer-Encoding")
    else:
        if b"upgrade" in options:
            offered = (name.strip(b" \t") for value in special.get(b"upgrade", ()) for name in value.split(b","))
            fields.upgrade = b", ".join(name for name in offered if name and not _NO_UPGRADE.fullmatch(name))
        if b"expect" in special:
            if [value.lower() for value in special[b"expect"]] != [b"100-continue"]:
                raise Refused(417, "expectation_failed", "expected Expect: 100-continue and no other")
            fields.expects_continue = True
            kept.append(b"expect: 100-continue")
    hops = _once(special, b"max-forwards")
    if hops is not None:
        fields.max_forwards = _length(hops)
    for name, values in special.items():
        if name in wanted or name in FORWARDING:
            # HTTP/2 gateways may split a Cookie; other fields are joined with a comma (RFC 9110 section 5.3).
            fields.values[name] = (
                values[0] if len(values) == 1 else (b"; " if name == b"cookie" else b", ").join(values)
            )
    kept.append(b"")
    fields.kept = CRLF.join(kept)
    return fields


def parse_response(head: bytes) -> Response:
    """An upstream's head, without its last empty line. Raises ``Refused`` (502): the app is at fault."""
    status_line, _, block = head.partition(CRLF)
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise Refused(502, BAD_GATEWAY, "the upstream sent no valid status line")
    http10 = match[1] == b"0"
    status = int(match[2])
    try:
        kept, special = _sort(block, _RESPONSE_SPECIAL, _NO_OPTIONS)
        length, chunked = _framing(special)
    except Refused as refused:
        raise Refused(502, BAD_GATEWAY, f"the upstream's answer: {refused.message}") from None
    if chunked and http10:
        raise Refused(502, BAD_GATEWAY, "the upstream's answer: HTTP/1.0 knows no Transfer-Encoding")
    options = _options(special)
    named = options - _RESPONSE_SPECIAL - _BARE_OPTIONS
    if named:
        kept = _without(kept, named)
    if status < 200 or status == 204:
        # RFC 9110 section 8.6 and RFC 9112 section 6.1 forbid both; a length here could desynchronise clients.
        if chunked or length > 0:
            raise Refused(502, BAD_GATEWAY, "the upstream's answer: a body where its status allows none")
        length = 0
    elif length >= 0:
        kept.append(b"content-length: %d" % length)
    if status == 426 and b"upgrade" in special:  # a 426 must name the protocols (RFC 9110 section 15.5.22)
        kept += (b"connection: upgrade", b"upgrade: " + b", ".join(special[b"upgrade"]))
    if b"date" in special:
        kept.append(b"date: " + special[b"date"][0])
    line = b"HTTP/1.1 %d %b" % (status, match[3] or _reason(status))
    response = Response(status, CRLF.join((line, *kept, b"")))
    response.length = length
    response.chunked = chunked
    response.close = b"close" in options or (http10 and b"keep-alive" not in options)
    response.dated = b"date" in special
    if b"upgrade" in options and not http10:
        response.upgrade = b", ".join(special.get(b"upgrade", ()))
    return response


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
