"""The board: the shared memory through which workers, control and supervisor know each other's state.

One file in the run directory, mapped by every process and read as aligned 8-byte cells, each of which is written by
one process only (but for the last kind): there is no lock, and on the machines we run on (x86-64, aarch64) no torn
read of an aligned cell.

    header      magic, layout, boot, the control process's pid and heartbeat
    migrations  the word (generation u32 · flags u16 · weight u16 in basis points), the lease, rollback deadlines
    workers     a row a slot: pid, heartbeat, process figures; by migration what it has seen and has in flight, its
                data source's gauges, and by operation and arm the counts and the latency histogram
    marks       by migration and bucket: when a session of it last made a change that the target had yet to take.
                Any worker writes them: of two at once, either will do (see ``share``)

Counts are never reset: a reader subtracts two snapshots, and a restarted worker goes on in its slot's row.
Who writes: the control process its own header cells and every migration's cells; worker N the row of slot N; the
supervisor makes the file and clears the volatile cells of a dead worker's row before it starts the next.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from backends.arm import ARMS, GAUGES, LEVELS, SOURCE, TARGET
from backends.errors import FaultKind
from proxy.board import histogram
from proxy.migration.splitter import BUCKETS

MAGIC: Final = int.from_bytes(b"phsgate1", "little")

# Header cells.
H_MAGIC, H_LAYOUT, H_BOOT, H_CONTROL_PID, H_CONTROL_HEARTBEAT = range(5)
HEADER_CELLS: Final = 16

# A migration's cells, written by control.
M_WORD, M_LEASE_UNTIL, M_CUT_OVER_AT, M_CANCEL_AT, M_PUBLISHED_AT = range(5)
MIGRATION_CELLS: Final = 8

# A worker's own cells.
W_PID, W_HEARTBEAT, W_STARTED_AT, W_RSS_KB, W_CPU_MS, W_CONNECTIONS, W_APP_REQUESTS, W_APP_ERRORS, W_REFUSED = range(
    9
)
WORKER_CELLS: Final = 16

# A worker's cells for one migration. ``OLD`` counts target requests begun under an earlier generation than the one
# seen: a rollback has drained when it is 0. ``LAST_TARGET_START`` is the latest start of a target request.
# ``BEHIND_SINCE``: when the oldest change was made here that the target has yet to take; 0: it has them all.
# One by one: they are used on every request, and compiled code takes a ``Final`` number as it takes a literal.
S_GENERATION: Final = 0
S_INFLIGHT_SOURCE: Final = 1
S_INFLIGHT_TARGET: Final = 2
S_INFLIGHT_OLD: Final = 3
S_LAST_TARGET_START: Final = 4
S_BEHIND_SINCE: Final = 5
S_VOLATILE: Final = (S_INFLIGHT_SOURCE, S_INFLIGHT_TARGET, S_INFLIGHT_OLD, S_BEHIND_SINCE)  # 0 without a process
S_GAUGES: Final = 8
SHARE_CELLS: Final = S_GAUGES + 16
assert len(GAUGES) <= 16
_LOST: Final = S_GAUGES + GAUGES.index("mirror_lost")
_PENDING: Final = S_GAUGES + GAUGES.index("mirror_pending")

# The cells of one (migration, operation, arm). The number of requests is the histogram's sum.
C_FAULTS: Final = 0  # by FaultKind
C_CLIENT_ERRORS: Final = len(FaultKind)  # 4xx: the client's fault, no failure of the arm's
C_FALLBACKS: Final = C_CLIENT_ERRORS + 1  # target reads that the source answered
C_SUM_US: Final = C_CLIENT_ERRORS + 2
C_BUCKETS: Final = 16
SERIES_CELLS: Final = C_BUCKETS + histogram.BUCKETS
assert C_SUM_US < C_BUCKETS

# Flags of a migration's word.
PINNED: Final = 1  # the weight needs no lease: a completed migration, or a mode that has one arm only


class Word(NamedTuple):
    """A migration's rollout state as workers see it; ``weight_bp`` in basis points, 0..10000."""

    generation: int
    flags: int
    weight_bp: int

    def pack(self) -> int:
        """The 8-byte cell."""
        return self.generation << 32 | self.flags << 16 | self.weight_bp

    @classmethod
    def unpack(cls, cell: int) -> Word:
        """The state that a cell holds."""
        return cls(cell >> 32, cell >> 16 & 0xFFFF, cell & 0xFFFF)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is: follows from the workers' number and each migration's name and operations."""

    workers: int
    migrations: tuple[tuple[str, tuple[str, ...]], ...]

    def digest(self) -> int:
        """Equal for two processes exactly when they mean the same cells."""
        text = repr((self, SERIES_CELLS, SHARE_CELLS, WORKER_CELLS, MIGRATION_CELLS, HEADER_CELLS, BUCKETS))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def migration(self, m: int) -> int:
        """The first cell of migration ``m``."""
        return HEADER_CELLS + m * MIGRATION_CELLS

    def worker(self, slot: int) -> int:
        """The first cell of the worker's row."""
        return self.migration(len(self.migrations)) + slot * self._row_cells()

    def share(self, slot: int, m: int) -> int:
        """The first cell of what worker ``slot`` says of migration ``m``."""
        before = sum(self._share_cells(i) for i in range(m))
        return self.worker(slot) + WORKER_CELLS + before

    def series(self, slot: int, m: int, operation: int, arm: int) -> int:
        """The first cell of one worker's counts for one operation and arm."""
        return self.share(slot, m) + SHARE_CELLS + (operation * len(ARMS) + arm) * SERIES_CELLS

    def marks(self, m: int) -> int:
        """The first of migration ``m``'s marks, one a bucket."""
        return self.worker(self.workers) + m * BUCKETS

    def cells(self) -> int:
        """How many cells the board has."""
        return self.marks(len(self.migrations))

    def _share_cells(self, m: int) -> int:
        return SHARE_CELLS + len(self.migrations[m][1]) * len(ARMS) * SERIES_CELLS

    def _row_cells(self) -> int:
        return WORKER_CELLS + sum(self._share_cells(m) for m in range(len(self.migrations)))


