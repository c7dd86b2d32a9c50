"""Changes: the effect of a write, as values that apply to any store, any number of times, in any order. Pure.

An adapter answers a write by applying a change to its own store; then the same change is applied to the other store.
Each kind of change is safe to repeat: by a fixed id, by a marker created in the same commit, or by a rule that says
which of two states of a document is newer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from backends.documents.port import (
    Context,
    DocumentStore,
    Fields,
    Mutation,
    Precondition,
    Reason,
    Rejected,
    create,
    merge,
)
from backends.errors import Fault, FaultKind

ATTEMPTS: Final = 8  # of a read and a conditional write, when other writers win the race


class Change(Protocol):
    """The effect of a write, to be applied to every store."""

    @property
    def documents(self) -> tuple[str, ...]:
        """The paths it writes, for the log; those that matter most to a person first."""

    async def apply(self, store: DocumentStore, ctx: Context) -> None:
        """Apply it, unless it is applied already. Raises ``Fault``; ``Rejected`` only where no retry can succeed."""


@dataclass(frozen=True, slots=True)
class Put:
    """Writes whose outcome does not depend on what is stored."""

    mutations: tuple[Mutation, ...]

    @property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``."""
        return tuple(mutation.path for mutation in self.mutations)

    async def apply(self, store: DocumentStore, ctx: Context) -> None:
        """As ``Change.apply``."""
        await store.commit(self.mutations, ctx)


@dataclass(frozen=True, slots=True)
class Once:
    """Writes that must happen exactly once, such as increments: the same commit creates ``marker``."""

    marker: str
    fields: Fields
    mutations: tuple[Mutation, ...]

    @property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``."""
        return (*(mutation.path for mutation in self.mutations), self.marker)

    async def apply(self, store: DocumentStore, ctx: Context) -> None:
        """As ``Change.apply``."""
        try:
            await store.commit((create(self.marker, self.fields), *self.mutations), ctx)
        except Rejected as refusal:
            if refusal.reason is not Reason.EXISTS:
                raise


@dataclass(frozen=True, slots=True)
class All:
    """Changes applied in order. If it stops half-way, applying it again completes it."""

    changes: tuple[Change, ...]

    @property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``."""
        return tuple(path for change in self.changes for path in change.documents)

    async def apply(self, store: DocumentStore, ctx: Context) -> None:
        """As ``Change.apply``."""
        for change in self.changes:
            await change.apply(store, ctx)


@dataclass(frozen=True, slots=True)
class Newest:
    """A document's new state, unless the store already holds a newer one."""

    path: str
    fields: Fields
    newer: Callable[[Fields, Fields], bool]  # (this one's fields, the stored ones): whether to write

    @property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``."""
        return (self.path,)

    async def apply(self, store: DocumentStore, ctx: Context) -> None:
        """As ``Change.apply``."""
        for _ in range(ATTEMPTS):
            stored = await store.get(self.path, ctx)
            if stored is not None and not self.newer(self.fields, stored.fields):
                return
            condition = Precondition(exists=False) if stored is None else Precondition(update_time=stored.update_time)
            try:
                await store.commit((merge(self.path, self.fields, precondition=condition),), ctx)
                return
            except Rejected as refusal:
                if refusal.reason is Reason.INVALID:
                    raise
        raise contended(self.path)


def contended(path: str) -> Fault:
    """The fault of a change that lost every race for a document; nothing was applied."""
    return Fault(FaultKind.ABORTED, f"{path} changed {ATTEMPTS} times while it was being written", may_retry=True)
