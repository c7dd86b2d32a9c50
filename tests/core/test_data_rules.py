"""The pure parts of moving and comparing data: order, pairs, rules, pace, cost, and what is known of changes."""

from __future__ import annotations

import random
from collections import deque
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.adapters import registry
from backends.adapters.adapter import Adapter, AdapterError
from backends.adapters.scans import ADAPTER as SCANS
from backends.copy import pace as pacing
from backends.copy.calm import ArrivalLook, Tidings
from backends.copy.comparing import share_found
from backends.copy.cost import estimate
from backends.copy.equality import Pair, differing
from backends.copy.pace import Pace, commits, next_page
from backends.copy.rules import PatternRule, at_least, put_together, rules
from backends.copy.tally import Tally, result
from backends.copy.walk import Join
from backends.documents.patterns import fits, is_pattern, order, pattern_of
from backends.documents.port import Document, put

IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=3)
PATHS = st.builds("/".join, st.lists(IDS, min_size=2, max_size=4))


def document(path: str, fields: dict[str, Any] | None = None, at: int = 1) -> Document:
    return Document(path, fields or {}, at, at)


@given(PATHS, PATHS)
def test_paths_are_ordered_segment_by_segment_by_their_bytes(one: str, other: str) -> None:
    by_bytes = [segment.encode() for segment in one.split("/")] < [segment.encode() for segment in other.split("/")]
    assert (order(one) < order(other)) == by_bytes


def test_a_pattern_is_of_collections_at_its_depth_only() -> None:
    assert fits("scans", "scans/a")
    assert fits("scans/*/results", "scans/a/results/b")
    for path in ("scans/a/groups/b", "other/a/results/b", "scans/a", "scans/a/results/b/results/c"):
        assert not fits("scans/*/results", path)
    assert pattern_of("scans/a/results/b", ["scans", "scans/*/results"]) == "scans/*/results"
    assert [is_pattern(text) for text in ("a", "a/*/b", "*", "a/*", "a/b/c", "a//b", "")] == [
        True,
        True,
        *5 * [False],
    ]


def test_every_adapter_names_its_collections_and_no_other() -> None:
    every = rules(registry.adapters())
    assert {"scans", "scans/*/results", "scans/*/groups", "dashboard_snapshots", "analytics_events"} <= every.keys()
    counted = [bool(rule.counted) for rule in every.values()]
    assert counted == sorted(counted)  # those with counters are gone through last
    assert not any(pattern.startswith("phasegate") for pattern in every)


@pytest.mark.parametrize(
    "wrong", [{"patterns": ("other",)}, {"patterns": ("scans/x/results",)}, {"counted": {"x": ()}}]
)
def test_an_adapter_with_a_wrong_pattern_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match=next(iter(wrong))):
        Adapter("scans", SCANS.handlers, SCANS.serves, SCANS.collections, **wrong)


@given(st.sets(PATHS, max_size=12), st.sets(PATHS, max_size=12), st.randoms(use_true_random=False))
def test_a_join_tells_every_path_once_in_order_whatever_the_pages(
    source: set[str], target: set[str], dice: random.Random
) -> None:
    left = tuple(deque(map(document, sorted(side, key=order))) for side in (source, target))
    join, found = Join(), []
    while wanted := join.wants():
        for side in wanted:
            pages = left[side]
            join.feed(side, [pages.popleft() for _ in range(min(len(pages), dice.randint(1, 4)))])
        found += join.pairs()
    assert [pair.path for pair in found] == sorted(source | target, key=order)
    assert {pair.path for pair in found if pair.source} == source
    assert {pair.path for pair in found if pair.target} == target


def test_values_differ_by_type_and_times_of_the_stores_do_not_count() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    fields = {"a": 1, "b": [1.0, {"c": at}], "d": b"x", "e": None}
    assert Pair("p/1", document("p/1", fields, 1), document("p/1", dict(fields), 2)).equal
    for name, other in (("a", 1.0), ("a", True), ("b", [1.0, {"c": None}]), ("d", "x"), ("e", 0)):
        assert differing(fields, {**fields, name: other}) == [name]
    assert differing(fields, {"a": 1, "z": 0}) == ["b", "d", "e", "z"]


