"""Sends what waits to the other side's store: many changes in one commit, several commits under way.

Every change is retried until the store applies it. Changes may be applied in any order and twice (see ``changes``),
so many are merged into one commit (see ``batching``), and one that fails waits without blocking others.

The number of commits under way adapts: one more after each success, half after each failure; the number of changes
in one doubles and halves likewise. So a store in trouble gets fewer calls, and one that is down gets one change at a
time as a probe, with pauses.

Lost are only the changes that the store will never accept.

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
from itertools import chain, islice
from time import monotonic_ns
from typing import Final

import structlog

from backends.documents.batching import CommitBatch
from backends.documents.changes import ATTEMPTS, contended, guarded
from backends.documents.port import Context, Document, DocumentStore, Mutation, Reason, Rejected
from backends.errors import Fault, FaultKind
from backends.pair.backlog import MISTAKE, Backlog
from backends.pair.logged import BATCH, CALL_S, INCURABLE, TRIES, LoggedChange, pause_ns

_log = structlog.get_logger("phasegate.mirror")

SENDERS: Final = 4  # commits under way: few, so that what is written often is written seldom
COUNTED_AGAIN_S: Final = 2.0  # a copy that fails is counted again after so long, and then after twice as long
COUNTED_CAP_S: Final = 60.0  # but at least so often
SPEAKS_FOR: Final = 10  # copies that fail with the probe that they wait behind: about as many as convince the judge
LATE_S: Final = 2.0  # if they have waited for so long


class Sending:
    """The certain changes of a backlog, on their way to ``store``.

    ``copied`` is told of each change that the store has taken, and of those that fail: the operation that made it,
    and whether it failed.
    """

    def __init__(
        self,
        store: DocumentStore,
        backlog: Backlog,
        copied: Callable[[str, bool], None] | None,
        dice: random.Random,
    ) -> None:
        self.mirrored = 0
        self.probes = 0  # failed in a row, each sent alone
        self._store = store
        self._backlog = backlog
        self._copied = copied
        self._dice = dice
        # Not tried yet: those that were grouped last, then the others, oldest first.
        self._fresh: deque[LoggedChange] = deque()
        self._grouped = 0  # how many of them are in the order of their groups
        self._failed: list[LoggedChange] = []  # failed before, a heap by due time
        self._window = SENDERS  # how many commits may be under way
        self._most = BATCH  # changes in one
        self._resume = 0  # when the next commit may be sent, ns
        self._senders: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # set while started
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to send."""
        self._loop = asyncio.get_running_loop()
        self.go_on()

    def stop(self) -> list[asyncio.Task[None]]:
        """Begin no more commits; returns those that are under way."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
        return [*self._senders]

    @property
    def at_rest(self) -> bool:
        """Whether the store is well, and nothing waits for it."""
        return not (self._failed or self._resume or self._fresh)

    # ------------------------------------------------------------------------------------------------- choosing

    def add(self, logged: LoggedChange) -> None:
        """As ``Taker.add``."""
        self._fresh.append(logged)

    def go_on(self) -> None:
        """As ``Taker.go_on``: start senders, as many as there are due changes and the window allows."""
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
        if len(fresh) > BATCH and self._grouped <= 0:
            self._group()
            fresh = self._fresh
        while fresh and len(batch) < most:
            batch.append(fresh.popleft())
        self._grouped -= len(batch)
        if not batch and failed:
            self._wake_in((failed[0].due - now) / 1e9)
        return batch

    def _group(self) -> None:
        """Put the changes that write the same documents beside each other, each group in its own order.

        In the order in which they came a commit would write every counter that is hot, and a store takes about one
        write of a document a second. What comes later waits until all of these are on their way: so no group waits
        for ever.
        """
        groups: dict[str, list[LoggedChange]] = {}
        for logged in self._fresh:
            groups.setdefault(logged.step.group, []).append(logged)
        self._grouped = len(self._fresh)
        self._fresh = deque(chain.from_iterable(groups.values()))

    def _wake_in(self, seconds: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.go_on)

    # ------------------------------------------------------------------------------------------------- sending

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
                    self.took(logged)
                    self._backlog.settle(logged)
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
                self.will_never_take(left[0])
                self._backlog.lose(left[0], "mistake", MISTAKE, mistake=error)
            else:
                self._part(left)

    async def _commit(self, changes: Sequence[LoggedChange]) -> tuple[list[LoggedChange], list[LoggedChange]]:
        """Make one commit; returns the changes that the store has now, and those that did not fit.

        Raises ``Fault``, ``Rejected`` (INVALID or MISSING), and what a plan raises; none is applied then.
        """
        store, ctx = self._store, Context(asyncio.get_running_loop().time() + CALL_S)
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
                mutations = guarded(step.reads, step.plan(stored), stored)
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

    # ------------------------------------------------------------------------------------------------- outcomes

    def _succeeded(self) -> None:
        self._most = min(BATCH, 2 * self._most)
        if self._window < SENDERS or self._resume:
            self._window = min(SENDERS, self._window + 1)
            self.probes = self._resume = 0
            self.go_on()

    def _refuse(self, changes: Sequence[LoggedChange], reason: str) -> None:
        """The store refuses a commit as invalid: find out which change it is, and give that one up."""
        if len(changes) > 1:
            self._part(changes)
            return
        (logged,) = changes
        coarser = logged.step.coarser
        if coarser is None:
            self.will_never_take(logged)
            self._backlog.lose(logged, "refused", reason)
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
        change_specific = fault.kind in INCURABLE
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
                long = logged.failed(fault)
            if self._backlog.gives_up(logged, TRIES):
                self.will_never_take(logged)
                continue
            if (logged is changes[0] or logged.tries > 1) and fault.kind is not FaultKind.ABORTED:
                self.tell_failing(logged, now)
            if long:
                _log.warning(
                    "change_not_mirrored_yet",
                    backend=self._store.kind,
                    documents=logged.named(),
                    document_count=len(logged.step.documents),
                    fault=logged.fault,
                    reason=logged.reason,
                    tries=logged.tries,
                )
            logged.wait(self._dice)
            heappush(self._failed, logged)
        if not change_specific and not repeated:
            self._slow_down(fault, now, alone=alone)

    def _slow_down(self, fault: Fault, now: int, *, alone: bool) -> None:
        """The store itself is in trouble: send fewer and smaller commits, and one change at a time as a probe."""
        self._window = max(1, self._window // 2)
        self._most = max(1, self._most // 2)
        if self._window == 1 and fault.kind is not FaultKind.ABORTED:  # ABORTED only means that two writers met
            # Only a commit sent alone is a probe: those sent before the store went down all fail at the same time.
            self.probes += len(self._senders) == 1
            if alone:
                for waiting in islice(self._fresh, SPEAKS_FOR):
                    if now - waiting.made >= LATE_S * 1e9:
                        self.tell_failing(waiting, now)
            self._most = 1
            self._resume = now + pause_ns(self.probes, self._dice)

    # ------------------------------------------------------------------------------------------------- counting

    def took(self, logged: LoggedChange) -> None:
        """Count a change that the store has taken."""
        self.mirrored += 1
        if self._copied is not None:
            self._copied(logged.operation, False)

    def will_never_take(self, logged: LoggedChange) -> None:
        """Count a change that the store refuses for good."""
        if self._copied is not None:
            self._copied(logged.operation, True)

    def tell_failing(self, logged: LoggedChange, now: int) -> None:
        """The store does not take a change now; it is counted, unless it was a moment ago."""
        if self._copied is not None and now >= logged.count_at:
            logged.count_pause = min(COUNTED_CAP_S, 2 * logged.count_pause or COUNTED_AGAIN_S)
            logged.count_at = now + int(1e9 * logged.count_pause)
            self._copied(logged.operation, True)
