"""What keeps an earned phase from beginning now: hours, freezes, an approval. Pure; times are Unix time.

A window's hours are those of the clocks in its time zone. Where the clocks are put forward, an hour that they skip
has been shown once they show a later one. Where they are put back, the first time that they show an hour counts: a
window neither opens twice nor opens again after it has closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct, field

from control.plan.phases import Phase

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


ClockTime = Annotated[
    str,
    Meta(
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        description='a time of day from "00:00" to "23:59", such as "09:30"',
    ),
]


class HoldKind(StrEnum):
    """What kind of thing keeps an earned phase from beginning."""

    WINDOW = "window"
    FREEZE = "freeze"
    APPROVAL = "approval"
    HEALTH = "health"
    LAG = "lag"
    DATA = "data"


class Hold(NamedTuple):
    """One thing that keeps an earned phase from beginning. While it lasts ``name`` stays; ``reason`` may change."""

    kind: HoldKind
    name: str
    reason: str  # in words


class Window(Struct, frozen=True, forbid_unknown_fields=True):
    """Hours of ``tz`` in which a phase may begin; ``to`` at or before ``from`` is on the next day."""

    opens: ClockTime = field(name="from")
    closes: ClockTime = field(name="to")
    days: tuple[Day, ...] = DAYS
    tz: str = "UTC"  # an IANA name, which the settings have checked


class Freeze(Struct, frozen=True, forbid_unknown_fields=True):
    """A span in which no phase begins."""

    begins: datetime = field(name="from")
    ends: datetime = field(name="to")
    reason: str = ""


def closed(windows: Sequence[Window], freezes: Sequence[Freeze], unix: float) -> list[Hold]:
    """Why no phase may begin at this time; nothing where one may."""
    now = datetime.fromtimestamp(unix, UTC)
    reasons = [
        f"frozen until {freeze.ends.isoformat()}" + (f": {freeze.reason}" if freeze.reason else "")
        for freeze in freezes
        if freeze.begins <= now < freeze.ends
    ]
    holds = [Hold(HoldKind.FREEZE, reason, reason) for reason in reasons]
    if windows and not any(_within(window, now) for window in windows):
        zones = dict.fromkeys(window.tz for window in windows)
        hours = "; ".join(
            f"({zone}): {_hours([window for window in windows if window.tz == zone])}" for zone in zones
        )
        holds.append(Hold(HoldKind.WINDOW, "hours", f"outside the hours allowed {hours}"))
    return holds


class Opening(NamedTuple):
    """When a phase may begin again: Unix time, and the zone of the window that opens then; UTC without a window."""

    unix: float
    tz: str


def opening(windows: Sequence[Window], freezes: Sequence[Freeze], unix: float) -> Opening | None:
    """The first moment after ``unix`` at which a phase may begin; None where one may now, or never may again.

    Only the end of a freeze and the opening of a window can be such a moment. Each is tried in its order.
    """
    if not closed(windows, freezes, unix):
        return None
    ends = sorted({freeze.ends.timestamp() for freeze in freezes if freeze.ends.timestamp() > unix})
    for since in (unix, *ends):
        until = since + _OPENS_WITHIN.total_seconds()
        moments = {end for end in ends if end < until} | {
            opens for window in windows for opens in _openings(window, since) if since <= opens < until
        }
        for moment in sorted(moments):
            if not closed(windows, freezes, moment):
                return Opening(moment, _zone(windows, moment))
    return None


# A window of one day opens within a week, or within two where clocks that are put forward skip it whole.
_OPENS_WITHIN: Final = timedelta(days=15)


def _zone(windows: Sequence[Window], unix: float) -> str:
    now = datetime.fromtimestamp(unix, UTC)
    return next((window.tz for window in windows if _within(window, now)), "UTC")


def _openings(window: Window, since: float) -> Iterator[float]:
    """When the window opens on each of the days from ``since`` on, in Unix time."""
    zone = ZoneInfo(window.tz)
    first = datetime.fromtimestamp(since, zone).date()
    hour, minute = map(int, window.opens.split(":"))
    for number in range(_OPENS_WITHIN.days + 1):
        day = first + timedelta(days=number)
        if DAYS[day.weekday()] in window.days:
            at = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            yield _first_shown(at)


def _first_shown(at: datetime) -> float:
    """When the clocks of ``at``'s zone first show its time or a later one of its day."""
    moment = at.timestamp()
    if datetime.fromtimestamp(moment, at.tzinfo).replace(tzinfo=None) == at.replace(tzinfo=None):
        return moment
    # The clocks skip that time. A skipped time is read with the offset from before, so this moment is after the
    # skip; the skip is where the clocks first show more than was asked for.
    early, late = int(moment - _SKIP_MAX.total_seconds()), int(moment)
    while late - early > 1:
        middle = (early + late) // 2
        shown = datetime.fromtimestamp(middle, at.tzinfo).replace(tzinfo=None)
        early, late = (early, middle) if shown > at.replace(tzinfo=None) else (middle, late)
    return float(late)


_SKIP_MAX: Final = timedelta(days=1)  # by which clocks were ever put forward: a whole day, across the date line


def _hours(windows: Sequence[Window]) -> str:
    return ", ".join(f"{' '.join(window.days)} {window.opens} to {window.closes}" for window in windows)


def approval(phase: Phase | None) -> list[Hold]:
    """Why the phase may not begin by itself; ``None`` is completion, which needs no approval."""
    if phase is None or not phase.approval:
        return []
    reason = f'phase "{phase.name}" waits for approval: an operator\'s advance begins it'
    return [Hold(HoldKind.APPROVAL, phase.name, reason)]


def _within(window: Window, moment: datetime) -> bool:
    """Whether ``moment`` falls in the window; one over midnight belongs to the day it opens on.

    ``from`` equal to ``to`` is 24 hours: a window of none would keep every phase from beginning.
    """
    now = moment.astimezone(ZoneInfo(window.tz))
    opened, ended = _shown(window.opens, now), _shown(window.closes, now)
    today = DAYS[now.weekday()] in window.days
    if window.opens < window.closes:
        return today and opened and not ended
    yesterday = DAYS[now.weekday() - 1] in window.days
    return (today and opened) or (yesterday and not ended)


def _shown(time: str, now: datetime) -> bool:
    """Whether the clocks of ``now``'s zone have shown ``time`` since its day began, or a later time."""
    hours, minutes = time.split(":")
    at = now.replace(hour=int(hours), minute=int(minutes), second=0, microsecond=0, fold=0)
    if at.replace(tzinfo=None) <= now.replace(tzinfo=None):
        return True
    # The clocks were put back, and show an hour for the second time: all of it has been shown before.
    repeated = (at.utcoffset() or timedelta()) > (at.replace(fold=1).utcoffset() or timedelta())
    return now.fold == 1 and repeated
