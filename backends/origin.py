"""HTTP origins as a configuration describes them: their addresses, and the TLS settings for them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec


class OriginTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TLS to an origin, beyond what https:// implies."""

    ca: str | None = None  # a file of certificates to trust instead of the system's
    server_name: str | None = None  # the name that the certificate must have; none: the origin's host
    certificate: str | None = None  # client certificate and its chain in a PEM file, if the origin requires one
    key: str | None = None  # its private key, in a PEM file


class Origin(NamedTuple):
    """An origin's address: ``path`` of a unix socket, else ``host`` and ``port``. ``authority`` is its Host field."""

    secure: bool
    host: str
    port: int
    path: str
    authority: str


class Reach(NamedTuple):
    """How an origin is reached. ``health``: the path of its health check; None if it has none."""

    url: str
    timeout_s: float
    tls: OriginTls | None = None
    health: str | None = None


_ORIGIN: Final = re.compile(r"(https?)://((?:\[([0-9A-Fa-f:.]+)\]|([^\s/@:\[\]?#]+))(?::(\d{1,5}))?)/?")


def origin_of(text: str) -> Origin:
    """An origin parsed from a config. Raises ``ValueError`` with a message for the user."""
    if text.startswith("unix:/"):
        return Origin(False, "", 0, text.removeprefix("unix:"), "localhost")
    match = _ORIGIN.fullmatch(text)
    if match is None or int(match[5] or 1) not in range(1, 65536):
        raise ValueError(f'expected "http://HOST:PORT", "https://HOST:PORT" or "unix:/PATH", found "{text}"')
    try:
        (match[4] or "").encode("idna")
    except UnicodeError:
        raise ValueError(f'expected a host name, found "{match[4]}"') from None
    secure = match[1] == "https"
    return Origin(secure, match[3] or match[4], int(match[5] or (443 if secure else 80)), "", match[2])


def same_origin(one: str, other: str) -> bool:
    """Whether two valid origins are the same address, however each is written."""
    return origin_of(one)[:4] == origin_of(other)[:4]


def origin_mistakes(url: str, tls: OriginTls | None) -> Iterator[tuple[str, str]]:
    """Mistakes in ``origin`` and ``tls`` that their types do not catch, as (key, what was expected and found)."""
    try:
        origin_of(url)
    except ValueError as error:
        yield "origin", str(error)
    if tls is None:
        return
    if not url.startswith("https://"):
        yield "tls", "expected an https:// origin beside it"
    if tls.certificate is not None and tls.key is None:
        yield "tls.key", "missing; expected the file of the private key that belongs to tls.certificate"
    if tls.key is not None and tls.certificate is None:
        yield "tls.certificate", "missing; expected the file of the certificate that tls.key belongs to"


def place_tls(tls: OriginTls | None, place: Callable[[str], str]) -> OriginTls | None:
    """The settings with ``place`` applied to each file path in them."""
    if tls is None:
        return None
    files = {name: getattr(tls, name) for name in ("ca", "certificate", "key")}
    return msgspec.structs.replace(tls, **{name: place(file) for name, file in files.items() if file is not None})
