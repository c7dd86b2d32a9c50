"""Whether a change may be on its way from one side to the other: what the change logs of a serving phasegate say.

Those who move data beside traffic may act on a document only while none of its changes is on its way (see
``settling``). What they are told is how many changes wait, and since when the oldest of them does. From that follows
a moment before which every change that was made has reached both sides.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

# How old the counts may be that a line was made of: each worker puts its own on the board once a second, later where
# it has to wait for a processor, and the parent reads them a moment after that.
STALE_S: Final = 2.0
_LONG_AGO: Final = float("-inf")


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
        return asyncio.get_running_loop().time()

    async def reached_both(self, since: float, within: float) -> bool:
        """As ``Calm.reached_both``."""
        return True


class Tidings:
    """What was said of the change logs so far. Pure: every time is passed in, in seconds of one clock."""

    def __init__(self) -> None:
        self.behind = -1  # changes that wait, as last said; -1 before the first line
        self._arrived = _LONG_AGO  # every change that was made before has reached both sides
        self._empty_since: float | None = None  # when the first of the lines without a break came that said: none

    def heard(self, behind: int, oldest_s: float | None, now: float) -> None:
        """``behind`` changes wait, the oldest for ``oldest_s`` seconds, None if that was not said."""
        self.behind = behind
        if behind:
            self._empty_since = None
            if oldest_s is not None:
                self._arrived = max(self._arrived, now - oldest_s - STALE_S)
            return
        # One line that says "none" is made of counts that may be older than it. The second is younger than the first.
        if self._empty_since is not None and now - self._empty_since >= STALE_S:
            self._arrived = max(self._arrived, now - STALE_S)
        elif self._empty_since is None:
            self._empty_since = now

    def arrived(self, since: float) -> bool:
        """Whether every change that was made before ``since`` has reached both sides."""
        return self._arrived > since


class Watched:
    """A phasegate serves, and its parent process says what waits in its change logs.

    ``unseen_s`` is how long a change may be visible on the side that took it before it is in the log: until the
    side's answer has come, at most its deadline.
    """

    served = True

    def __init__(self, unseen_s: float) -> None:
        self._unseen_s = unseen_s
        self._tidings = Tidings()
        self._news = asyncio.Event()

    @property
    def behind(self) -> int:
        """How many changes wait, as last said."""
        return self._tidings.behind

    def now(self) -> float:
        """As ``Calm.now``."""
        return asyncio.get_running_loop().time()

    def heard(self, behind: int, oldest_s: float | None = None) -> None:
        """As ``Tidings.heard``, now."""
        self._tidings.heard(behind, oldest_s, self.now())
        self._news.set()

    async def reached_both(self, since: float, within: float) -> bool:
        """As ``Calm.reached_both``."""
        end = self.now() + within
        while not self._tidings.arrived(since + self._unseen_s):
            self._news.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._news.wait()
            except TimeoutError:
                return False
        return True
