"""Applies the changes made on one side of a migration to the other side.

So raising a weight keeps read-your-writes for every session. So does rolling back to a source in this machine's
memory: there the change is applied before the write is answered. Changes for a remote source or target wait: what the
target stored just before a rollback becomes visible on a remote source shortly after it.

What waits is in the change log (see ``changelog``), so it survives the process; in memory is a window of it. A change
is logged before it is sent to its own side's store, and its outcome when that is known:

    acknowledged    the other side gets it, whatever becomes of this process
    refused         nobody gets it
    in doubt        the store did not answer, or the process died meanwhile: whoever goes on asks the store, and the
                    other side gets what the store holds. Twice, because a commit may still be under way

Every change is retried until the other side's store applies it. Changes may be applied in any order and twice (see
``changes``), so many are merged into one commit (see ``batching``), several commits are under way, and one that fails
waits without blocking others.

The number of commits under way adapts: one more after each success, half after each failure; the number of changes
in one doubles and halves likewise. So a store in trouble gets fewer calls, and one that is down gets one change at a
time as a probe, with pauses.

Lost are only the changes that the store will never accept. They are counted, told, and kept beside the log.

Where one side answers every write, nothing else shows whether the other one takes writes. So what becomes of its
copies is counted by operation, for the judge (``copied``). A copy that is taken counts once. A try that fails counts
against the change, and for the same change again after a pause that doubles: a store that is down fails with
every new write, and one change that waits for an hour is a few dozen failures. Of a commit with many changes that
fails, the first one counts, and those that had failed before: what the next try gets over is no failure of hundreds.
Two writers that meet are none at all. A change that is sent alone, as a probe, speaks for some of those that have
waited behind it, or a store that answers nothing would be known to fail only once in ``CALL_S``.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import islice
from time import monotonic_ns, time_ns
from typing import Any, Final

import msgspec
import structlog

from backends.adapters.replies import OperationRefused
from backends.disk import Sync
from backends.documents.batching import CommitBatch
from backends.documents.changes import ATTEMPTS, Change, contended, decode, encode, guarded
from backends.documents.port import Context, Document, DocumentStore, Mutation, Reason, Rejected
from backends.errors import Fault, FaultKind
from backends.operations import error_answer
from backends.pair.changelog import ChangeLog, ChangeState, Frame, Segment, named, without_name
from backends.resilience.backoff import backoff

WINDOW: Final = 10_000  # changes in memory; more wait in the log alone
WINDOW_BYTES: Final = 32 * 2**20  # of these, encoded
SENDERS: Final = 4  # commits under way: few, so that what is written often is written seldom
BATCH: Final = 300  # changes in one commit, at most
CALL_S: Final = 5.0  # deadline for applying one commit
BASE_S: Final = 0.1  # backoff of a failed change, and between probes
CAP_S: Final = 2.0
DRAIN_S: Final = 5.0  # how long closing waits for what is left
TRIES: Final = 8  # with a permanent fault before the change is given up; with any other before it is logged
NAMED: Final = 5  # documents of a change that the log names; the others are only counted
LOOK_S: Final = 1.0  # between two looks for logs whose process is gone
ASKERS: Final = 8  # questions under way, whether the own side holds a change that is in doubt
COUNTED_AGAIN_S: Final = 2.0  # a copy that fails is counted again after so long, and then after twice as long
COUNTED_CAP_S: Final = 60.0  # but at least so often
SPEAKS_FOR: Final = 10  # copies that fail with the probe that they wait behind: about as many as convince the judge
LATE_S: Final = 2.0  # if they have waited for so long
AGAIN_S: Final = 5.0  # a commit that a store does not hold yet may still be on its way to it for so long

# A stored value of an unsupported type, or a reply that cannot be parsed: a retry will meet the same. Every other
# fault may end with an outage, however long: of the network, the quota, credentials or permissions, and INTERNAL,
# which covers everything else. A change that meets one of those is never given up.
_INCURABLE: Final = frozenset({FaultKind.CORRUPT})

_MISTAKE: Final = "a mistake of phasegate's: the exception says which"
_RETRY: Final = ((b"retry-after", b"5"),)
_UNENCODABLE: Final = (ValueError, TypeError, OverflowError, RecursionError)
_log = structlog.get_logger("phasegate.mirror")


class LoggedChange(msgspec.Struct, eq=False):
    """A change that one side has, or may have, and the other has yet to take. Times are of CLOCK_MONOTONIC, in ns."""

    step: Change
    size: int  # bytes, encoded
    made: int
    due: int
    segment: Segment | None  # None: it is in memory only
    number: int  # in the segment
    operation: str = ""  # whose write it is, if that is known
    loaded: bool = True  # in the window; otherwise it is read back from its segment
    outcome: ChangeState = ChangeState.OPEN
    doubtful: bool = False
    asked: int = 0  # when the own side did not hold it for the first time
    most: int = BATCH  # changes that it may be sent with: half as many after each commit that failed with it
    tries: int = 0
    hopeless: int = 0  # tries that met a permanent fault
    others: int = 0  # the mirror's count of applied changes when this one last failed
    fault: str = ""  # the kind of the last fault
    reason: str = ""  # and the store's message
    count_at: int = 0  # when its failing is counted next
    count_pause: float = 0.0  # seconds from the last time to that one

    def __lt__(self, other: LoggedChange) -> bool:
        return self.due < other.due

    # As ``Intent``. ``WriteAhead`` acts on the outcome when the handler has ended.

    def settle(self) -> None:
        """As ``Intent.settle``."""
        self.outcome = ChangeState.SETTLED
        if self.segment is not None:
            self.segment.note(self.number, ChangeState.SETTLED)

    def abort(self) -> None:
        """As ``Intent.abort``."""
        self.outcome = ChangeState.DONE
        if self.segment is not None:
            self.segment.note(self.number, ChangeState.DONE)

    def doubt(self) -> None:
        """As ``Intent.doubt``."""
        self.doubtful = True


class WriteAhead:
    """The changes of one call to a handler: each is logged before the handler's store gets it."""

    __slots__ = ("_logged", "_mirror", "_operation")

    def __init__(self, mirror: Mirror, operation: str = "") -> None:
        self._mirror = mirror
        self._operation = operation
        self._logged: list[LoggedChange] = []

    def intend(self, step: Change) -> LoggedChange:
        """Log a change. Raises ``OperationRefused`` where that is impossible: it must not be written then."""
        logged = self._mirror.log_ahead(step, self._operation)
        self._logged.append(logged)
        return logged

    async def finish(self, change: Change | None) -> None:
        """The handler has answered: hand over its changes. Raises ``OperationRefused`` if they cannot be synced."""
        mirror, logged = self._mirror, self._logged
        if change is not None and not (len(logged) == 1 and logged[0].step is change):
            for step in change.steps:
                if not any(step is each.step for each in logged):
                    logged.append(mirror.log_afterwards(step, self._operation))
        try:
            if mirror.at_once:
                for each in logged:
                    if each.outcome is ChangeState.SETTLED:
                        await mirror.apply_at_once(each)
        finally:
            self.leave()
        if mirror.waits_for_disk:
            await mirror.synced()

    def leave(self) -> None:
        """Hand over what is left: what was acknowledged waits, what has no outcome is in doubt."""
        logged, self._logged = self._logged, []
        for each in logged:
            self._mirror.hand_over(each)


