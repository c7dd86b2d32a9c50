"""How fast a copy may write toward Firestore, and how large its pages are. Pure.

Firestore asks for at most 500 writes a second to a collection that was idle, and half more every five minutes
(https://firebase.google.com/docs/firestore/best-practices#ramping_up_traffic). Every time is passed in, in seconds of
a clock that never goes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from backends.documents.port import COMMIT_LIMIT, Mutation
from backends.documents.portions import portions

RATE: Final = 500.0  # writes a second to begin with
GROWTH: Final = 1.5
GROWS_EVERY_S: Final = 300.0
LEAST_RATE: Final = 10.0  # writes a second, however often the service says that it is exhausted
REST_S: Final = 1.0  # no write at all after the service said so

LOCAL_COMMIT: Final = 20  # writes: a commit holds the lock that workers of this machine wait for

FIRST_PAGE: Final = 50  # documents: they may be of 1 MiB each
LARGEST_PAGE: Final = 1000
PAGE_BYTES: Final = 4 * 2**20
PAGE_S: Final = 2.0  # a page that takes longer is followed by a smaller one


class Pace:
    """A rate of writes that grows by half every five minutes, and halves when the service is exhausted."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._grows_at = now + GROWS_EVERY_S
        self._free_at = now  # when the writes admitted so far have taken their time

    def wait(self, writes: int, now: float) -> float:
        """Admit a commit of so many writes; returns the seconds to wait before it is sent."""
        while now >= self._grows_at:
            self.rate *= GROWTH
            self._grows_at += GROWS_EVERY_S
        start = max(self._free_at, now)
        self._free_at = start + writes / self.rate
        return start - now

    def exhausted(self, now: float) -> None:
        """The service said RESOURCE_EXHAUSTED: half the rate, a rest, and five minutes until it grows again."""
        self.rate = max(min(LEAST_RATE, self.rate), self.rate / 2)
        self._free_at = max(self._free_at, now) + REST_S
        self._grows_at = now + GROWS_EVERY_S


def next_page(limit: int, documents: int, size: int, took_s: float) -> int:
    """How many documents to ask for after a page of ``documents`` and ``size`` bytes, asked for with ``limit``."""
    wanted = 2 * limit
    if documents and size:
        wanted = min(wanted, max(1, PAGE_BYTES * documents // size))
    if took_s > PAGE_S:
        wanted = min(wanted, max(1, int(documents * PAGE_S / took_s)))
    return min(LARGEST_PAGE, wanted)


def commits(mutations: Sequence[Mutation], most: int = COMMIT_LIMIT) -> Iterator[list[Mutation]]:
    """The mutations in commits that a store takes, of at most ``most`` writes."""
    for portion in portions(mutations):
        for at in range(0, len(portion), most):
            yield portion[at : at + most]
