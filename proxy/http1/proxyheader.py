"""The PROXY protocol, versions 1 and 2: the client's address behind a load balancer. Pure.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Anything else is refused: on a listener that
expects the header, a connection without it does not come from the load balancer.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Final

from proxy.http1.addresses import address_of

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V1: Final = b"PROXY "
_V1_MAX: Final = 107
_V2_HEAD: Final = 16
_V2_MAX: Final = 4096  # bytes of addresses and extensions
HEADER_MAX: Final = _V2_HEAD + _V2_MAX
_V1_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [\x20-\x7e]*)?|(TCP[46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (\d{1,5}) (\d{1,5}))\r\n"
)
# By address family and transport: the bytes of all addresses, and of the source address.
_V2_FAMILIES: Final = {0x11: (12, 4), 0x21: (36, 16)}


class BadHeaderError(Exception):
    """The bytes are not a PROXY header."""


class Reader:
    """Reads a header from a stream. When ``done``, ``address`` is the client's, or empty if the header has none.

    ``own``: the load balancer itself is the client, for a health check of the listener.
    """

    __slots__ = ("_data", "address", "done", "own")

    def __init__(self) -> None:
        self._data = b""
        self.done = False
        self.own = False
        self.address = ""

    def feed(self, data: bytes) -> int:
        """How many of these bytes belong to the header. Raises ``BadHeaderError``."""
        before = len(self._data)
        whole = self._data + data
        if not (_SIGNATURE.startswith(whole[:12]) or _V1.startswith(whole[:6])):
            raise BadHeaderError
        end = self._version1(whole) if whole.startswith(b"P") else self._version2(whole)
        self._data = whole[:end]
        return end - before

    def _version1(self, data: bytes) -> int:
        end = data.find(b"\r\n") + 2
        if end < 2:
            if len(data) >= _V1_MAX:
                raise BadHeaderError
            return len(data)
        match = _V1_LINE.fullmatch(data[:end])
        if match is None or end > _V1_MAX:
            raise BadHeaderError
        self.done = True
        if match[1] is not None:
            try:
                source = ipaddress.ip_address(match[2].decode())
                ipaddress.ip_address(match[3].decode())
            except ValueError:
                raise BadHeaderError from None
            if source.version != int(match[1][3:]) or int(match[4]) > 65535 or int(match[5]) > 65535:
                raise BadHeaderError
            self.address = address_of(match[2].decode())
        return end

    def _version2(self, data: bytes) -> int:
        if len(data) < _V2_HEAD:
            return len(data)
        command, family, length = struct.unpack_from("!BBH", data, len(_SIGNATURE))
        if command not in (0x20, 0x21) or length > _V2_MAX:
            raise BadHeaderError
        end = _V2_HEAD + int(length)
        if len(data) < end:
            return len(data)
        self.done = True
        self.own = command == 0x20
        if command == 0x21 and family in _V2_FAMILIES:
            needed, size = _V2_FAMILIES[family]
            if length < needed:
                raise BadHeaderError
            self.address = address_of(str(ipaddress.ip_address(data[_V2_HEAD : _V2_HEAD + size])))
        return end
