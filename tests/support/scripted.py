"""A data source whose arms answer when a test allows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from backends.arm import GAUGES, SOURCE, TARGET, Arm, Health, Outcome
from backends.errors import Fault
from backends.operations import EVENT_STREAM, Answer, Call, Operation, json_answer


@dataclass
class Named:
    """An arm with only a name; ``Scripted`` answers for it."""

    kind: str

    def peek(self, operation: Operation, target: bytes) -> Answer | None:
        return None

    async def answer(self, call: Call) -> Answer:
        raise NotImplementedError

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def health(self) -> Health:
        return Health(True, 0.0, "")


@dataclass
class Scripted:
    """A data source whose arms answer when the test sets their gate."""

    gates: tuple[asyncio.Event, asyncio.Event] = field(default_factory=lambda: (asyncio.Event(), asyncio.Event()))
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[int, Call]] = field(default_factory=list)
    cancelled: int = 0
    crash: bool = False
    behind: int = 0
    arrived_before: int = 0
    arms: tuple[Arm, Arm] = (Named("mock"), Named("firestore"))

    def peek(self, arm: int, operation: Operation, target: bytes) -> Answer | None:
        return None

    async def answer(self, arm: int, call: Call) -> Outcome:
        self.asked.append((arm, call))
        if self.crash:
            raise ZeroDivisionError
        try:
            await self.gates[arm].wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.faults and arm == TARGET:
            return Outcome(json_answer(200, "source"), SOURCE, self.faults.pop())
        if call.operation.kind == "stream":
            return Outcome(Answer(200, content_type=EVENT_STREAM, stream=self._events()), arm)
        return Outcome(json_answer(200, ("source", "target")[arm]), arm)

    async def _events(self) -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await asyncio.Event().wait()

    def arrived(self) -> int:
        return self.arrived_before

    def behind_since(self) -> int:
        return self.behind

    def gauges(self) -> list[int]:
        return [0] * len(GAUGES)

    async def start(self) -> None: ...

    async def close(self) -> None: ...
