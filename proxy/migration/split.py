"""One worker's part in one migration: decides which arm a request gets, and records on the board what came of it.

A session reads its own writes. It may have written to the source a moment ago, under a lower weight or because the
target failed, and the target has yet to take that change: until then the session stays on the source. Each worker
says since when the target lacks a change of its own, and marks the buckets that made one. A mark that is older than
all those times is settled; the newest time known to be settled is kept, so that a request costs one comparison.

A new run may begin with another split, by which a session's bucket is another one and does not have its mark. So
every bucket is marked then, at a time a little ahead: nobody goes to the target before every worker has taken the new
split and the target has the changes that were made before.
"""

from __future__ import annotations

from array import array
from time import monotonic_ns
from typing import Final, Protocol

from backends.arm import ARMS, GAUGES, LEVELS, SOURCE, TARGET
from backends.errors import FaultKind
from proxy.board import histogram
from proxy.board.layout import (
    BUCKETS,
    C_BUCKETS,
    C_CLIENT_ERRORS,
    C_COPIES,
    C_COPY_FAULTS,
    C_FALLBACKS,
    C_FAULTS,
    C_SUM_US,
    FLAGS_SHIFT,
    GENERATION_SHIFT,
    M_CANCEL_AT,
    M_CUT_OVER_AT,
    M_LEASE_UNTIL,
    M_SPLIT_HIGH,
    M_SPLIT_LOW,
    M_SPLIT_VERSION,
    M_WORD,
    PINNED,
    S_ARRIVED,
    S_BEHIND_SINCE,
    S_GAUGES,
    S_GENERATION,
    S_INFLIGHT_OLD,
    S_INFLIGHT_SOURCE,
    S_INFLIGHT_TARGET,
    S_LAST_TARGET_START,
    S_LOOKED,
    S_VOLATILE,
    WEIGHT_MASK,
    Layout,
    SplitKey,
)
from proxy.http1.client import Client
from proxy.migration.sticky import Stickiness

_PINNED_BIT: Final = PINNED << FLAGS_SHIFT
_LASTING: Final = _PINNED_BIT | WEIGHT_MASK
_COMPLETED: Final = _PINNED_BIT | BUCKETS  # of these bits, in the word of a migration that is completed at 100 %
# Marks are dated this much later than they are made. Two workers may mark a bucket at once, and one overwrites the
# other: by so much the one that is kept is late enough for both.
_MARGIN_NS: Final = 5_000_000
# By so much the marks of a new split are dated ahead: five ticks, in each of which a worker looks for it.
_TAKEN_WITHIN_NS: Final = 100_000_000


class Flight(Protocol):
    """A request in flight. ``arm`` was asked and is counted for it; ``on`` is where it waits now."""

    arm: int
    on: int
    generation: int

    def cut_over(self) -> None:
        """Let the source answer, where it can: the target has had its time."""

    def cancel(self) -> None:
        """Leave the target now, whatever becomes of the request."""


