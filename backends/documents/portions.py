"""Splits writes into commits that a store takes: bounded by their number and by the bytes that are sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from backends.documents.port import COMMIT_LIMIT, Mutation, Value

# Firestore takes 10 MiB in a request, its emulator 4 MiB (gRPC's default). Larger commits would hardly be faster: 500
# documents of 7 KB fit.
COMMIT_BYTES: Final = 7 * 2**19
# Of one value as it is sent, beside a name's or a text's own bytes: two tags and two lengths around it, and a time.
_VALUE_BYTES: Final = 32
_PREFIX_BYTES: Final = 64  # before the name of each collection of its path; as long as a kind of backend allows
_WRITE_BYTES: Final = 256  # of one write beside its fields and path: the database's name, masks, preconditions


def portions(mutations: Iterable[Mutation]) -> Iterator[list[Mutation]]:
    """The writes in their order, as many to a commit as it takes. One that is too large by itself is alone in its."""
    portion: list[Mutation] = []
    size = 0
    for mutation in mutations:
        more = sent_bytes(mutation)
        if portion and (len(portion) == COMMIT_LIMIT or size + more > COMMIT_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(mutation)
        size += more
    if portion:
        yield portion


def sent_bytes(mutation: Mutation) -> int:
    """An upper bound of the bytes that a write takes in a request. What is sent is more than what is stored."""
    collections = mutation.path.count("/") // 2 + 1
    size = _WRITE_BYTES + len(mutation.path.encode()) + collections * _PREFIX_BYTES
    if mutation.fields is not None:
        size += _sent(mutation.fields)
    for path in (*(mutation.mask or ()), *(transform.field for transform in mutation.transforms)):
        # A name may be written in backticks, with each of its characters escaped.
        size += _VALUE_BYTES + sum(2 * len(name.encode()) + 3 for name in path)
    return size


def _sent(value: Value) -> int:
    if isinstance(value, dict):
        return _VALUE_BYTES + sum(len(name.encode()) + _sent(inner) for name, inner in value.items())
    if isinstance(value, list):
        return _VALUE_BYTES + sum(map(_sent, value))
    if isinstance(value, str):
        return _VALUE_BYTES + len(value.encode())
    return _VALUE_BYTES + (len(value) if isinstance(value, bytes) else 0)
