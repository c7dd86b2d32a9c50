"""Whether a change may be on its way from one side to the other: what the workers of a serving phasegate say.

Those who move data beside traffic may act on a document only while none of its changes is on its way (see
``settling``). Every worker says on the board, fifty times a second, up to which moment all changes that it answers
for have reached both sides: those that wait in its change log, and those whose call has not ended yet. It says when
it looked, so nobody has to guess how old its word may be.

One such look is not enough. While one worker takes over the log of another that died, the first may have said last
that it has nothing, and the other is gone. So what one look says counts only if a second one says it too, for which
every worker has looked again after the first.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final, Protocol

import msgspec


class ArrivalLook(msgspec.Struct, frozen=True):
    """What the workers said has arrived. Times are of CLOCK_MONOTONIC, in seconds; 0: nobody knows."""

    before: float  # every change made before is on both sides, or will be on neither
    looked: float  # when the worker looked whose word is the oldest
    at: float  # when their words were read


NOTHING_KNOWN: Final = ArrivalLook(0.0, 0.0, 0.0)


class Calm(Protocol):
    """Says when changes have arrived."""

    served: bool  # whether anybody may write meanwhile

    def now(self) -> float:
        """The clock by which ``since`` is meant."""

    async def reached_both(self, since: float, within: float) -> bool:
        """Wait, ``within`` seconds at most, until every change visible at ``since`` on a side has reached both."""


class Undisturbed:
    """Nobody serves, so nobody writes."""

    served = False

    def now(self) -> float:
        """As ``Calm.now``."""
        return monotonic()

    async def reached_both(self, since: float, within: float) -> bool:
        """As ``Calm.reached_both``."""
        return True


class Tidings:
    """What two looks, one after the other, agree on. Pure."""

    def __init__(self) -> None:
        self._arrived = 0.0  # every change that was made before has reached both sides
        self._first = NOTHING_KNOWN  # what a second look has yet to confirm

    def heard(self, look: ArrivalLook) -> None:
        """One more look, read later than those before."""
        first = self._first
        if look.looked > first.at:
            self._arrived = max(self._arrived, min(first.before, look.before))
            self._first = look
        elif look.before < first.before:  # a worker has yet to look again: until it has, the lower of the two counts
            self._first = ArrivalLook(look.before, first.looked, first.at)

    def arrived(self, since: float) -> bool:
        """Whether every change that was visible at ``since`` has reached both sides."""
        return self._arrived > since


class Watched:
    """A phasegate serves, and its parent process says what has arrived.

    The clock is CLOCK_MONOTONIC itself, not the event loop's time, which stands still within a step: what was read in
    it would seem to be older than it is.
    """

    served = True

    def __init__(self) -> None:
        self._tidings = Tidings()
        self._news = asyncio.Event()

    def now(self) -> float:
        """As ``Calm.now``."""
        return monotonic()

    def heard(self, look: ArrivalLook) -> None:
        """As ``Tidings.heard``."""
        self._tidings.heard(look)
        self._news.set()

    async def reached_both(self, since: float, within: float) -> bool:
        """As ``Calm.reached_both``."""
        try:
            async with asyncio.timeout(within):
                while not self._tidings.arrived(since):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True
