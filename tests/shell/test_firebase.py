"""Firebase ID tokens: which are believed, and what an outage of the certificates' host does."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from control.api.auth import FAILURES_MAX, FAILURES_S, Gatekeeper, Identity, NoCredentials, SlowDown
from control.api.firebase import FETCH_AGAIN_S, Verifier
from control.plan.settings import Control, Token

PROJECT = "demo-phasegate"


def key_pair(valid_until: datetime | None = None) -> tuple[bytes, str]:
    """A private key, and a certificate of its public one; both as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "securetoken")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(valid_until or datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM).decode()


PRIVATE, CERTIFICATE = key_pair()
OTHER_PRIVATE, _ = key_pair()


class Google:
    """The certificates' host, up or down."""

    def __init__(self) -> None:
        self.certificates = {"k1": CERTIFICATE}
        self.max_age = 3600.0
        self.up = True
        self.asked = 0

    async def fetch(self) -> tuple[dict[str, str], float]:
        self.asked += 1
        if not self.up:
            raise OSError("unreachable")
        return self.certificates, self.max_age


def token(private: bytes = PRIVATE, kid: str | None = "k1", algorithm: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    whole = {
        "iss": f"https://securetoken.google.com/{PROJECT}",
        "aud": PROJECT,
        "sub": "u1",
        "iat": now - 10,
        "exp": now + 3600,
        "auth_time": now - 20,
        "email": "Admin@example.com",
        "email_verified": True,
    } | claims
    found = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(found, private, algorithm=algorithm, headers={"kid": kid} if kid else {})


@pytest.fixture
def google() -> Google:
    return Google()


@pytest.fixture
def clock() -> list[float]:
    return [time.time()]


@pytest.fixture
def email(google: Google, clock: list[float]) -> Callable[[str], Awaitable[str]]:
    return Verifier(PROJECT, google.fetch, lambda: clock[0]).email


async def test_a_sender_that_fails_again_and_again_costs_no_further_verification(
    email: Callable[[str], Awaitable[str]],
) -> None:
    verified: list[str] = []

    async def counted(credential: str) -> str:
        verified.append(credential)
        return await email(credential)

    now = [0.0]
    tokens = (Token("ci", hashlib.sha256(b"op-secret").hexdigest(), "operator"),)
    keeper = Gatekeeper(Control(admins=("admin@example.com",), tokens=tokens), lambda: now[0], counted)

    async def who(credential: str, address: str = "10.0.0.1") -> Identity:
        return await keeper.identify(f"Bearer {credential}", None, address)

    good, forged = token(), token(private=OTHER_PRIVATE)
    cookie, _ = keeper.begin(await who(good))
    for _ in range(FAILURES_MAX):
        with pytest.raises(NoCredentials):
            await who(forged)
    assert len(verified) == FAILURES_MAX + 1
    for credential in (forged, good):
        with pytest.raises(SlowDown):
            await who(credential)
    assert len(verified) == FAILURES_MAX + 1
    assert (await who("op-secret")).name == "ci"
    assert (await keeper.identify(None, cookie, "10.0.0.1")).name == "admin@example.com"
    assert (await who(good, "10.0.0.2")).name == "admin@example.com"
    now[0] += FAILURES_S / FAILURES_MAX
    assert (await who(good)).name == "admin@example.com"


async def test_a_good_token_says_whose_it_is(email: Callable[[str], Awaitable[str]]) -> None:
    assert await email(token()) == "Admin@example.com"


@pytest.mark.parametrize(
    "bad",
    [
        "a.b.c",
        token(aud="another-project"),
        token(iss="https://securetoken.google.com/another-project"),
        token(iss="https://accounts.google.com"),
        token(exp=int(time.time()) - 60),
        token(iat=int(time.time()) + 3600),
        token(auth_time=int(time.time()) + 3600),
        token(auth_time=None),
        token(auth_time=True),
        token(sub=""),
        token(sub=None),
        token(sub="x" * 129),
        token(email_verified=False),
        token(email_verified="true"),
        token(email=None),
        token(private=OTHER_PRIVATE),
        token(kid="unknown"),
        token(kid=None),
        jwt.encode({"sub": "u1"}, "a shared secret that is long enough", algorithm="HS256", headers={"kid": "k1"}),
        token()[:-4] + "AAAA",
        token().rsplit(".", 1)[0] + ".",
    ],
)
async def test_a_bad_token_is_nobodys(email: Callable[[str], Awaitable[str]], bad: str) -> None:
    with pytest.raises(NoCredentials):
        await email(bad)


async def test_certificates_are_fetched_once_and_kept_while_offline(
    email: Callable[[str], Awaitable[str]], google: Google, clock: list[float]
) -> None:
    for _ in range(5):
        await email(token())
    assert google.asked == 1
    google.up = False
    clock[0] += 3700  # past their max-age
    good = token(exp=int(clock[0]) + 3600)
    for _ in range(5):
        assert await email(good)
    assert google.asked == 2


async def test_unknown_keys_do_not_make_us_ask_all_the_time(
    email: Callable[[str], Awaitable[str]], google: Google, clock: list[float]
) -> None:
    for _ in range(20):
        with pytest.raises(NoCredentials):
            await email(token(kid="forged"))
    assert google.asked == 1
    clock[0] += FETCH_AGAIN_S
    google.certificates = {"k2": CERTIFICATE}
    assert await email(token(kid="k2"))
    with pytest.raises(NoCredentials):
        await email(token(kid="k1"))


async def test_a_certificate_that_has_expired_is_not_honoured(google: Google, clock: list[float]) -> None:
    private, certificate = key_pair(datetime.now(UTC) + timedelta(hours=2))
    google.certificates = {"k1": certificate}
    verifier = Verifier(PROJECT, google.fetch, lambda: clock[0])
    assert await verifier.email(token(private))
    google.up = False
    clock[0] += 3 * 3600
    with pytest.raises(NoCredentials):
        await verifier.email(token(private, exp=int(clock[0]) + 3600))


async def test_only_those_in_the_lists_may_do_anything(google: Google) -> None:
    control = Control(admins=("admin@example.com",), viewers=("look@example.com",))
    keeper = Gatekeeper(control, time.monotonic, Verifier(PROJECT, google.fetch).email)

    async def role(email: str) -> str:
        return (await keeper.identify(f"Bearer {token(email=email)}", None, "::1")).role

    assert await role("ADMIN@example.com") == "operator"
    assert await role("look@example.com") == "viewer"
    with pytest.raises(NoCredentials):
        await role("other@example.com")
