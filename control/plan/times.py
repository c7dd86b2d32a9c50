"""Times as the control plane has them: both clocks at once, the board's nanoseconds, and text for people. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final, NamedTuple, overload

from msgspec import Meta

NS_PER_S: Final = 1e9

# A moment in a document: text as ``rfc3339`` writes it.
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Now(NamedTuple):
    """The time on both clocks: seconds of CLOCK_MONOTONIC, which decides, and Unix time, which is shown."""

    mono: float
    unix: float


def ns(seconds: float | None) -> int:
    """A reading of the monotonic clock as the board has it: nanoseconds, and 0 for none."""
    return 0 if seconds is None else int(seconds * NS_PER_S)


def of_ns(reading: int) -> float:
    """The board's nanoseconds as seconds."""
    return reading / NS_PER_S


@overload
def rfc3339(unix: float) -> str: ...
@overload
def rfc3339(unix: None) -> None: ...
def rfc3339(unix: float | None) -> str | None:
    """Unix time as text, in UTC with milliseconds."""
    if unix is None:
        return None
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
