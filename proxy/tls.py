"""TLS contexts: toward clients, with a certificate that can change while they are served, and toward origins."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import Final

import structlog

from proxy.settings import App, CannotStartError, Listener, OriginTls, Tls

_log = structlog.get_logger("phasegate.tls")

_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# TLS 1.2 with forward secrecy and authenticated encryption alone; 1.3 has nothing else.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


def toward_origin(tls: OriginTls | None) -> ssl.SSLContext:
    """The context for connections to an origin, whose certificate is verified. Raises ``OSError``."""
    context = ssl.create_default_context(cafile=None if tls is None else tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def check_files(app: App, doors: Sequence[Listener]) -> None:
    """Raise ``CannotStartError`` where a file that TLS needs cannot be used: before a worker would die of it."""
    try:
        where = "app.tls.ca"
        if app.tls is not None:
            toward_origin(app.tls)
        for door in doors:
            where = f"the certificate of {door.address}"
            if door.tls is not None:
                Certificate(door.tls)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error)
        hint = "expected PEM files, the certificate with its chain and the key that belongs to it"
        raise CannotStartError(f"cannot use {where}: {reason}; {hint}") from None


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
        context.load_cert_chain(self._tls.certificate, self._tls.key, password=_no_password)
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
