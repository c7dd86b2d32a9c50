"""The board: the shared memory through which workers, control and supervisor know each other's state.

One file in the run directory, mapped by every process and read as aligned 8-byte cells (see ``layout``). Each cell is
written by one process only, so there is no lock, and on the machines we run on (x86-64, aarch64) no torn read of an
aligned cell. The marks are the exception: any worker writes them, and of two writes at once either will do.

Counts are never reset: a reader subtracts two snapshots, and a restarted worker goes on in its slot's row.
Who writes: the control process its own header cells and every migration's cells; worker N the row of slot N; the
supervisor makes the file and clears the volatile cells of a dead worker's row before it starts the next.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from backends.arm import GAUGES, LEVELS
from proxy.board import layout as at
from proxy.board.layout import Layout, SplitKey, Word
from proxy.board.series import Series


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
        board.cells[at.H_LAYOUT] = layout.digest()
        board.cells[at.H_BOOT] = boot
        board.cells[at.H_MAGIC] = at.MAGIC
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
        found = tuple(board.cells[: at.H_BOOT + 1])
        if found != (at.MAGIC, layout.digest(), boot):
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
        return Word.unpack(self.cells[self.layout.migration(m) + at.M_WORD])

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
        self.cells[base + at.M_CUT_OVER_AT] = cut_over_at
        self.cells[base + at.M_CANCEL_AT] = cancel_at
        self.cells[base + at.M_PUBLISHED_AT] = now_ns
        self.cells[base + at.M_WORD] = Word(generation, at.PINNED if pinned else 0, weight_bp).pack()
        return generation

    def lease_until(self, m: int) -> int:
        """When target traffic ends by itself, in CLOCK_MONOTONIC nanoseconds."""
        return self.cells[self.layout.migration(m) + at.M_LEASE_UNTIL]

    def renew_lease(self, m: int, until_ns: int) -> None:
        """Let the workers send traffic to the target until then."""
        self.cells[self.layout.migration(m) + at.M_LEASE_UNTIL] = until_ns

    def split(self, m: int) -> SplitKey:
        """How the keys of migration ``m`` fall into its buckets; version 0: control has yet to say it."""
        base = self.layout.migration(m)
        return SplitKey.unpack(*self.cells[base + at.M_SPLIT_VERSION : base + at.M_SPLIT_HIGH + 1])

    def set_split(self, m: int, split: SplitKey) -> None:
        """Say how keys fall into buckets. Call it before ``publish``, and with a new key only while the weight is 0.

        It takes several stores. A worker that reads between them has yet to see the weight that follows, and reads
        again when it does.
        """
        base = self.layout.migration(m)
        version, low, high = split.pack()
        self.cells[base + at.M_SPLIT_LOW] = low
        self.cells[base + at.M_SPLIT_HIGH] = high
        self.cells[base + at.M_SPLIT_VERSION] = version

    def beat(self, pid: int, now_ns: int) -> None:
        """The control process's sign of life."""
        self.cells[at.H_CONTROL_PID] = pid
        self.cells[at.H_CONTROL_HEARTBEAT] = now_ns

    def control(self) -> tuple[int, int]:
        """The control process's pid and last heartbeat (CLOCK_MONOTONIC ns)."""
        return self.cells[at.H_CONTROL_PID], self.cells[at.H_CONTROL_HEARTBEAT]

    # Workers' rows: read by control.

    def worker(self, slot: int) -> WorkerView:
        """One worker's own cells."""
        base = self.layout.worker(slot)
        return WorkerView(slot, *self.cells[base : base + at.W_REFUSED + 1])

    def workers(self) -> Iterator[WorkerView]:
        """Every slot, the empty ones too."""
        return map(self.worker, range(self.layout.workers))

    def share(self, slot: int, m: int) -> ShareView:
        """What one worker says of migration ``m``."""
        base = self.layout.share(slot, m)
        generation, source, target, old, last_start, behind = self.cells[base : base + at.S_BEHIND_SINCE + 1]
        gauges = tuple(self.cells[base + at.S_GAUGES : base + at.S_GAUGES + len(GAUGES)])
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
        added = sum([int.from_bytes(cells[start : start + at.SERIES_CELLS], sys.byteorder) for start in starts])
        total = memoryview(added.to_bytes(8 * at.SERIES_CELLS, sys.byteorder)).cast("Q").tolist()
        return Series(
            total[at.C_FAULTS : at.C_CLIENT_ERRORS],
            total[at.C_CLIENT_ERRORS],
            total[at.C_FALLBACKS],
            total[at.C_SUM_US],
            total[at.C_BUCKETS :],
        )

    def clear_volatile(self, slot: int) -> None:
        """Forget what died with the worker of this slot: its pid and what it had in flight. Supervisor only.

        The changes that it had yet to hand on are lost, and counted so: as many as it said last, and one at least
        where the target lacked any, which it says with every write.
        """
        base = self.layout.worker(slot)
        self.cells[base + at.W_PID] = 0
        self.cells[base + at.W_CONNECTIONS] = 0
        for m in range(len(self.layout.migrations)):
            share = self.layout.share(slot, m)
            self.cells[share + at.S_LOST] += max(
                self.cells[share + at.S_PENDING], self.cells[share + at.S_BEHIND_SINCE] > 0
            )
            self.cells[share + at.S_PENDING] = 0
            for cell in at.S_VOLATILE:
                self.cells[share + cell] = 0


def boot_id() -> int:
    """This boot of the machine: CLOCK_MONOTONIC readings on a board are worth nothing after another."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    return int(text, 16) & 0xFFFFFFFFFFFFFFFF
