"""A change that one side has, or may have, and the other has yet to take: what is known of it, and of its tries."""

from __future__ import annotations

from random import Random
from time import monotonic_ns
from typing import Final

import msgspec

from backends.documents.changes import Change
from backends.errors import Fault, FaultKind
from backends.pair.segment import DONE, OPEN, SETTLED, ChangeState, Segment
from backends.resilience.backoff import backoff

BATCH: Final = (
    450  # changes in one commit, at most: of 500 writes, which leaves room for the counters of single events
)
CALL_S: Final = 5.0  # deadline for applying one commit, and for one question
BASE_S: Final = 0.1  # backoff of a failed change, and between probes
CAP_S: Final = 2.0
TRIES: Final = 8  # with a permanent fault before the change is given up; with any other before it is logged
NAMED: Final = 5  # documents of a change that the log names; the others are only counted

# A stored value of an unsupported type, or a reply that cannot be parsed: a retry will meet the same. Every other
# fault may end with an outage, however long: of the network, the quota, credentials or permissions, and INTERNAL,
# which covers everything else. A change that meets one of those is never given up.
INCURABLE: Final = frozenset({FaultKind.CORRUPT})


class LoggedChange(msgspec.Struct, eq=False):
    """A change that waits. Times are of CLOCK_MONOTONIC, in ns."""

    step: Change
    size: int  # bytes, encoded
    made: int
    due: int
    segment: Segment | None  # None: it is in memory only
    number: int  # in the segment
    operation: str = ""  # whose write it is, if that is known
    loaded: bool = True  # in the window; otherwise it is read back from its segment
    # Neither it nor what waits behind it was made before this. 1: nobody knows, as of a change of another process.
    not_before: int = 1
    outcome: ChangeState = OPEN
    doubtful: bool = False
    asked: int = 0  # when the own side did not hold it for the first time
    most: int = BATCH  # changes that it may be sent with: half as many after each commit that failed with it
    tries: int = 0
    hopeless: int = 0  # tries that met a permanent fault
    others: int = 0  # the mirror's count of applied changes when this one last failed
    fault: str = ""  # the kind of the last fault
    reason: str = ""  # and the store's message
    count_at: int = 0  # when its failing is counted next
    count_pause: float = 0.0  # seconds from the last time to that one

    def __lt__(self, other: LoggedChange) -> bool:
        return self.due < other.due

    # As ``Intent``. ``WriteAhead`` acts on the outcome when the handler has ended.

    def settle(self) -> None:
        """As ``Intent.settle``."""
        self.outcome = SETTLED
        if self.segment is not None:
            self.segment.note(self.number, SETTLED)

    def abort(self) -> None:
        """As ``Intent.abort``: both sides have the change, or neither will."""
        self.outcome = DONE
        if self.segment is not None:
            self.segment.note(self.number, DONE)

    def doubt(self) -> None:
        """As ``Intent.doubt``."""
        self.doubtful = True

    # ------------------------------------------------------------------------------------------------- its tries

    def failed(self, fault: Fault) -> bool:
        """Note why a try failed; whether it is time to tell of it."""
        if fault.kind is FaultKind.BREAKER:
            return False  # the store was not asked
        self.tries += 1
        self.hopeless += fault.kind in INCURABLE
        self.fault, self.reason = fault.kind.label, str(fault)
        return self.tries == TRIES

    def wait(self, dice: Random) -> None:
        """Let it be due again after a backoff."""
        self.due = monotonic_ns() + pause_ns(max(0, self.tries - 1), dice)

    def named(self) -> tuple[str, ...]:
        """Some of its documents, for a line of the log."""
        return tuple(self.step.documents[:NAMED])


def pause_ns(failures: int, dice: Random) -> int:
    """How long to wait after so many failures in a row before the one just now."""
    return int(1e9 * backoff(failures, BASE_S, CAP_S, dice))
