"""The document-store port: the values a store keeps, the queries it answers and the writes it takes. Pure.

The semantics are Firestore's (https://cloud.google.com/firestore/docs/reference/rpc), as far as the adapters use
them. ``semantics`` implements them as functions; every store, also the one in memory, gives the same results.

A path is relative to the database: ``scans/7`` is document ``7`` of collection ``scans``, ``scans/7/groups`` a
collection below it. Times are whole microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import msgspec

from backends.documents.foreign import Foreign
from backends.errors import Trouble

if TYPE_CHECKING:
    # bool before int: Firestore has both types, so all code here that looks at a value's type must check bool first.
    Value: TypeAlias = "bool | int | float | str | bytes | datetime | list[Value] | dict[str, Value] | None"
else:
    Value = Any  # msgspec decodes no union of str, bytes and datetime; MessagePack tells them apart by itself
Fields: TypeAlias = dict[str, Value]
FieldPath: TypeAlias = tuple[str, ...]

NAME: Final = "__name__"  # the document's own id, as a field to order by
COMMIT_LIMIT: Final = 500  # mutations in one commit
DOCUMENT_BYTES: Final = 1_048_576
DEPTH_LIMIT: Final = 20
ID_BYTES: Final = 1_500
FIELD_PATH_BYTES: Final = 1_500  # the names from the document down to a field, with a dot between each two
VALUE_BYTES: Final = 1_048_487  # of one string
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

Operator = Literal["==", "<", "<=", ">", ">=", "in"]


class Document(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A stored document. Immutable: a store replaces it. ``fields`` belongs to the store; do not write to it."""

    path: str
    fields: Fields
    create_time: int
    update_time: int

    @property
    def id(self) -> str:
        """The last segment of the path."""
        return self.path[self.path.rindex("/") + 1 :]


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition. An inequality matches only values of its own type."""

    field: str
    op: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class Query:
    """Documents of one collection that match every filter, ordered.

    A document without the ordered field is not in the result. Ties are ordered by document id, in the direction of
    ``descending``. ``start_after`` holds the ordered field's value and the document id after which the page starts.
    An inequality is allowed on the ordered field only.
    """

    collection: str
    where: tuple[Filter, ...] = ()
    order: str = NAME
    descending: bool = False
    limit: int | None = None
    start_after: tuple[Value, str] | None = None

    def __post_init__(self) -> None:
        for condition in self.where:
            assert condition.op in ("==", "in") or condition.field == self.order, "an inequality needs its order"
        assert self.limit is None or self.limit > 0
        assert self.order != NAME or not self.descending, "Firestore scans ids upwards only"


@dataclass(frozen=True, slots=True)
class Count:
    """How many documents match, and the sum of a field over them (0 if none was requested)."""

    documents: int
    total: int


class Precondition(msgspec.Struct, frozen=True, array_like=True):
    """What must be true of the stored document for the whole commit to be applied."""

    exists: bool | None = None
    update_time: int | None = None


class Transform(msgspec.Struct, frozen=True, array_like=True):
    """A change of one field that depends on what is stored.

    ``increment`` adds (a missing or non-numeric field counts as 0; integers saturate at 64 bits);
    ``maximum`` keeps the larger (a missing or non-numeric field becomes the operand).
    """

    field: FieldPath
    op: Literal["increment", "maximum"]
    operand: int | float


class Mutation(msgspec.Struct, frozen=True, array_like=True):
    """One write of one document; build it with ``put``, ``create``, ``merge`` or ``delete``.

    ``fields`` None deletes. ``mask`` None replaces the document; otherwise only the fields it names are set, or
    removed where ``fields`` has no value for them. ``transforms`` apply afterwards, in order.
    """

    path: str
    fields: Fields | None
    mask: tuple[FieldPath, ...] | None = None
    transforms: tuple[Transform, ...] = ()
    precondition: Precondition | None = None


def put(path: str, fields: Fields, precondition: Precondition | None = None) -> Mutation:
    """Create the document, or replace it entirely."""
    return Mutation(path, fields, precondition=precondition)


def create(path: str, fields: Fields) -> Mutation:
    """Create the document; rejected as ``EXISTS`` if it exists."""
    return Mutation(path, fields, precondition=Precondition(exists=False))


def merge(
    path: str, fields: Fields, transforms: Iterable[Transform] = (), precondition: Precondition | None = None
) -> Mutation:
    """Set these top-level fields and apply the transforms; creates the document if it does not exist."""
    return Mutation(path, fields, tuple([(name,) for name in fields]), tuple(transforms), precondition)


def delete(path: str, precondition: Precondition | None = None) -> Mutation:
    """Delete the document; no error if it does not exist, unless the precondition says so."""
    return Mutation(path, None, precondition=precondition)


class Reason(Enum):
    """Why a store refused a commit; none of it was applied."""

    EXISTS = "exists"
    MISSING = "missing"
    CHANGED = "changed"
    INVALID = "invalid"


class Rejected(Exception):  # noqa: N818 - an expected outcome of a conditional write, not an error
    """The store refused the commit for what it asks. The store itself works.

    ``may_have_applied``: the commit was sent before, and what it meets now may be its own effect.
    """

    def __init__(self, reason: Reason, message: str, trouble: Trouble | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.may_have_applied = False
        self.trouble = trouble  # what a person has to do, where that is known


class Cell:
    """A version number: as long as it is unchanged, what was read is still true."""

    __slots__ = ("version",)

    def __init__(self) -> None:
        self.version = 0


class Intent(Protocol):
    """A change that is about to be written to the handler's own store, and is in the change log. Call one method."""

    def settle(self) -> None:
        """The store has acknowledged it: the other side gets it too."""

    def abort(self) -> None:
        """The store has surely not applied it: the other side does not get it."""

    def doubt(self) -> None:
        """The store may have applied it: the other side gets it if the store turns out to hold it."""


