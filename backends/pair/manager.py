"""Builds arms and data sources, and decides what happens when the target fails.

When the target fails a read, the source answers it in the same request. When the target fails a write, the write is
applied to the source with the same id and time, and mirrored to the target when that is back. Applying it twice has
the same result, so it does not matter whether the target had already stored it. If the source fails too, the client
gets an error that says whether the write may be stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns
from typing import Final

from backends.adapters.registry import views
from backends.arm import ARMS, GAUGES, SOURCE, TARGET, Outcome
from backends.backend import Backend
from backends.copy.fixtures import initial
from backends.disk import disk
from backends.errors import Fault
from backends.kinds.registry import KINDS, opener
from backends.operations import Answer, Call, Operation, error_answer
from backends.pair.changelog import ChangeLog, changes_folder
from backends.pair.mirror import Mirror
from backends.pair.storearm import StoreArm

_AGAIN: Final = ((b"retry-after", b"1"),)


def unavailable(call: Call, *faults: Fault) -> Answer:
    """The answer when no arm could handle the call; the client sees the last of ``faults``."""
    if call.operation.kind == "write" and any(fault.may_have_applied for fault in faults):
        message = "the backend failed while writing: the write may or may not be stored; repeat it to be sure"
        return error_answer(503, "write_uncertain", message, _AGAIN)
    return error_answer(503, "backend_unavailable", f"the backend failed ({faults[-1].kind.label})", _AGAIN)


class Source:
    """A ``DataSource`` over two arms that answer from document stores.

    ``hybrid``: the source answers for a failing target, and each side's changes are mirrored to the other.
    """

    def __init__(
        self,
        source: StoreArm,
        target: StoreArm,
        *,
        hybrid: bool,
        changes: Path | None = None,
        copied: Callable[[str, bool], None] | None = None,
    ) -> None:
        """``changes``: the folder of the change logs; None keeps the changes in memory, where they end with it.

        ``copied`` is told what became of the target's copies of writes: the operation, and whether it failed.
        """
        self.arms = (source, target)
        self._hybrid = hybrid
        self._changes = changes
        self._copied = copied
        self._fallbacks = 0
        self._mirrors: list[Mirror] = []  # from source to target, and from target to source
        self._writes: set[asyncio.Task[Answer]] = set()
        # ``behind_since`` and ``arrived`` from the moment on when it is closed: what is left is in the change logs.
        self._left: tuple[int, int] | None = None

    def peek(self, arm: int, operation: Operation, key: bytes) -> Answer | None:
        """As ``DataSource.peek``."""
        return self.arms[arm].peek(operation, key)

    async def answer(self, arm: int, call: Call) -> Outcome:
        """As ``DataSource.answer``."""
        if arm == SOURCE:
            return await self._from_source(call)
        try:
            return Outcome(await self._from_target(call), TARGET)
        except Fault as fault:
            if not self._hybrid:
                return Outcome(unavailable(call, fault), TARGET, fault)
            self._fallbacks += 1
            return await self._from_source(call, fault)

    async def _from_target(self, call: Call) -> Answer:
        arm = self.arms[TARGET]
        if call.operation.kind != "write" or not self._hybrid:
            return await arm.answer(call)
        # A write that was sent continues even if its request is cancelled, by a rollback or by the client. If it were
        # cancelled too, it could end up in the target only, which nobody reads after the rollback.
        task = asyncio.get_running_loop().create_task(arm.answer(call))
        self._writes.add(task)
        task.add_done_callback(self._wrote)
        return await asyncio.shield(task)

    def _wrote(self, task: asyncio.Task[Answer]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, because the request may be gone

    async def _from_source(self, call: Call, fault: Fault | None = None) -> Outcome:
        """The source's answer; ``fault`` is the target's failure, if the source is the fallback."""
        try:
            return Outcome(await self.arms[SOURCE].answer(call), SOURCE, fault)
        except Fault as own:
            faults = (own,) if fault is None else (fault, own)
            return Outcome(unavailable(call, *faults), SOURCE, faults[0])

    def behind_since(self) -> int:
        """As ``DataSource.behind_since``."""
        if self._left is not None:
            return self._left[0]
        return self._mirrors[SOURCE].behind_since() if self._mirrors else 0

    def arrived(self) -> int:
        """As ``DataSource.arrived``."""
        if self._left is not None:
            return self._left[1]
        return min([monotonic_ns(), *[mirror.arrived() for mirror in self._mirrors]])

    def gauges(self) -> list[int]:
        """As ``DataSource.gauges``: the target's, and those of the mirrors in both directions."""
        counts = dict.fromkeys(GAUGES, 0) | self.arms[TARGET].gauges()
        counts["fallbacks"] = self._fallbacks
        counts["mirrored"] = sum(mirror.mirrored for mirror in self._mirrors)
        counts["mirror_lost"] = sum(mirror.lost for mirror in self._mirrors)
        counts["mirror_pending"] = sum(mirror.pending for mirror in self._mirrors)
        counts["writes_not_logged"] = sum(mirror.refused for mirror in self._mirrors)
        return [counts[name] for name in GAUGES]

    async def start(self) -> None:
        """As ``DataSource.start``."""
        await asyncio.gather(*(arm.start() for arm in self.arms))
        if self._hybrid:
            self._mirrors = mirrors(self.arms, self._changes, self._copied)
            for arm, mirror in zip(self.arms, self._mirrors, strict=True):
                mirror.start()
                arm.mirror = mirror

    async def drained(self, within_s: float) -> int:
        """Wait until no change is pending, at most so long; returns how many are left."""
        return sum(await asyncio.gather(*(mirror.drained(within_s) for mirror in self._mirrors)))

    async def close(self) -> None:
        """As ``DataSource.close``: pending writes and mirrored changes get a few seconds to finish."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        self._left = self.behind_since(), self.arrived()
        await asyncio.gather(*(mirror.close() for mirror in self._mirrors))
        await asyncio.gather(*(arm.close() for arm in self.arms))


def mirrors(
    arms: tuple[StoreArm, StoreArm], changes: Path | None, copied: Callable[[str, bool], None] | None = None
) -> list[Mirror]:
    """From the source to the target, and from the target to the source; to be started once the arms are.

    ``copied`` is told of what goes to the target.
    """
    return [
        Mirror(
            arm.store,
            other.store,
            at_once=KINDS[other.kind].local,
            log=None if changes is None else ChangeLog(changes, side, disk()),
            copied=told,
        )
        for arm, other, side, told in (
            (arms[SOURCE], arms[TARGET], ARMS[TARGET], copied),
            (arms[TARGET], arms[SOURCE], ARMS[SOURCE], None),
        )
    ]


def store_arm(backend: Backend, shared: Path | None, *, live: bool) -> StoreArm:
    """The arm of a document store. ``shared``: prefix of the files that processes share; ``live``: with live views.

    Raises ``FixtureError``, and ``ValueError`` for a backend that keeps no documents.
    """
    rehearsal = KINDS[backend.kind].rehearsal
    store = opener(backend)(backend, shared, views=views() if live else (), initial=initial(backend))
    return StoreArm(store, backend.deadline_s, None if rehearsal is None else rehearsal(backend))


def build_arm(backend: Backend) -> StoreArm:
    """One backend by itself, for a health check. No network until ``start``."""
    return store_arm(backend, None, live=False)


def build_source(
    source: Backend,
    target: Backend,
    *,
    run_dir: Path | None,
    name: str,
    mode: str,
    live: bool = True,
    copied: Callable[[str, bool], None] | None = None,
) -> Source:
    """A migration's data source. No network, and no file, until ``start``.

    The processes of one machine with the same ``run_dir`` and ``name`` share a mock's documents; None keeps them
    private to this process. Without ``live`` there are no live views. ``copied`` is as for ``Source``. Raises
    ``FixtureError`` if a mock's fixtures cannot be used.
    """
    # Two backends of one kind must not share files.
    same_kind = source.kind == target.kind
    shared = None if run_dir is None else (run_dir / name, run_dir / (f"{name}.target" if same_kind else name))
    first, second = (None, None) if shared is None else shared
    return Source(
        store_arm(source, first, live=live and mode != "target"),
        store_arm(target, second, live=live and mode != "source"),
        hybrid=mode == "hybrid",
        changes=None if run_dir is None else changes_folder(run_dir, name),
        copied=copied,
    )


async def drain_left(source: Backend, target: Backend, *, run_dir: Path, name: str, within_s: float) -> int:
    """Hand on the changes that the processes of an earlier run have left; returns how many are left after that.

    For a command that has ``run_dir`` to itself. It ends when nothing is left, or after ``within_s``. What is left
    then stays in the change logs. Raises ``FixtureError``, ``OSError``, and ``ValueError`` for a backend that keeps
    no documents.
    """
    folder = changes_folder(run_dir, name)
    if not folder.is_dir():
        return 0
    built = build_source(source, target, run_dir=run_dir, name=name, mode="hybrid", live=False)
    await built.start()
    try:
        return await built.drained(within_s)
    finally:
        await built.close()
