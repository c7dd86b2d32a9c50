"""What the control API itself answers: errors, sessions, the process, and lists of what others describe. Pure."""

from __future__ import annotations

from msgspec import Struct

from control.api.sessions import Role
from control.rollout.model import State
from control.store.entry import AuditEntry


class ErrorDetail(Struct, frozen=True):
    """What is wrong, and what to do."""

    code: str  # for programs; docs/control-api.md lists them
    message: str  # for a person: what was found and what was expected
    hint: str  # what to do instead; may be empty


class ErrorDocument(Struct, frozen=True):
    """Every refusal and every failure."""

    error: ErrorDetail


class MigrationInShort(Struct, frozen=True):
    """A migration in a list."""

    name: str
    state: State
    revision: int
    weight: float  # the target's share that is published, in percent
    phase: str | None
    mode: str
    source: str  # the backends, by their names in the configuration
    target: str
    routes: tuple[str, ...]


class Migrations(Struct, frozen=True):
    """Every migration."""

    migrations: tuple[MigrationInShort, ...]


class AuditPage(Struct, frozen=True):
    """Entries of the audit trail, newest first."""

    entries: tuple[AuditEntry, ...]
    next_cursor: str | None  # `cursor` of the page after this one; null on the last


class VerifiedTrail(Struct, frozen=True):
    """Whether the audit trail is what was written."""

    whole: bool
    entries: int
    hash: str  # of the last entry
    problems: tuple[str, ...]  # in words; none where it is whole


class SessionDocument(Struct, frozen=True):
    """Who is asking."""

    name: str
    role: Role
    csrf: str | None  # what a change by this session must carry in X-CSRF-Token; null without a session


class Done(Struct, frozen=True):
    """It was done, or is so."""

    ok: bool = True


class Ready(Struct, frozen=True):
    """Whether every migration is led."""

    ok: bool
    migrations: dict[str, State]
