"""Phases, thresholds and deadlines: the shape of a migration's plan, with its defaults. Pure.

A weight in a config is a percentage; from here on it is basis points (0..10000), as on the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct, field

from backends.durations import Duration

FULL_BP: Final = 10_000
BP_PER_PERCENT: Final = 100
LEAST_PERCENT: Final = 0.01  # one basis point, the board's resolution


# Where a rollback goes, beside a phase by its name: so no phase can be called that.
PREVIOUS: Final = "previous"
START: Final = "start"
RESERVED: Final = (PREVIOUS, START)


class Phase(Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a migration. ``weight`` is the target's share in percent."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    weight: Annotated[float, Meta(gt=0, le=100)]
    min_soak_s: Duration = field(default=Duration(300.0), name="min_soak")
    rollback_within_s: Duration = field(default=Duration(38.0), name="rollback_within")
    max_soak_s: Duration | None = field(default=None, name="max_soak")  # none: the migration's
    min_samples: Annotated[int, Meta(ge=1)] | None = None  # none: the migration's
    approval: bool = False  # entered only by an operator's `advance`

    @property
    def weight_bp(self) -> int:
        """The weight in basis points."""
        return round(self.weight * BP_PER_PERCENT)


DEFAULT_PHASES: Final = tuple(
    Phase(name, weight, Duration(minutes * 60), Duration(within))
    for name, weight, minutes, within in (
        ("initial", 5.0, 5, 10),
        ("early", 25.0, 10, 15),
        ("half", 50.0, 15, 20),
        ("majority", 75.0, 10, 25),
        ("complete", 100.0, 5, 38),
    )
)


class Thresholds(Struct, frozen=True, forbid_unknown_fields=True):
    """What a healthy target keeps to. Rates are shares of 1; ``cpu`` is a share of the whole machine."""

    error_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    success_rate: Annotated[float, Meta(gt=0, lt=1)] | None = None  # none: 1 - error_rate
    p95_ms: Annotated[float, Meta(gt=0)] = 1000.0
    p99_ms: Annotated[float, Meta(gt=0)] = 2000.0
    memory_mb: Annotated[float, Meta(gt=0)] = 512.0
    cpu: Annotated[float, Meta(gt=0)] = 0.80

    @property
    def error_limit(self) -> float:
        """``error_rate``, or what ``success_rate`` leaves: the stricter of the two."""
        return self.error_rate if self.success_rate is None else min(self.error_rate, 1 - self.success_rate)


def percent_of(weight_bp: int) -> float:
    """Basis points as the percentage that people and documents see."""
    return weight_bp / BP_PER_PERCENT


# Weights rise from phase to phase, so a weight names a phase, whatever its place in an edited list.


def phase_at(phases: Sequence[Phase], weight_bp: int) -> Phase | None:
    """The phase of exactly this weight."""
    return next((phase for phase in phases if phase.weight_bp == weight_bp), None)


def phase_at_or_below(phases: Sequence[Phase], weight_bp: int) -> Phase | None:
    """The last phase whose weight is not above ``weight_bp``; None where every phase is above it."""
    return next((phase for phase in reversed(phases) if phase.weight_bp <= weight_bp), None)


def phase_above(phases: Sequence[Phase], weight_bp: int) -> Phase | None:
    """The first phase with more weight than ``weight_bp``: the next one; None where there is none."""
    return next((phase for phase in phases if phase.weight_bp > weight_bp), None)


def named(phases: Sequence[Phase]) -> str:
    """The phases in words: each one's name with its weight."""
    return ", ".join(f'"{phase.name}" ({percent_of(phase.weight_bp):g} %)' for phase in phases)
