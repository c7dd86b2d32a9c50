"""All figures in Prometheus' text format, read from the board at each request; nothing is counted here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.arm import ARMS, GAUGES, LEVELS
from backends.errors import FaultKind
from control.figures.counts import BYTES_PER_KB
from control.plan.gates import Hold, HoldKind
from control.plan.phases import FULL_BP
from control.rollout.model import Rollout, RolloutPlan, State
from proxy.board import histogram
from proxy.board.board import Board

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

BOUNDS_US: Final = (  # upper bounds of the exported histogram's buckets
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
)


class DataFigures(NamedTuple):
    """A migration's data in numbers. Times are Unix time, and 0 for never."""

    complete: bool
    gated: bool
    pending: int
    oldest_s: float
    lost: int
    differences: int
    copied_at: float
    compared_at: float
    compare_every_s: float
    task_kind: str  # "" where none is under way
    task: tuple[tuple[str, int], ...]  # documents: "done", and "of" where it is known


# The gauges of `DataFigures`, by its fields.
_DATA: Final = {
    "complete": ("phasegate_data_complete", "1 where the target is not known to lack anything of the source's"),
    "gated": ("phasegate_data_gated", "1 where the gate holds: no phase begins on what the target lacks"),
    "pending": ("phasegate_data_pending_changes", "Changes that the other side has yet to take"),
    "oldest_s": ("phasegate_data_behind_seconds", "How old the oldest change is that the target lacks"),
    "lost": ("phasegate_data_lost_changes", "Changes that one side alone has, since the last copy or equal compare"),
    "differences": (
        "phasegate_data_differences",
        "Documents that were found to differ, and not mended since",
    ),
    "copied_at": ("phasegate_data_copied_timestamp_seconds", "When the last copy ended, or 0"),
    "compared_at": ("phasegate_data_compared_timestamp_seconds", "When the last compare ended, or 0"),
    "compare_every_s": ("phasegate_data_compare_every_seconds", "How often all documents are compared, 0: never"),
}


class Led(Protocol):
    """What the metrics read of a coordinator."""

    name: str
    plan: RolloutPlan
    state: Rollout

    @property
    def store_error(self) -> str | None:
        """Why the last write to the store failed; None where it succeeded."""

    leases_lost: int
    lease_lost_at: float | None

    @property
    def holds(self) -> Sequence[Hold]:
        """What keeps an earned phase from beginning now."""

    @property
    def unsplit(self) -> int:
        """Requests since boot that the source answered whatever the weight."""

    @property
    def index(self) -> int:
        """The migration's index on the board."""

    def age_s(self) -> dict[str, float]:
        """Seconds since the last heartbeat: of the oldest worker's, and of the control process."""

    def data_figures(self) -> DataFigures | None:
        """What is known of its data; None where its arms are no document stores."""


class Addressee(Protocol):
    """What is shown of a receiver of webhooks."""

    dropped: int

    @property
    def host(self) -> str:
        """The receiver's host and port."""

    @property
    def waiting(self) -> int:
        """How many messages it has not taken yet."""


def exposition(board: Board, led: Sequence[Led], told: Sequence[Addressee]) -> bytes:
    """All metrics, with their values now."""
    registry = CollectorRegistry()
    registry.register(_Now(board, led, told))
    return generate_latest(registry)


