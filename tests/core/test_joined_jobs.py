"""Two states of a scan job become one field by field: in any order, as often as wanted, and nothing goes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.adapters.scans import AGE, joined
from backends.documents.port import Fields

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def job(**fields: Any) -> Fields:
    made: Fields = {
        "root": "/",
        "name": "",
        "status": "running",
        "progress": 0.0,
        "message": "",
        "created_at": at(0),
        "updated_at": at(0),
        "revision": 1,
        "change": "made",
        "edits": {"status": [at(0), "made"], "message": [at(0), "made"], "progress": 0},
    }
    return made | fields


def edited(second: float, call: str, **fields: Any) -> Fields:
    """The job as a call leaves it that changes these fields at that time."""
    edits: Any = {name: [at(second), call] if name in fields else [at(0), "made"] for name in ("status", "message")}
    edits["progress"] = int("progress" in fields)
    return job(**fields, updated_at=at(second), change=call, revision=2, edits=edits)


# A call has its own time: no two calls change one field at one moment and differ.
CALLS = st.integers(1, 6)
JOBS = st.builds(
    lambda status, said, progress, count, age: job(
        status=status[1],
        # A call that finishes the job says its progress too.
        progress=float(status[0]) if AGE[status[1]] == 2 else progress,
        message=f"m{said}",
        updated_at=at(max(said, status[0])),
        change=f"c{max(said, status[0])}",
        revision=age,
        edits={
            "status": [at(status[0]), f"c{status[0]}"],
            "message": [at(said), f"c{said}"],
            "progress": status[0] if AGE[status[1]] == 2 else count,
        },
    ),
    CALLS.flatmap(lambda n: st.tuples(st.just(n), st.just(list(AGE)[n % len(AGE)]))),
    CALLS,
    st.sampled_from((0.0, 10.0, 50.0, 100.0)),
    st.integers(0, 3),
    st.integers(1, 9),
)


@given(JOBS, JOBS, JOBS)
def test_it_does_not_matter_in_which_order_and_how_often_states_are_joined(a: Fields, b: Fields, c: Fields) -> None:
    together = joined(joined(a, b), c)
    for x, y, z in permutations((a, b, c)):
        assert joined(joined(x, y), z) == together
        assert joined(x, joined(y, z)) == together
    assert joined(together, a) == together
    assert joined(a, a) == a


@given(JOBS, JOBS)
def test_a_status_never_goes_back(a: Fields, b: Fields) -> None:
    together = joined(a, b)
    assert AGE[str(together["status"])] == max(AGE[str(one["status"])] for one in (a, b))


def test_of_two_values_of_progress_the_higher_stands_unless_it_was_replaced_or_the_job_is_finished() -> None:
    high, low = edited(1, "a", progress=50.0), edited(2, "b", progress=30.0)
    assert joined(high, low)["progress"] == joined(low, high)["progress"] == 50.0
    replaced = high | {"progress": 20.0, "edits": {**high["edits"], "progress": 2}}  # type: ignore[dict-item]
    assert joined(high, replaced)["progress"] == joined(low, replaced)["progress"] == 20.0
    failed = edited(1, "c", status="failed", progress=10.0)
    assert joined(failed, replaced)["progress"] == joined(high, failed)["progress"] == 10.0


def test_changes_of_different_fields_both_stand() -> None:
    said, stepped = edited(1, "a", message="half way"), edited(2, "b", status="completed", progress=100.0)
    for one, other in ((said, stepped), (stepped, said)):
        together = joined(one, other)
        assert (together["message"], together["status"], together["progress"]) == ("half way", "completed", 100.0)
        assert (together["updated_at"], together["change"]) == (at(2), "b")


def test_of_two_changes_of_one_field_the_later_stands_though_another_field_was_changed_after_it() -> None:
    early = edited(1, "a", message="early") | {"updated_at": at(9), "change": "c", "progress": 5.0, "revision": 3}
    late = edited(2, "b", message="late")
    assert joined(early, late)["message"] == joined(late, early)["message"] == "late"


def test_a_job_without_times_of_its_fields_is_as_old_as_its_last_change() -> None:
    before = {name: value for name, value in job(message="old", updated_at=at(5)).items() if name != "edits"}
    assert joined(before, edited(6, "a", message="new"))["message"] == "new"
    assert joined(before, edited(4, "a", message="older"))["message"] == "old"


def test_of_two_jobs_of_an_earlier_version_the_newer_is_taken_as_it_is() -> None:
    before = [{n: v for n, v in edited(s, f"c{s}", message=f"m{s}").items() if n != "edits"} for s in (1, 2)]
    assert joined(*before) == joined(*reversed(before)) == before[1]


def test_a_document_that_only_counters_were_added_to_has_no_state() -> None:
    assert joined(job(), {"files": 3}) == joined({"files": 3}, job()) == job()


NO_JOBS: tuple[Fields, ...] = (
    {"status": "parked", "owner": "another app"},
    {"status": ["running"], "updated_at": "noon"},
    {name: value for name, value in job(status="completed").items() if name != "updated_at"},
)


@pytest.mark.parametrize("foreign", NO_JOBS)
def test_what_is_no_job_adds_nothing_to_one_and_gives_way_to_it(foreign: Fields) -> None:
    assert joined(job(), foreign) == joined(foreign, job()) == job()


@pytest.mark.parametrize("edits", [{"status": [at(9)], "message": "late", "progress": None}, [1], "never"])
def test_a_job_whose_edits_cannot_be_read_is_as_old_as_its_last_change(edits: Any) -> None:
    odd = job(message="odd", updated_at=at(5), edits=edits)
    for second, stands in ((4, "odd"), (6, "new")):
        mine = edited(second, "a", message="new")
        assert joined(odd, mine)["message"] == joined(mine, odd)["message"] == stands


def test_a_job_from_a_fixture_may_lack_its_revision_and_the_call_that_changed_it() -> None:
    bare = {name: value for name, value in job().items() if name not in ("revision", "change", "edits")}
    together = joined(bare, edited(1, "a", message="new"))
    assert (together["message"], together["revision"], together["change"]) == ("new", 2, "a")
