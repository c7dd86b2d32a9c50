"""Authentication: turns a static token, a Firebase ID token or a dashboard session into an identity with a role.

A credential is compared by its SHA-256 in constant time and is never logged. An address that keeps sending wrong
credentials gets 429 for further wrong ones. A valid static token or session from the same address still passes: an
attacker may share an address with an operator who must abort. Without configured tokens and e-mail addresses, which
is allowed on the loopback address only, every caller is the operator ``local``.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from control.api.sessions import Role, Session, Sessions
from control.plan.settings import Control

RANK: Final[Mapping[str, int]] = {"viewer": 0, "operator": 1}

COOKIE: Final = "phasegate_session"
CSRF_HEADER: Final = "X-CSRF-Token"

FAILURES_MAX: Final = 10  # wrong credentials from one address within FAILURES_S, before 429
FAILURES_S: Final = 60.0
ADDRESSES_MAX: Final = 10_000  # addresses with recent failures that are remembered, a bound on memory
CREDENTIAL_MAX: Final = 8192  # characters: an ID token has about 1,000


class Identity(Struct, frozen=True):
    """Who sent a request. ``session`` is None where the request carried a token instead of a session's cookie."""

    name: str
    role: Role
    session: Session | None = None

    def may(self, role: Role) -> bool:
        """Whether this identity has at least the rights of ``role``."""
        return RANK[self.role] >= RANK[role]


class NoCredentials(Exception):  # noqa: N818 - named by the state it reports
    """Credentials are missing or not valid. The message must not help an attacker who guesses."""


class SlowDown(Exception):  # noqa: N818 - named by the state it reports
    """Too many wrong credentials came from this address."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many wrong credentials; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class Failures:
    """Counts wrong credentials: a leaky bucket per address, which gets one per failure and drains over time."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address → (level, when)

    def check(self, address: str, now: float) -> None:
        """Raise ``SlowDown`` where the address has used up its attempts."""
        level = self._level(address, now)
        if level > FAILURES_MAX - 1:
            raise SlowDown((level - FAILURES_MAX + 1) * FAILURES_S / FAILURES_MAX)

    def note(self, address: str, now: float) -> None:
        """Count a wrong credential from the address."""
        self._buckets[address] = (self._level(address, now) + 1, now)
        self._buckets.move_to_end(address)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)

    def _level(self, address: str, now: float) -> float:
        level, when = self._buckets.get(address, (0.0, now))
        return max(0.0, level - (now - when) * FAILURES_MAX / FAILURES_S)


VerifyIdToken = Callable[[str], Awaitable[str]]  # an ID token → its verified e-mail; raises NoCredentials


class Gatekeeper:
    """Turns a request's credentials into an ``Identity``."""

    def __init__(
        self,
        control: Control,
        clock: Callable[[], float],
        verify: VerifyIdToken | None,
        kept: tuple[Path, str] | None = None,
    ) -> None:
        """``clock`` gives CLOCK_MONOTONIC seconds. ``verify`` is None where ID tokens are not accepted. ``kept`` is
        the file that stores sessions and the boot id that they are valid for; None keeps sessions in memory.
        """
        self._tokens = [(bytes.fromhex(t.sha256), t.name, t.role) for t in control.tokens]
        self._emails: dict[str, Role] = {email.lower(): "viewer" for email in control.viewers}
        self._emails |= {email.lower(): "operator" for email in control.admins}
        self._session_s = float(control.session_s)
        self._clock = clock
        self._verify = verify
        self._sessions = Sessions() if kept is None else Sessions(kept[0], f"{kept[1]} {_access(control)}")
        self._failures = Failures()
        self.open = not self._tokens and not self._emails

    async def identify(self, authorization: str | None, cookie: str | None, address: str) -> Identity:
        """The request's identity. Raises ``NoCredentials``, or ``SlowDown`` after too many failures."""
        if self.open:
            return Identity("local", "operator")
        if authorization is None and cookie is None:
            raise NoCredentials("no credentials were given")
        try:
            if authorization is not None:
                return await self._bearer(authorization, address)
            return self._session(cookie or "")
        except NoCredentials:
            self._failures.check(address, self._clock())
            self._failures.note(address, self._clock())
            raise

    async def _bearer(self, authorization: str, address: str) -> Identity:
        scheme, _, credential = authorization.partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not 0 < len(credential) <= CREDENTIAL_MAX:
            raise NoCredentials("expected `Authorization: Bearer TOKEN`")
        presented = _digest(credential)
        # Every token is compared, so the time taken does not show which one matched.
        matching = [(name, role) for sha256, name, role in self._tokens if hmac.compare_digest(sha256, presented)]
        if matching:
            return Identity(*matching[0])
        if self._verify is not None and self._emails and credential.count(".") == 2:
            # Verifying a signature costs more than sending a request: an address over its limit is refused before.
            self._failures.check(address, self._clock())
            email = (await self._verify(credential)).lower()
            role = self._emails.get(email)
            if role is not None:
                return Identity(email, role)
            raise NoCredentials("this account is in neither control.viewers nor control.admins")
        raise NoCredentials("the token is not known")

    def _session(self, cookie: str) -> Identity:
        key = _digest(cookie)
        session = self._sessions.get(key)
        if session is None or session.expires <= self._clock():
            self._sessions.drop(key)
            raise NoCredentials("the session has ended")
        return Identity(session.name, session.role, session)

    def begin(self, identity: Identity) -> tuple[str, Session]:
        """Start a session for an identity: the cookie's value, and the session."""
        cookie = secrets.token_urlsafe(32)
        session = Session(identity.name, identity.role, secrets.token_urlsafe(32), self._clock() + self._session_s)
        self._sessions.add(_digest(cookie), session, self._clock())
        return cookie, session

    def end(self, cookie: str | None) -> None:
        """End the session of this cookie, if there is one."""
        if cookie is not None:
            self._sessions.drop(_digest(cookie))


def csrf_holds(identity: Identity, header: str | None) -> bool:
    """Whether a change by a session carries the session's CSRF token. Other credentials need none."""
    if identity.session is None:
        return True
    return header is not None and hmac.compare_digest(_digest(identity.session.csrf), _digest(header))


def same_origin(headers: Mapping[str, str], host: str, origins: tuple[str, ...], *, loopback_only: bool) -> bool:
    """Whether a change comes from the dashboard's own page, or not from a page at all.

    A browser sends the page's origin (``Origin``, ``Sec-Fetch-Site``); other clients send neither. Where every caller
    on the loopback address is an operator, ``Host`` must name the loopback address too. Otherwise a foreign page
    could reach the API by DNS rebinding: a host name of its own that resolves to 127.0.0.1.
    """
    if loopback_only and _host_name(host) not in ("127.0.0.1", "localhost", "::1"):
        return False
    origin = headers.get("Origin")
    if origin is not None:
        return origin in origins or origin.partition("://")[2] == host
    return headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _access(control: Control) -> str:
    """A digest of who has access; it changes whenever tokens, admins or viewers change."""
    return hashlib.sha256(repr((control.tokens, control.admins, control.viewers)).encode()).hexdigest()


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()