# ------------------------------------------------------------------------------------------------------- rules

NEWER = PatternRule("scans", ("files",), lambda mine, stored: mine["revision"] > stored["revision"])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("rule", "source", "target", "together", "decided"),
    [
        (NEWER, {"revision": 2, "files": 1}, {"revision": 1, "files": 5}, {"revision": 2, "files": 5}, True),
        (NEWER, {"revision": 1, "files": 5}, {"revision": 2, "files": 1}, {"revision": 2, "files": 5}, True),
        (NEWER, {"revision": 1, "x": 0}, {"revision": 1, "x": 1}, {"revision": 1, "x": 1}, False),
        (NEWER, {"revision": 1, "files": 5}, {"files": 2}, {"revision": 1, "files": 5}, True),  # no state there yet
        (NEWER, {"odd": 1}, {"files": 2}, {"odd": 1, "files": 2}, True),
        (NEWER, {"odd": 1}, {"revision": 1}, {"revision": 1}, False),  # not as the adapter's handlers write it
        (PatternRule("p"), {"x": 0}, {"x": 1}, {"x": 1}, False),
        (PatternRule("c", ("n",)), {"n": {"a": 2}}, {"n": {"a": 1}}, {"n": {"a": 2}}, True),
        (PatternRule("c", ("n",)), {"n": {"a": 2}}, {"n": {"a": 1, "b": 1}}, {"n": {"a": 1, "b": 1}}, False),
        (PatternRule("c", ("n",)), {"n": 1}, {"n": 2}, {"n": 2}, True),
    ],
)
def test_two_states_are_put_together_by_the_rule(
    rule: PatternRule, source: Any, target: Any, together: Any, decided: bool
) -> None:
    assert put_together(rule, source, target) == (together, decided)


def test_counters_are_compared_in_maps_too() -> None:
    assert at_least({"a": 1, "b": 0}, {"a": 1})
    assert not at_least({"a": 1}, {"a": 1, "b": 0})
    assert not at_least({"a": True}, {"a": 0})
    assert at_least({"a": "x"}, {"a": "x"})


# -------------------------------------------------------------------------------------------------- pace and cost


def test_the_rate_begins_low_and_grows_by_half_every_five_minutes() -> None:
    pace, now, sent = Pace(500.0, 0.0), 0.0, 0
    while now < 600:
        now += pace.wait(100, now)
        sent += 100
    assert sent == pytest.approx(500 * 300 + 750 * 300, rel=0.01)


def test_an_exhausted_service_is_written_to_more_slowly_and_given_a_rest() -> None:
    pace = Pace(500.0, 0.0)
    pace.exhausted(10.0)
    assert pace.rate == 250
    assert pace.wait(1, 10.0) == pacing.REST_S
    for _ in range(20):
        pace.exhausted(20.0)
    assert pace.rate == pacing.LEAST_RATE
    pace.wait(1, 20.0 + pacing.GROWS_EVERY_S)
    assert pace.rate == pacing.LEAST_RATE * pacing.GROWTH


def test_pages_grow_while_documents_are_small_and_shrink_where_they_are_large_or_slow() -> None:
    assert next_page(50, 50, 50 * 200, 0.1) == 100
    assert next_page(1000, 1000, 200_000, 0.1) == pacing.LARGEST_PAGE
    assert next_page(50, 50, 50 * 2**20, 0.1) == 4
    assert next_page(400, 400, 80_000, 8.0) == 100
    assert next_page(1, 1, 2**20, 60.0) == 1


