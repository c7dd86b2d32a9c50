"""Values, queries and statuses to and from Firestore's messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.documents.port import Filter, Precondition, Query, Reason, Rejected, Transform, delete, merge, put
from backends.documents.semantics import same
from backends.errors import Fault, FaultKind
from backends.kinds.firestore.codec import (
    Names,
    PbDocument,
    PbValue,
    decode_document,
    decode_value,
    encode_mutation,
    encode_path,
    encode_query,
    fill_value,
)
from backends.kinds.firestore.status import Place, commit_error, read_error

ROOT = "projects/p/databases/(default)/documents/"
NAMES = Names(ROOT)
PLACE = Place("p", "(default)")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("Cs",))),
    st.binary(),
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
)
names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=5)
values = st.recursive(scalars, lambda inner: st.dictionaries(names, inner) | st.lists(scalars), max_leaves=8)


@settings(max_examples=30)
@given(values)
def test_a_value_survives_the_way_there_and_back(value: Any) -> None:
    message = PbValue()
    fill_value(message, value)
    assert same(decode_value(PbValue.FromString(message.SerializeToString())), value)


def test_a_document_has_its_path_and_times() -> None:
    message = PbDocument(
        name=f"{ROOT}a/1/b/2",
        create_time={"seconds": 5, "nanos": 7_000},
        update_time={"seconds": 6, "nanos": 999_999_999},
    )
    fill_value(message.fields["x"], {"y": []})
    found = decode_document(message, NAMES)
    assert (found.path, found.id, found.fields) == ("a/1/b/2", "2", {"x": {"y": []}})
    assert (found.create_time, found.update_time) == (5_000_007, 6_999_999)


def test_a_value_of_a_kind_that_is_never_written_is_an_error() -> None:
    with pytest.raises(ValueError, match="a reference, which"):
        decode_value(PbValue(reference_value=f"{ROOT}a/1"))
    with pytest.raises(ValueError, match="a geographical point, which"):
        decode_value(PbValue(geo_point_value={"latitude": 1.0}))
    vector = PbValue()
    fill_value(vector, {"__type__": "__vector__", "value": [1.0, 2.0]})
    with pytest.raises(ValueError, match="a vector, which"):
        decode_value(vector)


@pytest.mark.parametrize(
    ("prefix", "path", "name"),
    [
        ("", "scans/a/results/b", "scans/a/results/b"),
        ("pg_", "scans/a", "pg_scans/a"),
        ("pg_", "scans/a/results/b", "pg_scans/a/pg_results/b"),
        ("pg_", "phasegate/health", "pg_phasegate/health"),
        ("pg_", "scans/pg_a", "pg_scans/pg_a"),
    ],
)
def test_a_prefix_stands_before_every_collection_and_no_id(prefix: str, path: str, name: str) -> None:
    names = Names(ROOT, prefix)
    assert names.name(path) == ROOT + name
    assert names.path(ROOT + name) == path


def test_a_prefix_is_in_everything_that_is_sent() -> None:
    names = Names(ROOT, "pg_")
    query = Query("a/1/b", (), "n", False, 5, (3, "x"))
    message = encode_query(query, names)
    assert names.parent(query.collection) == f"{ROOT}pg_a/1"
    assert names.parent("a") == ROOT[:-1]
    assert message.from_[0].collection_id == "pg_b"
    assert message.start_at.values[1].reference_value == f"{ROOT}pg_a/1/pg_b/x"
    assert encode_mutation(put("a/1", {}), names).update.name == f"{ROOT}pg_a/1"
    assert encode_mutation(delete("a/1"), names).delete == f"{ROOT}pg_a/1"


def test_a_document_of_another_apps_collection_is_not_decoded_as_ours() -> None:
    with pytest.raises(ValueError, match="does not begin with pg_"):
        decode_document(PbDocument(name=f"{ROOT}scans/a"), Names(ROOT, "pg_"))


@pytest.mark.parametrize(
    ("path", "spelled"),
    [
        (("a", "b_1"), "a.b_1"),
        (("a b",), "`a b`"),
        (("1a",), "`1a`"),
        (("`\\",), r"`\`\\`"),
        (("é.x", "y"), "`é.x`.y"),
    ],
)
def test_a_field_path_is_quoted_where_it_must_be(path: tuple[str, ...], spelled: str) -> None:
    assert encode_path(path) == spelled


def test_a_merge_names_its_fields_and_a_transform_its_operands() -> None:
    message = encode_mutation(
        merge("a/1", {"x": 1}, [Transform(("n", "k"), "increment", 2)], Precondition(update_time=1_000_002)), NAMES
    )
    assert list(message.update_mask.field_paths) == ["x"]
    assert message.update_transforms[0].field_path == "n.k"
    assert message.update_transforms[0].increment.integer_value == 2
    assert (message.current_document.update_time.seconds, message.current_document.update_time.nanos) == (1, 2000)


def test_a_replacement_has_no_mask_and_a_deletion_no_document() -> None:
    assert not encode_mutation(put("a/1", {}), NAMES).HasField("update_mask")
    assert encode_mutation(merge("a/1", {}), NAMES).HasField("update_mask")
    assert encode_mutation(delete("a/1"), NAMES).delete == f"{ROOT}a/1"


def test_a_query_is_ordered_by_id_last_and_starts_after_a_document() -> None:
    query = Query("a/1/b", (Filter("s", "==", None), Filter("n", ">", 1)), "n", True, 5, (3, "x"))
    message = encode_query(query, NAMES)
    assert NAMES.parent(query.collection) == f"{ROOT}a/1"
    assert NAMES.parent("a") == ROOT[:-1]
    assert message.from_[0].collection_id == "b"
    assert [order.field.field_path for order in message.order_by] == ["n", "__name__"]
    assert len(message.where.composite_filter.filters) == 2
    assert message.start_at.values[1].reference_value == f"{ROOT}a/1/b/x"
    assert not message.start_at.before
    assert message.limit.value == 5


NOT_THE_CLIENTS = [code for code in StatusCode if code not in (StatusCode.OK, StatusCode.INVALID_ARGUMENT)]


@pytest.mark.parametrize("code", NOT_THE_CLIENTS)
def test_a_read_that_failed_is_a_fault(code: StatusCode) -> None:
    assert isinstance(read_error(code, None, PLACE), Fault)


def test_a_read_that_was_refused_for_what_was_asked_is_no_fault() -> None:
    found = read_error(StatusCode.INVALID_ARGUMENT, "why", PLACE)
    assert isinstance(found, Rejected)
    assert found.reason is Reason.INVALID


@pytest.mark.parametrize(
    ("code", "kind", "may_retry", "may_have_applied"),
    [
        (StatusCode.DEADLINE_EXCEEDED, FaultKind.DEADLINE, False, True),
        (StatusCode.UNAVAILABLE, FaultKind.UNAVAILABLE, True, True),
        (StatusCode.RESOURCE_EXHAUSTED, FaultKind.EXHAUSTED, True, False),
        (StatusCode.ABORTED, FaultKind.ABORTED, True, False),
        (StatusCode.PERMISSION_DENIED, FaultKind.PERMISSION, False, False),
    ],
)
def test_a_commit_that_failed_says_whether_it_may_have_been_applied(
    code: StatusCode, kind: FaultKind, may_retry: bool, may_have_applied: bool
) -> None:
    found = commit_error(code, "why", PLACE, conditional=True)
    assert isinstance(found, Fault)
    assert (found.kind, found.may_retry, found.may_have_applied) == (kind, may_retry, may_have_applied)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (StatusCode.ALREADY_EXISTS, Reason.EXISTS),
        (StatusCode.NOT_FOUND, Reason.MISSING),
        (StatusCode.FAILED_PRECONDITION, Reason.CHANGED),
        (StatusCode.INVALID_ARGUMENT, Reason.INVALID),
    ],
)
def test_a_commit_that_was_refused_is_no_fault(code: StatusCode, reason: Reason) -> None:
    found = commit_error(code, "why", PLACE, conditional=True)
    assert isinstance(found, Rejected)
    assert found.reason is reason
