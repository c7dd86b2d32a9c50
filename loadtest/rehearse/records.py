"""A client's record of every request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

SOURCE: Final = "mock"
TARGET: Final = "firestore"
APP: Final = "app"


class RequestRecord(NamedTuple):
    """One request. Times in seconds of CLOCK_MONOTONIC; ``took_s`` counts from when it was due, not when it was sent.

    ``source`` and ``fallback`` are the answer's ``x-data-source`` and ``x-data-fallback``. ``failure`` is "" if the
    answer was right, else its kind: refused, broken, timeout, unsent (no answer); status, wrong (a bad answer); stale
    (an answer that lacks the visitor's own earlier write).
    """

    due: float
    took_s: float
    operation: str
    visitor: str
    source: str = ""
    fallback: str = ""
    status: int = 0
    failure: str = ""
    detail: str = ""
    repeated: bool = False

    @property
    def asked(self) -> str:
        """The arm that was asked first: after a fallback it is the target, although the source answered."""
        return TARGET if self.fallback else self.source

    @property
    def ended(self) -> float:
        """When its answer arrived."""
        return self.due + self.took_s


def p99_ms(records: Iterable[RequestRecord]) -> float | None:
    """The 99th percentile of the answered requests' times, in milliseconds; None without any."""
    took = sorted(record.took_s for record in records if record.status)
    return round(1000 * took[min(len(took) - 1, int(0.99 * len(took)))], 1) if took else None


def between(records: Sequence[RequestRecord], begin: float, end: float) -> list[RequestRecord]:
    """The records of requests due from ``begin`` to before ``end``."""
    return [record for record in records if begin <= record.due < end]
