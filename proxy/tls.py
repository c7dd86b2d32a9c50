"""TLS contexts toward clients, with a certificate that can change while they are served; connections to origins."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

import structlog

from backends.errors import said_by
from backends.origin import OriginTls, origin_of
from proxy.settings import Plan, Tls, reach_of

_log = structlog.get_logger("phasegate.tls")

TLS_SHUTDOWN_S: Final = 2.0  # how long the other side may take to say its goodbye

_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# TLS 1.2 with forward secrecy and authenticated encryption alone; 1.3 has nothing else.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


# By OpenSSL's number of why a certificate was not believed: what was found, what was expected, what to do.
_UNKNOWN: Final = (
    "its certificate is signed by an authority that is not trusted here; "
    "expected one of the system's or of `tls.ca`: name a file with that authority's certificate there"
)
_OTHER_NAME: Final = (
    "its certificate is for another name; expected the origin's host or `tls.server_name`: "
    "say there which name the certificate has"
)
_CERTIFICATE: Final = {
    9: "its certificate is not valid yet; expected one that is valid now: look at both clocks, or renew it",
    10: "its certificate has expired; expected one that is valid now: renew it",
    18: _UNKNOWN,  # signed by itself
    19: _UNKNOWN,
    20: _UNKNOWN,
    21: _UNKNOWN,
    62: _OTHER_NAME,
    64: _OTHER_NAME,  # an address
}
# By parts of OpenSSL's name for what went wrong in a handshake. The first row that fits is told.
_HANDSHAKE: Final = (
    (
        ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"),
        "it does not speak TLS there; expected a TLS port: write http:// for a plain one",
    ),
    (
        ("CERTIFICATE_REQUIRED",),
        "it asks for a certificate of ours and got none; "
        "expected one that it knows: set `tls.certificate` and `tls.key`",
    ),
    (
        ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE"),
        "it does not accept our certificate; expected one that it knows: look at `tls.certificate`",
    ),
    (
        ("HANDSHAKE_FAILURE", "UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION"),
        "it refused the TLS handshake; expected TLS 1.2 or 1.3, and a certificate of ours where it asks for one: "
        "look at its versions, and set `tls.certificate` and `tls.key`",
    ),
)


def why(error: BaseException) -> str:
    """Why an origin could not be reached, in words for a person; OpenSSL's own words behind them."""
    if isinstance(error, ssl.SSLCertVerificationError):
        told = _CERTIFICATE.get(error.verify_code, "its certificate is not trusted")
        return f"{told} (certificate verify failed: {error.verify_message})"
    if isinstance(error, ssl.SSLError):
        name = (error.reason or str(error)).upper()
        words = next((words for parts, words in _HANDSHAKE if any(part in name for part in parts)), None)
        return f"{words or 'the TLS connection failed'} ({name})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return said_by(error)


def toward_origin(tls: OriginTls | None) -> ssl.SSLContext:
    """The context for connections to an origin, whose certificate is verified.

    Raises ``OSError`` that names the file which cannot be used, and says what is wrong with it.
    """
    ca = None if tls is None else tls.ca
    if ca is not None and (problem := _file_problem(ca, _CERTIFICATES)):
        raise OSError(problem)
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise OSError(f"{ca}: {_plain(error)}; expected certificates in PEM that are whole") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if tls is not None and tls.certificate is not None and tls.key is not None:
        _load_pair(context, tls.certificate, tls.key)
    return context


class _Pem(NamedTuple):
    what: str
    begins: re.Pattern[bytes]
    example: str


_CERTIFICATES: Final = _Pem(
    "certificates", re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----"), "-----BEGIN CERTIFICATE-----"
)
_KEY: Final = _Pem(
    "a private key", re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"), "-----BEGIN PRIVATE KEY-----"
)
_PEM_MAX: Final = 16 * 1024 * 1024  # bytes: a system's whole list of authorities has 0.2 MB


