"""What the data plane asks of a backend: one ``Arm``, and of a migration's two: one ``DataSource``.

Interfaces only; ``manager`` builds the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from backends.errors import Fault
from backends.operations import Answer, Call, Operation

SOURCE: Final = 0
TARGET: Final = 1
ARMS: Final = ("source", "target")

# What a data source counts beside latency, in the order of the board's cells: append only. Cumulative, but for
# ``LEVELS``, whose values are read as they are.
GAUGES: Final = (
    "attempts",
    "retries",
    "fallbacks",
    "cache_hits",
    "cache_misses",
    "view_reads",
    "mirrored",
    "mirror_lost",
    "breaker_state",  # 0 closed, 1 half-open, 2 open
    "view_age_ms",
    "mirror_pending",
)
LEVELS: Final = frozenset({"breaker_state", "view_age_ms", "mirror_pending"})


@dataclass(frozen=True, slots=True)
class Health:
    """A backend's own word: ``detail`` says what was found and, where it is bad, what to do."""

    ok: bool
    latency_ms: float
    detail: str


@dataclass(slots=True)
class Outcome:
    """An answer, and whose it is.

    ``arm`` answered. ``fault`` is the failure of the arm that was asked, behind a fallback or behind an error answer:
    it counts against that arm whoever answered in the end.
    """

    answer: Answer
    arm: int
    fault: Fault | None = None


class Arm(Protocol):
    """One side of a migration. ``kind`` is what ``x-data-source`` says: mock, firestore."""

    kind: str

    def peek(self, operation: Operation, target: bytes) -> Answer | None:
        """The answer to a read, where it is in memory and fresh now; None means ask ``answer``. Never blocks."""

    async def answer(self, call: Call) -> Answer:
        """Answer the call. Bad input is a 4xx answer; the backend's failure raises ``Fault``."""

    async def start(self) -> None:
        """Open connections and views. An unreachable backend is no error here: calls fail until it is back."""

    async def close(self) -> None:
        """Give back everything ``start`` and the calls took."""

    async def health(self) -> Health:
        """Ask the backend itself, within its deadline. Never raises."""


class DataSource(Protocol):
    """A migration's two arms behind one door. The caller chose the arm; what happens when it fails is decided here.

    A coroutine of ``answer`` may be driven by hand up to its first suspension, outside any task: it must not use
    what needs a current task (``asyncio.timeout``, ``wait_for``) before it has suspended once.
    Cancelling it abandons the target at once.
    """

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """Source and target."""

    def peek(self, arm: int, operation: Operation, target: bytes) -> Answer | None:
        """As ``Arm.peek``, for the arm asked."""

    async def answer(self, arm: int, call: Call) -> Outcome:
        """Answer the call. A failing target's read is answered by the source; this never raises ``Fault``."""

    def behind_since(self) -> int:
        """When the oldest change was made that the target lacks (CLOCK_MONOTONIC ns); 0: it has them all."""

    def gauges(self) -> list[int]:
        """The values of ``GAUGES``, in that order."""

    async def start(self) -> None:
        """Start both arms."""

    async def close(self) -> None:
        """Close both arms."""
