"""Client addresses: their canonical form, trusted networks, and what counts as one address for limits. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

_CUSTOMER_BITS: Final = 64  # IPv6 prefix of one customer, comparable to one IPv4 address


def networks(texts: Sequence[str]) -> Networks:
    """The networks in a config. Raises ``ValueError`` for an invalid one."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def address_of(text: str) -> str:
    """The canonical form of an address: an IPv4-mapped IPv6 address becomes IPv4. Raises ``ValueError``."""
    ip = ipaddress.ip_address(text)
    return str((ip.version == 6 and ip.ipv4_mapped) or ip)


def is_trusted(address: str, trusted: Networks) -> bool:
    """Whether an address lies in a trusted network; False for an invalid address."""
    if not trusted:
        return False
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in trusted)


def household(address: str) -> str:
    """The key under which connections of an address are limited: for IPv6 the customer's whole network."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network(f"{address.partition('%')[0]}/{_CUSTOMER_BITS}", strict=False))
    except ValueError:
        return address
