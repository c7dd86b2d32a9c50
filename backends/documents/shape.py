"""The shape of a read: what is asked, without the values. Pure.

Reads of one shape need the same index, fail for the same reason, and are one line in a log.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from backends.documents.port import NAME, Query


class Ask(NamedTuple):
    """A read that handlers may make. Values stand for any others of their type, ``*`` for any document's id."""

    query: Query
    counted: bool = False  # by ``DocumentStore.count``, with its ``total``
    total: str | None = None

    @property
    def shape(self) -> ReadShape:
        """What decides which index it needs."""
        return index_shape(shape_of(self.query, counted=self.counted, total=self.total))


@dataclass(frozen=True, slots=True)
class ReadShape:
    """A query without its values. ``str`` gives it in words: ``scans where status == order by created_at desc``."""

    collection: str  # a pattern: ``scans/*/results``
    where: tuple[str, ...]  # such as ``status ==``, sorted
    order: str
    descending: bool
    counted: bool = False
    total: str | None = None  # the field that is summed

    def __str__(self) -> str:
        what = "" if not self.counted else "count of " if self.total is None else f"count and sum of {self.total} of "
        where = f" where {' and '.join(self.where)}" if self.where else ""
        order = "" if self.order == NAME else f" order by {self.order}{' desc' if self.descending else ''}"
        return f"{what}{self.collection}{where}{order}"


def shape_of(query: Query, *, counted: bool = False, total: str | None = None) -> ReadShape:
    """The query's shape; ``counted`` and ``total`` as of ``DocumentStore.count``."""
    where = tuple(sorted({f"{condition.field} {condition.op}" for condition in query.where}))
    return ReadShape(pattern_of(query.collection), where, query.order, query.descending, counted, total)


def index_shape(shape: ReadShape) -> ReadShape:
    """The shape without inequalities: these are on the ordered field, so they need no other index than the order."""
    return replace(shape, where=tuple(each for each in shape.where if each.split(" ")[-1] in ("==", "in")))


def pattern_of(path: str) -> str:
    """The path of a document or collection, with ``*`` for each document's id."""
    segments = path.split("/")
    segments[1::2] = ["*"] * len(segments[1::2])
    return "/".join(segments)


def composite(query: Query) -> tuple[tuple[str, str], ...] | None:
    """The composite index that Firestore needs for the query, as (field, order); None where it needs none.

    It joins by itself what is compared for equality, and it has an index of every single field. Only a query that
    also orders by another field needs one of its own.
    """
    equal = sorted({condition.field for condition in query.where if condition.op in ("==", "in")} - {query.order})
    if not equal or query.order == NAME:
        return None
    direction = "DESCENDING" if query.descending else "ASCENDING"
    return (*((field, "ASCENDING") for field in equal), (query.order, direction))