class Split:
    """The split and the record of one migration. Writes the cells of its worker's row and no others."""

    def __init__(
        self, cells: memoryview[int], layout: Layout, slot: int, migration: int, stickiness: Stickiness
    ) -> None:
        self.cells = cells
        self.migration = migration
        self._stickiness = stickiness
        self._word = layout.migration(migration) + M_WORD
        self._lease = layout.migration(migration) + M_LEASE_UNTIL
        self._cut_over_at = layout.migration(migration) + M_CUT_OVER_AT
        self._cancel_at = layout.migration(migration) + M_CANCEL_AT
        self._split = layout.migration(migration)
        self._own = layout.share(slot, migration)
        operations = range(len(layout.migrations[migration][1]))
        self._series = [
            tuple(layout.series(slot, migration, operation, arm) for arm in range(len(ARMS)))
            for operation in operations
        ]
        self._numbers = {name: number for number, name in enumerate(layout.migrations[migration][1])}
        self._marks = layout.marks(migration)
        self._behind = [layout.share(row, migration) + S_BEHIND_SINCE for row in range(layout.workers)]
        self._settled = 0
        self._counted = [
            0 if name in LEVELS else cells[self._own + S_GAUGES + i] for i, name in enumerate(GAUGES)
        ]  # by the processes that had this row before
        self._open: set[Flight] = set()  # on the target
        # A fresh process has nothing in flight, and has seen what is published now.
        for volatile in S_VOLATILE:
            cells[self._own + volatile] = 0
        self.generation = cells[self._word] >> GENERATION_SHIFT
        cells[self._own + S_GENERATION] = self.generation
        self._show_at = 0  # when to show the generation that began with a new split; 0: it is shown
        self._begun = self.generation  # the first generation of this split that was seen here
        found = self._on_board()
        if found.version:
            stickiness.take(migration, found)

    def choose(self, client: Client, now_ns: int, unsplit: bool = False) -> tuple[int, int, bytes]:
        """The arm of the client's current request, its bucket, and the Set-Cookie line of its answer, if any.

        An ``unsplit`` request gets the source until the migration is completed at 100 %, whatever the weight.
        """
        cells = self.cells
        word = cells[self._word]
        if word >> GENERATION_SHIFT != self.generation:
            self._turn(word >> GENERATION_SHIFT)
        bucket, cookie = self._stickiness.bucket(self.migration, client)
        if (
            bucket < word & WEIGHT_MASK
            and (not unsplit or word & _LASTING == _COMPLETED)
            and (word & _PINNED_BIT or now_ns < cells[self._lease])
            and (cells[self._marks + bucket] < self._settled or self._has_all(bucket))
        ):
            cells[self._own + S_LAST_TARGET_START] = now_ns
            return TARGET, bucket, cookie
        return SOURCE, bucket, cookie

    def _has_all(self, bucket: int) -> bool:
        """Whether the target has taken every change that the bucket's sessions made."""
        cells = self.cells
        now = monotonic_ns()  # read before the workers' cells: a change that one of them makes in between is younger
        self._settled = min([cells[at] or now for at in self._behind])
        return cells[self._marks + bucket] < self._settled

    def wrote(self, bucket: int, since: int, generation: int) -> None:
        """The source has answered a write of the bucket, which was chosen in ``generation``.

        ``since`` is as for ``behind``.
        """
        self.behind(since)
        if since and generation < self._begun:
            self._mark_all(monotonic_ns() + _MARGIN_NS)  # the session's bucket is another one by now
        elif since:
            self.cells[self._marks + bucket] = monotonic_ns() + _MARGIN_NS

    def behind(self, since: int) -> None:
        """The data source's ``behind_since``, for every worker to see."""
        self.cells[self._own + S_BEHIND_SINCE] = since

    def arrived(self, before_ns: int, looked_ns: int) -> None:
        """The data source's ``arrived``, and when it was asked, for whoever compares the two sides."""
        self.cells[self._own + S_ARRIVED] = before_ns
        self.cells[self._own + S_LOOKED] = looked_ns

    def record(
        self,
        operation: int,
        arm: int,
        began_ns: int,
        status: int,
        fault: FaultKind | None = None,
        fell_back: bool = False,
    ) -> None:
        """Count one data request: its latency, and whose mistake or failure it was."""
        cells = self.cells
        base = self._series[operation][arm]
        us = (monotonic_ns() - began_ns) // 1000
        cells[base + C_SUM_US] += us
        cells[base + C_BUCKETS + histogram.index(us)] += 1
        if fault is not None:
            cells[base + C_FAULTS + fault] += 1
            if fell_back:
                cells[base + C_FALLBACKS] += 1
        elif 400 <= status < 500:
            cells[base + C_CLIENT_ERRORS] += 1

    def spoil(self, operation: int, arm: int, fault: FaultKind) -> None:
        """A request that was recorded as answered has failed after all: its answer broke off."""
        self.cells[self._series[operation][arm] + C_FAULTS + fault] += 1

    def copied(self, operation: str, failed: bool) -> None:
        """The target has taken a copy of one of the operation's writes; or a try has ``failed``.

        An operation that the migration no longer has is not counted.
        """
        number = self._numbers.get(operation, -1)
        if number >= 0:
            base = self._series[number][TARGET]
            self.cells[base + C_COPIES] += 1
            if failed:
                self.cells[base + C_COPY_FAULTS] += 1

    def enter(self, flight: Flight) -> None:
        """A request that must be waited for is in flight on ``flight.on``."""
        if flight.on == TARGET:
            self._open.add(flight)
            self.cells[self._own + S_INFLIGHT_TARGET] += 1
        else:
            self.cells[self._own + S_INFLIGHT_SOURCE] += 1

    def leave(self, flight: Flight) -> None:
        """A request is no longer in flight."""
        if flight.on == SOURCE:
            which = S_INFLIGHT_SOURCE
        else:
            self._open.discard(flight)
            which = S_INFLIGHT_TARGET if flight.generation == self.generation else S_INFLIGHT_OLD
        self.cells[self._own + which] -= 1

    def tick(self, now_ns: int) -> None:
        """Take note of a new weight though no request came, and carry out a rollback's deadlines."""
        cells = self.cells
        generation = cells[self._word] >> GENERATION_SHIFT
        if generation != self.generation:
            self._turn(generation)
        else:
            self._take_split()
            if self._show_at and monotonic_ns() >= self._show_at:
                self._show_at = 0
                cells[self._own + S_GENERATION] = generation
        if cells[self._own + S_INFLIGHT_OLD]:
            cut_over_at, cancel_at = cells[self._cut_over_at], cells[self._cancel_at]
            old = [flight for flight in self._open if flight.generation != self.generation]
            if cancel_at and now_ns >= cancel_at:
                for flight in old:
                    flight.cancel()
            elif cut_over_at and now_ns >= cut_over_at:
                for flight in old:
                    flight.cut_over()

    def _turn(self, generation: int) -> None:
        """A new weight is published: what is in flight on the target is of an older generation from now on."""
        cells, own = self.cells, self._own
        cells[own + S_INFLIGHT_OLD] += cells[own + S_INFLIGHT_TARGET]
        cells[own + S_INFLIGHT_TARGET] = 0
        self.generation = generation
        if self._take_split():
            # Shown once the marks are due: whoever waits for the weight then finds visitors on the target.
            self._show_at = monotonic_ns() + _TAKEN_WITHIN_NS
        else:
            self._show_at = 0
            cells[own + S_GENERATION] = generation

    def _on_board(self) -> SplitKey:
        cells, first = self.cells, self._split
        return SplitKey.unpack(
            cells[first + M_SPLIT_VERSION], cells[first + M_SPLIT_LOW], cells[first + M_SPLIT_HIGH]
        )

    def _take_split(self) -> bool:
        """Go by the split that is on the board; whether it is another one than before."""
        found = self._on_board()
        if not found.version or not self._stickiness.take(self.migration, found):
            return False
        self._begun = self.generation
        self._mark_all(monotonic_ns() + _TAKEN_WITHIN_NS)
        return True

    def _mark_all(self, at_ns: int) -> None:
        self.cells[self._marks : self._marks + BUCKETS] = memoryview(array("Q", [at_ns]) * BUCKETS)

    def gauge(self, values: list[int]) -> None:
        """Put the data source's figures onto the board."""
        base = self._own + S_GAUGES
        for i, (before, value) in enumerate(zip(self._counted, values, strict=True)):
            self.cells[base + i] = before + value
