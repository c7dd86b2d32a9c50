"""Times as documents, requests and cursors write them: UTC, to the microsecond. Pure.

What is finer than a microsecond is cut off, as Firestore does it. Rounded, ``…59.9999999Z`` would be a moment of the
next second, so it would be in another bucket and outside of a range that ends with its own second.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# The type of a time in a request's body. Not ``datetime``: msgspec rounds that to the microsecond.
Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
_TOO_FINE: Final = re.compile(r"(\.[0-9]{6})[0-9]+")  # digits of a second beyond the microseconds
_WITH_OFFSET: Final = Annotated[datetime, msgspec.Meta(tz=True)]


def timestamp(text: str) -> datetime | None:
    """RFC 3339 with an offset, in UTC; None for anything else."""
    try:
        moment: datetime = msgspec.convert(_TOO_FINE.sub(r"\1", text, count=1), _WITH_OFFSET)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # of which msgspec.ValidationError is one
        return None


def parse_time(text: str) -> datetime | None:
    """RFC 3339 with an offset, or seconds since 1970; None for anything else."""
    try:
        if text.isascii() and text.replace(".", "", 1).isdigit():
            seconds, _, fraction = text.partition(".")
            # In whole numbers: a float of today's seconds is finer than a microsecond, and timedelta rounds it.
            return EPOCH + timedelta(microseconds=int(f"{seconds}{fraction[:6]:0<6}"))
        # A "+" that was not percent-encoded reaches us as a space. ``fromisoformat`` cuts digits that are too fine.
        moment = datetime.fromisoformat(text.replace(" ", "+"))
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def from_unix(seconds: float) -> datetime:
    """The moment, to the microsecond."""
    return EPOCH + timedelta(microseconds=round(seconds * 1_000_000))


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)
