"""Walks the documents of both sides in the order of their paths, a page at a time, and joins them to pairs.

Memory holds a page of each side, however large the collections are. ``Join`` decides; ``walk`` reads.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from backends.copy.equality import Pair
from backends.copy.pace import FIRST_PAGE, next_page
from backends.documents.patterns import order
from backends.documents.port import DOCUMENT_BYTES, Context, Document, DocumentStore, Rejected
from backends.documents.semantics import size_of
from backends.errors import Fault, FaultKind
from backends.resilience.backoff import backoff

T = TypeVar("T")

CALL_S: Final = 30.0  # deadline of one call
TRIES: Final = 12  # of one call, while the backend fails; with the pauses between them about a minute
BASE_S: Final = 0.25
CAP_S: Final = 8.0
SIZED: Final = 16  # of a page's documents, how many are measured to know the bytes of all

_dice: Final = random.Random()  # noqa: S311 - no secret

# What a repetition will not mend: it is told at once.
_INCURABLE: Final = frozenset({FaultKind.PERMISSION, FaultKind.CORRUPT})


class Sides(NamedTuple):
    """The stores of the two arms, by their index."""

    source: DocumentStore
    target: DocumentStore


class Join:
    """The merge-join of two sorted lists of documents that arrive in pages. Pure."""

    def __init__(self) -> None:
        self._pages: tuple[deque[Document], deque[Document]] = (deque(), deque())
        self._ended = [False, False]

    def wants(self) -> list[int]:
        """The sides whose next page is needed before more pairs can be told; none at the end."""
        return [side for side in (0, 1) if not self._ended[side] and not self._pages[side]]

    def feed(self, side: int, page: Sequence[Document]) -> None:
        """The side's next page; an empty one is its end."""
        self._pages[side].extend(page)
        self._ended[side] = not page

    def pairs(self) -> Iterator[Pair]:
        """Every pair that is known now."""
        source, target = self._pages
        while not self.wants() and (source or target):
            one, other = (page[0] if page else None for page in self._pages)
            if one is not None and other is not None and one.path != other.path:
                if order(one.path) < order(other.path):
                    other = None
                else:
                    one = None
            if one is not None:
                source.popleft()
            if other is not None:
                target.popleft()
            yield Pair((one or other).path, one, other)  # type: ignore[union-attr]  # at least one is a document


async def patiently(
    call: Callable[[Context], Awaitable[T]],
    on_fault: Callable[[Fault], None] | None = None,
    tries: int = TRIES,
) -> T:
    """The call's result. A fault that may pass is waited out for about a minute; raises ``Fault`` after that."""
    loop = asyncio.get_running_loop()
    for attempt in range(tries):
        try:
            return await call(Context(loop.time() + CALL_S))
        except Fault as fault:
            if on_fault is not None:
                on_fault(fault)
            if fault.kind in _INCURABLE or attempt == tries - 1:
                raise
        await asyncio.sleep(backoff(attempt, BASE_S, CAP_S, _dice))
    raise AssertionError("unreachable")


def weight(document: Document | None) -> int:
    """About how many bytes of memory and of a commit it takes."""
    if document is None:
        return 0
    try:
        return size_of(document)
    except Rejected:  # somebody else wrote what the port does not accept, such as a number that is not finite
        return DOCUMENT_BYTES // 16


class Pages:
    """One side's pages of a pattern: each asks for as many documents as fit into ``pace.PAGE_BYTES``."""

    def __init__(self, store: DocumentStore, pattern: str, after: str | None) -> None:
        self._store = store
        self._pattern = pattern
        self._after = after
        self._limit = FIRST_PAGE

    async def next(self) -> list[Document]:
        """The next page; empty at the end."""
        loop = asyncio.get_running_loop()
        began = loop.time()

        def smaller(fault: Fault) -> None:
            if fault.kind is FaultKind.DEADLINE:
                self._limit = max(1, self._limit // 2)

        page = await patiently(
            lambda ctx: self._store.scan(self._pattern, self._after, self._limit, ctx), on_fault=smaller
        )
        if page:
            self._after = page[-1].path
            sized = page[:: max(1, len(page) // SIZED)]
            size = sum(map(weight, sized)) * len(page) // len(sized)
            self._limit = next_page(self._limit, len(page), size, loop.time() - began)
        return page


async def walk(sides: Sides, pattern: str, after: str | None = None) -> AsyncIterator[list[Pair]]:
    """The pairs of all documents of the pattern after ``after``, in pages. Raises ``Fault``."""
    join = Join()
    pages = [Pages(store, pattern, after) for store in sides]
    while wanted := join.wants():
        for side, page in zip(wanted, await asyncio.gather(*(pages[side].next() for side in wanted)), strict=True):
            join.feed(side, page)
        pairs = list(join.pairs())
        if pairs:
            yield pairs


async def look(sides: Sides, paths: Sequence[str]) -> list[Pair]:
    """What both sides hold at these paths now; without those that hold what cannot be read. Raises ``Fault``."""
    source, target = await asyncio.gather(*(read(store, paths) for store in sides))
    return [Pair(path, source[path], target[path]) for path in paths if path in source and path in target]


async def read(store: DocumentStore, paths: Sequence[str]) -> dict[str, Document | None]:
    """By path: the document, None where there is none; nothing for one that cannot be decoded. Raises ``Fault``."""
    try:
        documents = await patiently(lambda ctx: store.get_many(paths, ctx))
    except Fault as fault:
        if fault.kind is not FaultKind.CORRUPT:
            raise
        if len(paths) == 1:
            store.skipped.note(paths[0], str(fault))
            return {}
        half = len(paths) // 2
        return {**await read(store, paths[:half]), **await read(store, paths[half:])}
    return dict(zip(paths, documents, strict=True))
