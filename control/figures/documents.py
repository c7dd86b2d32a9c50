"""What is counted, as the control API shows it: an arm's figures, each operation's, and the history. Pure."""

from __future__ import annotations

from msgspec import Struct


class Summary(Struct, frozen=True):
    """What an arm did in a span of time."""

    requests: int
    errors: int  # of them, those that failed by the arm's own fault
    error_rate: float  # share of 1; 0 of no requests
    p50_ms: float | None  # percentiles of the time an answer took; null of no requests
    p95_ms: float | None
    p99_ms: float | None


class BothArms(Struct, frozen=True):
    """Source beside target, over the same time."""

    source: Summary
    target: Summary

    def named(self) -> tuple[tuple[str, Summary], tuple[str, Summary]]:
        """Each with its name, the source first."""
        return ("source", self.source), ("target", self.target)


class OperationFigures(Struct, frozen=True):
    """One operation since boot."""

    operation: str  # as `scans.get`, or a method and a route
    arms: BothArms
    faults: dict[str, int]  # the target's failures, by kind
    fallbacks: int  # reads that the target failed and the source answered
    client_errors: int  # answers of both arms that blame the request


class Figures(Struct, frozen=True):
    """Every operation since boot, and the data sources' gauges."""

    migration: str
    operations: tuple[OperationFigures, ...]
    gauges: dict[str, list[int]]  # by name, a value a worker


class SampledArm(Summary, frozen=True):
    """What an arm did in a step of the history."""

    fallbacks: int
    heat: tuple[int, ...]  # requests by latency: row i up to bound i of `heat_bounds_ms`; rows after the last are 0


class Sample(Struct, frozen=True):
    """A step of the history: what both arms did in it, and in it alone."""

    at: float  # when it ended, in Unix time
    span_s: float  # how long it was
    weight: float  # percent, at its end
    source: SampledArm
    target: SampledArm


class HistoryDocument(Struct, frozen=True):
    """Both arms over time."""

    step_s: int  # how long each sample is, nominally
    heat_bounds_ms: tuple[float, ...]  # upper bounds of the rows of `heat`
    samples: tuple[Sample, ...]  # oldest first
