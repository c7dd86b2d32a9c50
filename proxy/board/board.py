"""The board: the shared memory through which workers, control and supervisor exchange their state.

One file in the run directory, mapped by every process and read as aligned 8-byte cells (see ``layout``). Each cell
has one writing process, so it needs no lock; on the supported machines (x86-64, aarch64) reads of aligned cells are
never torn. The marks are the exception: any worker writes them, and of two simultaneous writes either may win.

Counts are never reset: a reader subtracts two snapshots, and a restarted worker continues in its slot's row.
Writers: the control process writes its own header cells and every migration's cells; worker N writes the row of slot
N; the supervisor creates the file, and clears the volatile cells of a dead worker's row before it starts the next.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from backends.arm import GAUGES, LEVELS
from proxy.board import layout as at
from proxy.board.layout import Layout, SplitKey, Word
from proxy.board.series import Series


class WorkerView(NamedTuple):
    """A worker's own cells; times in CLOCK_MONOTONIC nanoseconds, ``pid`` 0 if no process is alive."""

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
    """A worker's cells for one migration."""

    slot: int
    generation: int
    inflight_source: int
    inflight_target: int  # begun under ``generation``
    inflight_old: int  # on the target, begun under earlier generations
    last_target_start: int
    behind_since: int
    gauges: tuple[int, ...]


class BoardError(Exception):
    """The file is not a board of this layout and boot: it must be created anew."""


