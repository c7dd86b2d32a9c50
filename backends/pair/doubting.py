"""Asks the own side whether it holds a change whose write got no answer, before the other side gets it.

Twice, ``AGAIN_S`` apart: a commit may still be under way when the store is asked for the first time.
"""

from __future__ import annotations

import asyncio
import random
from heapq import heappop, heappush
from time import monotonic_ns
from typing import Final

import structlog

from backends.documents.port import Context, DocumentStore, Rejected
from backends.errors import Fault, FaultKind
from backends.pair.backlog import MISTAKE, Backlog, Taker
from backends.pair.logged import CALL_S, TRIES, LoggedChange

_log = structlog.get_logger("phasegate.mirror")

ASKERS: Final = 8  # questions under way
AGAIN_S: Final = 5.0  # a commit that a store does not hold yet may still be on its way to it for so long


class Doubting:
    """The changes of a backlog that its own side may lack. What ``own`` holds goes on to ``certain``."""

    def __init__(self, own: DocumentStore, backlog: Backlog, certain: Taker, dice: random.Random) -> None:
        self.doubts: list[LoggedChange] = []  # a heap by due time
        self._own = own
        self._backlog = backlog
        self._certain = certain
        self._dice = dice
        self._askers: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # set while started
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._loop = asyncio.get_running_loop()
        self.go_on()

    def stop(self) -> list[asyncio.Task[None]]:
        """Begin no more questions; returns those that are under way."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
        return [*self._askers]

    def add(self, logged: LoggedChange) -> None:
        """As ``Taker.add``."""
        heappush(self.doubts, logged)

    def go_on(self) -> None:
        """As ``Taker.go_on``: ask about as many as are due."""
        loop = self._loop
        while loop is not None and self.doubts and len(self._askers) < ASKERS:
            wait_ns = self.doubts[0].due - monotonic_ns()
            if wait_ns > 0:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = loop.call_later(wait_ns / 1e9, self.go_on)
                return
            self._askers.add(loop.create_task(self._ask_about(heappop(self.doubts))))

    async def _ask_about(self, logged: LoggedChange) -> None:
        try:
            traces = logged.step.traces
            ctx = Context(asyncio.get_running_loop().time() + CALL_S)
            found = await self._own.get_many(traces, ctx)
            held = logged.step.held(dict(zip(traces, found, strict=True)))
        except Fault as fault:
            self._ask_later(logged, fault)
        except Rejected as refusal:
            self._ask_later(logged, Fault(FaultKind.INTERNAL, str(refusal)))
        except Exception as error:
            self._backlog.lose(logged, "mistake", MISTAKE, mistake=error)
        else:
            now = monotonic_ns()
            if held is not None:
                logged.step, logged.doubtful = held, False
                logged.tries = logged.hopeless = 0
                logged.due = now
                self._certain.add(logged)
                self._certain.go_on()
            elif not logged.asked:
                logged.asked = now
                logged.due = now + int(AGAIN_S * 1e9)
                heappush(self.doubts, logged)
            else:
                self._backlog.settle(logged)  # neither side has it
        finally:
            self._askers.discard(asyncio.current_task())
            self.go_on()

    def _ask_later(self, logged: LoggedChange, fault: Fault) -> None:
        long = logged.failed(fault)
        if self._backlog.gives_up(logged, TRIES):
            return
        if long:
            _log.warning(
                "change_in_doubt",
                backend=self._own.kind,
                documents=logged.named(),
                document_count=len(logged.step.documents),
                fault=logged.fault,
                reason=logged.reason,
                tries=logged.tries,
            )
        logged.wait(self._dice)
        heappush(self.doubts, logged)
