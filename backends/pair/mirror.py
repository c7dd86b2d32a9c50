"""Tells one side of a migration what was changed on the other.

So raising a weight hides no session's own write. Nor does rolling back to a source in this machine's memory, which is
told before the write is answered. A remote source is told from a queue, as a remote target is: what the target took
in the last moment before a rollback is seen there a moment after it.

The queue is bounded, and each change in it is tried until the store takes it. Changes may be applied in any order and
twice (see ``changes``), so many are on their way at once, one that fails waits by itself while others pass, and
nothing has to be remembered of those that may have arrived.

How many may be on their way is learnt: one more with each that arrives, half with each that fails. So a store in
trouble is asked less, and one that is down is asked by one change at a time, with pauses.

What is lost is counted: changes the store will never take, those beyond the queue's bound, and what a process still
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

QUEUE: Final = 10_000
SENDERS: Final = 64  # at 50 ms a call: 1,280 changes a second of one call, 640 of two
CALL_S: Final = 5.0
BASE_S: Final = 0.1
CAP_S: Final = 2.0
DRAIN_S: Final = 5.0
TRIES: Final = 8  # of a change that meets what no waiting cures; of any other, before that is logged
NAMED: Final = 5  # documents of a change that the log names; the others are counted

# A document of a kind nobody here writes, or a reply that cannot be read: it will be the same next time. Every other
# fault may end with an outage, however long: the network's, the quota's, missing credentials or permissions, and
# INTERNAL, which is all that the service has no better word for. Changes that meet those are never given up.
_INCURABLE: Final = frozenset({FaultKind.CORRUPT})

_MISTAKE: Final = "a mistake of phasegate's: the exception says which"
_log = structlog.get_logger("phasegate.mirror")


class _Waiting(msgspec.Struct, eq=False):
    """A change that the store has not taken yet. Times are CLOCK_MONOTONIC's, in ns."""

    change: Change
    made: int
    due: int
    tries: int = 0
    hopeless: int = 0  # of those tries
    others: int = 0  # that had been taken when it failed last
    fault: str = ""  # the kind of the last one
    reason: str = ""  # and the store's words of it

    def __lt__(self, other: _Waiting) -> bool:
        return self.due < other.due


class Mirror:
    """Changes on their way to ``store``. ``start`` before use."""

    def __init__(self, store: DocumentStore, *, at_once: bool) -> None:
        self.mirrored = 0
        self.lost = 0
        self._store = store
        self._at_once = at_once
        self._queue: OrderedDict[_Waiting, None] = OrderedDict()  # all that are pending, by when they were made
        self._fresh: deque[_Waiting] = deque()  # of those: not tried yet, by when they were made
        self._failed: list[_Waiting] = []  # of those: tried before, a heap by when they are due
        self._window = SENDERS  # how many may be on their way
        self._probes = 0  # that failed in a row, while nothing else was on its way
        self._resume = 0  # when the next may be sent, ns
        self._senders: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # while it is to send
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None  # closing waits for it
        self._dice = random.Random()  # noqa: S311 - no secret

    @property
    def pending(self) -> int:
        """Changes the store has not taken yet."""
        return len(self._queue)

    def behind_since(self) -> int:
        """When the oldest pending change was made, CLOCK_MONOTONIC ns; 0 where none is pending."""
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
                pass  # later, then
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
        """The change is pending no more, and lost."""
        self._settle(waiting)
        self._drop(waiting.change, cause, reason, fault, mistake)

    def _settle(self, waiting: _Waiting) -> None:
        """The change is pending no more."""
        del self._queue[waiting]
        if self._idle is not None and not self._queue:
            _release(self._idle)

    def start(self) -> None:
        """Begin to send."""
        self._loop = asyncio.get_running_loop()
        self._dispatch()

    # ------------------------------------------------------------------------------------------------- sending

    def _dispatch(self) -> None:
        """Set senders to work, as many as there are changes due and room for."""
        if self._loop is None:
            return
        while len(self._senders) < self._window and (waiting := self._next()) is not None:
            self._senders.add(self._loop.create_task(self._send(waiting)))

    def _next(self) -> _Waiting | None:
        """The change that has been due for longest; None where none is, and a timer is set for the next one."""
        fresh, failed = self._fresh, self._failed
        if failed or self._resume:
            # Whether the store is back is asked by one that never failed: others may fail for their own sake.
            again = failed[0] if failed and not (fresh and (self._resume or fresh[0] < failed[0])) else None
            at = max(self._resume, again.due if again is not None else 0)
            left = at - monotonic_ns()
            if left > 0 and (fresh or failed):
                self._wake_in(left / 1e9)
                return None
            if again is not None:
                return heappop(failed)
        return fresh.popleft() if fresh else None

    def _wake_in(self, seconds: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._dispatch)

    async def _send(self, first: _Waiting) -> None:
        """Send changes for as long as there are some due."""
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
                    else:  # no condition was set: the database itself is not there, for the time being
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
            # Here, and not when the loop gets to know of the end: until then a change that is told would find nobody.
            senders.discard(asyncio.current_task())

    def _postpone(self, waiting: _Waiting, fault: Fault) -> None:
        """The change failed: it is due again later, behind those that are due before."""
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
        # Where the store takes others and not this one, again, that says nothing of the store.
        its_own = fault.kind in _INCURABLE or (waiting.tries > 1 and self.mirrored > waiting.others)
        waiting.others = self.mirrored
        if its_own:
            return
        self._window = max(1, self._window // 2)
        if self._window == 1 and fault.kind is not FaultKind.ABORTED:  # which is two writers' having met
            # What had been sent before it went down fails at the same time, and is no probe.
            self._probes += len(self._senders) == 1
            self._resume = now + int(1e9 * backoff(self._probes, BASE_S, CAP_S, self._dice))

    async def close(self) -> None:
        """Give what is queued a last chance, then count it as lost."""
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
