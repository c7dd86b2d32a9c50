"""What keeps an earned phase from beginning now: hours, freezes, an approval. Pure; times are Unix time.

A window's hours are those of the clocks in its time zone. Where the clocks are put forward, an hour that they skip
has been shown once they show a later one. Where they are put back, the first time that they show an hour counts: a
window neither opens twice nor opens again after it has closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct, field

from control.plan.phases import Phase

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


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

    opens: Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = field(name="from")
    closes: Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = field(name="to")
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
