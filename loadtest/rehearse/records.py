"""What a client writes down of every request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

SOURCE: Final = "mock"
TARGET: Final = "firestore"
APP: Final = "app"


class RequestRecord(NamedTuple):
    """One request. Times in seconds of CLOCK_MONOTONIC; ``took_s`` counts from when it was due, not from its sending.

    ``source`` and ``fallback`` are the answer's ``x-data-source`` and ``x-data-fallback``. ``failure`` is "" where
    the answer was right, else its kind: refused, broken, timeout, unsent (no answer); status, wrong (a bad one);
    stale (a good one in which the visitor's own earlier write is missing).
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
        """The arm that was asked first: a fallback is the source's answer to a question put to the target."""
        return TARGET if self.fallback else self.source

    @property
    def ended(self) -> float:
        """When its answer was here."""
        return self.due + self.took_s


def p99_ms(records: Iterable[RequestRecord]) -> float | None:
    """The 99th percentile of the answered requests' time, in milliseconds; None of none."""
    took = sorted(record.took_s for record in records if record.status)
    return round(1000 * took[min(len(took) - 1, int(0.99 * len(took)))], 1) if took else None


def between(records: Sequence[RequestRecord], begin: float, end: float) -> list[RequestRecord]:
    """Those that were due from ``begin`` to ``end``."""
    return [record for record in records if begin <= record.due < end]