def _file_problem(path: str, pem: _Pem) -> str | None:
    """What is wrong with a file that should hold this in PEM, without its content; None where it may be one."""
    expected = f"expected {pem.what} in PEM, which begins with {pem.example}"
    try:
        with open(path, "rb") as file:
            data = file.read(_PEM_MAX)
    except OSError as error:
        return f"{path}: {_plain(error).lower()}; {expected}"
    if not data.strip():
        return f"{path}: it is empty; {expected}"
    if pem.begins.search(data):
        return None
    found = "another thing in PEM" if b"-----BEGIN " in data else "no PEM"
    return f"{path}: it holds {found}; {expected}"


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Have a context use a certificate with its key. Raises ``OSError`` that names the file that is wrong."""
    for path, pem in ((certificate, _CERTIFICATES), (key, _KEY)):
        if problem := _file_problem(path, pem):
            raise OSError(problem)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise OSError(f"{key}: it is not the key of {certificate}; expected the key that belongs to it") from None
        hint = "expected PEM files that are whole, the certificate with its chain and the key that belongs to it"
        raise OSError(f"{certificate} with {key}: {_plain(error)}; {hint}") from None
    except OSError as error:
        raise OSError(f"{key}: {_plain(error)}; expected the key without a password") from None


def _plain(error: OSError) -> str:
    return error.strerror or str(error)


def dialer(url: str, tls: OriginTls | None) -> Callable[[asyncio.BaseProtocol], Awaitable[asyncio.Transport]]:
    """What opens a connection to an origin for a protocol: over TCP, TLS or a unix socket.

    Raises ``OSError`` where a file that ``tls`` names cannot be used; what it gives raises as asyncio's does.
    """
    where = origin_of(url)
    options: dict[str, Any] = {}
    if where.secure:
        name = None if tls is None else tls.server_name
        options = {
            "ssl": toward_origin(tls),
            "server_hostname": name or where.host,
            "ssl_shutdown_timeout": TLS_SHUTDOWN_S,
        }

    async def dial(protocol: asyncio.BaseProtocol) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        if where.path:
            transport, _ = await loop.create_unix_connection(lambda: protocol, where.path)
        else:
            transport, _ = await loop.create_connection(lambda: protocol, where.host, where.port, **options)
        return transport

    return dial


def file_problems(plan: Plan) -> Iterator[str]:
    """Every file of the configuration's TLS that cannot be used, with its place: what a worker would die of."""
    toward = {"app.tls": plan.app.tls}
    for name, backend in plan.backends.items():
        reach = reach_of(backend, plan.app)
        if reach is not None and reach.tls is not plan.app.tls:
            toward[f"backends.{name}.tls"] = reach.tls
    for path, tls in toward.items():
        if tls is not None:
            try:
                toward_origin(tls)
            except OSError as error:
                yield f"{path}: {_plain(error)}"
    for listener in plan.proxy.all_listeners():
        if listener.tls is not None:
            try:
                Certificate(listener.tls)
            except OSError as error:
                yield f"the certificate of {listener.address}: {_plain(error)}"


def _no_password() -> str:
    """In place of OpenSSL's own question, which waits at the terminal."""
    raise OSError("the key is encrypted, and there is nobody to ask for its password")


class Certificate:
    """A listener's certificate and key, and the context that serves them."""

    def __init__(self, tls: Tls) -> None:
        """Raises ``OSError`` where the files cannot be used."""
        self._tls = tls
        self._seen = self._stamp()
        self.context = self._context()

    def refresh(self) -> None:
        """Serve the files' certificate to whoever connects from now on, if they have changed and are sound.

        What is not sound, a new certificate beside the old key say, is logged once and tried again when the files
        change again; meanwhile the old one is served.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            # A context of its own: to load a pair into the old one would add it, beside one of another key's type.
            self.context = self._context()
        except OSError as error:
            _log.error("certificate_refused", certificate=self._tls.certificate, reason=str(error))
        else:
            _log.info("certificate_reloaded", certificate=self._tls.certificate)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _MINIMUM[self._tls.minimum]
        context.set_ciphers(_CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        _load_pair(context, self._tls.certificate, self._tls.key)
        return context

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when a file does."""
        stamps = []
        for path in (self._tls.certificate, self._tls.key):
            try:
                stat = os.stat(path)
                stamps.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
            except OSError:
                stamps.append((0, 0, 0))
        return tuple(stamps)
