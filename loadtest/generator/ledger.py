"""Every write that was answered with 2xx, and what a reader must find of it from then on. Pure.

A write without a clear answer may be there or not; both are right. One that was confirmed must be found, exactly once
where it counts something, whichever side answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

Json = dict[str, Any]
WriteOutcome = Literal["done", "refused", "uncertain"]
TOO_OFTEN: Final = "more often than it was done"  # how a problem ends that is no lack
COMPLETED: Final = 100.0  # the progress of a scan that takes no more changes
FRESH_MOST: Final = 80  # scans that were written and not read since: what is older is read at the end
_TIMES: Final[dict[WriteOutcome, tuple[int, ...]]] = {"done": (1,), "refused": (0,), "uncertain": (0, 1)}


class Promise(NamedTuple):
    """A question, and what is wrong with an answer to it ("" where it is right; the document of a 404 is None)."""

    what: str
    path: str
    problem: Callable[[Json | None], str]


@dataclass(slots=True)
class OwnScan:
    """A scan job that a visitor made. Its progress takes the values of ``values``, in order; one change at a time."""

    id: str
    visitor: str
    values: list[float] = field(default_factory=lambda: [0.0])
    confirmed: int = 0  # index of the newest value that was confirmed
    files: int = 0  # confirmed
    files_uncertain: int = 0
    busy: bool = False  # a change of its progress is under way

    @property
    def open(self) -> bool:
        """Whether it surely takes changes: it is not completed, and no completion of it is uncertain."""
        return COMPLETED not in self.values[self.confirmed :]

    @property
    def running(self) -> bool:
        """Whether it has surely begun and may be completed: a queued one must run first."""
        return self.open and 0.0 not in self.values[self.confirmed :]

    def problem(self, found: Json | None, since: int, files: int) -> str:
        """What is wrong with the job as it was read by one who knew of ``since`` and of so many files."""
        if found is None:
            return f"scan {self.id} is gone"
        progress, expected = found.get("progress"), self.values[since:]
        if progress not in expected:
            return f"progress of its own scan {self.id}: read {progress!r}, expected one of {expected}"
        if found.get("status") != _status(progress):
            return f"status of its own scan {self.id}: read {found.get('status')!r} with a progress of {progress!r}"
        return self.files_problem(found.get("files", -1), files)

    def files_problem(self, shown: int, files: int, page: int | None = None) -> str:
        """What is wrong with how many files are shown to one who knew of ``files``; at most ``page`` are shown."""
        least, most = files, self.files + self.files_uncertain
        if page is not None:
            least, most = min(least, page), min(most, page)
        if least <= shown <= most:
            return ""
        more = f", {TOO_OFTEN}" if shown > most else ""
        return f"files of its own scan {self.id}: read {shown!r}, expected {least} to {most}{more}"


def _status(progress: float) -> str:
    """The status that goes with a progress: a scan begins at 0, and is completed with its last change."""
    return {0.0: "queued", COMPLETED: "completed"}.get(progress, "running")


class Ledger:
    """All writes of a run."""

    def __init__(self) -> None:
        self.scans: dict[str, OwnScan] = {}
        self.snapshots: dict[str, str] = {}  # id → published_at
        self.events: dict[str, WriteOutcome] = {}  # by user, each of whom does one thing once
        self.fresh: deque[OwnScan] = deque(maxlen=FRESH_MOST)  # just written, the newest last

    def wrote(self, scan: OwnScan) -> None:
        """A write to a scan was confirmed; its creation too."""
        self.scans[scan.id] = scan
        self.fresh.append(scan)

    def promises(self) -> Iterator[Promise]:
        """Everything that must be readable now."""
        for scan in self.scans.values():
            check = partial(OwnScan.problem, scan, since=scan.confirmed, files=scan.files)
            yield Promise(f"scan {scan.id}", f"/api/scans/{scan.id}", check)
        for snapshot, at in self.snapshots.items():
            when = quote(at, safe="")
            path = f"/api/dashboard/metrics/history?from={when}&to={when}"
            yield Promise(f"snapshot {snapshot}", path, partial(_among, snapshot=snapshot))
        for user, outcome in self.events.items():
            check = partial(_counted, user=user, outcome=outcome)
            yield Promise(f"event of {user}", f"/api/analytics/users/{user}", check)


def _among(found: Json | None, snapshot: str) -> str:
    listed = [] if found is None else [shown["id"] for shown in found["snapshots"]]
    return "" if snapshot in listed else f"snapshot {snapshot} is not in the history"


def _counted(found: Json | None, user: str, outcome: WriteOutcome) -> str:
    events = None if found is None else found["events"]
    allowed = _TIMES[outcome]
    more = f", {TOO_OFTEN}" if events is not None and events > max(allowed) else ""
    return "" if events in allowed else f"event of {user}: counted {events!r} times, expected {allowed}{more}"
