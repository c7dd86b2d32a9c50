"""Patterns of collections, such as ``scans/*/results``, and the order of document paths. Pure.

A pattern is a collection's path with ``*`` in place of each document id: ``scans``, ``scans/*/results``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ANY: Final = "*"


def order(path: str) -> tuple[str, ...]:
    """A key that orders paths as Firestore's ``__name__`` does: segment by segment, each by its UTF-8 bytes.

    Python compares strings by code point, which is the order of their UTF-8.
    """
    return tuple(path.split("/"))


def fits(pattern: str, path: str) -> bool:
    """Whether the document at ``path`` is in a collection of the pattern."""
    return fits_collection(pattern, path.rpartition("/")[0])


def fits_collection(pattern: str, collection: str) -> bool:
    """Whether the collection is one of the pattern."""
    if ANY not in pattern:
        return pattern == collection
    wanted, found = pattern.split("/"), collection.split("/")
    return len(wanted) == len(found) and all(a in (ANY, b) for a, b in zip(wanted, found, strict=True))


def pattern_of(path: str, patterns: Iterable[str]) -> str | None:
    """The first of the patterns that the document at ``path`` is in."""
    return next((pattern for pattern in patterns if fits(pattern, path)), None)


def is_pattern(text: str) -> bool:
    """Whether it is a pattern: names of collections, with ``*`` for each id between them."""
    names = text.split("/")
    return len(names) % 2 == 1 and all((name == ANY) == (at % 2 == 1) and name for at, name in enumerate(names))
