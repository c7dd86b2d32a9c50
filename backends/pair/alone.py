"""The data source of a migration with one store and one HTTP origin, which the data plane reaches by itself.

If the store fails, the failure is returned as it is. Only the data plane can reach the origin: it sends a failed read
there.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic_ns
from typing import Final

from backends.arm import GAUGES, SOURCE, Arm, Health, Outcome
from backends.backend import Backend
from backends.errors import Fault, FaultKind
from backends.operations import Answer, Call, Operation
from backends.pair.manager import store_arm, unavailable
from backends.pair.storearm import StoreArm

ONLY_DATA_PLANE: Final = "only the data plane can reach an HTTP origin"


class Elsewhere:
    """The ``Arm`` that the data plane forwards to. It must not be called here; if it is, it raises a ``Fault``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def peek(self, operation: Operation, key: bytes) -> Answer | None:
        """As ``Arm.peek``."""
        return None

    async def answer(self, call: Call) -> Answer:
        """As ``Arm.answer``."""
        raise Fault(FaultKind.UNAVAILABLE, ONLY_DATA_PLANE)

    async def start(self) -> None:
        """As ``Arm.start``."""

    async def close(self) -> None:
        """As ``Arm.close``."""

    async def health(self) -> Health:
        """As ``Arm.health``."""
        return Health(False, 0.0, ONLY_DATA_PLANE)


class Alone:
    """A ``DataSource`` with a store at arm ``at`` and at the other an HTTP origin, of the kind ``elsewhere``."""

    def __init__(self, own: StoreArm, at: int, elsewhere: str) -> None:
        other = Elsewhere(elsewhere)
        self.arms: tuple[Arm, Arm] = (own, other) if at == SOURCE else (other, own)
        self._own = own

    def peek(self, arm: int, operation: Operation, key: bytes) -> Answer | None:
        """As ``DataSource.peek``."""
        return self.arms[arm].peek(operation, key)

    async def answer(self, arm: int, call: Call) -> Outcome:
        """As ``DataSource.answer``, without a fallback."""
        try:
            return Outcome(await self.arms[arm].answer(call), arm)
        except Fault as fault:
            return Outcome(unavailable(call, fault), arm, fault)

    def behind_since(self) -> int:
        """As ``DataSource.behind_since``: changes are not mirrored between an origin and a store."""
        return 0

    def arrived(self) -> int:
        """As ``DataSource.arrived``: nothing is on its way."""
        return monotonic_ns()

    def gauges(self) -> list[int]:
        """As ``DataSource.gauges``: the store's."""
        counts = dict.fromkeys(GAUGES, 0) | self._own.gauges()
        return [counts[name] for name in GAUGES]

    async def start(self) -> None:
        """As ``DataSource.start``."""
        await self._own.start()

    async def close(self) -> None:
        """As ``DataSource.close``."""
        await self._own.close()


def build_alone(pair: tuple[Backend, Backend], at: int, *, run_dir: Path, name: str) -> Alone:
    """The data source of ``pair``, whose arm ``at`` is a store. No network, and no file, until ``start``."""
    return Alone(store_arm(pair[at], run_dir / name, live=True), at, pair[1 - at].kind)
