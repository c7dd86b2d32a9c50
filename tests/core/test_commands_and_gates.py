"""Bodies into commands, and what keeps a phase from beginning."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from control.lead.commands import Command, Malformed, parse
from control.plan.gates import DAYS, Freeze, Hold, Window, approval, closed, opening
from control.plan.phases import Phase


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"action": "start"}, Command("start", "ci")),
        ({"action": "start", "resume": True}, Command("start", "ci", resume=True)),
        ({"action": "rollback", "to": "start", "reason": "x"}, Command("rollback", "ci", reason="x", to="start")),
        ({"action": "rollback", "to": "half"}, Command("rollback", "ci", to="half")),
        ({"action": "advance", "to": "half"}, Command("advance", "ci", to="half")),
        ({"action": "pause", "expected_revision": 3}, Command("pause", "ci", expected_revision=3)),
        ({"action": "pause", "expected_revision": None}, Command("pause", "ci")),
        ({"action": "advance", "force": True, "reason": "y"}, Command("advance", "ci", reason="y", force=True)),
    ],
)
def test_bodies_become_commands(body: object, expected: Command) -> None:
    assert parse(body, "ci") == expected


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "expected an object"),
        (None, "expected an object"),
        ({}, "action: missing"),
        ({"action": "reset"}, "action: expected"),
        ({"action": "explode"}, "action: expected"),
        ({"action": ["start"]}, "action: expected"),
        ({"action": "pause", "to": "start"}, 'to: goes with "advance" or "rollback", not with pause'),
        ({"action": "start", "bogus": 1}, "bogus: unknown key"),
        ({"action": "advance", "force": True}, "reason: a forced action needs one"),
        ({"action": "pause", "reason": "x" * 501}, "reason: expected a text of at most 500 characters"),
        ({"action": "pause", "expected_revision": "3"}, "expected_revision: expected a whole number"),
        ({"action": "pause", "expected_revision": True}, "expected_revision: expected a whole number"),
    ],
)
def test_mistaken_bodies_are_told_in_words(body: object, said: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(body, "ci")
    assert said in str(caught.value)


def test_every_mistake_of_a_body_is_told_at_once() -> None:
    with pytest.raises(Malformed) as caught:
        parse({"action": "rollback", "to": "", "force": True, "x": 1}, "ci")
    assert len(caught.value.problems) == 4


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def reasons(holds: list[Hold]) -> list[str]:
    return [hold.reason for hold in holds]


OFFICE = Window("09:00", "17:00", ("mon", "tue", "wed", "thu", "fri"))
NIGHT = Window("22:00", "04:00", ("fri",))
SATURDAY = Window("00:00", "00:00", ("sat",))
FROM_NOON = Window("12:00", "12:00", ("fri",))


@pytest.mark.parametrize(
    ("window", "at", "is_open"),
    [
        (OFFICE, "2026-11-20T09:00", True),  # a Friday
        (OFFICE, "2026-11-20T16:59", True),
        (OFFICE, "2026-11-20T17:00", False),
        (OFFICE, "2026-11-21T10:00", False),
        (NIGHT, "2026-11-20T23:00", True),
        (NIGHT, "2026-11-21T03:59", True),
        (NIGHT, "2026-11-21T04:00", False),
        (NIGHT, "2026-11-21T23:00", False),
        (NIGHT, "2026-11-20T03:00", False),
        (SATURDAY, "2026-11-20T23:59", False),
        (SATURDAY, "2026-11-21T00:00", True),
        (SATURDAY, "2026-11-21T23:59", True),
        (SATURDAY, "2026-11-22T00:00", False),
        (FROM_NOON, "2026-11-20T11:59", False),
        (FROM_NOON, "2026-11-20T12:00", True),
        (FROM_NOON, "2026-11-21T11:59", True),
        (FROM_NOON, "2026-11-21T12:00", False),
    ],
)
def test_windows(window: Window, at: str, is_open: bool) -> None:
    assert (not closed((window,), (), unix(at))) is is_open


# In Paris the clocks go from 02:00 to 03:00 on 29 March 2026, and from 03:00 back to 02:00 on 25 October 2026, both
# at 01:00 UTC and on a Sunday. In Havana they went back from 01:00 to 00:00 on 2 November 2025, at 05:00 UTC.
@pytest.mark.parametrize(
    ("opens", "closes", "tz", "at", "is_open"),
    [
        ("09:00", "17:00", "Europe/Paris", "2026-03-28T07:59", False),  # winter: an hour before UTC
        ("09:00", "17:00", "Europe/Paris", "2026-03-28T08:00", True),
        ("09:00", "17:00", "Europe/Paris", "2026-03-29T06:59", False),  # summer: two
        ("09:00", "17:00", "Europe/Paris", "2026-03-29T07:00", True),
        ("09:00", "17:00", "Europe/Paris", "2026-03-29T15:00", False),
        ("09:00", "17:00", "Europe/Paris", "2026-10-25T07:59", False),  # winter again
        ("09:00", "17:00", "Europe/Paris", "2026-10-25T08:00", True),
        ("02:30", "04:00", "Europe/Paris", "2026-03-29T00:59", False),  # 02:30 is skipped: it opens at 03:00
        ("02:30", "04:00", "Europe/Paris", "2026-03-29T01:00", True),
        ("02:30", "04:00", "Europe/Paris", "2026-03-29T02:00", False),
        ("01:00", "02:30", "Europe/Paris", "2026-03-29T00:59", True),  # and one until then closes at 03:00
        ("01:00", "02:30", "Europe/Paris", "2026-03-29T01:00", False),
        ("02:10", "02:50", "Europe/Paris", "2026-03-29T00:59", False),  # skipped whole
        ("02:10", "02:50", "Europe/Paris", "2026-03-29T01:00", False),
        ("02:30", "04:00", "Europe/Paris", "2026-10-25T00:29", False),  # 02:30 comes twice: the first opens it
        ("02:30", "04:00", "Europe/Paris", "2026-10-25T00:30", True),
        ("02:30", "04:00", "Europe/Paris", "2026-10-25T01:10", True),  # 02:10 for the second time
        ("02:30", "04:00", "Europe/Paris", "2026-10-25T02:59", True),
        ("02:30", "04:00", "Europe/Paris", "2026-10-25T03:00", False),
        ("01:00", "02:30", "Europe/Paris", "2026-10-25T00:29", True),  # the first closes it, and it stays closed
        ("01:00", "02:30", "Europe/Paris", "2026-10-25T00:30", False),
        ("01:00", "02:30", "Europe/Paris", "2026-10-25T01:00", False),
        ("01:00", "02:30", "Europe/Paris", "2026-10-25T01:20", False),
        ("02:00", "03:00", "Europe/Paris", "2026-10-25T01:59", True),  # both hours
        ("02:00", "03:00", "Europe/Paris", "2026-10-25T02:00", False),
        ("22:00", "02:30", "Europe/Paris", "2026-10-25T00:29", True),  # over midnight
        ("22:00", "02:30", "Europe/Paris", "2026-10-25T01:00", False),
        ("00:00", "00:00", "Europe/Paris", "2026-10-25T01:30", True),
        ("00:30", "02:00", "America/Havana", "2025-11-02T04:30", True),
        ("00:30", "02:00", "America/Havana", "2025-11-02T05:10", True),
        ("00:30", "02:00", "America/Havana", "2025-11-02T07:00", False),
    ],
)
def test_windows_follow_the_clocks_of_their_zone(opens: str, closes: str, tz: str, at: str, is_open: bool) -> None:
    assert (not closed((Window(opens, closes, tz=tz),), (), unix(at))) is is_open


def test_a_day_is_the_zones_own() -> None:
    monday = Window("00:00", "06:00", ("mon",), "Pacific/Auckland")
    assert closed((monday,), (), unix("2026-11-29T12:00")) == []  # Monday, 01:00 there
    assert closed((monday,), (), unix("2026-11-30T12:00"))


def test_outside_the_hours_the_zone_is_named() -> None:
    night, noon = Window("22:00", "04:00", ("fri",), "Europe/Paris"), Window("12:00", "13:00", ("sat",))
    at = unix("2026-11-20T15:00")
    assert reasons(closed((night,), (), at)) == ["outside the hours allowed (Europe/Paris): fri 22:00 to 04:00"]
    assert reasons(closed((noon,), (), at)) == ["outside the hours allowed (UTC): sat 12:00 to 13:00"]
    both = "outside the hours allowed (Europe/Paris): fri 22:00 to 04:00; (UTC): sat 12:00 to 13:00"
    assert reasons(closed((night, noon), (), at)) == [both]


def test_a_freeze_closes_and_says_why() -> None:
    freeze = Freeze(datetime(2026, 12, 20, tzinfo=UTC), datetime(2027, 1, 4, tzinfo=UTC), "holidays")
    assert closed((), (freeze,), unix("2026-12-19T23:59")) == []
    assert "holidays" in closed((), (freeze,), unix("2026-12-20T00:00"))[0].reason
    assert closed((), (freeze,), unix("2027-01-04T00:00")) == []


def test_no_windows_and_no_freezes_are_always_open() -> None:
    assert closed((), (), unix("2026-11-22T03:00")) == []


def test_only_a_phase_that_asks_for_it_waits_for_approval() -> None:
    assert approval(None) == []
    assert approval(Phase("half", 50.0)) == []
    assert "half" in approval(Phase("half", 50.0, approval=True))[0].reason


def opens(windows: tuple[Window, ...], freezes: tuple[Freeze, ...], at: str) -> str | None:
    """When it opens, in UTC."""
    found = opening(windows, freezes, unix(at))
    return None if found is None else f"{datetime.fromtimestamp(found.unix, UTC):%Y-%m-%dT%H:%M} {found.tz}"


def frozen(begins: str, ends: str) -> Freeze:
    return Freeze(*(datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (begins, ends)))


PARIS = "Europe/Paris"


@pytest.mark.parametrize(
    ("window", "at", "expected"),
    [
        (OFFICE, "2026-11-20T10:00", None),  # a Friday, and open
        (OFFICE, "2026-11-20T08:00", "2026-11-20T09:00 UTC"),
        (OFFICE, "2026-11-20T17:00", "2026-11-23T09:00 UTC"),
        (NIGHT, "2026-11-21T04:00", "2026-11-27T22:00 UTC"),
        (SATURDAY, "2026-11-22T00:00", "2026-11-28T00:00 UTC"),
        # In Paris, the night before the clocks are put forward and the one before they are put back.
        (Window("09:00", "17:00", tz=PARIS), "2026-03-28T17:00", "2026-03-29T07:00 Europe/Paris"),
        (Window("09:00", "17:00", tz=PARIS), "2026-10-24T17:00", "2026-10-25T08:00 Europe/Paris"),
        (Window("02:30", "04:00", tz=PARIS), "2026-03-28T20:00", "2026-03-29T01:00 Europe/Paris"),  # skipped
        (Window("02:10", "02:50", tz=PARIS), "2026-03-28T20:00", "2026-03-30T00:10 Europe/Paris"),  # skipped whole
        (Window("02:30", "04:00", tz=PARIS), "2026-10-24T20:00", "2026-10-25T00:30 Europe/Paris"),  # the first time
        (Window("01:00", "02:30", tz=PARIS), "2026-10-25T01:20", "2026-10-26T00:00 Europe/Paris"),
        (Window("02:30", "03:00", ("sun",), PARIS), "2026-03-23T12:00", "2026-04-05T00:30 Europe/Paris"),
        (
            Window("00:00", "06:00", ("mon",), "Pacific/Auckland"),
            "2026-11-28T12:00",
            "2026-11-29T11:00 Pacific/Auckland",
        ),
    ],
)
def test_the_next_opening_is_when_the_clocks_of_the_window_show_it(
    window: Window, at: str, expected: str | None
) -> None:
    assert opens((window,), (), at) == expected


@pytest.mark.parametrize(
    ("windows", "freezes", "at", "expected"),
    [
        ((), (frozen("2026-12-20", "2027-01-04"),), "2026-12-24T10:00", "2027-01-04T00:00 UTC"),
        ((OFFICE,), (frozen("2026-12-20", "2027-01-04"),), "2026-12-24T10:00", "2027-01-04T09:00 UTC"),
        ((OFFICE,), (frozen("2026-12-24", "2026-12-24T12:00"),), "2026-12-24T10:00", "2026-12-24T12:00 UTC"),
        ((OFFICE,), (frozen("2026-11-23", "2026-11-23T12:00"),), "2026-11-20T18:00", "2026-11-23T12:00 UTC"),
        (
            (),
            (frozen("2026-12-01", "2026-12-09"), frozen("2026-12-08", "2026-12-30")),
            "2026-12-02",
            "2026-12-30T00:00 UTC",
        ),
        ((NIGHT, OFFICE), (), "2026-11-20T18:00", "2026-11-20T22:00 UTC"),
        ((Window("09:00", "17:00", ()),), (), "2026-11-20T18:00", None),  # on no day: never
        ((), (), "2026-11-20T18:00", None),
    ],
)
def test_a_freeze_puts_the_opening_off(
    windows: tuple[Window, ...], freezes: tuple[Freeze, ...], at: str, expected: str | None
) -> None:
    assert opens(windows, freezes, at) == expected


@pytest.mark.parametrize("tz", ["UTC", PARIS, "America/Havana", "Australia/Lord_Howe", "Asia/Beirut"])
def test_an_opening_is_the_first_open_minute(tz: str) -> None:
    """Against a search minute by minute, over both changes of the clocks."""
    chance = random.Random(tz)
    for _ in range(12):
        clocks = [f"{chance.randrange(24):02}:{chance.choice((0, 10, 30)):02}" for _ in range(2)]
        days = tuple(day for day in DAYS if chance.random() < 0.6) or ("sun",)
        window = Window(*clocks, days, tz)
        at = unix(chance.choice(("2026-03-27T11:00", "2026-04-03T09:00", "2026-10-24T03:00", "2026-10-30T20:00")))
        if not closed((window,), (), at):
            continue
        minute = at
        while closed((window,), (), minute):
            minute += 60.0
        found = opening((window,), (), at)
        assert found is not None
        assert found.unix == minute
