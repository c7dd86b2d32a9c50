"""The dashboard's sessions. They survive a restart of the control process, so nobody must sign in during a rollback.

The file stores the SHA-256 of each session's cookie, never the cookie, so a copy of the file opens no session; only
its owner can read it. Its field ``about`` names the boot, whose clock the times are of, and who has access. When
either changes, every session has ended.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

Role = Literal["viewer", "operator"]
SESSIONS_MAX: Final = 1000  # a bound on memory and on the file; the oldest session is dropped first


class Session(Struct, frozen=True):
    """One session. Times in CLOCK_MONOTONIC seconds."""

    name: str
    role: Role
    csrf: str
    expires: float


class _SessionFile(Struct, frozen=True):
    about: str
    sessions: dict[str, Session]  # by the SHA-256 of the cookie, in hex


class Sessions:
    """At most ``SESSIONS_MAX`` sessions, the oldest dropped first. ``path`` None keeps them in memory only."""

    def __init__(self, path: Path | None = None, about: str = "") -> None:
        self._path = path
        self._about = about
        self._sessions = OrderedDict(self._read())

    def get(self, key: bytes) -> Session | None:
        """The session of a cookie with this SHA-256."""
        return self._sessions.get(key.hex())

    def add(self, key: bytes, session: Session, now: float) -> None:
        """Add a session, and drop those that have expired."""
        for expired in [other for other, known in self._sessions.items() if known.expires <= now]:
            del self._sessions[expired]
        self._sessions[key.hex()] = session
        if len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        self._write()

    def drop(self, key: bytes) -> None:
        """Remove a session, if there is one."""
        if self._sessions.pop(key.hex(), None) is not None:
            self._write()

    def _read(self) -> dict[str, Session]:
        if self._path is None:
            return {}
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=_SessionFile)
        except (OSError, msgspec.DecodeError):
            return {}
        return file.sessions if file.about == self._about else {}

    def _write(self) -> None:
        """Replace the file in one step. Where that fails, sessions end with this process; nothing else is lost."""
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        with suppress(OSError):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(_SessionFile(self._about, dict(self._sessions))))
            new.replace(self._path)
