"""The counts of requests to one arm, as a value that can be added and subtracted. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from backends.errors import FaultKind
from proxy.board import histogram


@dataclass(slots=True)
class Series:
    """Counts of one or many (worker, operation, arm) since boot, or between two moments."""

    faults: list[int]  # by FaultKind
    client_errors: int
    fallbacks: int
    sum_us: int
    buckets: list[int]
    copies: int = 0  # of writes that the other arm answered: those taken, and tries that failed
    copy_faults: int = 0  # of them, those that failed

    @classmethod
    def empty(cls) -> Series:
        """Nothing counted."""
        return cls([0] * len(FaultKind), 0, 0, 0, [0] * histogram.BUCKETS)

    @property
    def requests(self) -> int:
        """Every request of the arm, failed ones included."""
        return sum(self.buckets)

    @property
    def errors(self) -> int:
        """The requests that the arm failed, whatever the client received."""
        return sum(self.faults)

    def __add__(self, other: Series) -> Series:
        return Series(
            [a + b for a, b in zip(self.faults, other.faults, strict=True)],
            self.client_errors + other.client_errors,
            self.fallbacks + other.fallbacks,
            self.sum_us + other.sum_us,
            histogram.merge((self.buckets, other.buckets)),
            self.copies + other.copies,
            self.copy_faults + other.copy_faults,
        )

    def __sub__(self, earlier: Series) -> Series:
        return Series(
            [a - b for a, b in zip(self.faults, earlier.faults, strict=True)],
            self.client_errors - earlier.client_errors,
            self.fallbacks - earlier.fallbacks,
            self.sum_us - earlier.sum_us,
            histogram.difference(self.buckets, earlier.buckets),
            self.copies - earlier.copies,
            self.copy_faults - earlier.copy_faults,
        )
