"""The board's counts as values: live workers, what each arm did in a span, memory and processor time used."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from backends.adapters.registry import operations
from backends.arm import SOURCE, TARGET
from backends.errors import FaultKind
from control.figures.documents import BothArms, Figures, OperationFigures, Summary
from control.plan.times import of_ns
from proxy.board import histogram
from proxy.board.board import Board
from proxy.board.series import Series
from proxy.settings import Writes

HEARTBEAT_MAX_S: Final = 2.0  # a worker silent for longer is not waited for: its lease ends its use of the target
BYTES_PER_KB: Final = 1024  # the kernel, and so the board, counts resident memory in units of 1024 bytes
BYTES_PER_MB: Final = 1_000_000  # as `memory_mb` in the configuration, and as every reason and report writes it
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class WorkerState(NamedTuple):
    """One worker process, and what it counts of one migration."""

    slot: int
    pid: int
    live: bool
    generation: int
    inflight_source: int
    inflight_target: int
    inflight_old: int
    heartbeat_age_s: float
    last_target_start: int


def workers(board: Board, m: int, mono: float) -> list[WorkerState]:
    """Every slot that has a process, at ``mono`` (CLOCK_MONOTONIC seconds)."""
    states = []
    for row in board.workers():
        if not row.pid:
            continue
        share = board.share(row.slot, m)
        age = max(0.0, mono - of_ns(row.heartbeat))
        states.append(
            WorkerState(
                row.slot,
                row.pid,
                age <= HEARTBEAT_MAX_S,
                share.generation,
                share.inflight_source,
                share.inflight_target,
                share.inflight_old,
                age,
                share.last_target_start,
            )
        )
    return states


class Reading(NamedTuple):
    """The counts of both arms at ``mono`` (CLOCK_MONOTONIC seconds)."""

    mono: float
    source: Series  # without the requests that are not split
    target: Series
    unsplit: int = 0  # requests that the source answered whatever the weight

    def since(self, earlier: Reading) -> Reading:
        """What was counted since ``earlier``; nothing where the counts were reset in between."""
        source, target = _since(self.source, earlier.source), _since(self.target, earlier.target)
        return Reading(self.mono, source, target, max(0, self.unsplit - earlier.unsplit))


def unsplit_operations(board: Board, m: int, writes: Writes) -> frozenset[int]:
    """The operations, by their numbers on the board, whose requests are the source's whatever the weight is."""
    if writes == "arm":
        return frozenset()
    names = {operation.name for operation in operations() if operation.kind == "write"}
    return frozenset(number for number, name in enumerate(board.layout.migrations[m][1]) if name in names)


def read_counts(board: Board, m: int, mono: float, unsplit: Collection[int] = ()) -> Reading:
    """The counts now; ``unsplit`` has the numbers of the operations whose requests are not split."""
    if not unsplit:
        return Reading(mono, board.series(m, SOURCE), board.series(m, TARGET))
    split = [number for number in range(len(board.layout.migrations[m][1])) if number not in unsplit]
    apart = board.series(m, SOURCE, sorted(unsplit)).requests
    return Reading(mono, board.series(m, SOURCE, split), board.series(m, TARGET), apart)


def copies(board: Board, m: int) -> dict[str, tuple[int, int]]:
    """By operation of which writes were copied to the target: how many outcomes since boot, and failures of them."""
    counted = {name: board.series(m, TARGET, [number]) for number, name in enumerate(board.layout.migrations[m][1])}
    return {name: (series.copies, series.copy_faults) for name, series in counted.items() if series.copies}


def by_adapter(board: Board, m: int) -> dict[str, int]:
    """The target's requests since boot, by adapter."""
    requests: dict[str, int] = {}
    for number, operation in enumerate(board.layout.migrations[m][1]):
        adapter = operation.partition(".")[0] if "." in operation.partition(" ")[0] else "http"
        requests[adapter] = requests.get(adapter, 0) + board.series(m, TARGET, [number]).requests
    return requests


