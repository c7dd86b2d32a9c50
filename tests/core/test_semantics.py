"""Firestore's rules in memory: order and type of values, what a write makes of a document, indexes against a scan."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.documents.collection import Collection
from backends.documents.port import (
    NAME,
    Count,
    Document,
    Filter,
    Mutation,
    Query,
    Reason,
    Rejected,
    Transform,
    create,
    delete,
    merge,
    put,
)
from backends.documents.semantics import applied, check, growth, matches, same, size_of, sort_key

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_values_are_ordered_by_type_and_then_by_value() -> None:
    in_order: list[Any] = [
        None,
        False,
        True,
        -(2**63),
        -1.5,
        0,
        0.5,
        2**63 - 1,
        NOON,
        "",
        "a",
        "b",
        "é",
        "\uffff",
        "\U0001f600",
        b"",
        b"\x00",
        b"a",
        [],
        [1],
        [1, 2],
        [2],
        {},
        {"a": 1},
        {"a": 1, "b": 0},
        {"a": 2},
        {"b": 0},
    ]
    backwards = in_order[::-1]
    assert sorted(backwards, key=sort_key) == in_order


@pytest.mark.parametrize(
    ("value", "op", "wanted", "expected"),
    [
        (1, "==", 1.0, True),
        (True, "==", 1, False),
        (0, "==", False, False),
        (None, "==", None, True),
        (1, "<", 2.5, True),
        ("1", "<", 2, False),  # an inequality matches its own type only
        (None, "<", 2, False),
        (True, ">", False, True),
        (1, "in", [3, 1.0], True),
        (1, "in", [True, "1"], False),
        (NOON, ">=", NOON, True),
    ],
)
def test_a_condition_compares_numbers_as_numbers_and_nothing_across_types(
    value: Any, op: Any, wanted: Any, expected: bool
) -> None:
    assert matches(Document("a/1", {"f": value}, 0, 0), Filter("f", op, wanted)) is expected


def test_a_document_without_the_field_matches_nothing() -> None:
    assert not matches(Document("a/1", {}, 0, 0), Filter("f", "==", None))


def test_values_of_different_type_are_not_the_same() -> None:
    assert not same(1, 1.0)
    assert not same({"a": [True]}, {"a": [1]})
    assert same({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]})


def document(**fields: Any) -> Document:
    return Document("a/1", fields, 1, 1)


@pytest.mark.parametrize(
    ("stored", "mutation", "expected"),
    [
        (None, put("a/1", {"x": 1}), {"x": 1}),
        (document(y=1), put("a/1", {"x": 1}), {"x": 1}),
        (document(y=1), merge("a/1", {"x": 1}), {"x": 1, "y": 1}),
        (document(x=1, y=2), Mutation("a/1", {}, (("x",), ("z",))), {"y": 2}),
        (document(m={"a": 1, "b": 2}), Mutation("a/1", {"m": {"a": 9}}, (("m", "a"),)), {"m": {"a": 9, "b": 2}}),
        (document(m=1), Mutation("a/1", {"m": {"a": 9}}, (("m", "a"),)), {"m": {"a": 9}}),
        (document(m=1), Mutation("a/1", {}, (("m", "a"),)), {"m": 1}),
        (None, merge("a/1", {}, [Transform(("n", "k"), "increment", 2)]), {"n": {"k": 2}}),
        (document(n=1), merge("a/1", {}, [Transform(("n",), "increment", 0.5)]), {"n": 1.5}),
        (document(n="1"), merge("a/1", {}, [Transform(("n",), "increment", 2)]), {"n": 2}),
        (document(n=True), merge("a/1", {}, [Transform(("n",), "increment", 2)]), {"n": 2}),
        (document(n=2**63 - 2), merge("a/1", {}, [Transform(("n",), "increment", 5)]), {"n": 2**63 - 1}),
        (document(n=-(2**63)), merge("a/1", {}, [Transform(("n",), "increment", -5)]), {"n": -(2**63)}),
        (document(n=3), merge("a/1", {}, [Transform(("n",), "maximum", 2)]), {"n": 3}),
        (document(n=3), merge("a/1", {}, [Transform(("n",), "maximum", 4)]), {"n": 4}),
        (
            None,
            merge("a/1", {}, [Transform(("n",), "maximum", -7), Transform(("n",), "increment", 14)]),
            {"n": 7},
        ),
    ],
)
def test_a_write_makes_of_a_document(stored: Document | None, mutation: Mutation, expected: dict[str, Any]) -> None:
    before = None if stored is None else repr(stored)
    result = applied(stored, mutation, 9)
    assert result is not None
    assert same(result.fields, expected)
    assert (result.update_time == 9) is (stored is None or not same(result.fields, stored.fields))
    assert (None if stored is None else repr(stored)) == before  # the stored document is not written to


def test_a_write_that_changes_nothing_keeps_the_update_time() -> None:
    stored = document(x=1)
    assert applied(stored, put("a/1", {"x": 1}), 9) is stored
    changed = applied(stored, put("a/1", {"x": 1.0}), 9)
    assert changed is not None
    assert (changed.create_time, changed.update_time) == (1, 9)
    assert applied(stored, delete("a/1"), 9) is None


@pytest.mark.parametrize(
    "mutation",
    [
        put("a", {}),
        put("a/b/c", {}),
        put("a/..", {}),
        put("a/__x__", {}),
        put("a//b/c", {}),
        put("a/" + "x" * 1501, {}),
        put("a/\ud800", {}),
        put("a/1", {"": 1}),
        put("a/1", {"__x__": 1}),
        put("a/1", {"x": 2**63}),
        put("a/1", {"x": float("nan")}),
        put("a/1", {"x": float("inf")}),
        put("a/1", {"x": [[1]]}),
        put("a/1", {"x": "\ud800"}),
        put("a/1", {"x": "a" * 1_048_576}),
        merge("a/1", {}, [Transform(("t", "__x__"), "increment", 1)]),
        put("a/1", {"x" * 1501: 1}),
        put("a/1", {"m": {"x" * 1499: 1}}),
        put("a/1", {"m": {"é" * 750: {}}}),
        put("a/1", {"m": [1, {"x" * 1499: 1}]}),
        put("a/1", {"m": {"a" * 700: {"b" * 798: 1}}}),
        merge("a/1", {"x" * 1500: 1}),
        Mutation("a/1", {}, (("m", "x" * 1498),)),
        merge("a/1", {}, [Transform(("m", "x" * 1498), "increment", 1)]),
        put("a/1", {"x": "a" * 1_048_488}),
    ],
)
def test_what_no_store_takes_is_refused_before_it_is_sent(mutation: Mutation) -> None:
    with pytest.raises(Rejected) as refusal:
        check((mutation,))
    assert refusal.value.reason is Reason.INVALID


@pytest.mark.parametrize(
    "mutation",
    [
        put("a/1", {"x" * 1500: 1}),
        put("a/1", {"m": {"x" * 1498: 1, "é" * 749: {}}}),
        put("a/1", {"m": [1, {"x" * 1498: 1}]}),
        put("a/1", {"m": {"a" * 700: {"b" * 797: 1}}}),
        merge("a/1", {"x" * 1499: 1}),
        Mutation("a/1", {}, (("m", "x" * 1497),)),
        merge("a/1", {}, [Transform(("m", "x" * 1497), "increment", 1)]),
        put("a/1", {"x": "a" * 1_048_487}),
    ],
)
def test_what_just_fits_is_taken(mutation: Mutation) -> None:
    check((mutation,))


def test_nesting_is_refused_beyond_twenty_levels() -> None:
    def nested(levels: int) -> Any:
        return 1 if levels == 0 else {"a": nested(levels - 1)}

    check((put("a/1", {"a": nested(19)}),))
    with pytest.raises(Rejected):
        check((put("a/1", {"a": nested(21)}),))


def test_a_commit_is_bounded_and_writes_a_document_once() -> None:
    check([create(f"a/{n}", {}) for n in range(500)])
    for wrong in ([create(f"a/{n}", {}) for n in range(501)], [put("a/1", {}), delete("a/1")]):
        with pytest.raises(Rejected):
            check(wrong)


kept = st.recursive(
    st.sampled_from([None, True, 1, 1.5, "é"]),
    lambda inner: st.dictionaries(st.sampled_from("xyé"), inner),
    max_leaves=5,
)
paths = st.lists(st.sampled_from("xyé"), min_size=1, max_size=3).map(tuple)
transforms = st.builds(Transform, paths, st.sampled_from(["increment", "maximum"]), st.sampled_from([0, 1, 0.5]))


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from("xyé"), kept), st.dictionaries(st.sampled_from("xy"), kept), st.lists(transforms)
)
def test_a_merge_adds_no_more_than_its_bound(stored: Any, merged: Any, then: Any) -> None:
    current = document(**stored)
    mutation = merge("a/1", merged, then)
    after = applied(current, mutation, 9)
    assert after is not None
    assert size_of(after) <= size_of(current) + growth(current, mutation)


def test_the_bound_is_exact_for_a_counter_that_grows_by_a_name() -> None:
    current = document(items={"a": 1}, start=NOON)
    for name, more in (("a", 0), ("éé", 13)):
        mutation = merge("a/1", {"start": NOON}, [Transform(("items", name), "increment", 1)])
        after = applied(current, mutation, 9)
        assert after is not None
        assert size_of(after) - size_of(current) == growth(current, mutation) == more


values = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0]), st.sampled_from("ab"))
fields = st.dictionaries(st.sampled_from("xyz"), values, max_size=3)
steps = st.lists(st.tuples(st.sampled_from("12345"), st.one_of(st.none(), fields)), max_size=12)
queries = st.builds(
    lambda order, descending, equal, bound, limit, start: Query(
        "a",
        tuple(
            Filter(*condition)
            for condition in (equal, bound and order != NAME and (order, *bound))
            if condition
        ),
        order,
        descending and order != NAME,
        limit,
        None if start is None else (None if order == NAME else start[0], start[1]),
    ),
    st.sampled_from((NAME, "x", "y")),
    st.booleans(),
    st.none() | st.tuples(st.sampled_from("xyz"), st.just("=="), values)
    | st.tuples(st.sampled_from("xyz"), st.just("in"), st.lists(values, max_size=2)),
    st.none() | st.tuples(st.sampled_from(("<", "<=", ">", ">=")), values),
    st.none() | st.integers(1, 3),
    st.none() | st.tuples(values, st.sampled_from("135")),
)  # fmt: skip


def scanned(documents: list[Document], query: Query) -> list[Document]:
    """The query's result, by looking at every document."""

    def place(found: Document) -> Any:
        return () if query.order == NAME else sort_key(found.fields[query.order]), found.id

    result = [
        found
        for found in documents
        if (query.order == NAME or query.order in found.fields) and all(matches(found, c) for c in query.where)
    ]
    result.sort(key=place, reverse=query.descending)
    if query.start_after is not None:
        after = () if query.order == NAME else sort_key(query.start_after[0]), query.start_after[1]
        result = [found for found in result if (place(found) < after if query.descending else place(found) > after)]
    return result[: query.limit]


@settings(max_examples=40)
@given(steps, st.lists(queries, max_size=3), steps)
def test_an_index_finds_what_a_scan_finds(first: Any, asked: list[Query], then: Any) -> None:
    collection, plain = Collection(), {}
    for part in (first, then):
        for doc_id, content in part:
            if content is None:
                collection.drop(doc_id)
                plain.pop(doc_id, None)
            else:
                plain[doc_id] = Document(f"a/{doc_id}", content, 0, 0)
                collection.put(plain[doc_id])
        for query in asked:
            assert collection.run(query) == scanned(list(plain.values()), query)
            whole = Query("a", query.where, query.order, query.descending)
            assert collection.count(query) == Count(len(scanned(list(plain.values()), whole)), 0)


def test_a_count_sums_the_ordered_field() -> None:
    collection = Collection()
    for nth, value in enumerate((3, 4, -1, 0)):
        collection.put(Document(f"a/{nth}", {"w": value}, 0, 0))
    assert collection.count(Query("a", (Filter("w", ">", 0),), "w"), "w") == Count(2, 7)
