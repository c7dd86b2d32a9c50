"""What is counted, as the control API shows it: an arm's figures, each operation's, and the history. Pure."""

from __future__ import annotations

from msgspec import Struct


class Summary(Struct, frozen=True):
    """An arm's figures over a span of time."""

    requests: int
    errors: int  # requests that failed by the arm's own fault
    error_rate: float  # errors as a share of requests, 0 to 1; 0 without requests
    p50_ms: float | None  # percentiles of the response time; null without requests
    p95_ms: float | None
    p99_ms: float | None


class BothArms(Struct, frozen=True):
    """Figures of the source and of the target over the same time."""

    source: Summary
    target: Summary

    def named(self) -> tuple[tuple[str, Summary], tuple[str, Summary]]:
        """Both arms' figures with the arm's name, the source first."""
        return ("source", self.source), ("target", self.target)


class OperationFigures(Struct, frozen=True):
    """One operation's figures since boot."""

    operation: str  # such as `scans.get`, or a method and a route
    arms: BothArms
    faults: dict[str, int]  # the target's failures, by kind
    fallbacks: int  # reads that failed on the target and were answered by the source
    client_errors: int  # 4xx answers of both arms
    copies: int = 0  # with `writes = "source"`: copies of its writes that the target took, and tries that failed
    copy_faults: int = 0  # of them, those that failed


class Figures(Struct, frozen=True):
    """Every operation's figures since boot, and the data sources' gauges."""

    migration: str
    operations: tuple[OperationFigures, ...]
    gauges: dict[str, list[int]]  # by name: one value per worker


class SampledArm(Summary, frozen=True):
    """An arm's figures in one step of the history."""

    fallbacks: int
    heat: tuple[int, ...]  # requests by latency: row i is up to bound i of `heat_bounds_ms`; missing rows are 0


class Sample(Struct, frozen=True):
    """One step of the history: both arms' figures within this step alone."""

    at: float  # when the step ended, in Unix time
    span_s: float  # how long the step was
    weight: float  # the published weight at the step's end, in percent
    source: SampledArm
    target: SampledArm
    unsplit: int = 0  # requests of this step that were not split; not in `source`


class HistoryDocument(Struct, frozen=True):
    """Both arms over time."""

    step_s: int  # nominal length of each sample, in seconds
    heat_bounds_ms: tuple[float, ...]  # upper bounds of the rows of `heat`
    samples: tuple[Sample, ...]  # oldest first