class Mirror:
    """Changes of the store ``own`` to be applied to the store ``other``. ``start`` before use.

    ``at_once``: they are applied to it before the write is answered. Without a ``log`` they are in memory only.
    ``copied`` is told of each change that ``other`` has taken, and of those that fail: the operation that made it,
    and whether it failed.
    """

    def __init__(
        self,
        own: DocumentStore,
        other: DocumentStore,
        *,
        at_once: bool,
        log: ChangeLog | None = None,
        copied: Callable[[str, bool], None] | None = None,
    ) -> None:
        self.mirrored = 0
        self.lost = 0
        self.refused = 0  # writes that were refused because they could not be logged
        self._own = own
        self._store = other
        self.at_once = at_once
        self.waits_for_disk = log is not None and log.disk.sync is Sync.ALWAYS
        self._log = log
        self._copied = copied
        # What waits in memory, oldest first: by segment, and under None what is in no segment.
        self._waiting: dict[Segment | None, dict[LoggedChange, None]] = {}
        self._open: dict[tuple[Segment, int], LoggedChange] = {}  # sent to the own store, without an outcome yet
        self._segments: dict[Segment, None] = {}  # oldest first, of those with something to be read or to be done
        self._unread = False  # something in the segments is yet to be read
        self._own_unread = False  # in those of this process
        self._count = self._bytes = 0  # of what is in memory
        self._fresh: deque[LoggedChange] = deque()  # of that: certain and not tried yet, oldest first
        self._failed: list[LoggedChange] = []  # failed before, a heap by due time
        self._doubts: list[LoggedChange] = []  # to be asked about, a heap by due time
        self._window = SENDERS  # how many commits may be under way
        self._most = BATCH  # changes in one
        self._probes = 0  # failed in a row, each sent alone
        self._resume = 0  # when the next commit may be sent, ns
        self._senders: set[asyncio.Task[None]] = set()
        self._askers: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # set while started
        self._timer: asyncio.TimerHandle | None = None
        self._ask_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Handle | None = None
        self._idle: asyncio.Future[None] | None = None  # ``close`` waits for it
        self._unwritable = False  # the last change could not be logged
        self._dice = random.Random()  # noqa: S311 - no secret

    @property
    def pending(self) -> int:
        """Changes that the other side has not applied yet, or may lack: in memory and in the log."""
        return self._count + sum(segment.unread for segment in self._segments)

    def behind_since(self) -> int:
        """When the oldest pending change was made, CLOCK_MONOTONIC ns; 0 if none is pending."""
        since = 0
        for waiting in self._waiting.values():
            for each in waiting:
                since = min(since or each.made, each.made)
                break
        for segment in self._segments:
            if segment.unread and segment not in self._waiting:
                made = _monotonic(segment.made)
                since = min(since or made, made)
        return since

    # ------------------------------------------------------------------------------------------------- logging

    def log_ahead(self, step: Change, operation: str) -> LoggedChange:
        """Log a change that is about to be written. Raises ``OperationRefused`` if that is impossible."""
        try:
            return self._logged(step, operation, ChangeState.OPEN)
        except OSError as error:
            self.refused += 1
            self._tell_unwritable(error)
            message = "the change log cannot be written, so nothing was: the disk of phasegate's machine may be full"
            raise OperationRefused(error_answer(503, "change_log_unwritable", message, _RETRY)) from None

    def log_afterwards(self, step: Change, operation: str) -> LoggedChange:
        """Log a change that was written already. Where that is impossible it waits in memory."""
        try:
            logged = self._logged(step, operation, ChangeState.SETTLED)
        except OSError as error:
            self._tell_unwritable(error)
            logged = self._unlogged(step, operation)
        logged.outcome = ChangeState.SETTLED
        return logged

    def _logged(self, step: Change, operation: str, state: ChangeState) -> LoggedChange:
        log = self._log
        if log is None:
            return self._unlogged(step, operation)
        try:
            body = named(operation, encode(step))
        except _UNENCODABLE:
            return self._unlogged(step, operation)  # no store takes such a value: the write is refused in a moment
        # Once more waits than the window holds, what comes after it waits behind it.
        read_later = self._own_unread or self._count >= WINDOW or self._bytes >= WINDOW_BYTES
        before = log.current
        segment, number = log.append(body, state=state, read_later=read_later)
        segment.open += 1
        self._unwritable = False
        if segment is not before:
            self._segments[segment] = None
            if before is not None:
                self._discard(before)
        now = monotonic_ns()
        logged = LoggedChange(step, len(body), now, now, segment, number, operation, not read_later)
        if read_later:
            self._own_unread = self._unread = True
            self._open[segment, number] = logged
        return logged

    def _unlogged(self, step: Change, operation: str) -> LoggedChange:
        now = monotonic_ns()
        return LoggedChange(step, 0, now, now, None, 0, operation)

    def _tell_unwritable(self, error: OSError) -> None:
        if not self._unwritable:
            self._unwritable = True
            assert self._log is not None
            _log.error("change_log_unwritable", file=str(self._log.folder), reason=str(error))

    async def synced(self) -> None:
        """With ``sync = "always"``: wait until the log is on the disk. Raises ``OperationRefused``."""
        if self._log is not None:
            try:
                await self._log.disk.synced()
            except OSError:
                message = "the write is stored, but could not be synced to the disk: repeat it to be sure"
                raise OperationRefused(error_answer(503, "write_uncertain", message, _RETRY)) from None

    async def apply_at_once(self, logged: LoggedChange) -> None:
        """Apply an acknowledged change now, if the other store is well."""
        if self._failed or self._resume or self._fresh:
            return
        try:
            await logged.step.apply(self._store, _context())
        except Fault:
            return  # it is handed over, and waits
        except Rejected as refusal:
            if refusal.reason is not Reason.INVALID:
                return
            self._drop(logged, "refused", str(refusal))
            self._tell_copied(logged, failed=True)
        except Exception as error:
            self._drop(logged, "mistake", _MISTAKE, mistake=error)
            self._tell_copied(logged, failed=True)
        else:
            self.mirrored += 1
            self._tell_copied(logged, failed=False)
        self._done(logged)

    def hand_over(self, logged: LoggedChange) -> None:
        """A change whose handler has ended: it waits for the other side, or is asked about."""
        segment = logged.segment
        if segment is not None:
            segment.open -= 1
            if self._open:
                self._open.pop((segment, logged.number), None)
        if logged.outcome is ChangeState.DONE:
            if segment is not None:
                self._discard(segment)
        elif logged.loaded:
            self._enqueue(logged)
        else:
            self._read_soon()  # it is read back when its turn comes

    def _enqueue(self, logged: LoggedChange) -> None:
        waiting = self._waiting.get(logged.segment)
        if waiting is None:
            waiting = self._waiting[logged.segment] = {}
        waiting[logged] = None
        self._count += 1
        self._bytes += logged.size
        if self._count > BATCH:
            logged.step.forget()  # it will wait for long
        logged.due = monotonic_ns()
        if logged.outcome is ChangeState.SETTLED:
            self._fresh.append(logged)
            if len(self._senders) < self._window:
                self._dispatch()
        else:
            heappush(self._doubts, logged)
            self._ask()

    # ------------------------------------------------------------------------------------------------- outcomes

    def _done(self, logged: LoggedChange) -> None:
        """Both sides have the change, or neither will."""
        logged.outcome = ChangeState.DONE
        if logged.segment is not None:
            logged.segment.note(logged.number, ChangeState.DONE)

    def _settle(self, logged: LoggedChange) -> None:
        """Remove a change from what waits."""
        self._done(logged)
        segment = logged.segment
        waiting = self._waiting[segment]
        del waiting[logged]
        self._count -= 1
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
        assert self._log is not None
        if segment is not self._log.current and self._is_finished(segment):
            self._segments.pop(segment, None)
            self._log.discard(segment)

    def _is_finished(self, segment: Segment) -> bool:
        return segment.exhausted and not segment.open and segment not in self._waiting

    def _is_idle(self) -> bool:
        return not self._count and all(segment.exhausted for segment in self._segments)

    def _release_if_idle(self) -> None:
        if self._idle is not None and self._is_idle():
            _release(self._idle)

    def _drop(
        self, logged: LoggedChange, cause: str, reason: str, fault: str = "", mistake: Exception | None = None
    ) -> None:
        """Count a change as lost."""
        self._count_lost(logged.step.documents, cause, reason, fault, mistake)

    def _count_lost(
        self, documents: Sequence[str], cause: str, reason: str, fault: str = "", mistake: Exception | None = None
    ) -> None:
        self.lost += 1
        _log.error(
            "change_not_mirrored",
            backend=self._store.kind,
            documents=tuple(documents[:NAMED]),
            document_count=len(documents),
            cause=cause,
            fault=fault,
            reason=reason,
            exc_info=mistake,
        )
        if self._log is not None:
            self._log.lose(cause=cause, reason=reason, documents=documents)

    def _lose(
        self, logged: LoggedChange, cause: str, reason: str, fault: str = "", mistake: Exception | None = None
    ) -> None:
        """Remove a change from what waits, and count it as lost."""
        self._settle(logged)
        self._drop(logged, cause, reason, fault, mistake)

    # ------------------------------------------------------------------------------------------------- starting

    def start(self) -> None:
        """Open the log, take over what processes that are gone have left, and start sending. Raises ``OSError``."""
        self._loop = asyncio.get_running_loop()
        if self._log is not None:
            self._log.open()
            self._look()
        self._dispatch()

    def _look(self) -> None:
        """Take over the logs whose process is gone."""
        assert self._loop is not None
        assert self._log is not None
        self._look_timer = self._loop.call_later(LOOK_S, self._look)
        changes = 0
        for segment in self._log.orphans():
            self._segments[segment] = None
            self._unread = True
            changes += segment.unread
        if changes:
            _log.warning("changes_taken_over", backend=self._store.kind, changes=changes)
        self._read_soon()

    # ------------------------------------------------------------------------------------------------- reading back

    def _read_soon(self) -> None:
        if self._unread and self._loop is not None and self._reading is None and self._has_room():
            self._reading = self._loop.call_soon(self._read)

    def _has_room(self) -> bool:
        # By half, so that it is read in long pieces.
        return self._count < WINDOW // 2 and self._bytes < WINDOW_BYTES // 2

    def _read(self) -> None:
        """Bring one piece of the log into memory."""
        self._reading = None
        if self._loop is None:
            return
        segment = next((each for each in self._segments if not each.exhausted), None)
        if segment is not None:
            for frame in segment.read():
                self._bring_in(segment, frame)
            for _ in range(segment.damaged):
                self._count_lost((), "damaged", "its record in the change log is damaged")
            segment.damaged = 0
            self._discard(segment)
        unread = [each for each in self._segments if not each.exhausted]
        self._unread, self._own_unread = bool(unread), any(each.own for each in unread)
        self._read_soon()
        self._dispatch()
        self._ask()
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
            segment.note(frame.number, ChangeState.DONE)
            reason = f"its record cannot be read; has an adapter been removed? {error}"
            self._count_lost((), "mistake", reason)
            return
        made = _monotonic(frame.made)
        logged = LoggedChange(step, len(frame.body), made, made, segment, frame.number, operation)
        self._waiting.setdefault(segment, {})[logged] = None
        self._count += 1
        self._bytes += logged.size
        if frame.state == ChangeState.SETTLED:
            logged.outcome = ChangeState.SETTLED
            self._fresh.append(logged)
        else:
            logged.doubtful = True
            heappush(self._doubts, logged)

    # ------------------------------------------------------------------------------------------------- in doubt

    def _ask(self) -> None:
        """Ask the own side about changes in doubt, as many as are due."""
        loop = self._loop
        while loop is not None and self._doubts and len(self._askers) < ASKERS:
            wait_ns = self._doubts[0].due - monotonic_ns()
            if wait_ns > 0:
                if self._ask_timer is not None:
                    self._ask_timer.cancel()
                self._ask_timer = loop.call_later(wait_ns / 1e9, self._ask)
                return
            self._askers.add(loop.create_task(self._ask_about(heappop(self._doubts))))

    async def _ask_about(self, logged: LoggedChange) -> None:
        try:
            traces = logged.step.traces
            found = await self._own.get_many(traces, _context())
            held = logged.step.held(dict(zip(traces, found, strict=True)))
        except Fault as fault:
            self._ask_later(logged, fault)
        except Rejected as refusal:
            self._ask_later(logged, Fault(FaultKind.INTERNAL, str(refusal)))
        except Exception as error:
            self._lose(logged, "mistake", _MISTAKE, mistake=error)
        else:
            now = monotonic_ns()
            if held is not None:
                logged.step, logged.doubtful = held, False
                logged.tries = logged.hopeless = 0
                logged.due = now
                self._fresh.append(logged)
                self._dispatch()
            elif not logged.asked:
                logged.asked = now
                logged.due = now + int(AGAIN_S * 1e9)
                heappush(self._doubts, logged)
            else:
                self._settle(logged)  # neither side has it
        finally:
            self._askers.discard(asyncio.current_task())
            self._ask()

    def _ask_later(self, logged: LoggedChange, fault: Fault) -> None:
        long = self._note_failure(logged, fault)
        if self._is_given_up(logged):
            return
        if long:
            _log.warning(
                "change_in_doubt",
                backend=self._own.kind,
                documents=logged.step.documents[:NAMED],
                document_count=len(logged.step.documents),
                fault=logged.fault,
                reason=logged.reason,
                tries=logged.tries,
            )
        logged.due = self._later(logged)
        heappush(self._doubts, logged)

    def _later(self, logged: LoggedChange) -> int:
        return monotonic_ns() + int(1e9 * backoff(max(0, logged.tries - 1), BASE_S, CAP_S, self._dice))

    def _note_failure(self, logged: LoggedChange, fault: Fault) -> bool:
        """Note why a change could not be applied or asked about; whether it is time to tell of it."""
        if fault.kind is FaultKind.BREAKER:
            return False  # the store was not asked
        logged.tries += 1
        logged.hopeless += fault.kind in _INCURABLE
        logged.fault, logged.reason = fault.kind.label, str(fault)
        return logged.tries == TRIES

    def _is_given_up(self, logged: LoggedChange) -> bool:
        """Give a change up if no retry can succeed; whether that is so."""
        if logged.hopeless < TRIES:
            return False
        self._lose(logged, "hopeless", logged.reason, logged.fault)
        return True

    # ------------------------------------------------------------------------------------------------- sending

    def _dispatch(self) -> None:
        """Start senders, as many as there are due changes and the window allows."""
        if self._loop is None:
            return
        while len(self._senders) < self._window and (batch := self._next()):
            self._senders.add(self._loop.create_task(self._send(batch)))

    def _next(self) -> list[LoggedChange]:
        """The changes of the next commit; none if none is due: then a timer is set for the next one."""
        fresh, failed = self._fresh, self._failed
        if not fresh and not failed:
            return []
        now = monotonic_ns()
        if self._resume > now:
            self._wake_in((self._resume - now) / 1e9)
            return []
        most = 1 if self._resume else self._most
        batch: list[LoggedChange] = []
        # A probe is preferably a change that never failed: others may fail for reasons of their own. Else those that
        # failed come first once they are due.
        if failed and failed[0].due <= now and not (fresh and (self._resume or fresh[0].due < failed[0].due)):
            while failed and failed[0].due <= now and len(batch) < min(most, failed[0].most):
                most = min(most, failed[0].most)
                batch.append(heappop(failed))
            return batch
        while fresh and len(batch) < most:
            batch.append(fresh.popleft())
        if not batch and failed:
            self._wake_in((failed[0].due - now) / 1e9)
        return batch

    def _wake_in(self, seconds: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._dispatch)

    async def _send(self, first: list[LoggedChange]) -> None:
        """Send changes as long as any is due."""
        senders = self._senders
        batch = first
        try:
            while batch:
                await self._send_batch(batch)
                batch = self._next() if len(senders) <= self._window else []
        finally:
            # Removed here, not in a done callback, which runs later: a change told in between would start no sender.
            senders.discard(asyncio.current_task())

    async def _send_batch(self, batch: list[LoggedChange]) -> None:
        """Apply these changes by as few commits as they fit into; what is left of them waits again."""
        left: Sequence[LoggedChange] = batch
        try:
            while left:
                applied, left = await self._commit(left)
                for logged in applied:
                    self.mirrored += 1
                    self._tell_copied(logged, failed=False)
                    self._settle(logged)
                self._succeeded()
        except Fault as fault:
            self._postpone(left, fault)
        except Rejected as refusal:
            if refusal.reason is Reason.INVALID:
                self._refuse(left, str(refusal))
            else:  # a document that a change demands is missing: the change that creates it may be on its way
                self._postpone(left, Fault(FaultKind.ABORTED, str(refusal)))
        except Exception as error:
            if len(left) == 1:
                self._tell_copied(left[0], failed=True)
                self._lose(left[0], "mistake", _MISTAKE, mistake=error)
            else:
                self._part(left)

    async def _commit(self, changes: Sequence[LoggedChange]) -> tuple[list[LoggedChange], list[LoggedChange]]:
        """Make one commit; returns the changes that the store has now, and those that did not fit.

        Raises ``Fault``, ``Rejected`` (INVALID or MISSING), and what a plan raises; none is applied then.
        """
        store, ctx = self._store, _context()
        paths = dict.fromkeys(path for logged in changes for path in logged.step.reads)
        for attempt in range(ATTEMPTS):
            stored: dict[str, Document | None] = {}
            if paths:
                stored = dict(zip(paths, await store.get_many(tuple(paths), ctx), strict=True))
            mutations: Sequence[Mutation]
            taken: list[LoggedChange] = []
            left: list[LoggedChange] = []
            if len(changes) == 1:
                taken.append(changes[0])
                step = changes[0].step
                mutations = guarded(step, step.plan(stored), stored)
            else:
                commit = CommitBatch(stored)
                for logged in changes:
                    (taken if commit.add(logged.step, logged.size) else left).append(logged)
                mutations = commit.mutations
            if not mutations:
                return taken, left
            try:
                await store.commit(mutations, ctx)
                return taken, left
            except Rejected as refusal:
                if refusal.reason is Reason.INVALID or (refusal.reason is Reason.MISSING and attempt):
                    raise
                if attempt == 0:  # some of it may be there already: see what
                    paths |= dict.fromkeys(path for logged in changes for path in logged.step.traces)
        raise contended(changes[0].step.documents[0])

    def _succeeded(self) -> None:
        self._most = min(BATCH, 2 * self._most)
        if self._window < SENDERS or self._resume:
            self._window = min(SENDERS, self._window + 1)
            self._probes = self._resume = 0
            self._dispatch()

    def _refuse(self, changes: Sequence[LoggedChange], reason: str) -> None:
        """The store refuses a commit as invalid: find out which change it is, and give that one up."""
        if len(changes) > 1:
            self._part(changes)
            return
        (logged,) = changes
        coarser = logged.step.coarser
        if coarser is None:
            self._tell_copied(logged, failed=True)
            self._lose(logged, "refused", reason)
        else:
            logged.step = coarser
            self._retry_now(logged)

    def _part(self, changes: Sequence[LoggedChange]) -> None:
        """Let these changes go by smaller commits: one of them spoils it for the others."""
        for logged in changes:
            logged.most = len(changes) // 2
            self._retry_now(logged)

    def _retry_now(self, logged: LoggedChange) -> None:
        logged.due = monotonic_ns()
        heappush(self._failed, logged)

    def _postpone(self, changes: Sequence[LoggedChange], fault: Fault) -> None:
        """A commit failed: schedule its changes again after a backoff."""
        now = monotonic_ns()
        change_specific = fault.kind in _INCURABLE
        alone = len(changes) == 1
        # If these changes fail again while the store applies others, the fault is not a sign of the store's health.
        repeated = all(logged.tries > 0 and self.mirrored > logged.others for logged in changes)
        for logged in changes:
            logged.others = self.mirrored
            logged.most = max(1, len(changes) // 2)
            if change_specific and not alone:
                logged.tries += 1  # whose fault it is shows when they are sent alone
                long = False
            else:
                long = self._note_failure(logged, fault)
            if self._is_given_up(logged):
                self._tell_copied(logged, failed=True)
                continue
            if (logged is changes[0] or logged.tries > 1) and fault.kind is not FaultKind.ABORTED:
                self._tell_failing(logged, now)
            if long:
                _log.warning(
                    "change_not_mirrored_yet",
                    backend=self._store.kind,
                    documents=logged.step.documents[:NAMED],
                    document_count=len(logged.step.documents),
                    fault=logged.fault,
                    reason=logged.reason,
                    tries=logged.tries,
                )
            logged.due = self._later(logged)
            heappush(self._failed, logged)
        if change_specific or repeated:
            return
        self._window = max(1, self._window // 2)
        self._most = max(1, self._most // 2)
        if self._window == 1 and fault.kind is not FaultKind.ABORTED:  # ABORTED only means that two writers met
            # Only a commit sent alone is a probe: those sent before the store went down all fail at the same time.
            self._probes += len(self._senders) == 1
            if alone:
                for waiting in islice(self._fresh, SPEAKS_FOR):
                    if now - waiting.made >= LATE_S * 1e9:
                        self._tell_failing(waiting, now)
            self._most = 1
            self._resume = now + int(1e9 * backoff(self._probes, BASE_S, CAP_S, self._dice))

    # ------------------------------------------------------------------------------------------------- counting

    def _tell_copied(self, logged: LoggedChange, *, failed: bool) -> None:
        """The store has taken a change, or will never."""
        if self._copied is not None:
            self._copied(logged.operation, failed)

    def _tell_failing(self, logged: LoggedChange, now: int) -> None:
        """The store does not take a change now; it is counted, unless it was a moment ago."""
        if self._copied is not None and now >= logged.count_at:
            logged.count_pause = min(COUNTED_CAP_S, 2 * logged.count_pause or COUNTED_AGAIN_S)
            logged.count_at = now + int(1e9 * logged.count_pause)
            self._copied(logged.operation, True)

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

    async def close(self) -> None:
        """Wait up to ``DRAIN_S`` for what is pending, then leave the rest to whoever takes the log over.

        Without a log the rest is lost.
        """
        await self.drained(DRAIN_S)
        for timer in (self._timer, self._ask_timer, self._look_timer, self._reading):
            if timer is not None:
                timer.cancel()
        tasks = [*self._senders, *self._askers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop = None
        for logged in self._waiting.get(None, ()):
            self._drop(logged, "ended", logged.reason or "not sent yet", logged.fault)
        if self._log is not None:
            if left := self.pending - len(self._waiting.get(None, ())):
                _log.warning("changes_left", backend=self._store.kind, changes=left)
            for segment in tuple(self._segments):
                if self._is_finished(segment):
                    self._segments.pop(segment)
                    self._log.discard(segment)
            self._log.close(self._segments)
        queues: tuple[Any, ...] = (self._waiting, self._segments, self._open, self._fresh, self._failed, self._doubts)
        for queue in queues:
            queue.clear()
        self._count = self._bytes = 0


def _release(idle: asyncio.Future[None]) -> None:
    if not idle.done():
        idle.set_result(None)


def _context() -> Context:
    return Context(asyncio.get_running_loop().time() + CALL_S)


def _monotonic(micros: int) -> int:
    """A time since 1970 as one of CLOCK_MONOTONIC, in ns: at least 1, at most now."""
    now = monotonic_ns()
    return max(1, min(now, now - (time_ns() - 1000 * micros)))
