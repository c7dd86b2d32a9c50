"""The sorted entries of an index are those of one sorted list, however they came and went."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.documents import entries as module
from backends.documents.entries import BEGIN, Entry, SortedEntries

Steps = list[tuple[bool, Entry]]
entry = st.tuples(st.tuples(st.integers(0, 9)), st.text("abc", max_size=3))


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 2)
        yield


@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), entry), max_size=60), entry, entry)
def test_they_are_as_one_sorted_list_is(steps: Steps, low: Entry, high: Entry) -> None:
    found, expected = SortedEntries(), list[Entry]()
    for adds, each in steps:
        if adds and each not in expected:
            found.add(each)
            insort(expected, each)
        elif not adds and each in expected:
            found.remove(each)
            expected.remove(each)
        assert list(found.between(BEGIN, found.end())) == expected
        assert bool(found) is bool(expected)
    by_value = {"key": lambda one: one[0]}
    for ours, theirs, more, x, y in (
        (found.left, bisect_left, {}, low, high),
        (found.right, bisect_right, {}, low, high),
        (found.left, bisect_left, by_value, low[0], high[0]),
        (found.right, bisect_right, by_value, low[0], high[0]),
    ):
        first, last = ours(x, **more), ours(y, **more)
        wanted = expected[theirs(expected, x, **more) : theirs(expected, y, **more)]  # type: ignore[call-overload]
        assert list(found.between(first, last)) == wanted
        assert list(found.between(first, last, descending=True)) == wanted[::-1]


def test_entries_that_arrive_in_order_fill_their_chunks() -> None:
    found = SortedEntries()
    for number in range(100):
        found.add(((number,), "a"))
    assert len(found._chunks) <= 100 / (2 * module.CHUNK) + 1
