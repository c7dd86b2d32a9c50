"""A certificate authority for tests: issues certificates for loopback, on demand also invalid ones."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from proxy.settings import Tls

HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)
LOOPBACK = ("localhost", "127.0.0.1")


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path, file: str = "ca.pem") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.ca = str(folder / file)
        own = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        Path(self.ca).write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self,
        name: x509.Name,
        key: Any,
        constraint: x509.BasicConstraints,
        *,
        names: tuple[str, ...] = LOOPBACK,
        expired: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        alternatives = x509.SubjectAlternativeName([_alternative(each) for each in names])
        usage = x509.KeyUsage(True, False, False, False, False, constraint.ca, constraint.ca, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - (2 * DAY if expired else HOUR))
            .not_valid_after(now + (-DAY if expired else DAY))
            .add_extension(alternatives, critical=False)
            .add_extension(constraint, critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self,
        name: str,
        kind: str = "ec",
        *,
        names: tuple[str, ...] = LOOPBACK,
        expired: bool = False,
        files: tuple[str, str] = ("cert.pem", "key.pem"),
    ) -> Tls:
        """Write a new certificate and key, replacing earlier ones; ``name`` is its subject, ``names`` its hosts."""
        key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraint = x509.BasicConstraints(ca=False, path_length=None)
        certificate = self._sign(subject, key, constraint, names=names, expired=expired)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        tls = Tls(str(self.folder / files[0]), str(self.folder / files[1]))
        Path(tls.key).write_bytes(private)
        Path(tls.certificate).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return tls

    def client(self) -> ssl.SSLContext:
        """A context that trusts this authority."""
        return ssl.create_default_context(cafile=self.ca)

    def server(self, *, asks: bool = False, **issue: Any) -> ssl.SSLContext:
        """A server's context with a new certificate; ``asks``: clients must present one of this authority."""
        tls = self.issue("server", **issue)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
