"""The dashboard's sessions, which outlive the control process: whoever watches a rollback need not sign in again.

They are kept by the SHA-256 of their cookie in a file that its owner alone can read, so the file is no key to
anything. It holds for one ``about`` only, which names the boot (times are of its clock) and who has access: when
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
SESSIONS_MAX: Final = 1000


class Session(Struct, frozen=True):
    """One session. Times in CLOCK_MONOTONIC seconds."""

    name: str
    role: Role
    csrf: str
    expires: float


class _Kept(Struct, frozen=True):
    about: str
    sessions: dict[str, Session]  # by the SHA-256 of the cookie, in hex


class Sessions:
    """At most ``SESSIONS_MAX`` sessions, the oldest forgotten first; in memory alone where ``path`` is None."""

    def __init__(self, path: Path | None = None, about: str = "") -> None:
        self._path = path
        self._about = about
        self._sessions = OrderedDict(self._read())

    def get(self, key: bytes) -> Session | None:
        """The session of a cookie with this SHA-256."""
        return self._sessions.get(key.hex())

    def add(self, key: bytes, session: Session, now: float) -> None:
        """Keep a session, and forget those that have expired."""
        for old in [old for old, found in self._sessions.items() if found.expires <= now]:
            del self._sessions[old]
        self._sessions[key.hex()] = session
        if len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        self._write()

    def drop(self, key: bytes) -> None:
        """Forget a session, if there is one."""
        if self._sessions.pop(key.hex(), None) is not None:
            self._write()

    def _read(self) -> dict[str, Session]:
        if self._path is None:
            return {}
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError):
            return {}
        return kept.sessions if kept.about == self._about else {}

    def _write(self) -> None:
        """Whole or not at all. Where it cannot be written, sessions end with the process and nothing else is lost."""
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        with suppress(OSError):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(_Kept(self._about, dict(self._sessions))))
            new.replace(self._path)
