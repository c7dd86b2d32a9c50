"""What keeps an earned phase from beginning now: hours, freezes, an approval. Pure; times are Unix and UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from control.plan.phases import Phase

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Window(Struct, frozen=True, forbid_unknown_fields=True):
    """Hours in which a phase may begin, in UTC; ``to`` at or before ``from`` is on the next day."""

    opens: Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = field(name="from")
    closes: Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = field(name="to")
    days: tuple[Day, ...] = DAYS


class Freeze(Struct, frozen=True, forbid_unknown_fields=True):
    """A span in which no phase begins."""

    begins: datetime = field(name="from")
    ends: datetime = field(name="to")
    reason: str = ""


def closed(windows: Sequence[Window], freezes: Sequence[Freeze], unix: float) -> list[str]:
    """Why no phase may begin at this time, in words; nothing where one may."""
    now = datetime.fromtimestamp(unix, UTC)
    reasons = [
        f"frozen until {freeze.ends.isoformat()}" + (f": {freeze.reason}" if freeze.reason else "")
        for freeze in freezes
        if freeze.begins <= now < freeze.ends
    ]
    if windows and not any(_within(window, now) for window in windows):
        hours = ", ".join(f"{' '.join(window.days)} {window.opens} to {window.closes}" for window in windows)
        reasons.append(f"outside the hours allowed (UTC): {hours}")
    return reasons


def approval(phase: Phase | None) -> list[str]:
    """Why the phase may not begin by itself; ``None`` is completion, which needs no approval."""
    if phase is None or not phase.approval:
        return []
    return [f'phase "{phase.name}" waits for approval: an operator\'s advance begins it']


def _within(window: Window, now: datetime) -> bool:
    """Whether ``now`` falls in the window; one over midnight belongs to the day it opens on.

    ``from`` equal to ``to`` is 24 hours: a window of none would keep every phase from beginning.
    """
    opens, closes, minute = _minutes(window.opens), _minutes(window.closes), now.hour * 60 + now.minute
    today = DAYS[now.weekday()] in window.days
    if opens < closes:
        return today and opens <= minute < closes
    yesterday = DAYS[(now - timedelta(days=1)).weekday()] in window.days
    return (today and minute >= opens) or (yesterday and minute < closes)


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
