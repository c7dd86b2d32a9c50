"""A migration's data while nobody serves: what is known of it, and what a command makes of it, in its checkpoint.

It is the state that a serving control process keeps (``control.lead.datakeeper``), at the same place, so the next one
goes on from it: a copy that was finished here opens its gate. Whoever calls holds the lock of the run directory.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from backends.copy.seed import began, seeded_with
from backends.kinds.registry import KINDS
from backends.pair.changelog import lost_before
from control.data import state as known
from control.data.entries import begun_entry, ended_entry
from control.data.messages import TaskDone, TaskEnd
from control.data.pair import counts_of, pair_of
from control.data.runner import task_id
from control.data.state import AskedTask, BegunTask, DataGauges, DataState, Lack
from control.lead.checkpoint import data_in, with_data
from control.lead.clock import SystemClock
from control.lead.succession import STORE
from control.plan.settings import Settings
from control.rollout.model import Entry
from control.store.port import StoreError
from control.store.sqlite import Store, checkpoints_in
from proxy.board.board import Board, BoardError, boot_id
from proxy.migration.routes import layout
from proxy.process import rundir
from proxy.process.leftover import BOARD, rows_of
from proxy.settings import CannotStartError

ACTOR: Final = "offline"  # in the audit trail: a command that had the run directory to itself


class OfflineData:
    """What is known of one migration's data. Raises ``CannotStartError`` where that cannot be read."""

    def __init__(self, settings: Settings, name: str) -> None:
        pair = pair_of(settings, name)
        if pair is None:
            raise CannotStartError("only between two document stores is there data to copy or to compare")
        self._run_dir, self._name, self._pair = Path(settings.proxy.run_dir), name, pair
        migration = settings.migrations[name]
        self._source, self._target = (settings.backends[arm] for arm in (migration.source, migration.target))
        rundir.form(self._run_dir)
        self._document = _checkpoint(settings, name)
        try:
            saved = None if self._document is None else data_in(self._document)
        except msgspec.DecodeError as error:
            raise CannotStartError(
                f"the checkpoint in {self._run_dir / STORE} cannot be understood ({error}); `phasegate serve` keeps "
                "it in its audit trail and goes on from the board: do this while it serves"
            ) from None
        self.state = known.of_pair(saved or DataState(), pair)
        self._lost = lost_before(self._run_dir, name)
        self._task: BegunTask | None = None
        left = _left_on_board(settings, name)
        self._board_goes_on = left is not None
        # A new board begins with what the change log says was given up.
        self._gauges = left or DataGauges(self.state.board, 0, 0.0, self._lost, self.state.read_alone)
        self.state = known.counted(self.state, self._gauges)

    def lack(self) -> Lack | None:
        """What the target is known to lack; None where nothing."""
        return known.lack(self.state, self._gauges, self._pair)

    async def look_for_seed(self) -> None:
        """Where the target was never filled, ask it for a seed of the source's fixtures. Raises ``Fault``.

        A source that was written to since has more than that; so says the checkpoint, or the source's own files.
        """
        if known.was_filled(self.state, self._pair) or KINDS[self._target.kind].seeded is None:
            return
        source = began(self._source, self._run_dir, self._name)
        if source is None or not source.written:
            digest = await seeded_with(self._target)
            self.state = self.state if digest is None else known.seeded(self.state, digest)

    def begin(self, asked: AskedTask) -> None:
        """Note that a task begins, once the changes that were left have been handed on."""
        lost, now = lost_before(self._run_dir, self._name), time.time()
        if self._board_goes_on:  # which will never count what was given up by that
            self.state = replace(self.state, missed=self.state.missed + lost - self._lost)
        else:
            self._gauges = self._gauges._replace(lost=lost)
            self.state = known.counted(self.state, self._gauges)
        self._task = BegunTask(task_id(asked.kind), ACTOR, now, self.state.missed, asked)
        self._save(begun_entry(self._task), now)

    def over(self, end: TaskEnd) -> None:
        """Note what came of it; nothing where none has begun."""
        task, now = self._task, time.time()
        if task is None:
            return
        if isinstance(end, TaskDone):
            self.state = known.done(self.state, task, end, now)
        self._save(ended_entry(task, end, ACTOR), now)
        self._task = None

    def _save(self, entry: Entry, now: float) -> None:
        try:
            store = Store(self._run_dir / STORE)
            try:
                self._document = with_data(self._document, self.state)
                store.save(self._name, self._document, [(now, entry)], now)
            finally:
                store.close()
        except StoreError as error:
            raise CannotStartError(
                f"what was done cannot be noted: {error}; mend the disk, and do it again"
            ) from None
        rundir.note_form(self._run_dir)


def _checkpoint(settings: Settings, name: str) -> str | None:
    """The newest checkpoint; None before the first. Raises ``CannotStartError``."""
    path = Path(settings.proxy.run_dir) / STORE
    try:
        documents = checkpoints_in(path)
    except StoreError as error:
        broken = type(error.__cause__) is sqlite3.DatabaseError
        mend = "`phasegate serve` sets a broken one aside: do this while it serves" if broken else "mend the disk"
        raise CannotStartError(f"the checkpoints cannot be read: {error}; {mend}") from None
    old = settings.migrations[name].was
    if old in documents and name not in documents:
        raise CannotStartError(
            f'the run directory knows it as "{old}", and `phasegate serve` alone renames it: do this while it serves'
        )
    return documents.get(name)


def _left_on_board(settings: Settings, name: str) -> DataGauges | None:
    """The counts that the last run has left; None where the next one will not go on with its board."""
    plan = settings.plan()
    try:
        board = Board.open(Path(settings.proxy.run_dir) / BOARD, layout(plan, rows_of(plan)), boot_id())
    except (BoardError, OSError):
        return None
    try:
        return counts_of(settings, board, name)(SystemClock().now())
    finally:
        board.close()
