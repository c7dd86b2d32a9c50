"""Sticky key → bucket → arm. Pure, and the same on every worker and after every restart.

A key's bucket is fixed by the migration's salt, so raising the weight only ever adds keys to the target and
lowering it gives back the last added first.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from backends.arm import SOURCE, TARGET
from proxy.board.layout import BUCKETS

_MASK: Final = 0xFFFFFFFF


def salt(migration: str) -> int:
    """The hash state that a migration's keys start from: one key falls differently in two migrations."""
    return crc32(migration.encode())


def bucket(salt: int, key: bytes) -> int:
    """The key's bucket, 0..9999.

    CRC-32 costs a tenth of a cryptographic hash but is linear: keys that differ in one bit differ in a fixed
    pattern. The multiply-xor-shift of MurmurHash3's finaliser breaks that up; the product with the range takes the
    high bits, so no bucket is favoured by a remainder.
    """
    h = crc32(key, salt)
    h ^= h >> 16
    h = h * 0x85EBCA6B & _MASK
    h ^= h >> 13
    h = h * 0xC2B2AE35 & _MASK
    h ^= h >> 16
    return h * BUCKETS >> 32


def assign(bucket: int, weight_bp: int) -> int:
    """The arm of a bucket under a weight in basis points."""
    return TARGET if bucket < weight_bp else SOURCE
