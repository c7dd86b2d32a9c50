"""Which of two states of a document is right: by its adapter's rule, and by what counters say. Pure.

A document's fields are of two sorts. *Counters* grow by increments (or a maximum), which the two sides apply each by
itself; an adapter names them in ``counted``. Everything else is the *state*, of which an adapter may say by ``newer``
which of two is the later one, or by ``joins`` what two make together. So a job whose status is newer on one side, and
whose counters are ahead on the other, is put together from both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from backends.adapters.adapter import Adapter
from backends.documents.changes import Join, Newer
from backends.documents.port import Fields, Value
from backends.documents.semantics import same


class PatternRule(NamedTuple):
    """What is known of the documents of one pattern."""

    pattern: str
    counted: tuple[str, ...] = ()
    newer: Newer | None = None
    join: Join | None = None


def rules(adapters: Iterable[Adapter]) -> dict[str, PatternRule]:
    """By pattern, in the order in which they are gone through: those with counters last (see ``settling``)."""
    every = (
        PatternRule(pattern, adapter.counted.get(pattern, ()), adapter.newer.get(pattern), adapter.joins.get(pattern))
        for adapter in adapters
        for pattern in adapter.scans
    )
    return {rule.pattern: rule for rule in sorted(every, key=lambda rule: bool(rule.counted))}


def put_together(rule: PatternRule, ours: Fields, theirs: Fields) -> tuple[Fields, bool]:
    """The right fields, and whether the rule decides all that differs. What it cannot decide stays as ``theirs``."""
    our_state, our_counts = _apart(rule, ours)
    their_state, their_counts = _apart(rule, theirs)
    state, decided = _later(rule, our_state, their_state)
    if at_least(our_counts, their_counts):
        counts = our_counts
    else:
        counts, decided = their_counts, decided and at_least(their_counts, our_counts)
    return {**state, **counts}, decided


def _apart(rule: PatternRule, fields: Fields) -> tuple[Fields, Fields]:
    counts = {name: fields[name] for name in rule.counted if name in fields}
    return {name: value for name, value in fields.items() if name not in counts}, counts


def _later(rule: PatternRule, ours: Fields, theirs: Fields) -> tuple[Fields, bool]:
    """The later state, and whether it is known to be."""
    if same(ours, theirs):
        return theirs, True
    if not theirs:
        return ours, True  # an increment that came before the document: it has no state yet
    if not ours:
        return theirs, True
    if rule.join is not None:
        return _joined(rule.join, ours, theirs)
    if rule.newer is not None:
        if _is_newer(rule.newer, ours, theirs):
            return ours, True
        return theirs, _is_newer(rule.newer, theirs, ours)
    return theirs, False


# What an adapter's rule raises for a document that is not as its handlers write it: it does not decide about that.
_STRANGE: Final = (AssertionError, KeyError, TypeError, ValueError, AttributeError)


def _is_newer(newer: Newer, one: Fields, other: Fields) -> bool:
    try:
        return newer(one, other)
    except _STRANGE:
        return False


def _joined(join: Join, ours: Fields, theirs: Fields) -> tuple[Fields, bool]:
    try:
        return join(ours, theirs), True
    except _STRANGE:
        return theirs, False


def at_least(ours: Value, theirs: Value) -> bool:
    """Whether every counter of ``theirs`` is in ``ours`` too, and not lower there; counters may be in maps."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(name in ours and at_least(ours[name], value) for name, value in theirs.items())
    if _is_number(ours) and _is_number(theirs):
        return ours >= theirs  # type: ignore[operator]  # both are numbers
    return same(ours, theirs)


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
