"""What the next hop is told of the client (RFC 7239, and the X-Forwarded fields), by a policy of trust. Pure.

From a trusted network a request's own forwarding fields are kept and appended to; from anywhere else they are what a
stranger wrote, and are replaced.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from proxy.http1.head import Fields

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

_VIA = {False: b"1.1 phasegate", True: b"1.0 phasegate"}  # by what the client spoke (RFC 9110 section 7.6.3)


def networks(texts: Sequence[str]) -> Networks:
    """The networks of a config. Raises ``ValueError`` for what is none."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def address_of(text: str) -> str:
    """An address in the one form it has here: IPv4 as such, though IPv6 carried it. Raises ``ValueError``."""
    ip = ipaddress.ip_address(text)
    return str((ip.version == 6 and ip.ipv4_mapped) or ip)


def is_trusted(address: str, trusted: Networks) -> bool:
    """Whether a peer's own forwarding fields count."""
    if not trusted:
        return False
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in trusted)


def client_address(peer: str, fields: Fields, trusted: Networks) -> str:
    """Who asks, behind the trusted hops: the last address of X-Forwarded-For that is none of theirs.

    ``peer`` must be trusted itself. What is no address ends the walk: beyond it nothing can be believed.
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
    """The fields for a client that is not trusted, but for those that need its Host: one value a connection."""
    peer = address.encode()
    return b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nforwarded: for=%b;proto=%b" % (
        peer,
        scheme,
        _node(peer),
        scheme,
    )


def complete(own: bytes, host: bytes, http10: bool) -> bytes:
    """``replaced`` made whole with the request's version and its Host; empty where it named none."""
    via = _VIA[http10]
    if not host:
        return b"%b\r\nvia: %b\r\n" % (own, via)
    return b'%b;host="%b"\r\nx-forwarded-host: %b\r\nvia: %b\r\n' % (own, host, host, via)


def appended(address: str, scheme: bytes, host: bytes, fields: Fields, http10: bool) -> bytes:
    """The fields for a client on a trusted network: its own, and this hop's behind them."""
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
