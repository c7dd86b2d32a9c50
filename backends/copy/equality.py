"""When two documents are the same, and in which fields they are not. Pure.

Times of creation and update are each store's own and are left out. Values are compared by value and type, as the
port has them: whole microseconds, and 1, 1.0 and true are three values.
"""

from __future__ import annotations

from typing import NamedTuple

from backends.documents.port import Document, Fields
from backends.documents.semantics import same


class Pair(NamedTuple):
    """What the two sides hold at one path; None where a side holds nothing."""

    path: str
    source: Document | None
    target: Document | None

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same, or both nothing."""
        if self.source is None or self.target is None:
            return self.source is self.target
        return same(self.source.fields, self.target.fields)

    @property
    def difference(self) -> str:
        """The kind of the difference, as reports name it."""
        if self.source is None:
            return "missing_on_source"
        return "missing_on_target" if self.target is None else "different"

    @property
    def fields(self) -> list[str]:
        """The names of the fields that differ, where both sides hold the document."""
        if self.source is None or self.target is None:
            return []
        return differing(self.source.fields, self.target.fields)

    def unmoved_since(self, earlier: Pair) -> bool:
        """Whether neither side has written the document since ``earlier`` was read."""
        return _version(self.source) == _version(earlier.source) and _version(self.target) == _version(earlier.target)


def _version(document: Document | None) -> tuple[int, int] | None:
    return None if document is None else (document.create_time, document.update_time)


def differing(one: Fields, other: Fields) -> list[str]:
    """The names of the fields that are not the same, or that only one has; sorted."""
    return sorted(
        name
        for name in one.keys() | other.keys()
        if name not in one or name not in other or not same(one[name], other[name])
    )
