"""The board's layout: the cells of each kind of row, and the order of the rows. Pure.

    header      magic, layout, boot, the control process's pid and heartbeat, when an orderly end was, where the
                description lies, and a random number
    migrations  the word (generation u32 · flags u16 · weight u16 in basis points), the lease, rollback deadlines, and
                the split: its version and its key
    workers     one row per slot: pid, heartbeat, process figures; by migration the generation it has seen, requests
                in flight, its data source's gauges, and by operation and arm the counts and the latency histogram
    marks       by migration and bucket: when a session of the bucket last made a change that the target lacked
    description the layout itself, as JSON: by it any other version, and any other configuration, finds a migration's
                cells by their names

Every cell's index is a plain ``Final`` number, because these are used on every request and compiled code treats such
a number as a literal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from backends.arm import ARMS, GAUGES
from backends.errors import FaultKind
from proxy.board import histogram

MAGIC: Final = int.from_bytes(b"phsgate2", "little")
CELL_BYTES: Final = 8
BUCKETS: Final = 10_000  # of sticky keys; a weight in basis points is the number of buckets on the target

# Header cells.
H_MAGIC: Final = 0
H_LAYOUT: Final = 1
H_BOOT: Final = 2
H_CONTROL_PID: Final = 3
H_CONTROL_HEARTBEAT: Final = 4
H_ENDED_AT: Final = 5  # when the last worker of a run had ended as told; 0 while one runs, or after it was killed
H_DESCRIPTION_AT: Final = 6  # the description's first cell
H_DESCRIPTION_BYTES: Final = 7
H_MADE: Final = 8  # a random number: by it a reader of counts knows that they began anew
HEADER_CELLS: Final = 16

# A migration's cells, written by control.
M_WORD: Final = 0
M_LEASE_UNTIL: Final = 1
M_CUT_OVER_AT: Final = 2
M_CANCEL_AT: Final = 3
M_PUBLISHED_AT: Final = 4
M_SPLIT_VERSION: Final = 5  # 0: no control process has written the split yet
M_SPLIT_LOW: Final = 6
M_SPLIT_HIGH: Final = 7
MIGRATION_CELLS: Final = 8
# By these names a migration's cells are carried over to a board of another layout, or of a later version.
MIGRATION_FIELDS: Final[Mapping[str, int]] = {
    "word": M_WORD,
    "lease_until": M_LEASE_UNTIL,
    "cut_over_at": M_CUT_OVER_AT,
    "cancel_at": M_CANCEL_AT,
    "published_at": M_PUBLISHED_AT,
    "split_version": M_SPLIT_VERSION,
    "split_low": M_SPLIT_LOW,
    "split_high": M_SPLIT_HIGH,
}

# A worker's own cells.
W_PID: Final = 0
W_HEARTBEAT: Final = 1
W_STARTED_AT: Final = 2
W_RSS_KB: Final = 3
W_CPU_MS: Final = 4
W_CONNECTIONS: Final = 5
W_APP_REQUESTS: Final = 6
W_APP_ERRORS: Final = 7
W_REFUSED: Final = 8
WORKER_CELLS: Final = 16

# A worker's cells for one migration.
S_GENERATION: Final = 0  # the newest that this worker has seen
S_INFLIGHT_SOURCE: Final = 1
S_INFLIGHT_TARGET: Final = 2
S_INFLIGHT_OLD: Final = 3  # target requests begun under an earlier generation: a rollback has drained when it is 0
S_LAST_TARGET_START: Final = 4  # the latest start of a target request
S_BEHIND_SINCE: Final = 5  # when the oldest change made here that the target lacks was made; 0: it lacks none
S_ARRIVED: Final = 6  # changes made here before this, to either side, are on both or on neither; 0: nobody says so
S_LOOKED: Final = 7  # when the worker looked, to say so
S_VOLATILE: Final = (S_INFLIGHT_SOURCE, S_INFLIGHT_TARGET, S_INFLIGHT_OLD)  # 0 without a process
S_GAUGES: Final = 8
GAUGE_CELLS: Final = 16
S_LOST: Final = S_GAUGES + GAUGES.index("mirror_lost")
S_PENDING: Final = S_GAUGES + GAUGES.index("mirror_pending")
SHARE_CELLS: Final = S_GAUGES + GAUGE_CELLS
assert len(GAUGES) <= GAUGE_CELLS

# The cells of one (migration, operation, arm). The number of requests is the histogram's sum.
C_FAULTS: Final = 0  # by FaultKind
C_CLIENT_ERRORS: Final = len(FaultKind)  # 4xx: the client's mistakes, not failures of the arm
C_FALLBACKS: Final = C_CLIENT_ERRORS + 1  # target reads that the source answered
C_SUM_US: Final = C_CLIENT_ERRORS + 2
C_COPIES: Final = C_CLIENT_ERRORS + 3  # of the arm's own copies of writes: those taken, and tries that failed
C_COPY_FAULTS: Final = C_CLIENT_ERRORS + 4  # of them, those that failed
C_BUCKETS: Final = 16
SERIES_CELLS: Final = C_BUCKETS + histogram.BUCKETS
assert C_COPY_FAULTS < C_BUCKETS

# A migration's word: the weight, the flags above it, the generation above those.
WEIGHT_MASK: Final = 0xFFFF
FLAGS_SHIFT: Final = 16
GENERATION_SHIFT: Final = 32

_CELL_BITS: Final = 64
_CELL_MASK: Final = (1 << _CELL_BITS) - 1

# Flags of a migration's word.
PINNED: Final = 1  # the weight needs no lease: a completed migration, or a mode with one arm only


class Word(NamedTuple):
    """A migration's published state; ``weight_bp`` in basis points, 0..10000."""

    generation: int
    flags: int
    weight_bp: int

    def pack(self) -> int:
        """The 8-byte cell."""
        return self.generation << GENERATION_SHIFT | self.flags << FLAGS_SHIFT | self.weight_bp

    @classmethod
    def unpack(cls, cell: int) -> Word:
        """The state in a cell."""
        return cls(cell >> GENERATION_SHIFT, cell >> FLAGS_SHIFT & 0xFFFF, cell & WEIGHT_MASK)


