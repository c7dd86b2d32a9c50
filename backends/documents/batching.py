"""Puts the writes of many changes into one commit: a document is written once, its increments become one. Pure.

A document that is written often takes about one write a second at Firestore, so a store that catches up change by
change goes as slowly as its hottest counter. A commit has the same effect as its changes one after the other. What
cannot be merged without changing that effect is left for the next commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from backends.documents.changes import Change, guarded
from backends.documents.port import COMMIT_LIMIT, INT_MAX, INT_MIN, Document, FieldPath, Fields, Mutation, Transform
from backends.documents.semantics import applied

COMMIT_BYTES: Final = 9 * 2**20  # of the encoded changes: a request takes 10 MiB, of which names take a part
# Field transformations of one document in one commit: https://cloud.google.com/firestore/quotas
TRANSFORM_LIMIT: Final = 500


class CommitBatch:
    """One commit under construction. ``stored`` has the documents that were read for its changes."""

    def __init__(self, stored: Mapping[str, Document | None]) -> None:
        self._stored = stored
        self._writes: dict[str, _Write] = {}
        self._bytes = 0

    @property
    def mutations(self) -> tuple[Mutation, ...]:
        """The writes of the commit."""
        return tuple(write.mutation() for write in self._writes.values())

    def __contains__(self, path: object) -> bool:
        """As ``Documents.__contains__``."""
        return path in self._stored

    def get(self, path: str) -> Document | None:
        """The document as it will be after the commit, as far as it was read."""
        document = self._stored.get(path)
        write = self._writes.get(path)
        return document if write is None else applied(document, write.mutation(), 0)

    def add(self, step: Change, size: int) -> bool:
        """Add a change of ``size`` bytes; False where it must wait for another commit. Raises as ``Change.plan``."""
        mutations = guarded(step.reads, step.plan(self), self._stored)
        writes = self._writes
        if writes and mutations:
            more = sum(mutation.path not in writes for mutation in mutations)
            if len(writes) + more > COMMIT_LIMIT or self._bytes + size > COMMIT_BYTES:
                return False
            for mutation in mutations:
                write = writes.get(mutation.path)
                if write is not None and not write.takes(mutation):
                    return False
        for mutation in mutations:
            write = writes.get(mutation.path)
            if write is None:
                writes[mutation.path] = _Write(mutation)
            else:
                write.take(mutation)
        if mutations:
            self._bytes += size
        return True


class _Write:
    """The writes of one document so far, as one."""

    __slots__ = ("_chains", "_fields", "_first", "_mask", "_path", "_precondition", "_transforms")

    def __init__(self, first: Mutation) -> None:
        self._path = first.path
        self._precondition = first.precondition
        self._begin(first)

    def _begin(self, mutation: Mutation) -> None:
        self._first: Mutation | None = mutation  # as long as there is only one; then the rest is filled in
        self._fields: Fields = {}
        self._mask: dict[FieldPath, None] | None = None
        self._chains: dict[FieldPath, list[Transform]] = {}
        self._transforms = len(mutation.transforms)

    def _open(self, first: Mutation) -> None:
        assert first.fields is not None
        self._first = None
        self._fields = dict(first.fields)
        self._mask = None if first.mask is None else dict.fromkeys(first.mask)
        for transform in first.transforms:
            self._chains.setdefault(transform.field, []).append(transform)

    def takes(self, mutation: Mutation) -> bool:
        """Whether one write can have the effect of all until now and then of ``mutation``.

        Preconditions are about the document before all of them.
        """
        mine, theirs = self._precondition, mutation.precondition
        if mine is not None and theirs is not None and mine != theirs:
            return False
        if mutation.mask is None:
            # A document that is created and deleted in one commit is too rare for a rule.
            return mutation.fields is not None or mine is None
        first = self._first
        deleted = first is not None and first.fields is None
        if deleted or mutation.fields is None or any(len(field) != 1 for field in mutation.mask):
            return False
        counted = self._chains if first is None else [transform.field for transform in first.transforms]
        if mutation.mask and any(field[:1] in mutation.mask for field in counted):
            return False  # it sets what was counted before
        return self._transforms + len(mutation.transforms) <= TRANSFORM_LIMIT or not self._transforms

    def take(self, mutation: Mutation) -> None:
        """Add a write that it ``takes``."""
        if self._precondition is None:
            self._precondition = mutation.precondition
        if mutation.mask is None:
            self._begin(mutation)
            return
        if self._first is not None:
            self._open(self._first)
        assert mutation.fields is not None
        for (name,) in mutation.mask:
            if self._mask is not None:
                self._mask[(name,)] = None
            if name in mutation.fields:
                self._fields[name] = mutation.fields[name]
            else:
                self._fields.pop(name, None)
        for transform in mutation.transforms:
            chain = self._chains.setdefault(transform.field, [])
            before = len(chain)
            _append(chain, transform)
            self._transforms += len(chain) - before

    def mutation(self) -> Mutation:
        """All of them as one."""
        first = self._first
        if first is not None:
            return Mutation(first.path, first.fields, first.mask, first.transforms, self._precondition)
        mask = None if self._mask is None else tuple(self._mask)
        transforms = tuple(transform for chain in self._chains.values() for transform in chain)
        return Mutation(self._path, self._fields, mask, transforms, self._precondition)


def _append(chain: list[Transform], transform: Transform) -> None:
    """Add a transform to those of its field, merged with what it follows where the result is the same.

    Only of integers, which add up in any order; a float's rounding depends on it.
    """
    last = chain[-1] if chain else None
    mine, more = (0, transform.operand) if last is None else (last.operand, transform.operand)
    if last is None or not isinstance(mine, int) or not isinstance(more, int):
        chain.append(transform)
    elif last.op == transform.op == "increment" and mine * more >= 0 and INT_MIN <= mine + more <= INT_MAX:
        # Of different signs they are not added: a sum that stops at 64 bits would come out differently.
        chain[-1] = Transform(last.field, "increment", mine + more)
    elif last.op == transform.op == "maximum":
        chain[-1] = last if mine >= more else transform
    elif transform.op == "increment" or not _is_at_least(chain, more):
        chain.append(transform)


def _is_at_least(chain: Sequence[Transform], floor: int) -> bool:
    """Whether a chain that ends with an increment leaves the field at ``floor`` or above."""
    if len(chain) < 2 or chain[-2].op != "maximum":
        return False
    least, added = chain[-2].operand, chain[-1].operand
    return isinstance(least, int) and added >= 0 and least >= floor