def test_commits_are_bounded_by_writes_and_bytes() -> None:
    small = [put(f"c/{n}", {"n": n}) for n in range(1201)]
    assert [len(commit) for commit in commits(small)] == [500, 500, 201]
    assert [len(commit) for commit in commits(small[:45], 20)] == [20, 20, 5]
    large = [put(f"c/{n}", {"s": "x" * 600_000}) for n in range(30)]  # 17 MiB
    found = list(commits(large))
    assert [write for commit in found for write in commit] == large
    assert all(600_000 * len(commit) <= 9 * 2**20 for commit in found)


def test_the_cost_counts_the_sides_that_are_billed() -> None:
    assert estimate("copy", (1_000_000, 0), (False, True)) == (0, 1_000_000)
    assert estimate("copy", (1_000_000, 0), (False, True)).usd == 1.8
    assert estimate("compare", (1_000_000, 900_000), (True, True)) == (1_900_000, 0)
    assert estimate("compare", (1_000_000, 900_000), (True, True)).usd == 1.14
    assert estimate("compare", (1_000_000, 10), (False, True), sample=100) == (200, 0)
    assert estimate("copy", (1_000_000, 0), (True, True), served=True) == (3_000_000, 1_000_000)


def test_a_sample_says_what_share_it_would_have_found() -> None:
    assert share_found(0) == 1
    assert share_found(300) == pytest.approx(0.00994, abs=1e-5)
    assert 1 - (1 - share_found(300)) ** 300 == pytest.approx(0.95)


# ---------------------------------------------------------------------------------------- what is on its way


def heard(*looks: tuple[float, float, float]) -> Tidings:
    tidings = Tidings()
    for look in looks:
        tidings.heard(ArrivalLook(*look))
    return tidings


@pytest.mark.parametrize(
    ("looks", "before"),
    [
        ([], 0.0),
        ([(10.0, 10.0, 10.1)], 0.0),  # said once
        ([(10.0, 10.0, 10.1), (10.2, 10.2, 10.3)], 10.0),
        ([(10.0, 10.0, 10.1), (10.0, 10.0, 10.2)], 0.0),  # no worker has looked again: the same word read twice
        ([(10.0, 10.0, 10.1), (10.05, 10.1, 10.2)], 0.0),  # one has not looked since the first word was read
        ([(10.0, 10.0, 10.1), (10.0, 10.0, 10.2), (10.4, 10.3, 10.5)], 10.0),
        ([(10.0, 10.0, 10.1), (1e-9, 10.2, 10.3)], 1e-9),  # it has taken over a log since
        ([(10.0, 10.0, 10.1), (1e-9, 10.1, 10.2), (10.4, 10.3, 10.5)], 1e-9),  # so too, said in between
        ([(8.0, 10.0, 10.1), (9.0, 10.2, 10.3)], 8.0),  # some always wait, by and by younger ones
        ([(10.0, 10.0, 10.1), (10.2, 10.2, 10.3), (1.0, 10.4, 10.5)], 10.0),  # what has arrived stays so
        ([(10.0, 10.0, 10.1), (0.0, 0.0, 10.2), (10.4, 10.4, 10.5)], 0.0),  # for a moment there was no worker
    ],
)
def test_what_has_arrived_is_what_two_looks_of_every_worker_agree_on(
    looks: list[tuple[float, float, float]], before: float
) -> None:
    tidings = heard(*looks)
    assert not tidings.arrived(before)
    assert tidings.arrived(before - 1e-10)


def test_only_what_is_on_its_way_is_neither_equal_nor_different() -> None:
    waits = Tally("a", source=3, target=2, equal=2, pending=1)
    assert result([waits], "compare") == {
        "equal": False,
        "collections": [
            {
                "name": "a",
                "source": 3,
                "target": 2,
                "equal": 2,
                "missing_on_target": 0,
                "missing_on_source": 0,
                "different": 0,
                "pending": 1,
            }
        ],
        "repaired": 0,
    }
    assert result([Tally("a", source=1, target=1, equal=1, copied=1)], "copy")["copied"] == 1
