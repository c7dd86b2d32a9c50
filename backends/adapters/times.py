"""Times as documents, requests and cursors write them: UTC, to the microsecond. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(text: str) -> datetime | None:
    """RFC 3339 with an offset, or seconds since 1970; None for anything else."""
    try:
        if text.isascii() and text.replace(".", "", 1).isdigit():
            return EPOCH + timedelta(seconds=float(text))
        # A "+" that was not percent-encoded reaches us as a space.
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
