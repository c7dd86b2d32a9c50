"""What is not right about the target of a running migration: asked for when requests fail so, written down once.

A worker that meets a missing index or refused credentials counts a fault of that kind on the board, and no more fits
there. So control asks the target itself what is wrong, and writes one entry a run and trouble to the audit trail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from backends.errors import FaultKind
from control.checks.indexed import Unanswered
from control.plan.times import Now
from control.rollout.model import Entry, Rollout
from proxy.board.series import Series

AGAIN_S: Final = 60.0  # between two diagnoses: each costs up to a read for every query
WITHIN_S: Final = 30.0  # for one diagnosis
SHAPES: Final = 20  # that an entry names
# Faults that a person has to do something about; others end by themselves.
SUSPECT: Final = (FaultKind.SETUP, FaultKind.PERMISSION, FaultKind.EXHAUSTED)

Diagnose = Callable[[], Awaitable[Sequence[Unanswered]]]  # what the target does not answer now


class Diagnosed(Protocol):
    """What is needed of whoever leads the migration."""

    name: str
    state: Rollout

    def note(self, entry: Entry) -> None:
        """Write the entry to the audit trail."""


class TargetWrongs:
    """Asks a target what is wrong with it, and writes down what it says."""

    def __init__(self, leader: Diagnosed, target: str, diagnose: Diagnose) -> None:
        self._leader = leader
        self._target = target  # the backend's name
        self._diagnose = diagnose
        self._seen: int | None = None  # faults of ``SUSPECT`` kinds, when last looked
        self._suspected = False  # there were more since the last diagnosis
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._written: set[tuple[float | None, str]] = set()  # (the run's start, the trouble)

    def look(self, target: Series, now: Now) -> None:
        """Look at the target's counts; never waits."""
        faults = sum(target.faults[kind] for kind in SUSPECT)
        self._suspected = self._suspected or (self._seen is not None and faults > self._seen)
        self._seen = faults
        due = now.mono - self._asked_at >= AGAIN_S
        if self._suspected and due and self._asking is None and self._leader.state.weight_bp:
            self._suspected, self._asked_at = False, now.mono
            self._asking = asyncio.create_task(self._ask(), name=f"diagnosis {self._leader.name}")

    async def _ask(self) -> None:
        run = self._leader.state.started_at
        try:
            async with asyncio.timeout(WITHIN_S):
                found = await self._diagnose()
        except TimeoutError:
            return  # it is slow, which is judged elsewhere
        finally:
            self._asking = None
        by_trouble: dict[str, list[Unanswered]] = {}
        for each in found:
            if each.trouble is not None and (run, each.trouble.name) not in self._written:
                by_trouble.setdefault(each.trouble.name, []).append(each)
        for name, these in by_trouble.items():
            self._written.add((run, name))
            self._leader.note(Entry("target_not_right", "phasegate", _detail(self._target, name, these)))

    def cancel(self) -> None:
        """End what is under way."""
        if self._asking is not None:
            self._asking.cancel()


def _detail(backend: str, trouble: str, these: Sequence[Unanswered]) -> dict[str, object]:
    return {
        "backend": backend,
        "trouble": trouble,
        "asked": [each.asked for each in these[:SHAPES]],
        "reason": these[0].found,
        "whose": these[0].trouble.whose if these[0].trouble else "",
        # Each missing index has a link of its own.
        "mend": list(dict.fromkeys(each.trouble.mend for each in these[:SHAPES] if each.trouble)),
    }
