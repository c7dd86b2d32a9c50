"""The emulator understands what phasegate's client sends: each translation is the other one's inverse."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.documents.port import NAME, Filter, Mutation, Precondition, Query, Transform
from backends.emulator.questions import NameBound, Walk, decode_question
from backends.emulator.refusal import RefusedCall
from backends.emulator.resources import database_of, document_path, parent_path
from backends.emulator.writes import decode_write, projected
from backends.kinds.firestore.codec import (
    Names,
    PbQuery,
    PbWrite,
    decode_path,
    encode_mutation,
    encode_path,
    encode_query,
    encode_scan,
)

DATABASE = "projects/p/databases/(default)"
ROOT = f"{DATABASE}/documents"
NAMES = Names(f"{ROOT}/")

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)
ids = texts.filter(lambda name: "/" not in name and name not in (".", "..") and not name.startswith("__"))
fields = texts.filter(lambda name: name != NAME)
scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), texts, st.binary()),
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
)
values = st.recursive(scalars, lambda inner: st.dictionaries(fields, inner) | st.lists(scalars), max_leaves=6)
paths = st.lists(ids, min_size=1, max_size=2).map(lambda names: "/".join(f"{name}/{name}" for name in names))
field_paths = st.lists(fields, min_size=1, max_size=3).map(tuple)


@given(field_paths)
def test_a_field_path_is_read_as_it_was_written(path: tuple[str, ...]) -> None:
    assert decode_path(encode_path(path)) == path


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a-b", "`a", "a`b`", "``", "1a", "a b"])
def test_what_is_no_field_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no field path"):
        decode_path(text)


@st.composite
def mutations(draw: Any) -> Mutation:
    path = draw(paths)
    condition = draw(
        st.one_of(
            st.none(),
            st.booleans().map(lambda exists: Precondition(exists=exists)),
            st.integers(1, 2**50).map(lambda time: Precondition(update_time=time)),
        )
    )
    if draw(st.booleans()):
        return Mutation(path, None, precondition=condition)
    transforms = st.builds(
        Transform, field_paths, st.sampled_from(["increment", "maximum"]), st.integers(-9, 9) | st.just(0.5)
    )
    return Mutation(
        path,
        draw(st.dictionaries(fields, values, max_size=3)),
        draw(st.none() | st.lists(field_paths, max_size=3).map(tuple)),
        tuple(draw(st.lists(transforms, max_size=2))),
        condition,
    )


@settings(max_examples=100)
@given(mutations())
def test_a_write_is_read_as_it_was_written(mutation: Mutation) -> None:
    message = PbWrite.FromString(encode_mutation(mutation, NAMES).SerializeToString())
    write = decode_write(message, DATABASE, 0)
    assert write.mutation == mutation
    assert write.transformed == tuple(transform.field for transform in mutation.transforms)


@st.composite
def queries(draw: Any) -> Query:
    collection = draw(st.sampled_from(["a", "a/1/b"]))
    order = draw(fields)
    where = [Filter(draw(fields), "==", draw(scalars)) for _ in range(draw(st.integers(0, 2)))]
    if draw(st.booleans()):
        where.append(Filter(draw(fields), "in", draw(st.lists(st.integers(-9, 9), min_size=1, max_size=3))))
    if draw(st.booleans()):
        where.append(Filter(order, draw(st.sampled_from(["<", "<=", ">", ">="])), draw(st.integers(-9, 9))))
    start = (draw(scalars), draw(ids)) if draw(st.booleans()) else None
    limit = draw(st.none() | st.integers(1, 500))
    return Query(collection, tuple(where), order, draw(st.booleans()), limit, start)


@settings(max_examples=100)
@given(queries())
def test_a_query_is_read_as_it_was_written(query: Query) -> None:
    message = PbQuery.FromString(encode_query(query, NAMES).SerializeToString())
    question = decode_question(NAMES.parent(query.collection), message)
    assert question == (DATABASE, query, 0, None)


def test_a_scan_is_a_walk_between_two_names() -> None:
    parent, message = encode_scan("scans/*/results", None, 20, NAMES)
    low, high = NameBound(("scans", "\x01"), True), NameBound(("scans\x01", "\x01"), False)
    assert decode_question(parent, message).asked == Walk("", "results", True, low, high, 20)
    parent, message = encode_scan("scans", f"{ROOT}/scans/7", None, NAMES)
    assert decode_question(parent, message).asked == Walk(
        "", "scans", False, NameBound(("scans", "7"), False), None, None
    )


def asked(**more: Any) -> Any:
    message = PbQuery(**more)
    message.from_.add(collection_id="a")
    return message


ORDERED = [{"field": {"field_path": "n"}}]


@pytest.mark.parametrize(
    ("values", "before", "direction", "start"),
    [
        ([3], True, 1, (3, "")),  # start_at
        ([3], False, 1, (3, "\U0010ffff" * 375)),  # start_after
        ([3], True, 2, (3, "\U0010ffff" * 375)),
        ([3], False, 2, (3, "")),
    ],
)
def test_a_cursor_without_a_document_begins_before_or_after_all_that_have_its_value(
    values: list[int], before: bool, direction: int, start: tuple[int, str]
) -> None:
    message = asked(order_by=[{"field": {"field_path": "n"}, "direction": direction}])
    message.start_at.before = before
    for value in values:
        message.start_at.values.add(integer_value=value)
    question = decode_question(ROOT, message).asked
    assert isinstance(question, Query)
    assert question.start_after == start


def test_an_inequality_orders_by_its_field() -> None:
    message = asked(where={"field_filter": {"field": {"field_path": "n"}, "op": 3, "value": {"integer_value": 1}}})
    assert decode_question(ROOT, message).asked == Query("a", (Filter("n", ">", 1),), "n")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (PbQuery(), "queries of several collections"),
        (asked(offset=-1), "not negative"),
        (asked(where={"composite_filter": {"op": 2}}), "filters with OR"),
        (asked(where={"unary_filter": {"op": 2, "field": {"field_path": "n"}}}), "IS_NAN"),
        (
            asked(
                where={"field_filter": {"field": {"field_path": "n"}, "op": 7, "value": {"array_value": {}}}},
            ),
            "the filter ARRAY_CONTAINS",
        ),
        (
            asked(where={"field_filter": {"field": {"field_path": "n"}, "op": 8, "value": {"integer_value": 1}}}),
            "IN takes a list",
        ),
        (
            asked(where={"field_filter": {"field": {"field_path": "n.m"}, "op": 5, "value": {"integer_value": 1}}}),
            "a field inside a map",
        ),
        (
            asked(where={"field_filter": {"field": {"field_path": "n"}, "op": 5, "value": {"geo_point_value": {}}}}),
            "a geographical point",
        ),
        (
            asked(
                where={
                    "field_filter": {"field": {"field_path": "n"}, "op": 5, "value": {"string_value": "x" * 1500}}
                },
            ),
            "less than 1500",
        ),
        (asked(order_by=[*ORDERED, {"field": {"field_path": "m"}}]), "the order of several fields"),
        (asked(order_by=[{"field": {"field_path": "__name__"}, "direction": 2}]), "descending order of ids"),
        (asked(order_by=ORDERED, end_at={"values": [{"integer_value": 1}]}), "end_at"),
        (asked(order_by=ORDERED, start_at={}), "has 0 values"),
        (asked(start_at={"values": [{"integer_value": 1}]}), "is a reference"),
        (asked(order_by=[{"field": {"field_path": "a-b"}}]), "no field path"),
    ],
)
def test_what_it_does_not_understand_is_told_in_words(message: Any, said: str) -> None:
    with pytest.raises(RefusedCall) as refusal:
        decode_question(ROOT, message)
    assert said in str(refusal.value)
    assert refusal.value.code in (StatusCode.UNIMPLEMENTED, StatusCode.INVALID_ARGUMENT)


def test_names_are_of_a_database() -> None:
    assert parent_path(ROOT) == (DATABASE, "")
    assert parent_path(f"{ROOT}/a/1") == (DATABASE, "a/1")
    assert document_path(f"{ROOT}/a/1/b/2", DATABASE) == "a/1/b/2"
    for name in ("", "projects/p", "projects//databases/d", f"{DATABASE}x/y"):
        with pytest.raises(RefusedCall, match="expected"):
            document_path(name, database_of(name))
    with pytest.raises(RefusedCall, match="expected the name of a document"):
        document_path("projects/q/databases/(default)/documents/a/1", DATABASE)
    with pytest.raises(RefusedCall, match="no document path"):
        document_path(f"{ROOT}/a", DATABASE)


def test_a_server_time_is_a_value_of_the_field() -> None:
    message = PbWrite()
    message.update.name = f"{ROOT}/a/1"
    message.update_mask.SetInParent()
    message.update_transforms.add(field_path="m.at", set_to_server_value=1)
    write = decode_write(message, DATABASE, 1_700_000_000_123_456)
    at = datetime.fromtimestamp(1_700_000_000.123, UTC)
    assert write.mutation == Mutation("a/1", {"m": {"at": at}}, (("m", "at"),))


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        ({"append_missing_elements": {}}, "append_missing_elements"),
        ({"minimum": {"integer_value": 1}}, "minimum"),
        ({"increment": {"string_value": "x"}}, "takes a number"),
        ({"set_to_server_value": 0}, "REQUEST_TIME"),
    ],
)
def test_other_transforms_are_refused(transform: dict[str, Any], said: str) -> None:
    message = PbWrite(update={"name": f"{ROOT}/a/1"}, update_transforms=[{"field_path": "n", **transform}])
    with pytest.raises(RefusedCall, match=said):
        decode_write(message, DATABASE, 0)


def test_a_mask_leaves_what_it_names() -> None:
    stored: Any = {"a": 1, "m": {"b": 2, "c": 3}}
    assert projected(stored, (("a",), ("m", "c"), ("x", "y"))) == {"a": 1, "m": {"c": 3}}
    assert projected(stored, ()) == {}