class _Now(Collector):
    def __init__(self, board: Board, led: Sequence[Led], told: Sequence[Addressee]) -> None:
        self._board = board
        self._led = led
        self._told = told

    def collect(self) -> Iterator[Metric]:
        yield from self._rollouts()
        yield from self._waits()
        yield from self._data()
        yield from self._webhooks()
        yield from self._requests()
        yield from self._sources()
        yield from self._workers()

    def _rollouts(self) -> Iterator[Metric]:
        weight = GaugeMetricFamily("phasegate_weight_ratio", "Share of traffic on the target", labels=["migration"])
        phase = GaugeMetricFamily("phasegate_phase", "Index of the current phase, -1 in none", labels=["migration"])
        revision = CounterMetricFamily("phasegate_revisions", "Changes of the rollout state", labels=["migration"])
        state = GaugeMetricFamily("phasegate_state", "1 for the state it is in", labels=["migration", "state"])
        store = GaugeMetricFamily("phasegate_store_ok", "Whether checkpoints are written", labels=["migration"])
        rollback = GaugeMetricFamily(
            "phasegate_last_rollback_seconds", "How long the last rollback took", labels=["migration"]
        )
        age = GaugeMetricFamily(
            "phasegate_board_age_seconds", "How old a sign of life is: the oldest worker's, control's", labels=["who"]
        )
        for one in self._led:
            s = one.state
            weight.add_metric([one.name], s.weight_bp / FULL_BP)
            current = one.plan.current(s)
            phase.add_metric([one.name], -1 if current is None else one.plan.phases.index(current))
            revision.add_metric([one.name], s.revision)
            store.add_metric([one.name], float(one.store_error is None))
            for value in State:
                state.add_metric([one.name, value.value], float(s.state is value))
            if s.last_rollback is not None:
                rollback.add_metric([one.name], s.last_rollback.total_ms / 1000)
        for who, seconds in (self._led[0].age_s() if self._led else {}).items():
            age.add_metric([who], seconds)
        yield from (weight, phase, revision, state, store, rollback, age)

    def _waits(self) -> Iterator[Metric]:
        """What an earned phase waits for, and lost leases."""
        held = GaugeMetricFamily(
            "phasegate_held",
            "1 where an earned phase is kept from beginning by this kind of reason",
            labels=["migration", "reason_kind"],
        )
        approval = GaugeMetricFamily(
            "phasegate_approval_waiting",
            "1 where an earned phase waits for an operator's advance",
            labels=["migration"],
        )
        lost = CounterMetricFamily("phasegate_lease_lost", "Leases lost, as this process knows", labels=["migration"])
        lost_at = GaugeMetricFamily(
            "phasegate_lease_lost_timestamp_seconds", "When the last of them was lost, or 0", labels=["migration"]
        )
        for one in self._led:
            kinds = {hold.kind for hold in one.holds}
            for kind in HoldKind:
                if kind is not HoldKind.APPROVAL:
                    held.add_metric([one.name, kind.value], float(kind in kinds))
            approval.add_metric([one.name], float(HoldKind.APPROVAL in kinds))
            lost.add_metric([one.name], one.leases_lost)
            lost_at.add_metric([one.name], one.lease_lost_at or 0.0)
        yield from (held, approval, lost, lost_at)

    def _data(self) -> Iterator[Metric]:
        """What is known of the data of migrations between document stores."""
        known = [(one.name, figures) for one in self._led if (figures := one.data_figures()) is not None]
        for field, (name, words) in _DATA.items():
            family = GaugeMetricFamily(name, words, labels=["migration"])
            for migration, figures in known:
                family.add_metric([migration], float(getattr(figures, field)))
            yield family
        task = GaugeMetricFamily(
            "phasegate_data_task_documents",
            "How far a task is, by `which`: done, of",
            labels=["migration", "kind", "which"],
        )
        for migration, figures in known:
            for which, count in figures.task:
                task.add_metric([migration, figures.task_kind, which], count)
        yield task

    def _webhooks(self) -> Iterator[Metric]:
        """By host: the path of a webhook is often its secret."""
        waiting = GaugeMetricFamily("phasegate_webhook_waiting", "Messages that are not taken yet", labels=["host"])
        dropped = CounterMetricFamily(
            "phasegate_webhook_dropped", "Messages that will not reach their receiver", labels=["host"]
        )
        for host in sorted({one.host for one in self._told}):
            here = [one for one in self._told if one.host == host]
            waiting.add_metric([host], sum(one.waiting for one in here))
            dropped.add_metric([host], sum(one.dropped for one in here))
        yield from (waiting, dropped)

    def _requests(self) -> Iterator[Metric]:
        labels = ["migration", "operation", "arm"]
        took = HistogramMetricFamily("phasegate_request_duration_seconds", "Data requests by duration", labels=labels)
        faults = CounterMetricFamily("phasegate_faults", "Requests that the arm failed", labels=[*labels, "kind"])
        client = CounterMetricFamily("phasegate_client_errors", "Requests answered with 4xx", labels=labels)
        fell_back = CounterMetricFamily(
            "phasegate_fallbacks", "Target reads that the source answered", labels=labels[:2]
        )
        copies = CounterMetricFamily(
            "phasegate_copies", "Copies of writes that the target took, and tries that failed", labels=labels[:2]
        )
        copy_faults = CounterMetricFamily(
            "phasegate_copy_faults", "Of the copies of writes, those that failed", labels=labels[:2]
        )
        unsplit = CounterMetricFamily(
            "phasegate_unsplit_requests", "Requests that were not split: the source's", labels=labels[:1]
        )
        for one in self._led:
            unsplit.add_metric([one.name], one.unsplit)
            for number, operation in enumerate(self._board.layout.migrations[one.index][1]):
                for arm, arm_name in enumerate(ARMS):
                    series = self._board.series(one.index, arm, [number])
                    values = [one.name, operation, arm_name]
                    counts = histogram.cumulative(series.buckets, BOUNDS_US)
                    buckets = [(str(bound / 1e6), count) for bound, count in zip(BOUNDS_US, counts, strict=True)]
                    buckets.append(("+Inf", series.requests))
                    took.add_metric(values, buckets, series.sum_us / 1e6)
                    client.add_metric(values, series.client_errors)
                    for kind in FaultKind:
                        if series.faults[kind]:
                            faults.add_metric([*values, kind.label], series.faults[kind])
                    if arm:
                        fell_back.add_metric(values[:2], series.fallbacks)
                        if series.copies:
                            copies.add_metric(values[:2], series.copies)
                            copy_faults.add_metric(values[:2], series.copy_faults)
        yield from (took, faults, client, fell_back, copies, copy_faults, unsplit)

    def _sources(self) -> Iterator[Metric]:
        """Figures of the workers' data sources: a counter is the sum over workers, a level the highest of them."""
        by_migration = {one.name: self._board.gauges(one.index) for one in self._led}
        for gauge in GAUGES:
            is_level = gauge in LEVELS
            kind: type[GaugeMetricFamily | CounterMetricFamily]
            kind = GaugeMetricFamily if is_level else CounterMetricFamily
            family = kind(f"phasegate_source_{gauge}", f"The data source's {gauge}", labels=["migration"])
            for name, gauges in by_migration.items():
                family.add_metric([name], float((max if is_level else sum)(gauges[gauge] or [0])))
            yield family

    def _workers(self) -> Iterator[Metric]:
        families: tuple[GaugeMetricFamily | CounterMetricFamily, ...] = (
            GaugeMetricFamily("phasegate_worker_memory_bytes", "Resident memory", labels=["slot"]),
            CounterMetricFamily("phasegate_worker_cpu_seconds", "Processor time", labels=["slot"]),
            GaugeMetricFamily("phasegate_worker_connections", "Open client connections", labels=["slot"]),
            CounterMetricFamily("phasegate_app_requests", "Requests passed on to the app", labels=["slot"]),
            CounterMetricFamily("phasegate_app_errors", "Requests that the app did not answer", labels=["slot"]),
            CounterMetricFamily("phasegate_refused_requests", "Requests refused as malformed", labels=["slot"]),
        )
        for row in self._board.workers():
            if row.pid:
                values = (
                    row.rss_kb * BYTES_PER_KB,
                    row.cpu_ms / 1000,
                    row.connections,
                    row.app_requests,
                    row.app_errors,
                    row.refused,
                )
                for family, value in zip(families, values, strict=True):
                    family.add_metric([str(row.slot)], value)
        yield from families
