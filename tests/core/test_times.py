"""Times are cut to microseconds wherever they are read, and never rounded up into the next second."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from backends.adapters.registry import operations
from backends.adapters.requests import Moment
from backends.adapters.times import from_unix, parse_time, timestamp
from backends.kinds.mock.memory import MemoryStore
from backends.operations import Call
from backends.pair.storearm import StoreArm

LAST = datetime(2026, 1, 1, 0, 0, 59, 999_999, tzinfo=UTC)
FINE = "2026-01-01T00:00:59.9999999Z"
WITHIN_S = 5.0


@pytest.mark.parametrize(
    "text",
    [
        FINE,
        "2026-01-01T00:00:59.999999Z",
        "2026-01-01T00:00:59.999999999Z",
        "2026-01-01T00:00:59.99999950Z",
        "2026-01-01t00:00:59.9999999999999999z",
        "2026-01-01T01:00:59.9999999+01:00",
        "2025-12-31T23:00:59.9999999-01:00",
    ],
)
def test_nine_digits_are_cut_and_not_rounded_into_the_next_second(text: str) -> None:
    assert timestamp(text) == LAST
    assert timestamp(text) == parse_time(text.upper())


@pytest.mark.parametrize("text", ["1767225659.9999999", "1767225659.999999", "1767225659.9999995000"])
def test_seconds_since_1970_are_cut_too(text: str) -> None:
    assert parse_time(text) == LAST
    assert parse_time("1767225659") == LAST.replace(microsecond=0)
    assert parse_time("0.5") == parse_time(".5") == datetime(1970, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", ".", "noon", "1.2.3", "9" * 400, "9" * 5000, "2026-01-01T00:00:59.9999999", "²"]
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_time(text) is None
    assert timestamp(text) is None


@pytest.mark.parametrize("moment", [LAST, datetime(2026, 7, 1, 3, 4, 5, 1, tzinfo=UTC)])
def test_a_clocks_float_of_a_whole_microsecond_is_that_microsecond(moment: datetime) -> None:
    for micros in range(0, 2000, 7):
        at = moment + timedelta(microseconds=micros)
        assert from_unix(at.timestamp()) == at


def call(name: str, body: object = None, **query: str) -> Call:
    operation = next(each for each in operations() if each.name == name)
    return Call(operation, b"", {"uid": "u"}, query, json.dumps(body).encode(), LAST.timestamp() + 3600, "ab" * 16)


async def test_an_event_is_counted_in_the_bucket_of_its_own_second() -> None:
    store = MemoryStore()
    arm = StoreArm(store, WITHIN_S)
    event = {"user": "u", "type": "view", "id": "1", "at": "2026-01-01T00:59:59.9999999Z"}
    assert (await arm.answer(call("analytics.ingest", event))).status == 202
    (stored,) = [each for each in store.documents() if each.path.startswith("analytics_events/")]
    assert stored.fields["at"] == datetime(2026, 1, 1, 0, 59, 59, 999_999, tzinfo=UTC)
    hours = [each.fields["start"] for each in store.documents() if each.path.startswith("analytics_hours/")]
    assert hours == [datetime(2026, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize("at", ["noon", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00"])
async def test_an_event_whose_time_is_none_is_refused_with_its_place(at: str) -> None:
    arm = StoreArm(MemoryStore(), WITHIN_S)
    good = {"user": "u", "type": "view"}
    answer = await arm.answer(call("analytics.ingest", [good, {**good, "at": at}]))
    assert answer.status == 400
    assert f"event 1: at: expected a time such as 2026-01-31T12:00:00Z, found '{at}'" in answer.body.decode()


def test_the_times_of_a_query_are_cut() -> None:
    assert Moment("from").of(call("dashboard.history", **{"from": FINE})) == LAST
    assert Moment("to").of(call("dashboard.history", to="1767225659.9999999")) == LAST