class Context:
    """A call's deadline, what its writes are logged by, and the conditions under which its answer may be reused.

    ``deadline`` is in the event loop's time. ``intend`` logs a change before it is written, if changes are logged;
    handlers do not call it, ``changes.write`` does. A store records here every cell it answered from; an answer may
    be reused while all of them still have the recorded version, until ``until`` (seconds of the monotonic clock). A
    read from anything else clears ``memorable``.
    """

    __slots__ = ("basis", "deadline", "intend", "memorable", "until")

    def __init__(self, deadline: float, intend: Callable[[Any], Intent] | None = None) -> None:
        self.deadline = deadline
        self.intend = intend
        self.basis: list[tuple[Cell, int]] = []
        self.memorable = True
        self.until = inf

    def rest_on(self, cell: Cell) -> None:
        """Record that the answer is valid while ``cell`` keeps its version."""
        self.basis.append((cell, cell.version))

    def rest_until(self, when: float) -> None:
        """Record that the answer is valid until ``when`` at most, in the monotonic clock's seconds."""
        self.until = min(self.until, when)


class Skipped:
    """Documents that ``scan`` left out because they hold what the port has no value for. Nobody here wrote them."""

    __slots__ = ("count", "named")

    NAMED: Final = 100  # how many are named; the others are only counted

    def __init__(self) -> None:
        self.count = 0
        self.named: dict[str, str] = {}  # by path: why

    def note(self, path: str, reason: str) -> None:
        """Count the document, once while it is among the named."""
        if path in self.named:
            return
        self.count += 1
        if len(self.named) < self.NAMED:
            self.named[path] = reason


class DocumentStore(Protocol):
    """A store of documents. Every call may raise ``Fault``; a read ``Rejected`` (INVALID) for an invalid query, and
    ``commit`` ``Rejected`` for writes that must not be applied.

    A read that a store can answer from memory does not suspend.
    """

    kind: str
    skipped: Skipped
    foreign: Foreign  # the documents that were left out of answers

    def poll(self) -> None:
        """Bring every ``Cell`` up to date with what other processes of this machine wrote. Cheap."""

    async def get(self, path: str, ctx: Context) -> Document | None:
        """The document, or None if it does not exist."""

    async def get_many(self, paths: Sequence[str], ctx: Context) -> list[Document | None]:
        """The documents in the order of ``paths``, at one moment."""

    async def query(self, query: Query, ctx: Context, max_age: float = 0.0, min_age: float = 0.0) -> list[Document]:
        """The matching documents. The result may be up to ``max_age`` seconds old.

        A result older than a write that was answered on this machine is not used (read-your-writes), unless it is
        younger than ``min_age`` seconds: where a read may lag behind a session's own writes, a stream of writes then
        does not make each read a query of its own.
        """

    async def count(
        self, query: Query, ctx: Context, total: str | None = None, max_age: float = 0.0, min_age: float = 0.0
    ) -> Count:
        """How many documents match, and the sum of the integer field ``total``; limit and start are ignored.

        ``total`` is the ordered field or None: the service can only sum a field of the index that it scans. The ages
        are as for ``query``.
        """

    async def scan(self, pattern: str, after: str | None, limit: int, ctx: Context) -> list[Document]:
        """The documents of every collection of the pattern (see ``patterns``), in the order of their paths.

        At most ``limit``, from the first one after the path ``after``; empty only where no document is left. Never
        answered from a view or a cache. What cannot be decoded is left out and noted in ``skipped``.
        """

    async def size(self, pattern: str, ctx: Context) -> int:
        """How many documents ``scan`` would go through."""

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        """Apply all or none; returns the commit time. At most ``COMMIT_LIMIT`` mutations, one per document."""

    def watch(self, collection: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` after every change in the collection that this store sees; call the result to stop."""

    def watches(self, collection: str, doc_id: str | None = None) -> bool:
        """Whether ``watch`` sees every change of the document, or of the collection's newest documents."""

    async def start(self) -> None:
        """Open connections and files. An unreachable backend is no error here."""

    async def close(self) -> None:
        """Release what ``start`` opened."""

    def gauges(self) -> dict[str, int]:
        """The store's counts, by names of ``arm.GAUGES``."""

    async def health(self, deadline_s: float) -> str:
        """Ask the backend itself; returns what was found, for a person. Raises ``Fault``."""
