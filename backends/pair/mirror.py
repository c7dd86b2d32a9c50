"""Applies the changes made on one side of a migration to the other side.

So raising a weight keeps read-your-writes for every session. So does rolling back to a source in this machine's
memory: there the change is applied before the write is answered. Changes for a remote source or target wait: what the
target stored just before a rollback becomes visible on a remote source shortly after it.

What waits is in the change log (see ``changelog``), so it survives the process; in memory is a window of it (see
``backlog``). A change is logged before it is sent to its own side's store, and its outcome when that is known:

    acknowledged    the other side gets it, whatever becomes of this process (see ``sending``)
    refused         nobody gets it
    in doubt        the store did not answer, or the process died meanwhile: whoever goes on asks the store, and the
                    other side gets what the store holds (see ``doubting``)

Lost are only the changes that the other side's store will never accept. They are counted, told, and kept beside the
log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from time import monotonic_ns
from typing import Final

from backends.adapters.replies import OperationRefused
from backends.disk import Sync
from backends.documents.changes import Change, apply_step
from backends.documents.port import Context, DocumentStore, Reason, Rejected
from backends.errors import Fault
from backends.operations import error_answer
from backends.pair.backlog import MISTAKE, RETRY, Backlog
from backends.pair.changelog import ChangeLog
from backends.pair.doubting import Doubting
from backends.pair.logged import CALL_S, LoggedChange
from backends.pair.segment import SETTLED
from backends.pair.sending import Sending

DRAIN_S: Final = 5.0  # how long closing waits for what is left


class WriteAhead:
    """The changes of one call to a handler: each is logged before the handler's store gets it."""

    __slots__ = ("_backlog", "_logged", "_mirror", "_operation")

    def __init__(self, mirror: Mirror, operation: str = "") -> None:
        self._mirror = mirror
        self._backlog = mirror.backlog
        self._operation = operation
        self._logged: list[LoggedChange] = []
        mirror.backlog.calls[self] = monotonic_ns()

    def intend(self, step: Change) -> LoggedChange:
        """Log a change. Raises ``OperationRefused`` where that is impossible: it must not be written then."""
        logged = self._backlog.log_ahead(step, self._operation)
        self._logged.append(logged)
        return logged

    async def finish(self, change: Change | None) -> None:
        """The handler has answered: hand over its changes. Raises ``OperationRefused`` if they cannot be synced."""
        mirror, logged = self._mirror, self._logged
        try:
            if change is not None and not (len(logged) == 1 and logged[0].step is change):
                for step in change.steps:
                    if not any(step is each.step for each in logged):
                        logged.append(self._backlog.log_afterwards(step, self._operation))
            if mirror.at_once:
                for each in logged:
                    if each.outcome is SETTLED:
                        await mirror.apply_at_once(each)
        finally:
            self.leave()
        if mirror.waits_for_disk:
            await mirror.synced()

    def leave(self) -> None:
        """Hand over what is left: what was acknowledged waits, what has no outcome is in doubt."""
        logged, self._logged = self._logged, []
        backlog = self._backlog
        try:
            for each in logged:
                backlog.hand_over(each)
        finally:
            backlog.calls.pop(self, None)


class Mirror:
    """Changes of the store ``own`` to be applied to the store ``other``. ``start`` before use.

    ``at_once``: they are applied to it before the write is answered. Without a ``log`` they are in memory only.
    ``copied`` is as for ``Sending``.
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
        self.at_once = at_once
        self.waits_for_disk = log is not None and log.disk.sync is Sync.ALWAYS
        self._store = other
        dice = random.Random()  # noqa: S311 - no secret
        self.backlog = Backlog(other.kind, log)
        self.sending = Sending(other, self.backlog, copied, dice)
        self.doubting = Doubting(own, self.backlog, self.sending, dice)
        self.backlog.sending, self.backlog.doubting = self.sending, self.doubting

    @property
    def mirrored(self) -> int:
        """Changes that the other side has applied."""
        return self.sending.mirrored

    @property
    def lost(self) -> int:
        """Changes that it will never have."""
        return self.backlog.lost

    @property
    def refused(self) -> int:
        """Writes that were refused because they could not be logged."""
        return self.backlog.refused

    @property
    def pending(self) -> int:
        """As ``Backlog.pending``."""
        return self.backlog.pending

    def behind_since(self) -> int:
        """As ``Backlog.behind_since``."""
        return self.backlog.behind_since()

    def arrived(self) -> int:
        """As ``Backlog.arrived``."""
        return self.backlog.arrived()

    def start(self) -> None:
        """Open the log, take over what processes that are gone have left, and start sending. Raises ``OSError``."""
        self.backlog.start()
        self.sending.start()
        self.doubting.start()

    async def apply_at_once(self, logged: LoggedChange) -> None:
        """Apply an acknowledged change now, if the other store is well."""
        if not self.sending.at_rest:
            return
        try:
            await apply_step(logged.step, self._store, Context(asyncio.get_running_loop().time() + CALL_S))
        except Fault:
            return  # it is handed over, and waits
        except Rejected as refusal:
            if refusal.reason is not Reason.INVALID:
                return
            self._lose(logged, "refused", str(refusal))
        except Exception as error:
            self._lose(logged, "mistake", MISTAKE, error)
        else:
            self.sending.took(logged)
        logged.abort()

    def _lose(self, logged: LoggedChange, cause: str, reason: str, mistake: Exception | None = None) -> None:
        self.backlog.count_lost(logged.step.documents, cause, reason, mistake=mistake)
        self.sending.will_never_take(logged)

    async def synced(self) -> None:
        """With ``sync = "always"``: wait until the log is on the disk. Raises ``OperationRefused``."""
        if self.backlog.log is not None:
            try:
                await self.backlog.log.disk.synced()
            except OSError:
                message = "the write is stored, but could not be synced to the disk: repeat it to be sure"
                raise OperationRefused(error_answer(503, "write_uncertain", message, RETRY)) from None

    async def drained(self, within_s: float) -> int:
        """As ``Backlog.drained``."""
        return await self.backlog.drained(within_s)

    async def close(self) -> None:
        """Wait up to ``DRAIN_S`` for what is pending, then leave the rest to whoever takes the log over.

        Without a log the rest is lost.
        """
        await self.backlog.drained(DRAIN_S)
        await self.stop()
        self.backlog.close()

    async def stop(self) -> None:
        """Begin nothing more, and cancel what is under way."""
        self.backlog.stop()
        tasks = [*self.sending.stop(), *self.doubting.stop()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