class Board:
    """The mapped cells, and named ways to read and write them. ``cells`` is for the hot path."""

    def __init__(self, path: Path, layout: Layout, mapped: mmap.mmap) -> None:
        self.path = path
        self.layout = layout
        self._mapped = mapped
        self.cells = memoryview(mapped).cast("Q")

    @classmethod
    def create(
        cls, path: Path, layout: Layout, boot: int, fill: Callable[[Board], None] = lambda board: None
    ) -> Board:
        """Write the complete file, then rename it into place: no process ever maps half a board. Supervisor only.

        ``fill`` writes on it what an earlier board said, before the rename.
        """
        new = path.with_suffix(".new")
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            size = layout.file_bytes()
            # posix_fallocate, not truncate: a full disk must be an error here, not a SIGBUS in a worker later.
            os.posix_fallocate(fd, 0, size)
            board = cls(path, layout, mmap.mmap(fd, size))
        finally:
            os.close(fd)
        description = layout.description()
        start = layout.cells() * at.CELL_BYTES
        mapped = board._mapped
        mapped[start : start + len(description)] = description
        board.cells[at.H_DESCRIPTION_AT] = layout.cells()
        board.cells[at.H_DESCRIPTION_BYTES] = len(description)
        board.cells[at.H_MADE] = secrets.randbits(63)
        board.cells[at.H_LAYOUT] = layout.digest()
        board.cells[at.H_BOOT] = boot
        board.cells[at.H_MAGIC] = at.MAGIC
        fill(board)
        new.rename(path)
        return board

    @classmethod
    def open(cls, path: Path, layout: Layout, boot: int) -> Board:
        """Map an existing board. Raises ``BoardError`` if it is of another layout or boot, or not a board."""
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            raise BoardError(f"{path}: no such board") from None
        try:
            size = layout.file_bytes()
            if os.fstat(fd).st_size != size:
                raise BoardError(f"{path}: another size than this configuration's board")
            board = cls(path, layout, mmap.mmap(fd, size))
        finally:
            os.close(fd)
        header = tuple(board.cells[: at.H_BOOT + 1])
        if header != (at.MAGIC, layout.digest(), boot):
            board.close()
            raise BoardError(f"{path}: a board of another layout or from before a reboot")
        return board

    def made(self) -> int:
        """A random number of this board's own: on another board all counts began at 0. 0: version 0.2 made it."""
        return self.cells[at.H_MADE]

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

        At ``cut_over_at`` (CLOCK_MONOTONIC ns, 0: never) target reads of earlier generations are answered by the
        source instead; at ``cancel_at`` all remaining target requests of earlier generations are cancelled. Both are
        written before the word: a worker that sees the new generation also sees its deadlines.
        """
        base = self.layout.migration(m)
        generation = (self.word(m).generation + 1) & 0xFFFFFFFF
        self.cells[base + at.M_CUT_OVER_AT] = cut_over_at
        self.cells[base + at.M_CANCEL_AT] = cancel_at
        self.cells[base + at.M_PUBLISHED_AT] = now_ns
        self.cells[base + at.M_WORD] = Word(generation, at.PINNED if pinned else 0, weight_bp).pack()
        return generation

    def lease_until(self, m: int) -> int:
        """When the lease runs out, and with it target traffic, in CLOCK_MONOTONIC nanoseconds."""
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
        """Write the control process's heartbeat."""
        self.cells[at.H_CONTROL_PID] = pid
        self.cells[at.H_CONTROL_HEARTBEAT] = now_ns

    def control(self) -> tuple[int, int]:
        """The control process's pid and last heartbeat (CLOCK_MONOTONIC ns)."""
        return self.cells[at.H_CONTROL_PID], self.cells[at.H_CONTROL_HEARTBEAT]

    # An orderly end: written by the supervisor when no other process runs, and forgotten by control.

    def end(self, now_ns: int) -> None:
        """Say when the last worker had ended as told: until a control process leads again, no lease runs out."""
        self.cells[at.H_ENDED_AT] = now_ns

    def ended_at(self) -> int:
        """When an orderly end was from which no control process has gone on yet; 0: there was none."""
        return self.cells[at.H_ENDED_AT]

    def go_on_after(self, ended_at: int, now_ns: int) -> None:
        """Take the time since an orderly end for none: what was left of each lease is left of it now."""
        for m in range(len(self.layout.migrations)):
            until = self.lease_until(m)
            if until:
                self.renew_lease(m, until + now_ns - ended_at)
        self.cells[at.H_ENDED_AT] = now_ns

    def forget_end(self) -> None:
        """Control leads again: from here on a lease that runs out is lost."""
        self.cells[at.H_ENDED_AT] = 0

    # Workers' rows: read by control.

    def worker(self, slot: int) -> WorkerView:
        """One worker's own cells."""
        base = self.layout.worker(slot)
        return WorkerView(slot, *self.cells[base : base + at.W_REFUSED + 1])

    def workers(self) -> Iterator[WorkerView]:
        """Every slot, also the empty ones."""
        return map(self.worker, range(self.layout.workers))

    def share(self, slot: int, m: int) -> ShareView:
        """One worker's cells for migration ``m``."""
        base = self.layout.share(slot, m)
        generation, source, target, old, last_start, behind = self.cells[base : base + at.S_BEHIND_SINCE + 1]
        gauges = tuple(self.cells[base + at.S_GAUGES : base + at.S_GAUGES + len(GAUGES)])
        return ShareView(slot, generation, source, target, old, last_start, behind, gauges)

    def shares(self, m: int) -> list[ShareView]:
        """The cells for migration ``m`` of every worker with a live process."""
        return [self.share(worker.slot, m) for worker in self.workers() if worker.pid]

    def arrived(self, m: int) -> tuple[int, int]:
        """Changes made before the first time are on both sides or on neither, by looks at the second time or later.

        CLOCK_MONOTONIC ns; 0: nobody knows. A row whose worker has ended counts until ``hand_over``, with what it
        said last: others may have yet to take over its change log.
        """
        arrived, looked = [], []
        for slot in range(self.layout.workers):
            share = self.layout.share(slot, m)
            looked_at = self.cells[share + at.S_LOOKED]  # before what it is about: a worker writes it after that
            before = self.cells[share + at.S_ARRIVED]
            if self.cells[self.layout.worker(slot) + at.W_PID]:
                looked.append(looked_at)
                arrived.append(before)
            elif before:
                arrived.append(before)
        return (min(arrived), min(looked)) if looked else (0, 0)

    def gauges(self, m: int) -> dict[str, list[int]]:
        """By name of ``GAUGES``, one value per worker: live workers, and the counts that ended ones left behind."""
        living = {worker.slot for worker in self.workers() if worker.pid}
        rows = [(slot in living, self.share(slot, m).gauges) for slot in range(self.layout.workers)]
        return {
            name: [gauges[i] for alive, gauges in rows if alive or (gauges[i] and name not in LEVELS)]
            for i, name in enumerate(GAUGES)
        }

    def series(self, m: int, arm: int, operations: Sequence[int] | None = None) -> Series:
        """The sum over all slots and the given operations (default: all of the migration)."""
        chosen = range(len(self.layout.migrations[m][1])) if operations is None else operations
        cells = self.cells
        starts = (self.layout.series(s, m, o, arm) for s in range(self.layout.workers) for o in chosen)
        # Each row is added as one big integer, all cells at once: no count is near 2**64, so none carries into the
        # next cell. Three times as fast as column by column.
        packed_sum = sum([int.from_bytes(cells[start : start + at.SERIES_CELLS], sys.byteorder) for start in starts])
        total = memoryview(packed_sum.to_bytes(8 * at.SERIES_CELLS, sys.byteorder)).cast("Q").tolist()
        return Series(
            total[at.C_FAULTS : at.C_CLIENT_ERRORS],
            total[at.C_CLIENT_ERRORS],
            total[at.C_FALLBACKS],
            total[at.C_SUM_US],
            total[at.C_BUCKETS :],
            total[at.C_COPIES],
            total[at.C_COPY_FAULTS],
        )

    def clear_volatile(self, slot: int) -> None:
        """Clear what ended with the worker of this slot: its pid and requests in flight. Supervisor only.

        The other side still lacks what the worker had not mirrored (``S_BEHIND_SINCE``, ``S_ARRIVED``): that is in
        its change log, and ``hand_over`` clears these cells once another worker has taken the log over.
        """
        base = self.layout.worker(slot)
        self.cells[base + at.W_PID] = 0
        self.cells[base + at.W_CONNECTIONS] = 0
        for m in range(len(self.layout.migrations)):
            share = self.layout.share(slot, m)
            self.cells[share + at.S_PENDING] = 0
            for cell in at.S_VOLATILE:
                self.cells[share + cell] = 0

    def hand_over(self, slot: int) -> None:
        """Other workers answer for the changes that the ended worker of this slot had left. Supervisor only."""
        for m in range(len(self.layout.migrations)):
            share = self.layout.share(slot, m)
            self.cells[share + at.S_BEHIND_SINCE] = self.cells[share + at.S_ARRIVED] = 0

    def begin(self, now_ns: int, lost: Sequence[int]) -> None:
        """Begin a new board, in the place of one whose marks and counts are gone. Supervisor only.

        Any visitor may have written a moment ago, so every bucket is marked. Where the target has all changes a mark
        costs nothing; else nobody goes there before it has them. ``lost`` are the changes given up earlier, by
        migration.
        """
        for m, count in enumerate(lost):
            marks = self.layout.marks(m)
            self.cells[marks : marks + at.BUCKETS] = memoryview(array("Q", [now_ns]) * at.BUCKETS)
            self.cells[self.layout.share(0, m) + at.S_LOST] = count


def boot_id() -> int:
    """The id of this boot of the machine: CLOCK_MONOTONIC values on a board mean nothing after a reboot."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    return int(text, 16) & 0xFFFFFFFFFFFFFFFF
