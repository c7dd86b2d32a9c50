"""A cache of query results that may be a little old: in this process, or in a Redis that several machines share.

aiocache stores them. This module adds a bound on the number of keys, a partly random lifetime so that entries do not
all expire together, and treats a failing cache as a miss.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import msgspec
import structlog
from aiocache import SimpleMemoryCache
from aiocache.base import BaseCache
from aiocache.serializers import BaseSerializer

from backends.documents.port import Count, Document

Result: TypeAlias = list[Document] | Count

KEYS: Final = 4096  # in memory; a Redis has its own limit (maxmemory)
REDIS_S: Final = 0.2  # timeout; a slower cache gains nothing over asking the backend

_log = structlog.get_logger("phasegate.cache")


class _Packed(BaseSerializer):  # type: ignore[misc]  # aiocache has no types
    """Query results as MessagePack, for a cache outside this process."""

    DEFAULT_ENCODING = None  # bytes

    def dumps(self, entry: Any) -> bytes:
        """``(expires, result)`` packed."""
        return msgspec.msgpack.encode(entry)

    def loads(self, packed: bytes | None) -> Any:
        """The entry that was packed."""
        if packed is None:
            return None
        expires, result = msgspec.msgpack.decode(packed)
        if isinstance(result, dict):
            return expires, Count(**result)
        return expires, [Document(*document) for document in result]


class Cache:
    """Query results by string key, for a time. Never raises."""

    def __init__(self, where: str, seed: int | None = None) -> None:
        self.hits = 0
        self.misses = 0
        self._dice = random.Random(seed)  # noqa: S311 - no secret
        self._keys: OrderedDict[str, None] | None = None
        self._down = False
        self._where = where.rpartition("@")[2]  # for the log, without the password
        remote = _redis(where) if where != "memory" else None
        self._cache: BaseCache = remote
        if remote is None:
            self._keys = OrderedDict()
            # timeout=None: a timeout costs more than the cache itself.
            self._cache = SimpleMemoryCache(timeout=None)

    async def get(self, key: str) -> tuple[float, Result] | None:
        """When the result expires (Unix time), and the result; None if it is not cached."""
        try:
            entry: tuple[float, Result] | None = await self._cache.get(key)
        except Exception as problem:  # any error of the cache's client counts as a miss
            self._failed(problem)
            entry = None
        else:
            self._worked()
        if entry is None:
            self.misses += 1
        else:
            self.hits += 1
        return entry

    async def put(self, key: str, result: Result, ttl_s: float) -> tuple[float, Result]:
        """Cache the result for 75 to 100 % of ``ttl_s``; returns the entry as ``get`` will return it."""
        ttl_s *= 0.75 + self._dice.random() / 4
        entry = (time.time() + ttl_s, result)
        try:
            if self._keys is not None:
                self._keys[key] = None
                self._keys.move_to_end(key)
                while len(self._keys) > KEYS:
                    await self._cache.delete(self._keys.popitem(last=False)[0])
            await self._cache.set(key, entry, ttl=ttl_s)
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
        if self._keys is not None:
            await self._cache.clear()
        else:
            await self._cache.client.aclose()


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
