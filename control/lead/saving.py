"""One migration's way to the store: reads its checkpoint, and saves it with the audit entries that wait.

A slow or broken store delays increases and nothing else; entries are kept in memory until it works again. A
checkpoint that could not be read is never overwritten: until it was read, or is known not to exist, nothing is saved.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
import structlog

from control.lead.clock import Clock
from control.lead.documents import CheckpointStatus
from control.plan.times import rfc3339
from control.rollout.model import Entry
from control.store.entry import AuditLine
from control.store.port import Storage, StoreError

_log = structlog.get_logger("phasegate.outbox")

T = TypeVar("T", bound=msgspec.Struct)
ENTRIES_MAX: Final = 10_000  # that wait for the store: a bound on memory while it is broken
RETRY_S: Final = 1.0  # between attempts on a store that failed


class OutboxOwner(NamedTuple, Generic[T]):
    """What is asked of whoever leads the migration, and what they are notified of."""

    document: Callable[[], tuple[T, int]]  # the checkpoint as it should be now, and its revision
    found: Callable[[T | None], None]  # a checkpoint that could not be read before was read, or there is none
    saved: Callable[[list[AuditLine], int], None]  # these lines, with the checkpoint of that revision
    failed: Callable[[str], None]


class Outbox(Generic[T]):
    """What is to be written and has not been: audit entries in their order, and a checkpoint out of date."""

    def __init__(
        self, store: Storage, migration: str, decode: Callable[[str], T], clock: Clock, owner: OutboxOwner[T]
    ) -> None:
        self._store = store
        self._migration = migration
        self._decode = decode
        self._clock = clock
        self._owner = owner
        self._entries: deque[tuple[float, Entry]] = deque()
        self._lost = 0  # entries dropped because the outbox was full
        self._saving: asyncio.Task[tuple[list[AuditLine], int]] | None = None
        self._saved_at: float | None = None
        self._saved_revision: int | None = None
        self.dirty = asyncio.Event()
        self.known = False  # the checkpoint was read, or there is none: it may be written
        self.error: str | None = None
        store.when_new(self.dirty.set)

    @property
    def entries(self) -> list[tuple[float, Entry]]:
        """What the store has not taken yet, each with its Unix time."""
        return list(self._entries)

    def put(self, entry: Entry) -> None:
        """Keep an entry until it is written."""
        if len(self._entries) < ENTRIES_MAX:
            self._entries.append((self._clock.now().unix, entry))
        else:
            self._lost += 1

    async def read(self, within_s: float | None = None) -> T | None:
        """The checkpoint; None where there is none, or none that can be understood: that one is kept in the trail.

        Raises ``StoreError`` where the store cannot say, or not in time.
        """
        try:
            async with asyncio.timeout(within_s):
                found = await self._store.checkpoint(self._migration)
        except (StoreError, TimeoutError) as error:
            why = str(error) or f"no answer within {within_s:g} s"
            self.error = f"the checkpoint cannot be read: {why}"
            raise StoreError(self.error) from error
        self.known, self.error = True, None
        if found is None:
            return None
        self._saved_at = found.saved_at
        try:
            return self._decode(found.document)
        except msgspec.DecodeError as error:
            note = f"the checkpoint of {rfc3339(found.saved_at)} cannot be understood and is kept here: {error}"
            _log.error("checkpoint_not_understood", migration=self._migration, reason=str(error))
            self.put(Entry("note", "phasegate", {"note": note, "checkpoint": found.document}))
            return None

    async def run(self) -> None:
        """Save whenever there is something to, and try again until the store takes it. Until cancelled."""
        while True:
            await self.dirty.wait()
            self.dirty.clear()
            before = self.error
            try:
                if not self.known:
                    self._owner.found(await self.read())
                await self._save()
            except StoreError as error:
                if before is None:
                    _log.error("store_failed", migration=self._migration, reason=str(error))
                self._owner.failed(str(error))
                await self._clock.sleep(RETRY_S)
                self.dirty.set()

    async def finish(self, within_s: float) -> None:
        """Let the save that is under way end, and write what is left, as far as the store lets us."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(within_s):
                if self._saving is not None:
                    await asyncio.gather(asyncio.shield(self._saving), return_exceptions=True)
                if self._entries and self.known:
                    await self._save()

    async def _save(self) -> None:
        # Whoever awaits this may be cancelled, but the store's thread cannot: what it commits must be noted.
        self._saving = asyncio.create_task(self._write(), name=f"save {self._migration}")
        self._owner.saved(*await asyncio.shield(self._saving))

    async def _write(self) -> tuple[list[AuditLine], int]:
        entries, (document, revision), now = self.entries, self._owner.document(), self._clock.now()
        try:
            lines = await self._store.save(self._migration, msgspec.json.encode(document).decode(), entries)
        except StoreError as error:
            self.error = str(error)
            raise
        for _ in entries:
            self._entries.popleft()
        self.error, self._saved_at, self._saved_revision = None, now.unix, revision
        return lines, revision

    def status(self, resume_phase: str | None) -> CheckpointStatus:
        """The status's ``checkpoint``."""
        return CheckpointStatus(
            revision=self._saved_revision,
            saved_at=rfc3339(self._saved_at),
            ok=self.error is None,
            error=self.error,
            unsaved_entries=len(self._entries),
            lost_entries=self._lost,
            resume_phase=resume_phase,
        )
