"""Applies the changes made on one side of a migration to the other side.

So raising a weight keeps read-your-writes for every session. So does rolling back to a source in this machine's
memory: there the change is applied before the write is answered. Changes for a remote source or target are queued:
what the target stored just before a rollback becomes visible on a remote source shortly after it.

The queue is bounded, and each change is retried until the store applies it. Changes may be applied in any order and
twice (see ``changes``), so many are sent concurrently, one that fails waits without blocking others, and no state is
needed about changes that may have arrived.

The number sent concurrently adapts: one more after each success, half after each failure. So a store in trouble gets
fewer calls, and one that is down gets one change at a time as a probe, with pauses.

Lost changes are counted: those the store will never accept, those beyond the queue's bound, and what a process still
had queued when it died.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict, deque
from heapq import heappop, heappush
from time import monotonic_ns
from typing import Final

import msgspec
import structlog

from backends.documents.changes import Change
from backends.documents.port import Context, DocumentStore, Reason, Rejected
from backends.errors import Fault, FaultKind
from backends.resilience.backoff import backoff

QUEUE: Final = 10_000  # changes
SENDERS: Final = 64  # at 50 ms a call: 1,280 changes a second of one call, 640 of two
CALL_S: Final = 5.0  # deadline for applying one change
BASE_S: Final = 0.1  # backoff of a failed change, and between probes
CAP_S: Final = 2.0
DRAIN_S: Final = 5.0  # how long closing waits for the queue
TRIES: Final = 8  # with a permanent fault before the change is given up; with any other before it is logged
NAMED: Final = 5  # documents of a change that the log names; the others are only counted

# A stored value of an unsupported type, or a reply that cannot be parsed: a retry will meet the same. Every other
# fault may end with an outage, however long: of the network, the quota, credentials or permissions, and INTERNAL,
# which covers everything else. A change that meets one of those is never given up.
_INCURABLE: Final = frozenset({FaultKind.CORRUPT})

_MISTAKE: Final = "a mistake of phasegate's: the exception says which"
_log = structlog.get_logger("phasegate.mirror")


class _Waiting(msgspec.Struct, eq=False):
    """A change that the store has not applied yet. Times are of CLOCK_MONOTONIC, in ns."""

    change: Change
    made: int
    due: int
    tries: int = 0
    hopeless: int = 0  # tries that met a permanent fault
    others: int = 0  # the mirror's count of applied changes when this one last failed
    fault: str = ""  # the kind of the last fault
    reason: str = ""  # and the store's message

    def __lt__(self, other: _Waiting) -> bool:
        return self.due < other.due


class Mirror:
    """Changes to be applied to ``store``. ``start`` before use."""

    def __init__(self, store: DocumentStore, *, at_once: bool) -> None:
        self.mirrored = 0
        self.lost = 0
        self._store = store
        self._at_once = at_once
        self._queue: OrderedDict[_Waiting, None] = OrderedDict()  # all pending changes, oldest first
        self._fresh: deque[_Waiting] = deque()  # of those: not tried yet, oldest first
        self._failed: list[_Waiting] = []  # of those: failed before, a heap by due time
        self._window = SENDERS  # how many may be sent concurrently
        self._probes = 0  # failed in a row, each sent alone
        self._resume = 0  # when the next change may be sent, ns
        self._senders: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # set while started
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None  # ``close`` waits for it
        self._dice = random.Random()  # noqa: S311 - no secret

    @property
    def pending(self) -> int:
        """Changes the store has not applied yet."""
        return len(self._queue)

    def behind_since(self) -> int:
        """When the oldest pending change was made, CLOCK_MONOTONIC ns; 0 if none is pending."""
        for waiting in self._queue:
            return waiting.made
        return 0

    async def tell(self, change: Change) -> None:
        """Apply the change now, or queue it. Never raises ``Fault``."""
        if self._at_once and not self._queue:
            try:
                await change.apply(self._store, _context())
                self.mirrored += 1
                return
            except Fault:
                pass  # queued below
            except Rejected as refusal:
                self._drop(change, "refused", str(refusal))
                return
            except Exception as error:
                self._drop(change, "mistake", _MISTAKE, mistake=error)
                return
        if len(self._fresh) + len(self._failed) >= QUEUE:
            oldest = self._fresh.popleft() if self._fresh else heappop(self._failed)
            self._lose(oldest, "queue_full", oldest.reason or f"more than {QUEUE} changes wait", oldest.fault)
        now = monotonic_ns()
        waiting = _Waiting(change, now, now)
        self._queue[waiting] = None
        self._fresh.append(waiting)
        if len(self._senders) < self._window:
            self._dispatch()

    def _drop(
        self, change: Change, cause: str, reason: str, fault: str = "", mistake: Exception | None = None
    ) -> None:
        self.lost += 1
        _log.error(
            "change_not_mirrored",
            backend=self._store.kind,
            documents=change.documents[:NAMED],
            document_count=len(change.documents),
            cause=cause,
            fault=fault,
            reason=reason,
            exc_info=mistake,
        )

    def _lose(
        self, waiting: _Waiting, cause: str, reason: str, fault: str = "", mistake: Exception | None = None
    ) -> None:
        """Remove the change from the queue and count it as lost."""
        self._settle(waiting)
        self._drop(waiting.change, cause, reason, fault, mistake)

    def _settle(self, waiting: _Waiting) -> None:
        """Remove the change from the queue."""
        del self._queue[waiting]
        if self._idle is not None and not self._queue:
            _release(self._idle)

    def start(self) -> None:
        """Start sending."""
        self._loop = asyncio.get_running_loop()
        self._dispatch()

    # ------------------------------------------------------------------------------------------------- sending

    def _dispatch(self) -> None:
        """Start senders, as many as there are due changes and the window allows."""
        if self._loop is None:
            return
        while len(self._senders) < self._window and (waiting := self._next()) is not None:
            self._senders.add(self._loop.create_task(self._send(waiting)))

    def _next(self) -> _Waiting | None:
        """The next change to send; None if none is due: then a timer is set for the next one."""
        fresh, failed = self._fresh, self._failed
        if failed or self._resume:
            # A probe is preferably a change that never failed: others may fail for reasons of their own.
            retry = failed[0] if failed and not (fresh and (self._resume or fresh[0] < failed[0])) else None
            due = max(self._resume, retry.due if retry is not None else 0)
            wait_ns = due - monotonic_ns()
            if wait_ns > 0 and (fresh or failed):
                self._wake_in(wait_ns / 1e9)
                return None
            if retry is not None:
                return heappop(failed)
        return fresh.popleft() if fresh else None

    def _wake_in(self, seconds: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._dispatch)

    async def _send(self, first: _Waiting) -> None:
        """Send changes as long as any is due."""
        assert self._loop is not None
        store, clock, senders = self._store, self._loop.time, self._senders
        waiting: _Waiting | None = first
        try:
            while waiting is not None:
                try:
                    await waiting.change.apply(store, Context(clock() + CALL_S))
                except Fault as fault:
                    self._postpone(waiting, fault)
                except Rejected as refusal:
                    if refusal.reason is Reason.INVALID:
                        self._lose(waiting, "refused", str(refusal))
                    else:  # the change has no precondition: the database itself is missing, perhaps for a time
                        self._postpone(waiting, Fault(FaultKind.INTERNAL, str(refusal)))
                except Exception as error:
                    self._lose(waiting, "mistake", _MISTAKE, mistake=error)
                else:
                    self.mirrored += 1
                    self._settle(waiting)
                    if self._window < SENDERS:
                        self._window += 1
                        self._probes = self._resume = 0
                        self._dispatch()
                waiting = self._next() if len(senders) <= self._window else None
        finally:
            # Removed here, not in a done callback, which runs later: a change told in between would start no sender.
            senders.discard(asyncio.current_task())

    def _postpone(self, waiting: _Waiting, fault: Fault) -> None:
        """The change failed: schedule it again after a backoff."""
        waiting.tries += 1
        waiting.hopeless += fault.kind in _INCURABLE
        waiting.fault, waiting.reason = fault.kind.label, str(fault)
        if waiting.hopeless == TRIES:
            self._lose(waiting, "hopeless", waiting.reason, waiting.fault)
            return
        if waiting.tries == TRIES:
            _log.warning(
                "change_not_mirrored_yet",
                backend=self._store.kind,
                documents=waiting.change.documents[:NAMED],
                document_count=len(waiting.change.documents),
                fault=waiting.fault,
                reason=waiting.reason,
                tries=waiting.tries,
            )
        now = monotonic_ns()
        waiting.due = now + int(1e9 * backoff(waiting.tries - 1, BASE_S, CAP_S, self._dice))
        heappush(self._failed, waiting)
        # If this change fails again while the store applies others, the fault is not a sign of the store's health.
        change_specific = fault.kind in _INCURABLE or (waiting.tries > 1 and self.mirrored > waiting.others)
        waiting.others = self.mirrored
        if change_specific:
            return
        self._window = max(1, self._window // 2)
        if self._window == 1 and fault.kind is not FaultKind.ABORTED:  # ABORTED only means that two writers met
            # Only a change sent alone is a probe: those sent before the store went down all fail at the same time.
            self._probes += len(self._senders) == 1
            self._resume = now + int(1e9 * backoff(self._probes, BASE_S, CAP_S, self._dice))

    async def close(self) -> None:
        """Wait up to ``DRAIN_S`` for the queue to empty, then count the rest as lost."""
        if self._loop is not None and self._queue:
            self._idle = self._loop.create_future()
            drain = self._loop.call_later(DRAIN_S, _release, self._idle)
            await self._idle
            drain.cancel()
        if self._timer is not None:
            self._timer.cancel()
        senders = list(self._senders)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        self._loop = None
        for waiting in self._queue:
            self._drop(waiting.change, "ended", waiting.reason or "not sent yet", waiting.fault)
        for queue in (self._queue, self._fresh, self._failed):
            queue.clear()


def _release(idle: asyncio.Future[None]) -> None:
    if not idle.done():
        idle.set_result(None)


def _context() -> Context:
    return Context(asyncio.get_running_loop().time() + CALL_S)