@dataclass(slots=True)
class Series:
    """Counts of one or many (worker, operation, arm) since boot, or between two moments."""

    faults: list[int]  # by FaultKind
    client_errors: int
    fallbacks: int
    sum_us: int
    buckets: list[int]

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
        """The requests that the arm failed, whatever the client got in the end."""
        return sum(self.faults)

    def __add__(self, other: Series) -> Series:
        return Series(
            [a + b for a, b in zip(self.faults, other.faults, strict=True)],
            self.client_errors + other.client_errors,
            self.fallbacks + other.fallbacks,
            self.sum_us + other.sum_us,
            histogram.merge((self.buckets, other.buckets)),
        )

    def __sub__(self, earlier: Series) -> Series:
        return Series(
            [a - b for a, b in zip(self.faults, earlier.faults, strict=True)],
            self.client_errors - earlier.client_errors,
            self.fallbacks - earlier.fallbacks,
            self.sum_us - earlier.sum_us,
            histogram.difference(self.buckets, earlier.buckets),
        )


class WorkerView(NamedTuple):
    """What a worker's row says of itself; times in CLOCK_MONOTONIC nanoseconds, ``pid`` 0 where none is alive."""

    slot: int
    pid: int
    heartbeat: int
    started_at: int
    rss_kb: int
    cpu_ms: int
    connections: int
    app_requests: int
    app_errors: int
    refused: int


class ShareView(NamedTuple):
    """What a worker's row says of one migration."""

    slot: int
    generation: int
    inflight_source: int
    inflight_target: int  # of the generation seen
    inflight_old: int  # on the target, of earlier generations
    last_target_start: int
    behind_since: int
    gauges: tuple[int, ...]


class BoardError(Exception):
    """The file is no board of this layout and boot: it must be made anew."""


