"""The control API's own documents: errors, sessions, readiness, and lists of other packages' documents. Pure."""

from __future__ import annotations

from msgspec import Struct

from control.api.sessions import Role
from control.rollout.model import State
from control.store.entry import AuditEntry


class ErrorDetail(Struct, frozen=True):
    """What is wrong, and what to do."""

    code: str  # for programs; docs/control-api.md lists the codes
    message: str  # for a person: what was found and what was expected
    hint: str  # for a person: what to do instead; may be empty


class ErrorDocument(Struct, frozen=True):
    """The answer to every call that was refused or failed."""

    error: ErrorDetail


class MigrationInShort(Struct, frozen=True):
    """A migration in the list of all migrations."""

    name: str
    state: State
    revision: int
    weight: float  # the target's published share of data requests, in percent
    phase: str | None
    mode: str
    source: str  # the backends, by their names in the configuration
    target: str
    routes: tuple[str, ...]  # path patterns of the migration's data requests


class Migrations(Struct, frozen=True):
    """Every migration."""

    migrations: tuple[MigrationInShort, ...]


class AuditPage(Struct, frozen=True):
    """A page of the audit trail, newest entry first."""

    entries: tuple[AuditEntry, ...]
    next_cursor: str | None  # the `cursor` that fetches the next page; null on the last page
    renamed_to: str | None = None  # the name that goes on with the migration; null where it was not renamed


class VerifiedTrail(Struct, frozen=True):
    """Whether the audit trail is complete and unchanged."""

    whole: bool
    entries: int
    hash: str  # the last entry's hash
    problems: tuple[str, ...]  # in words; empty where the trail is whole
    renamed_to: str | None = None  # as in a page of the trail


class SessionDocument(Struct, frozen=True):
    """The caller's identity."""

    name: str
    role: Role
    csrf: str | None  # token that every change by this session must carry in X-CSRF-Token; null without a session


class Done(Struct, frozen=True):
    """The call succeeded."""

    ok: bool = True


class Ready(Struct, frozen=True):
    """Whether this process controls every migration."""

    ok: bool
    migrations: dict[str, State]  # each migration's state, by name
