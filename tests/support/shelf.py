"""A kind of backend as a user of phasegate would write one: shelves, which keep documents and can be made to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from backends.backend import Backend
from backends.documents.port import Context, DocumentStore, Mutation, Query
from backends.durations import Duration
from backends.errors import Fault, FaultKind
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.registry import Kind


class Shelf(Backend, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="shelf"):
    """A shelf."""

    boards: int  # how many boards it has
    ill: bool = False  # whether its health check fails
    read_only: bool = False  # whether it refuses writes
    deadline_s: Duration = msgspec.field(default=Duration(2.0), name="deadline")  # of one request


class ShelfStore(MemoryStore):
    kind = "shelf"

    def __init__(
        self, settings: Shelf, initial: Callable[[], Sequence[Mutation]] = tuple, log: Journal | None = None
    ) -> None:
        super().__init__(initial, log)
        self._settings = settings

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        if self._settings.read_only:
            raise Fault(FaultKind.PERMISSION, "glued")
        return await super().commit(mutations, ctx)

    async def health(self, deadline_s: float) -> str:
        if self._settings.ill:
            raise Fault(FaultKind.UNAVAILABLE, "it leans")
        return f"{self._settings.boards} boards, within {deadline_s:g} s"


def open_store(
    backend: Shelf,
    shared: Path | None,
    *,
    views: Sequence[Query] = (),
    initial: Callable[[], Sequence[Mutation]] = tuple,
) -> DocumentStore:
    log = None if shared is None else Journal(shared.with_name(f"{shared.name}.shelf"))
    return ShelfStore(backend, initial, log)


def mistakes(backend: Shelf) -> Iterator[tuple[str, str]]:
    if backend.boards < 1:
        yield "boards", f"expected at least one, found {backend.boards}"


KIND = Kind(
    settings=Shelf,
    open_store=open_store,
    seeded=lambda backend: (f"a shelf of {backend.boards} boards", False),
    mistakes=mistakes,
    mend=lambda backend: f"Screw its {backend.boards} boards on.",
    mend_writing="Take the glue off.",
)