class Board:
    """The mapped cells, and named ways to read and write them. ``cells`` is for the hot path."""

    def __init__(self, path: Path, layout: Layout, mapped: mmap.mmap) -> None:
        self.path = path
        self.layout = layout
        self._mapped = mapped
        self.cells = memoryview(mapped).cast("Q")

    @classmethod
    def create(cls, path: Path, layout: Layout, boot: int) -> Board:
        """Make the file whole before it takes its name, so no process ever maps half a board. Supervisor only."""
        new = path.with_suffix(".new")
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            size = layout.cells() * 8
            # posix_fallocate, not truncate: a full disk is an error here and not a SIGBUS in a worker later.
            os.posix_fallocate(fd, 0, size)
            board = cls(path, layout, mmap.mmap(fd, size))
        finally:
            os.close(fd)
        board.cells[H_LAYOUT] = layout.digest()
        board.cells[H_BOOT] = boot
        board.cells[H_MAGIC] = MAGIC
        new.rename(path)
        return board

    @classmethod
    def open(cls, path: Path, layout: Layout, boot: int) -> Board:
        """Map an existing board. Raises ``BoardError`` where it is of another layout or boot, or no board."""
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            raise BoardError(f"{path}: no such board") from None
        try:
            size = layout.cells() * 8
            if os.fstat(fd).st_size != size:
                raise BoardError(f"{path}: another size than this configuration's board")
            board = cls(path, layout, mmap.mmap(fd, size))
        finally:
            os.close(fd)
        found = tuple(board.cells[: H_BOOT + 1])
        if found != (MAGIC, layout.digest(), boot):
            board.close()
            raise BoardError(f"{path}: a board of another layout or from before a reboot")
        return board

    def close(self) -> None:
        """Unmap."""
        self.cells.release()
        self._mapped.close()

    # Migrations: written by control.

    def word(self, m: int) -> Word:
        """The published state of migration ``m``."""
        return Word.unpack(self.cells[self.layout.migration(m) + M_WORD])

    def publish(
        self, m: int, weight_bp: int, *, pinned: bool, now_ns: int, cut_over_at: int = 0, cancel_at: int = 0
    ) -> int:
        """Set the weight, with one store, and return its new generation.

        ``cut_over_at`` and ``cancel_at`` (CLOCK_MONOTONIC ns, 0: never) say when target reads of earlier generations
        are handed to the source, and when whatever is left of them is cancelled. They are written before the word:
        a worker that sees the generation sees its deadlines.
        """
        base = self.layout.migration(m)
        generation = (self.word(m).generation + 1) & 0xFFFFFFFF
        self.cells[base + M_CUT_OVER_AT] = cut_over_at
        self.cells[base + M_CANCEL_AT] = cancel_at
        self.cells[base + M_PUBLISHED_AT] = now_ns
        self.cells[base + M_WORD] = Word(generation, PINNED if pinned else 0, weight_bp).pack()
        return generation

    def lease_until(self, m: int) -> int:
        """When target traffic ends by itself, in CLOCK_MONOTONIC nanoseconds."""
        return self.cells[self.layout.migration(m) + M_LEASE_UNTIL]

    def renew_lease(self, m: int, until_ns: int) -> None:
        """Let the workers send traffic to the target until then."""
        self.cells[self.layout.migration(m) + M_LEASE_UNTIL] = until_ns

    def beat(self, pid: int, now_ns: int) -> None:
        """The control process's sign of life."""
        self.cells[H_CONTROL_PID] = pid
        self.cells[H_CONTROL_HEARTBEAT] = now_ns

    def control(self) -> tuple[int, int]:
        """The control process's pid and last heartbeat (CLOCK_MONOTONIC ns)."""
        return self.cells[H_CONTROL_PID], self.cells[H_CONTROL_HEARTBEAT]

    # Workers' rows: read by control.

    def worker(self, slot: int) -> WorkerView:
        """One worker's own cells."""
        base = self.layout.worker(slot)
        return WorkerView(slot, *self.cells[base : base + W_REFUSED + 1])

    def workers(self) -> Iterator[WorkerView]:
        """Every slot, the empty ones too."""
        return map(self.worker, range(self.layout.workers))

    def share(self, slot: int, m: int) -> ShareView:
        """What one worker says of migration ``m``."""
        base = self.layout.share(slot, m)
        generation, source, target, old, last_start, behind = self.cells[base : base + S_BEHIND_SINCE + 1]
        gauges = tuple(self.cells[base + S_GAUGES : base + S_GAUGES + len(GAUGES)])
        return ShareView(slot, generation, source, target, old, last_start, behind, gauges)

    def shares(self, m: int) -> list[ShareView]:
        """What every worker with a living process says of migration ``m``."""
        return [self.share(worker.slot, m) for worker in self.workers() if worker.pid]

    def gauges(self, m: int) -> dict[str, list[int]]:
        """By name of ``GAUGES``, a value a worker: of living ones, and what ended ones had counted in their rows."""
        living = {worker.slot for worker in self.workers() if worker.pid}
        rows = [(slot in living, self.share(slot, m).gauges) for slot in range(self.layout.workers)]
        return {
            name: [gauges[i] for alive, gauges in rows if alive or (gauges[i] and name not in LEVELS)]
            for i, name in enumerate(GAUGES)
        }

    def series(self, m: int, arm: int, operations: Sequence[int] | None = None) -> Series:
        """The sum over all slots and the operations named (default: all of the migration's)."""
        chosen = range(len(self.layout.migrations[m][1])) if operations is None else operations
        cells = self.cells
        starts = (self.layout.series(s, m, o, arm) for s in range(self.layout.workers) for o in chosen)
        # As one number each, so that one addition adds all cells: no count is near to where it would carry into the
        # next. Three times as fast as column by column.
        added = sum([int.from_bytes(cells[start : start + SERIES_CELLS], sys.byteorder) for start in starts])
        total = memoryview(added.to_bytes(8 * SERIES_CELLS, sys.byteorder)).cast("Q").tolist()
        return Series(
            total[C_FAULTS:C_CLIENT_ERRORS],
            total[C_CLIENT_ERRORS],
            total[C_FALLBACKS],
            total[C_SUM_US],
            total[C_BUCKETS:],
        )

    def clear_volatile(self, slot: int) -> None:
        """Forget what died with the worker of this slot: its pid and what it had in flight. Supervisor only.

        The changes that it had yet to hand on are lost, and counted so: as many as it said last, and one at least
        where the target lacked any, which it says with every write.
        """
        base = self.layout.worker(slot)
        self.cells[base + W_PID] = 0
        self.cells[base + W_CONNECTIONS] = 0
        for m in range(len(self.layout.migrations)):
            share = self.layout.share(slot, m)
            self.cells[share + _LOST] += max(self.cells[share + _PENDING], self.cells[share + S_BEHIND_SINCE] > 0)
            self.cells[share + _PENDING] = 0
            for cell in S_VOLATILE:
                self.cells[share + cell] = 0


def boot_id() -> int:
    """This boot of the machine: CLOCK_MONOTONIC readings on a board are worth nothing after another."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    return int(text, 16) & 0xFFFFFFFFFFFFFFFF


__all__ = ["ARMS", "SOURCE", "TARGET", "Board", "BoardError", "Layout", "Series", "ShareView", "Word", "WorkerView"]