class SplitKey(NamedTuple):
    """How the keys of a migration fall into its buckets; see ``proxy.migration.buckets`` for the versions."""

    version: int
    key: int  # 128 bits; of version 1 the CRC-32 to start from

    def pack(self) -> tuple[int, int, int]:
        """The cells, in their order."""
        return self.version, self.key & _CELL_MASK, self.key >> _CELL_BITS

    @classmethod
    def unpack(cls, version: int, low: int, high: int) -> SplitKey:
        """What the cells hold."""
        return cls(version, high << _CELL_BITS | low)


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions on the board, computed from the number of workers and each migration's name and operations."""

    workers: int
    migrations: tuple[tuple[str, tuple[str, ...]], ...]

    def digest(self) -> int:
        """Equal for two processes exactly if their layouts are the same."""
        return digest_of(self, (*(kind.name for kind in FaultKind), *GAUGES))

    def description(self) -> bytes:
        """For a reader that does not know this layout: the first cell of each migration, and its cells' names."""
        places = {name: self.migration(m) for m, (name, _) in enumerate(self.migrations)}
        return json.dumps({"migrations": places, "cells": dict(MIGRATION_FIELDS)}).encode()

    def migration(self, m: int) -> int:
        """The first cell of migration ``m``."""
        return HEADER_CELLS + m * MIGRATION_CELLS

    def worker(self, slot: int) -> int:
        """The first cell of the worker's row."""
        return self.migration(len(self.migrations)) + slot * self._row_cells()

    def share(self, slot: int, m: int) -> int:
        """The first of worker ``slot``'s cells for migration ``m``."""
        before = sum(self._share_cells(i) for i in range(m))
        return self.worker(slot) + WORKER_CELLS + before

    def series(self, slot: int, m: int, operation: int, arm: int) -> int:
        """The first cell of one worker's counts for one operation and arm."""
        return self.share(slot, m) + SHARE_CELLS + (operation * len(ARMS) + arm) * SERIES_CELLS

    def marks(self, m: int) -> int:
        """The first of migration ``m``'s marks, one per bucket."""
        return self.worker(self.workers) + m * BUCKETS

    def cells(self) -> int:
        """How many cells the board has, the description left out."""
        return self.marks(len(self.migrations))

    def file_bytes(self) -> int:
        """How long the file is: the cells, and the description in whole cells."""
        return (self.cells() + -(-len(self.description()) // CELL_BYTES)) * CELL_BYTES

    def _share_cells(self, m: int) -> int:
        return SHARE_CELLS + len(self.migrations[m][1]) * len(ARMS) * SERIES_CELLS

    def _row_cells(self) -> int:
        return WORKER_CELLS + sum(self._share_cells(m) for m in range(len(self.migrations)))


def digest_of(layout: Layout, counted: tuple[str, ...]) -> int:
    """``Layout.digest``, for a version that counts these faults and gauges.

    A version with one kind of fault more has as many cells, and means something else by them.
    """
    text = repr((layout, counted, SERIES_CELLS, SHARE_CELLS, WORKER_CELLS, MIGRATION_CELLS, HEADER_CELLS, BUCKETS))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
