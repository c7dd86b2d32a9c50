"""Verifies Firebase ID tokens: RS256 only, against Google's certificates, which are cached.

https://firebase.google.com/docs/auth/admin/verify-id-tokens#verify_id_tokens_using_a_third-party_jwt_library lists
the claims. Certificates are fetched again after their ``max-age``, and when a token names an unknown key; at most
once a minute. Where fetching fails, the cached certificates stay in use until their own expiry date.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import jwt
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from control.api.auth import NoCredentials

_log = structlog.get_logger("phasegate.firebase")

CERTIFICATES_URL: Final = "https://www.googleapis.com/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"
FETCH_TIMEOUT_S: Final = 5.0
FETCH_AGAIN_S: Final = 60.0  # least time between two fetches, so unknown keys cannot make phasegate flood Google
LEEWAY_S: Final = 10.0  # allowed clock difference in a token's times
BODY_MAX: Final = 256 * 1024  # bytes of Google's answer, which has a few KiB
KEYS_MAX: Final = 32  # certificates that are cached; Google publishes a few at a time

Fetch = Callable[[], Awaitable[tuple[dict[str, str], float]]]  # certificates by key id, and their max-age in seconds


class _Key:
    """A certificate's public key, and when the certificate expires (Unix time)."""

    def __init__(self, pem: str) -> None:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        key = certificate.public_key()
        if not isinstance(key, RSAPublicKey):
            raise ValueError("not an RSA key")
        self.public = key
        self.expires = certificate.not_valid_after_utc.timestamp()


class Verifier:
    """Verifies ID tokens of one Firebase project."""

    def __init__(self, project: str, fetch: Fetch | None = None, clock: Callable[[], float] = time.time) -> None:
        self._project = project
        self._fetch = fetch or fetch_certificates
        self._clock = clock
        self._keys: dict[str, _Key] = {}
        self._fresh_until = 0.0
        self._tried_at = 0.0
        self._lock = asyncio.Lock()

    async def email(self, token: str) -> str:
        """The verified e-mail address of a good token. Raises ``NoCredentials``."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise NoCredentials("the token is not an ID token") from None
        if header.get("alg") != "RS256" or not isinstance(header.get("kid"), str):
            raise NoCredentials("the token is not signed with RS256 and a named key, as ID tokens are")
        key = await self._key(header["kid"])
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=["RS256"],
                audience=self._project,
                issuer=f"https://securetoken.google.com/{self._project}",
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "aud", "iss", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise NoCredentials("the ID token has expired") from None
        except jwt.PyJWTError:
            raise NoCredentials("the ID token is not valid for this project") from None
        return self._claimed(claims)

    def _claimed(self, claims: dict[str, Any]) -> str:
        subject, email, signed_in = claims.get("sub"), claims.get("email"), claims.get("auth_time")
        if not isinstance(subject, str) or not 0 < len(subject) <= 128:
            raise NoCredentials("the ID token has no valid subject (sub)")
        if isinstance(signed_in, bool) or not isinstance(signed_in, int | float):
            raise NoCredentials("the ID token does not say when its owner signed in")
        if signed_in > self._clock() + LEEWAY_S:
            raise NoCredentials("the ID token's sign-in lies in the future")
        if claims.get("email_verified") is not True or not isinstance(email, str):
            raise NoCredentials("the account's e-mail address is not verified")
        return email

    async def _key(self, kid: str) -> _Key:
        async with self._lock:  # concurrent requests share one fetch
            now = self._clock()
            stale = now >= self._fresh_until or kid not in self._keys
            if stale and abs(now - self._tried_at) >= FETCH_AGAIN_S:
                self._tried_at = now
                await self._refresh(now)
        key = self._keys.get(kid)
        if key is None or key.expires <= self._clock():
            raise NoCredentials("the ID token's signing key is not known")
        return key

    async def _refresh(self, now: float) -> None:
        try:
            certificates, max_age = await self._fetch()
            self._keys = {kid: _Key(pem) for kid, pem in list(certificates.items())[:KEYS_MAX]}
            self._fresh_until = now + max_age
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _log.warning("google_certificates_not_fetched", reason=type(error).__name__, kept=len(self._keys))


async def fetch_certificates(url: str = CERTIFICATES_URL) -> tuple[dict[str, str], float]:
    """Google's certificates. Raises ``aiohttp.ClientError``, ``TimeoutError`` or ``ValueError``."""
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session, session.get(url) as response:
        response.raise_for_status()
        if (response.content_length or 0) > BODY_MAX:
            raise ValueError(f"the answer is larger than {BODY_MAX} bytes")
        certificates = await response.json()
        match = re.search(r"max-age=(\d+)", response.headers.get("Cache-Control", ""))
    if not isinstance(certificates, dict) or not all(isinstance(pem, str) for pem in certificates.values()):
        raise ValueError("the answer is not an object of certificates by key id")
    return certificates, float(match[1]) if match else 0.0
