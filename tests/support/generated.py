"""A store of any size behind the port that holds nothing: its documents are made when they are asked for."""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from time import time_ns

from backends.documents.port import Context, Count, Document, Fields, Mutation, Query, Skipped
from backends.documents.semantics import applied, refuse

LONG_AGO_US = 1_700_000_000_000_000


def path_of(number: int) -> str:
    """The path of a document; greater numbers come later in the order of paths."""
    return f"dashboard_snapshots/{number:032x}"


def fields_of(number: int) -> Fields:
    """What the document of that number holds: about 300 bytes."""
    return {
        "published_at": number,
        "metrics": {"active_users": number % 1000, "revenue": number / 7, "host": f"host-{number % 97}" * 4},
        "note": "x" * 120,
    }


class GeneratedStore:
    """``documents`` made-up ones, and what was written since; ``forgets``: not what was written, to hold nothing."""

    kind = "generated"

    def __init__(self, documents: int, *, forgets: bool = False) -> None:
        self.documents = documents
        self.skipped = Skipped()
        self.commits = 0
        self.written = 0
        self._forgets = forgets
        self._changed: dict[str, Document | None] = {}
        self._extra: list[str] = []  # sorted: paths that are not of a made-up document
        self._time = time_ns() // 1000

    def poll(self) -> None:
        pass

    def _find(self, path: str) -> Document | None:
        if path in self._changed:
            return self._changed[path]
        collection, _, name = path.rpartition("/")
        if collection != "dashboard_snapshots" or len(name) != 32 or int(name, 16) >= self.documents:
            return None
        return Document(path, fields_of(int(name, 16)), LONG_AGO_US, LONG_AGO_US)

    async def get(self, path: str, ctx: Context) -> Document | None:
        return self._find(path)

    async def get_many(self, paths: Sequence[str], ctx: Context) -> list[Document | None]:
        await asyncio.sleep(0)
        return [self._find(path) for path in paths]

    async def scan(self, pattern: str, after: str | None, limit: int, ctx: Context) -> list[Document]:
        await asyncio.sleep(0)
        if pattern != "dashboard_snapshots":
            return []
        number = 0 if after is None else self._number_after(after)
        at = 0 if after is None else bisect_right(self._extra, after)
        page: list[Document] = []
        while len(page) < limit and (number < self.documents or at < len(self._extra)):
            own = path_of(number) if number < self.documents else None
            if own is None or (at < len(self._extra) and self._extra[at] < own):
                path, at = self._extra[at], at + 1
            else:
                path, number = own, number + 1
            document = self._find(path)
            if document is not None:
                page.append(document)
        return page

    def _number_after(self, path: str) -> int:
        low, high = 0, self.documents
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if path_of(middle) <= path else (low, middle)
        return low

    async def size(self, pattern: str, ctx: Context) -> int:
        return self.documents if pattern == "dashboard_snapshots" else 0

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        await asyncio.sleep(0)
        self._time = max(self._time + 1, time_ns() // 1000)
        self.commits += 1
        self.written += len(mutations)
        if self._forgets:
            return self._time
        pending = {}
        for mutation in mutations:
            current = self._find(mutation.path)
            refuse(current, mutation.precondition, mutation.path)
            pending[mutation.path] = applied(current, mutation, self._time)
        for path, document in pending.items():
            name = path.rpartition("/")[2]
            if path not in self._changed and (len(name) != 32 or int(name, 16) >= self.documents):
                insort(self._extra, path)
            self._changed[path] = document
        return self._time

    async def query(self, query: Query, ctx: Context, max_age: float = 0.0) -> list[Document]:
        raise NotImplementedError

    async def count(self, query: Query, ctx: Context, total: str | None = None, max_age: float = 0.0) -> Count:
        raise NotImplementedError

    def watch(self, collection: str, wake: Callable[[], None]) -> Callable[[], None]:
        raise NotImplementedError

    def watches(self, collection: str, doc_id: str | None = None) -> bool:
        return False

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def gauges(self) -> dict[str, int]:
        return {}

    async def health(self, deadline_s: float) -> str:
        return "made up"