def figures(board: Board, m: int) -> Figures:
    """Every operation's figures since boot, and the gauges of each worker's data source."""
    migration, names = board.layout.migrations[m]
    operations = []
    for number, name in enumerate(names):
        source, target = (board.series(m, i, [number]) for i in (SOURCE, TARGET))
        operations.append(
            OperationFigures(
                operation=name,
                arms=BothArms(summary(source), summary(target)),
                faults={kind.label: target.faults[kind] for kind in FaultKind},
                fallbacks=target.fallbacks,
                client_errors=source.client_errors + target.client_errors,
                copies=target.copies,
                copy_faults=target.copy_faults,
            )
        )
    return Figures(migration, tuple(operations), board.gauges(m))


class Lag(NamedTuple):
    """How far the target is behind the source's changes."""

    behind_s: float  # age of the oldest pending change; 0 where none is pending
    pending: int  # changes that have not reached the target yet
    lost: int  # since boot: changes that will never reach the target


def lag(board: Board, m: int, mono: float) -> Lag:
    """How far the target is behind, over all workers."""
    since = min((of_ns(share.behind_since) for share in board.shares(m) if share.behind_since), default=mono)
    gauges = board.gauges(m)
    return Lag(max(0.0, mono - since), sum(gauges["mirror_pending"]), sum(gauges["mirror_lost"]))


def _since(now: Series, earlier: Series) -> Series:
    if now.requests < earlier.requests:
        return Series.empty()
    return now - earlier


def summary(series: Series) -> Summary:
    """An arm's figures as status and report show them."""
    requests, errors = series.requests, series.errors
    p50, p95, p99 = histogram.quantiles(series.buckets, (0.5, 0.95, 0.99))
    rate = round(errors / requests, 6) if requests else 0.0
    return Summary(requests, errors, rate, _ms(p50), _ms(p95), _ms(p99))


def sparse(series: Series) -> dict[str, Any]:
    """Counts as a checkpoint stores them: histogram buckets without a count are left out."""
    return {
        "faults": series.faults,
        "client_errors": series.client_errors,
        "fallbacks": series.fallbacks,
        "sum_us": series.sum_us,
        "buckets": {str(i): count for i, count in enumerate(series.buckets) if count},
        "copies": series.copies,
        "copy_faults": series.copy_faults,
    }


def dense(document: Mapping[str, Any]) -> Series:
    """Read what ``sparse`` wrote. Raises ``LookupError``, ``ValueError`` or ``TypeError`` for anything else."""
    series = Series.empty()
    for i, count in document["buckets"].items():
        series.buckets[int(i)] = int(count)
    for i, count in enumerate(document["faults"]):
        series.faults[i] = int(count)
    series.client_errors = int(document["client_errors"])
    series.fallbacks = int(document["fallbacks"])
    series.sum_us = int(document["sum_us"])
    series.copies = int(document.get("copies", 0))  # checkpoints of earlier versions have none
    series.copy_faults = int(document.get("copy_faults", 0))
    return series


class Machine:
    """Samples memory and processor time: the workers' from the board, this process's own from ``/proc``."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._before: tuple[float, float] | None = None
        self._cores = len(os.sched_getaffinity(0))

    def sample(self, mono: float) -> dict[str, float]:
        """A value by gauge of the judge: the largest process's memory in MB, and the share of the machine used since
        the last sample.
        """
        rows = [row for row in self._board.workers() if row.pid]
        memory = max([row.rss_kb * BYTES_PER_KB for row in rows] + [own_memory_bytes()]) / BYTES_PER_MB
        spent = sum(row.cpu_ms / 1000 for row in rows) + own_cpu_s()
        before, self._before = self._before, (mono, spent)
        if before is None or mono <= before[0]:
            return {"memory_mb": memory}
        # A replaced worker's processor time drops out of the sum, so this share may be too low, but never too high.
        used = max(0.0, spent - before[1]) / (mono - before[0]) / self._cores
        return {"memory_mb": memory, "cpu": used}


def own_memory_bytes() -> int:
    """This process's resident memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def own_cpu_s() -> float:
    """This process's processor time so far, user and system."""
    times = os.times()
    return times.user + times.system


def _ms(us: float | None) -> float | None:
    return None if us is None else round(us / 1000, 3)
