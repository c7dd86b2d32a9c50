"""The data plane's interfaces to backends: ``Arm`` is one backend, ``DataSource`` is the two of a migration.

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

# What a data source counts beside latency, in the order of the board's cells: append only. All are cumulative,
# except ``LEVELS``, which are current values.
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
    "writes_not_logged",  # refused, because the change log could not be written
    "foreign_documents",
)
LEVELS: Final = frozenset({"breaker_state", "view_age_ms", "mirror_pending", "foreign_documents"})


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a health check: ``detail`` says what was found and, if it failed, what to do."""

    ok: bool
    latency_ms: float
    detail: str


@dataclass(slots=True)
class Outcome:
    """An answer, and the arm that gave it.

    ``fault`` is the failure of the arm that was asked, if it led to a fallback or to an error answer. It counts
    against the arm that was asked, whichever arm answered.
    """

    answer: Answer
    arm: int
    fault: Fault | None = None


class Arm(Protocol):
    """One side of a migration. ``kind`` is sent in ``x-data-source``: mock, firestore."""

    kind: str

    def peek(self, operation: Operation, key: bytes) -> Answer | None:
        """The answer to a read of this ``Call.key`` if it is in memory and fresh; None means: call ``answer``. Never
        blocks."""

    async def answer(self, call: Call) -> Answer:
        """Answer the call. Bad input is a 4xx answer; the backend's failure raises ``Fault``."""

    async def start(self) -> None:
        """Open connections and views. An unreachable backend is no error here: calls fail until it is back."""

    async def close(self) -> None:
        """Release everything that ``start`` and the calls acquired."""

    async def health(self) -> Health:
        """Ask the backend itself, within its deadline. Never raises."""


class DataSource(Protocol):
    """A migration's two arms as one. The caller chooses the arm; the data source decides what happens if it fails.

    The caller may run a coroutine of ``answer`` by hand up to its first suspension, outside any task: before that it
    must not use what needs a current task (``asyncio.timeout``, ``wait_for``). Cancelling it abandons the call to the
    target at once.
    """

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """Source and target."""

    def peek(self, arm: int, operation: Operation, key: bytes) -> Answer | None:
        """As ``Arm.peek``, for the arm asked."""

    async def answer(self, arm: int, call: Call) -> Outcome:
        """Answer the call. A failing target's read is answered by the source; this never raises ``Fault``."""

    def behind_since(self) -> int:
        """When the oldest change that the target lacks was made (CLOCK_MONOTONIC ns); 0 if it lacks none."""

    def arrived(self) -> int:
        """Every change made before (CLOCK_MONOTONIC ns), to either side by this process, is on both or on neither."""

    def gauges(self) -> list[int]:
        """The values of ``GAUGES``, in that order."""

    async def start(self) -> None:
        """Start both arms."""

    async def close(self) -> None:
        """Close both arms."""
