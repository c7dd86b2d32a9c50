"""What must hold before the weight is raised: healthy backends, a target with the source's data, allowed hours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from control.checks import check as checks
from control.checks.check import Check, failed
from control.figures.counts import lag
from control.lead.clock import Clock
from control.lead.datakeeper import DataKeeper
from control.plan import gates
from control.plan.gates import Hold, HoldKind
from control.plan.phases import Phase
from control.plan.settings import Migration
from proxy.board.board import Board

HEALTH_WITHIN_S: Final = 5.0  # for all checks together: a backend that takes longer is not healthy

HealthCheck = Callable[[], Awaitable[list[Check]]]  # of both backends


def unwell(found: Sequence[Check]) -> list[Hold]:
    """What the checks that failed hold up."""
    return [
        Hold(
            HoldKind.LAG if check.name == checks.LAG else HoldKind.HEALTH,
            check.name,
            f"{check.name}: {check.found}",
        )
        for check in failed(found)
    ]


class Readiness:
    """What stands in the way of one migration's next increase."""

    def __init__(
        self,
        board: Board,
        index: int,
        migration: Migration,
        health: HealthCheck,
        clock: Clock,
        data: DataKeeper | None,
    ) -> None:
        """``data`` is None where the arms are no document stores."""
        self._board = board
        self._index = index
        self._settings = migration
        self._health = health
        self._clock = clock
        self._data = data

    async def checks(self) -> list[Check]:
        """Both backends' health and the target's lag; takes at most ``HEALTH_WITHIN_S``."""
        behind = checks.lag(*lag(self._board, self._index, self._clock.now().mono))
        try:
            async with asyncio.timeout(HEALTH_WITHIN_S):
                return [*await self._health(), behind]
        except TimeoutError:
            found = f"no answer within {HEALTH_WITHIN_S:g} s"
            return [Check("health", False, found, "Look at the backends."), behind]

    async def unwell(self) -> list[Hold]:
        """Which of ``checks`` fail now."""
        return unwell(await self.checks())

    def closed(self) -> list[Hold]:
        """Why no phase may begin at this hour."""
        return gates.closed(self._settings.windows, self._settings.freezes, self._clock.now().unix)

    def held(self, following: Phase | None) -> list[Hold]:
        """Why ``following`` may not begin by itself now, whatever the verdict; None is completion."""
        return self.closed() + gates.approval(following) + self.lacking()

    def lacking(self) -> list[Hold]:
        """What the target is known to lack of the source's data."""
        hold = None if self._data is None else self._data.hold()
        return [] if hold is None else [hold]

    def data_checks(self) -> list[Check]:
        """What is known of the target's data, for a dry run of `start`; nothing where the arms are no stores."""
        if self._data is None:
            return []
        lacking, gated = self._data.lacking(), self.lacking()
        if not lacking:
            return [Check("data", True, "the target is not known to lack anything of the source's")]
        mend = "Run that command, or start with force and a reason." if gated else ""
        return [Check("data", False if gated else None, lacking, mend)]

    async def look_for_seed(self) -> None:
        """Learn whether the target was seeded, where that would open the gate."""
        if self._data is not None:
            await self._data.look_for_seed()
