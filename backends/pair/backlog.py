"""What one side has and the other has yet to take: a window of it in memory, and all of it in the change log.

A change is logged before its own side's store gets it, and waits here from the moment its handler has ended until
both sides have it, or neither. The log's files of processes that are gone are taken over. What is in memory is handed
to whoever sends it, or asks about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic_ns, time_ns
from typing import Final, Protocol

import msgspec
import structlog

from backends.adapters.replies import OperationRefused
from backends.documents.changes import Change, decode, encode
from backends.operations import error_answer
from backends.pair.changelog import ChangeLog, named, without_name
from backends.pair.logged import BATCH, NAMED, LoggedChange
from backends.pair.segment import DONE, OPEN, SETTLED, ChangeState, Frame, Segment

WINDOW: Final = 10_000  # changes in memory; more wait in the log alone
WINDOW_BYTES: Final = 32 * 2**20  # of these, encoded
LOOK_S: Final = 1.0  # between two looks for logs whose process is gone
MISTAKE: Final = "a mistake of phasegate's: the exception says which"
RETRY: Final = ((b"retry-after", b"5"),)

_UNENCODABLE: Final = (ValueError, TypeError, OverflowError, RecursionError)
_log = structlog.get_logger("phasegate.mirror")


class Taker(Protocol):
    """Who does something about the changes in memory."""

    def add(self, logged: LoggedChange) -> None:
        """One more."""

    def go_on(self) -> None:
        """Begin with what was added, as far as that is possible now."""


class Backlog:
    """What waits for the store of the kind ``backend``. Without a ``log`` it is in memory only.

    ``sending`` gets the changes that are certain, ``doubting`` those that the own side may lack. Both are set before
    ``start``.
    """

    sending: Taker
    doubting: Taker

    def __init__(self, backend: str, log: ChangeLog | None) -> None:
        self.backend = backend
        self.log = log
        self.lost = 0
        self.refused = 0  # writes that were refused because they could not be logged
        self.count = self._bytes = 0  # of what is in memory
        self.segments: dict[Segment, None] = {}  # oldest first, of those with something to be read or to be done
        # What waits in memory, oldest first: by segment, and under None what is in no segment.
        self._waiting: dict[Segment | None, dict[LoggedChange, None]] = {}
        self._open: dict[tuple[Segment, int], LoggedChange] = {}  # sent to the own store, without an outcome yet
        # Calls whose changes may be visible on the own side and do not wait yet, and when each began; oldest first.
        self.calls: dict[object, int] = {}
        self._unread = False  # something in the segments is yet to be read
        self._own_unread = False  # in those of this process
        self._unwritable = False  # the last change could not be logged
        self._loop: asyncio.AbstractEventLoop | None = None  # set while started
        self._look_timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Handle | None = None
        self._idle: asyncio.Future[None] | None = None  # ``drained`` waits for it

    @property
    def pending(self) -> int:
        """Changes that the other side has not applied yet, or may lack: in memory and in the log."""
        return self.count + sum(segment.unread for segment in self.segments)

    def behind_since(self) -> int:
        """When the oldest pending change was made, CLOCK_MONOTONIC ns; 0 if none is pending."""
        since = 0
        for waiting in self._waiting.values():
            for each in waiting:
                since = min(since or each.made, each.made)
                break
        for segment in self.segments:
            if segment.unread and segment not in self._waiting:
                made = _monotonic(segment.made)
                since = min(since or made, made)
        return since

    def arrived(self) -> int:
        """The changes made before that this process has are on both sides or on neither; CLOCK_MONOTONIC ns.

        A change is made no earlier than its call begins. Those that wait are in the order in which their handlers
        ended, so each knows the oldest call that was open when it was handed over: all behind it are younger.
        """
        before = next(iter(self.calls.values()), 0) or monotonic_ns()
        for waiting in self._waiting.values():
            before = min(before, next(iter(waiting)).not_before)
        if any(segment.unread and segment not in self._waiting for segment in self.segments):
            return 1
        return before

    # ------------------------------------------------------------------------------------------------- logging

    def log_ahead(self, step: Change, operation: str) -> LoggedChange:
        """Log a change that is about to be written. Raises ``OperationRefused`` if that is impossible."""
        try:
            return self._logged(step, operation, OPEN)
        except OSError as error:
            self.refused += 1
            self._tell_unwritable(error)
            message = "the change log cannot be written, so nothing was: the disk of phasegate's machine may be full"
            raise OperationRefused(error_answer(503, "change_log_unwritable", message, RETRY)) from None

    def log_afterwards(self, step: Change, operation: str) -> LoggedChange:
        """Log a change that was written already. Where that is impossible it waits in memory."""
        try:
            logged = self._logged(step, operation, SETTLED)
        except OSError as error:
            self._tell_unwritable(error)
            logged = _unlogged(step, operation)
        logged.outcome = SETTLED
        return logged

    def _logged(self, step: Change, operation: str, state: ChangeState) -> LoggedChange:
        log = self.log
        if log is None:
            return _unlogged(step, operation)
        try:
            body = named(operation, encode(step))
        except _UNENCODABLE:
            return _unlogged(step, operation)  # no store takes such a value: the write is refused in a moment
        # Once more waits than the window holds, what comes after it waits behind it.
        read_later = self._own_unread or self.count >= WINDOW or self._bytes >= WINDOW_BYTES
        before = log.current
        segment, number = log.append(body, state=state, read_later=read_later)
        segment.open += 1
        self._unwritable = False
        if segment is not before:
            self.segments[segment] = None
            if before is not None:
                self._discard(before)
        now = monotonic_ns()
        logged = LoggedChange(step, len(body), now, now, segment, number, operation, not read_later)
        if read_later:
            self._own_unread = self._unread = True
            self._open[segment, number] = logged
        return logged

    def _tell_unwritable(self, error: OSError) -> None:
        if not self._unwritable:
            self._unwritable = True
            assert self.log is not None
            _log.error("change_log_unwritable", file=str(self.log.folder), reason=str(error))

    # ------------------------------------------------------------------------------------------------- waiting

    def hand_over(self, logged: LoggedChange) -> None:
        """A change whose handler has ended: it waits for the other side, or is asked about."""
        segment = logged.segment
        if segment is not None:
            segment.open -= 1
            if self._open:
                self._open.pop((segment, logged.number), None)
        if logged.outcome is DONE:
            if segment is not None:
                self._discard(segment)
        elif logged.loaded:
            if self.count >= BATCH:
                logged.step.forget()  # it will wait for long
            logged.due = monotonic_ns()
            logged.not_before = next(iter(self.calls.values()), logged.made)
            self._keep(logged).go_on()
        else:
            self._read_soon()  # it is read back when its turn comes

    def _keep(self, logged: LoggedChange) -> Taker:
        """Keep a change in memory; returns whose turn it is."""
        waiting = self._waiting.get(logged.segment)
        if waiting is None:
            waiting = self._waiting[logged.segment] = {}
        waiting[logged] = None
        self.count += 1
        self._bytes += logged.size
        taker = self.sending if logged.outcome is SETTLED else self.doubting
        taker.add(logged)
        return taker

    def settle(self, logged: LoggedChange) -> None:
        """Both sides have the change, or neither will: remove it from what waits."""
        logged.abort()
        segment = logged.segment
        waiting = self._waiting[segment]
        del waiting[logged]
        self.count -= 1
        self._bytes -= logged.size
        if not waiting:
            del self._waiting[segment]
            if segment is not None:
                self._discard(segment)
        if self._unread:
            self._read_soon()
        if self._idle is not None:
            self._release_if_idle()

    def _discard(self, segment: Segment) -> None:
        """Remove a segment in which everything is done, unless changes are still appended to it."""
        assert self.log is not None
        if segment is not self.log.current and self._is_finished(segment):
            self.segments.pop(segment, None)
            self.log.discard(segment)

    def _is_finished(self, segment: Segment) -> bool:
        return segment.exhausted and not segment.open and segment not in self._waiting

    # ------------------------------------------------------------------------------------------------- losing

    def lose(
        self, logged: LoggedChange, cause: str, reason: str, fault: str = "", mistake: Exception | None = None
    ) -> None:
        """Remove a change from what waits, and count it as lost."""
        self.settle(logged)
        self.count_lost(logged.step.documents, cause, reason, fault, mistake)

    def gives_up(self, logged: LoggedChange, after: int) -> bool:
        """Lose a change that met a permanent fault in so many tries; whether that is so."""
        if logged.hopeless < after:
            return False
        self.lose(logged, "hopeless", logged.reason, logged.fault)
        return True

    def count_lost(
        self, documents: Sequence[str], cause: str, reason: str, fault: str = "", mistake: Exception | None = None
    ) -> None:
        """Count, tell and keep that a change is lost."""
        self.lost += 1
        _log.error(
            "change_not_mirrored",
            backend=self.backend,
            documents=tuple(documents[:NAMED]),
            document_count=len(documents),
            cause=cause,
            fault=fault,
            reason=reason,
            exc_info=mistake,
        )
        if self.log is not None:
            self.log.lose(cause=cause, reason=reason, documents=documents)

    # ------------------------------------------------------------------------------------------------- reading back

    def start(self) -> None:
        """Open the log, and take over what processes that are gone have left. Raises ``OSError``."""
        self._loop = asyncio.get_running_loop()
        if self.log is not None:
            self.log.open()
            self._look()

    def _look(self) -> None:
        """Take over the logs whose process is gone."""
        assert self._loop is not None
        assert self.log is not None
        self._look_timer = self._loop.call_later(LOOK_S, self._look)
        changes = 0
        for segment in self.log.orphans():
            self.segments[segment] = None
            self._unread = True
            changes += segment.unread
        if changes:
            _log.warning("changes_taken_over", backend=self.backend, changes=changes)
        self._read_soon()

    def _read_soon(self) -> None:
        if self._unread and self._loop is not None and self._reading is None and self._has_room():
            self._reading = self._loop.call_soon(self._read)

    def _has_room(self) -> bool:
        # By half, so that it is read in long pieces.
        return self.count < WINDOW // 2 and self._bytes < WINDOW_BYTES // 2

    def _read(self) -> None:
        """Bring one piece of the log into memory."""
        self._reading = None
        if self._loop is None:
            return
        segment = next((each for each in self.segments if not each.exhausted), None)
        if segment is not None:
            for frame in segment.read():
                self._bring_in(segment, frame)
            for _ in range(segment.damaged):
                self.count_lost((), "damaged", "its record in the change log is damaged")
            segment.damaged = 0
            self._discard(segment)
        unread = [each for each in self.segments if not each.exhausted]
        self._unread, self._own_unread = bool(unread), any(each.own for each in unread)
        self._read_soon()
        self.sending.go_on()
        self.doubting.go_on()
        self._release_if_idle()

    def _bring_in(self, segment: Segment, frame: Frame) -> None:
        """A change that was read back, or taken over."""
        opened = self._open.get((segment, frame.number))
        if opened is not None:
            opened.loaded = True  # its handler has not ended: it hands the change over itself
            self._open.pop((segment, frame.number))
            return
        try:
            operation, change = without_name(frame.body)
            step = decode(change)
        except msgspec.DecodeError as error:
            segment.note(frame.number, DONE)
            reason = f"its record cannot be read; has an adapter been removed? {error}"
            self.count_lost((), "mistake", reason)
            return
        made = _monotonic(frame.made)
        logged = LoggedChange(step, len(frame.body), made, made, segment, frame.number, operation)
        if frame.state == SETTLED:
            logged.outcome = SETTLED
        else:
            logged.doubtful = True
        self._keep(logged)

    # ------------------------------------------------------------------------------------------------- its end

    async def drained(self, within_s: float) -> int:
        """Wait until nothing is pending, at most so long; returns what is left."""
        if self._loop is not None and not self._is_idle():
            self._idle = self._loop.create_future()
            timer = self._loop.call_later(within_s, _release, self._idle)
            await self._idle
            timer.cancel()
            self._idle = None
        return self.pending

    def _is_idle(self) -> bool:
        return not self.count and all(segment.exhausted for segment in self.segments)

    def _release_if_idle(self) -> None:
        if self._idle is not None and self._is_idle():
            _release(self._idle)

    def stop(self) -> None:
        """Read no more."""
        self._loop = None
        for timer in (self._look_timer, self._reading):
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """Leave what is in the log to whoever takes it over; the rest is lost. After ``stop``."""
        unlogged = self._waiting.get(None, {})
        for logged in unlogged:
            self.count_lost(logged.step.documents, "ended", logged.reason or "not sent yet", logged.fault)
        if self.log is not None:
            if left := self.pending - len(unlogged):
                _log.warning("changes_left", backend=self.backend, changes=left)
            for segment in tuple(self.segments):
                if self._is_finished(segment):
                    self.segments.pop(segment)
                    self.log.discard(segment)
            self.log.close(self.segments)
        for queue in (self._waiting, self.segments, self._open):
            queue.clear()
        self.count = self._bytes = 0


def _unlogged(step: Change, operation: str) -> LoggedChange:
    now = monotonic_ns()
    return LoggedChange(step, 0, now, now, None, 0, operation)


def _release(idle: asyncio.Future[None]) -> None:
    if not idle.done():
        idle.set_result(None)


def _monotonic(micros: int) -> int:
    """A time since 1970 as one of CLOCK_MONOTONIC, in ns: at least 1, at most now."""
    now = monotonic_ns()
    return max(1, min(now, now - (time_ns() - 1000 * micros)))
