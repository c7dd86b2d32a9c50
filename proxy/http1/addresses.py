"""Addresses of clients: their one written form, the networks that are trusted, and what counts as one place. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

_CUSTOMER_BITS: Final = 64  # of IPv6: what one customer is given, as one IPv4 address is


def networks(texts: Sequence[str]) -> Networks:
    """The networks of a config. Raises ``ValueError`` for what is none."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def address_of(text: str) -> str:
    """An address in the one form it has here: IPv4 as such, though IPv6 carried it. Raises ``ValueError``."""
    ip = ipaddress.ip_address(text)
    return str((ip.version == 6 and ip.ipv4_mapped) or ip)


def is_trusted(address: str, trusted: Networks) -> bool:
    """Whether an address lies in a trusted network; what is no address does not."""
    if not trusted:
        return False
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in trusted)


def household(address: str) -> str:
    """What counts as one address where connections are limited by address: of IPv6 the customer's whole network."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network(f"{address.partition('%')[0]}/{_CUSTOMER_BITS}", strict=False))
    except ValueError:
        return address
