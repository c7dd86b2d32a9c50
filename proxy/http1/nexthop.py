"""A request's head for the next hop, with the fields that describe the client (RFC 7239, X-Forwarded-*). Pure.

For a client in a trusted network, its forwarding fields are kept and appended to. From anyone else they could be
forged, so they are replaced.
"""

from __future__ import annotations

from typing import Final

from proxy.http1.addresses import Networks, address_of, is_trusted
from proxy.http1.head import Fields, Line

_VIA: Final = {False: b"1.1 phasegate", True: b"1.0 phasegate"}  # by whether the client spoke HTTP/1.0


class Peer:
    """The peer that opened a connection, and its scheme."""

    __slots__ = ("_address", "_own", "_scheme", "_trusted", "_trusts")

    def __init__(self, address: str, scheme: bytes, trusted: Networks) -> None:
        self._address = address
        self._scheme = scheme
        self._trusted = trusted
        self._trusts = is_trusted(address, trusted)
        self._own = replaced(address, scheme)

    def client_address(self, fields: Fields) -> str:
        """The client's address: the peer's, or the one that a trusted peer names in X-Forwarded-For."""
        if not self._trusts:
            return self._address
        return client_address(self._address, fields, self._trusted)

    def onward(self, line: Line, fields: Fields, host: bytes, default_host: bytes) -> bytes:
        """The head for the next hop, after the request line: the same for each request with these fields.

        ``host`` is the Host set in the config, or empty; ``default_host`` is used if the request names none.
        """
        named = fields.host or line.authority or b""
        if self._trusts:
            added = appended(self._address, self._scheme, named, fields, line.http10)
        else:
            added = complete(self._own, named, line.http10)
        if fields.chunked:
            added += b"transfer-encoding: chunked\r\n"
        if fields.max_forwards is not None:
            hops = fields.max_forwards - (line.method == b"OPTIONS")  # RFC 9110 section 7.6.2
            added += b"max-forwards: %d\r\n" % hops
        if fields.upgrade:
            added += b"connection: upgrade\r\nupgrade: %b\r\n" % fields.upgrade
        return b"host: %b\r\n%b%b\r\n" % (host or named or default_host, fields.kept, added)


def client_address(peer: str, fields: Fields, trusted: Networks) -> str:
    """The client's address behind the trusted hops: the last address in X-Forwarded-For that is not trusted.

    ``peer`` must be trusted itself. An invalid address ends the search: entries before it cannot be trusted.
    """
    nearest = peer
    for text in reversed(fields.values.get(b"x-forwarded-for", b"").split(b",")):
        try:
            address = address_of(text.strip(b" \t").decode("latin-1"))
        except ValueError:
            break
        nearest = address
        if not is_trusted(address, trusted):
            break
    return nearest


def replaced(address: str, scheme: bytes) -> bytes:
    """The fields for an untrusted client, except those that need its Host: the same for a whole connection."""
    peer = address.encode()
    return b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nforwarded: for=%b;proto=%b" % (
        peer,
        scheme,
        _node(peer),
        scheme,
    )


def complete(own: bytes, host: bytes, http10: bool) -> bytes:
    """``replaced`` completed with the request's HTTP version and its Host, which may be empty."""
    via = _VIA[http10]
    if not host:
        return b"%b\r\nvia: %b\r\n" % (own, via)
    return b'%b;host="%b"\r\nx-forwarded-host: %b\r\nvia: %b\r\n' % (own, host, host, via)


def appended(address: str, scheme: bytes, host: bytes, fields: Fields, http10: bool) -> bytes:
    """The fields for a client in a trusted network: its own, with this hop's appended."""
    peer = address.encode()
    before = fields.values
    element = b"for=%b;proto=%b" % (_node(peer), scheme)
    if host:
        element += b';host="%b"' % host
    lines = (
        (b"x-forwarded-for", _joined(before.get(b"x-forwarded-for"), peer)),
        (b"x-forwarded-proto", before.get(b"x-forwarded-proto", scheme)),
        (b"x-forwarded-host", before.get(b"x-forwarded-host", host)),
        (b"forwarded", _joined(before.get(b"forwarded"), element)),
        (b"via", _joined(before.get(b"via"), _VIA[http10])),
    )
    return b"".join(b"%b: %b\r\n" % line for line in lines if line[1])


def _node(peer: bytes) -> bytes:
    """An address as Forwarded writes it (RFC 7239 section 6)."""
    return b'"[%b]"' % peer if b":" in peer else peer or b"unknown"


def _joined(before: bytes | None, own: bytes) -> bytes:
    return own if not before else before + b", " + own
