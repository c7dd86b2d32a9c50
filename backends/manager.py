"""Builds arms and data sources, and decides what happens when the target fails.

A read that the target fails is answered by the source in the same request. A write that the target fails is
applied to the source under the same id and time, and handed on to the target when it is back: applied twice it means
the same, so it does not matter whether the target had taken it.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from backends import settings
from backends.arm import GAUGES, SOURCE, TARGET, Arm, Outcome
from backends.errors import Fault
from backends.operations import Answer, Call, Operation, error_answer
from backends.storearm import Rehearsal, StoreArm
from backends.stores import build_store, journal_of

_AGAIN = ((b"retry-after", b"1"),)


def _unavailable(call: Call, fault: Fault) -> Answer:
    """The answer where nobody could do what was asked."""
    if call.operation.kind == "write" and fault.may_have_applied:
        message = "the backend failed while writing: the write may or may not be stored; repeat it to be sure"
        return error_answer(503, "write_uncertain", message, _AGAIN)
    return error_answer(503, "backend_unavailable", f"the backend failed ({fault.kind.label})", _AGAIN)


class Source:
    """A ``DataSource`` over two arms that answer from document stores."""

    def __init__(self, source: StoreArm, target: StoreArm, *, fallback: bool) -> None:
        self.arms = (source, target)
        self._fallback = fallback
        self._counts = dict.fromkeys(GAUGES, 0)

    def peek(self, arm: int, operation: Operation, target: bytes) -> Answer | None:
        """As ``DataSource.peek``."""
        return self.arms[arm].peek(operation, target)

    async def answer(self, arm: int, call: Call) -> Outcome:
        """As ``DataSource.answer``."""
        if arm == SOURCE:
            return await self._from_source(call, None)
        self._counts["attempts"] += 1
        try:
            return Outcome(await self.arms[TARGET].answer(call), TARGET)
        except Fault as fault:
            if not self._fallback:
                return Outcome(_unavailable(call, fault), TARGET, fault)
            self._counts["fallbacks"] += 1
            return await self._from_source(call, fault)

    async def _from_source(self, call: Call, fault: Fault | None) -> Outcome:
        try:
            return Outcome(await self.arms[SOURCE].answer(call), SOURCE, fault)
        except Fault as own:
            return Outcome(_unavailable(call, own), SOURCE, fault)

    def gauges(self) -> list[int]:
        """As ``DataSource.gauges``."""
        return list(self._counts.values())

    async def start(self) -> None:
        """As ``DataSource.start``."""
        await asyncio.gather(*(arm.start() for arm in self.arms))

    async def close(self) -> None:
        """As ``DataSource.close``."""
        await asyncio.gather(*(arm.close() for arm in self.arms))


def _store_arm(backend: settings.Backend, journal: Path | None) -> StoreArm:
    store = build_store(backend, journal)
    match backend:
        case settings.Mock():
            trouble = backend.latency_s or backend.fault_rate
            rehearsal = Rehearsal(backend.latency_s, backend.fault_rate, random.Random(backend.seed))  # noqa: S311 - no secret
            return StoreArm(store, 1.0, rehearsal if trouble else None)
        case _:
            return StoreArm(store, backend.deadline_s)


def build_arm(backend: settings.Backend) -> Arm:
    """One backend by itself, to ask after its health. No network until ``start``."""
    return _store_arm(backend, None)


def build_source(
    source: settings.Backend, target: settings.Backend, *, run_dir: Path, name: str, mode: str
) -> Source:
    """A migration's data source. No network until ``start``.

    A mock keeps its journal at ``run_dir/<name>.mock.journal``. Only in mode ``hybrid`` does the source answer for a
    failing target, and is every change told to the other side.
    """
    journal = journal_of(run_dir, name)
    return Source(_store_arm(source, journal), _store_arm(target, journal), fallback=mode == "hybrid")
