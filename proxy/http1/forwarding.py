"""What the next hop is told of the client (RFC 7239 and the X-Forwarded fields before it), by a policy of trust.

From a trusted network a request's own forwarding fields are kept and appended to; from anywhere else they are what a
stranger wrote, and are replaced.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from proxy.http1.head import Fields

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

_VIA = b"1.1 phasegate"


def networks(texts: Sequence[str]) -> Networks:
    """The networks of a config. Raises ``ValueError`` for what is none."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def is_trusted(address: str, trusted: Networks) -> bool:
    """Whether a peer's own forwarding fields count."""
    if not trusted:
        return False
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in trusted)


def replaced(address: str, scheme: bytes) -> bytes:
    """The fields for a client that is not trusted, but for those that need its Host: one value a connection."""
    node = b'"[%b]"' % address.encode() if ":" in address else address.encode()
    return b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nvia: %b\r\nforwarded: for=%b;proto=%b" % (
        address.encode(),
        scheme,
        _VIA,
        node,
        scheme,
    )


def complete(own: bytes, fields: Fields) -> bytes:
    """``replaced`` made whole with this request's Host."""
    host = fields.host
    return b'%b;host="%b"\r\nx-forwarded-host: %b\r\n' % (own, host, host) if host else own + b"\r\n"


def appended(address: str, scheme: bytes, fields: Fields) -> bytes:
    """The fields for a client on a trusted network: its own, and this hop's behind them."""
    peer = address.encode()
    node = b'"[%b]"' % peer if b":" in peer else peer
    before = fields.values
    host = fields.host or b""
    lines = (
        (b"x-forwarded-for", _joined(before.get(b"x-forwarded-for"), peer)),
        (b"x-forwarded-proto", before.get(b"x-forwarded-proto", scheme)),
        (b"x-forwarded-host", before.get(b"x-forwarded-host", host)),
        (b"forwarded", _joined(before.get(b"forwarded"), b'for=%b;proto=%b;host="%b"' % (node, scheme, host))),
        (b"via", _joined(before.get(b"via"), _VIA)),
    )
    return b"".join(b"%b: %b\r\n" % line for line in lines if line[1])


def _joined(before: bytes | None, value: bytes) -> bytes:
    return before + b", " + value if before else value
