"""Mends what a compare finds, each document with a precondition, and compares it again.

Without a side to follow, the newer wins by the adapter's rule, whichever side it is on, and what one side lacks is
created there; what no rule decides stays listed. With a side to follow, the other is made like it; what only the
other has is deleted only where that was asked for.
"""

from __future__ import annotations

from backends.arm import SOURCE, TARGET
from backends.copy.equality import Pair
from backends.copy.rules import PatternRule, put_together
from backends.copy.settling import Write
from backends.copy.tally import Tally
from backends.documents.port import Document, Fields, Mutation, Precondition, create, delete, put
from backends.documents.semantics import same


class Repairing:
    """What a repair does about a difference. ``follow``: the arm that is right; None: the newer document is."""

    looks_again = True
    patience_s = 60.0

    def __init__(self, follow: int | None, *, deletes: bool) -> None:
        self._follow = follow
        self._deletes = deletes

    def write(self, pair: Pair, rule: PatternRule) -> Write | None:
        """As ``Handling.write``."""
        if self._follow is None:
            return _by_rule(pair, rule)
        right, other = (pair.source, pair.target) if self._follow == SOURCE else (pair.target, pair.source)
        side = TARGET if self._follow == SOURCE else SOURCE
        if right is not None:
            return Write(side, _make(pair.path, right.fields, other))
        assert other is not None
        if not self._deletes:
            return None
        return Write(side, delete(pair.path, Precondition(update_time=other.update_time)))

    def wrote(self, tally: Tally) -> None:
        """As ``Handling.wrote``."""
        tally.repaired += 1

    def stays(self, tally: Tally, pair: Pair) -> None:
        """As ``Handling.stays``."""


def _by_rule(pair: Pair, rule: PatternRule) -> Write | None:
    if pair.source is None or pair.target is None:
        present = pair.source or pair.target
        assert present is not None
        return Write(TARGET if pair.target is None else SOURCE, create(pair.path, present.fields))
    fields, decided = put_together(rule, pair.source.fields, pair.target.fields)
    if not decided:
        return None
    if not same(fields, pair.target.fields):
        return Write(TARGET, _make(pair.path, fields, pair.target))
    return Write(SOURCE, _make(pair.path, fields, pair.source))


def _make(path: str, fields: Fields, now: Document | None) -> Mutation:
    return create(path, fields) if now is None else put(path, fields, Precondition(update_time=now.update_time))
