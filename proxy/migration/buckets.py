"""Sticky key → bucket → arm. Pure, and the same on every worker and after every restart.

A key's bucket is fixed by the run's split, so raising the weight only ever adds keys to the target and lowering it
gives back the last added first. A split has one of two versions:

    1   CRC-32 that starts from the migration's name. Whoever knows the name can compute the bucket of any key, and so
        choose keys that lie on one side. Kept for runs that were begun with it.
    2   BLAKE2b (RFC 7693) with a key that follows from the run directory's secret and the migration's name. Without
        the key nobody can tell a bucket.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final
from zlib import crc32

from backends.arm import SOURCE, TARGET
from proxy.board.layout import BUCKETS, SplitKey

PLAIN: Final = 1
KEYED: Final = 2
KEY_BYTES: Final = 16
_MASK: Final = 0xFFFFFFFF
_HASH_BYTES: Final = 4  # 10,000 of 2**32 values: no bucket is larger than another by more than 1 in 400,000
_PURPOSE: Final = b"phasegate split"


def salt(migration: str) -> int:
    """Where the CRC-32 of a migration's keys starts: one key falls differently in two migrations."""
    return crc32(migration.encode())


def plain(migration: str) -> SplitKey:
    """Version 1: it follows from the migration's name alone."""
    return SplitKey(PLAIN, salt(migration))


def keyed(secret: bytes, migration: str) -> SplitKey:
    """Version 2: from a secret of at most 64 bytes and the migration's name. It does not tell the secret."""
    derived = blake2b(migration.encode(), key=secret, person=_PURPOSE, digest_size=KEY_BYTES).digest()
    return SplitKey(KEYED, int.from_bytes(derived, "little"))


def begin(split: SplitKey) -> int | blake2b:
    """The state that every key's hash goes on from, so that what is the same for all keys is computed once."""
    if split.version == KEYED:
        return blake2b(key=split.key.to_bytes(KEY_BYTES, "little"), digest_size=_HASH_BYTES)
    return split.key


def bucket(state: int | blake2b, key: bytes) -> int:
    """The key's bucket, 0..9999. ``state`` is what ``begin`` gave; it does not change.

    CRC-32 is linear: keys that differ in one bit differ in a fixed pattern. The multiply-xor-shift of MurmurHash3's
    finaliser breaks that up. In both versions the product with the range takes the high bits, so no bucket is
    favoured by a remainder.
    """
    if not isinstance(state, int):
        keyed = state.copy()
        keyed.update(key)
        return int.from_bytes(keyed.digest(), "little") * BUCKETS >> 32
    h = crc32(key, state)
    h ^= h >> 16
    h = h * 0x85EBCA6B & _MASK
    h ^= h >> 13
    h = h * 0xC2B2AE35 & _MASK
    h ^= h >> 16
    return h * BUCKETS >> 32


def assign(bucket: int, weight_bp: int) -> int:
    """The arm of a bucket under a weight in basis points."""
    return TARGET if bucket < weight_bp else SOURCE
