"""A cache of query results that may be a little old: in this process, or in a Redis that several machines share.

aiocache stores them. This module adds a bound on the number of keys and on their bytes, a partly random lifetime so
that entries do not all expire together, and treats a failing cache as a miss.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgspec
import structlog
from aiocache import SimpleMemoryCache
from aiocache.base import BaseCache
from aiocache.serializers import BaseSerializer

from backends.documents.port import Count, Document
from backends.documents.semantics import size_of

Result: TypeAlias = list[Document] | Count

# In memory; a Redis has its own limit (maxmemory). Each bound is one group's, so that many questions about one
# collection, which a client can think of, push out no result of another.
KEYS: Final = 1024
BYTES: Final = 2 * 1024 * 1024  # as Firestore counts a document's size; in memory it is five to seven times that
# The newest results stay whatever their size, or two large ones that are asked for in turn would never be found.
# Three is the most questions that everybody asks of one collection: the windows of trending.
STAY: Final = 3
OVERHEAD: Final = 256  # bytes of an entry beside its key and documents
LEAST_SHARE: Final = 0.75  # of its lifetime that every entry is kept; the rest is random
REDIS_S: Final = 0.2  # timeout; a slower cache gains nothing over asking the backend

_log = structlog.get_logger("phasegate.cache")


class CachedResult(NamedTuple):
    """A result and its circumstances: times are Unix times in seconds.

    ``stamp`` is the newest write that the asking machine knew of when it asked: the result contains that write.
    ``due`` is when the question may be asked again if it is not to be asked too often; it may be in the future.
    """

    asked: float
    expires: float
    due: float
    stamp: int
    result: Result


class _Packed(BaseSerializer):  # type: ignore[misc]  # aiocache has no types
    """Query results as MessagePack, for a cache outside this process."""

    DEFAULT_ENCODING = None  # bytes

    def dumps(self, entry: Any) -> bytes:
        """The entry packed."""
        return msgspec.msgpack.encode(tuple(entry))

    def loads(self, packed: bytes | None) -> Any:
        """The entry that was packed."""
        if packed is None:
            return None
        asked, expires, due, stamp, result = msgspec.msgpack.decode(packed)
        if isinstance(result, dict):
            return CachedResult(asked, expires, due, stamp, Count(**result))
        return CachedResult(asked, expires, due, stamp, [Document(*document) for document in result])


class _Group:
    """The keys of one group in memory, and their bytes; the oldest first."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0

    def add(self, key: str, size: int) -> list[str]:
        """A key that was put; returns those for which there is no room any more."""
        self._bytes += size - self._sizes.pop(key, 0)
        self._sizes[key] = size
        dropped = []
        while len(self._sizes) > KEYS or (self._bytes > BYTES and len(self._sizes) > STAY):
            oldest, freed = self._sizes.popitem(last=False)
            self._bytes -= freed
            dropped.append(oldest)
        return dropped


class Cache:
    """Query results by string key, for a time. Never raises."""

    def __init__(self, where: str, seed: int | None = None) -> None:
        self.hits = 0
        self.misses = 0
        self._dice = random.Random(seed)  # noqa: S311 - no secret
        self._groups: dict[str, _Group] | None = None
        self._down = False
        self._where = where.rpartition("@")[2]  # for the log, without the password
        remote = _redis(where) if where != "memory" else None
        self._cache: BaseCache = remote
        if remote is None:
            self._groups = {}
            # timeout=None: a timeout costs more than the cache itself.
            self._cache = SimpleMemoryCache(timeout=None)

    async def get(self, key: str) -> CachedResult | None:
        """The entry, which may have expired; None if there is none. The caller says with ``used`` if it is used."""
        try:
            entry: CachedResult | None = await self._cache.get(key)
        except Exception as problem:  # any error of the cache's client counts as a miss
            self._failed(problem)
            entry = None
        else:
            self._worked()
        return entry

    def used(self, *, hit: bool) -> None:
        """Count whether a read was answered by an entry."""
        self.hits += hit
        self.misses += not hit

    def lifetime(self, age_s: float) -> float:
        """How long a result is to be used that may have this age: 75 to 100 % of it."""
        return age_s * (LEAST_SHARE + (1 - LEAST_SHARE) * self._dice.random())

    async def put(self, group: str, key: str, entry: CachedResult, keep_s: float) -> CachedResult:
        """Keep the entry, in a Redis for ``keep_s``, here until others need the room; returns it.

        Groups are few: collections, and nothing that a client chooses.
        """
        try:
            if self._groups is None:
                await self._cache.set(key, entry, ttl=keep_s)
            else:
                await self._cache.set(key, entry)
                for oldest in self._groups.setdefault(group, _Group()).add(key, _size(key, entry.result)):
                    await self._cache.delete(oldest)
        except Exception as problem:  # as above
            self._failed(problem)
        return entry

    def _failed(self, problem: Exception) -> None:
        """Log the failure, once until it answers again. Only the error's type: its message may hold the password."""
        if not self._down:
            self._down = True
            _log.warning("cache_unreachable", cache=self._where, reason=type(problem).__name__)

    def _worked(self) -> None:
        if self._down:
            self._down = False
            _log.info("cache_reached_again", cache=self._where)

    async def close(self) -> None:
        """Clear this process's entries, or close the connections."""
        if self._groups is not None:
            await self._cache.clear()
        else:
            await self._cache.client.aclose()


def _size(key: str, result: Result) -> int:
    documents = 0 if isinstance(result, Count) else sum(map(size_of, result))
    return len(key) + OVERHEAD + documents


def _redis(address: str) -> BaseCache | None:
    try:
        from aiocache import RedisCache  # needs the redis package, which only this uses
    except ImportError:
        _log.error("cache_in_memory_instead", reason="the redis package is missing: pip install redis")
        return None
    parts = urlsplit(address)
    return RedisCache(
        endpoint=parts.hostname or "127.0.0.1",
        port=parts.port or 6379,
        db=int(parts.path.strip("/") or 0),
        password=parts.password,
        namespace="phasegate",
        ssl=parts.scheme == "rediss",
        timeout=REDIS_S,
        serializer=_Packed(),
    )
