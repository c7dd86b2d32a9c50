"""Every confirmed write (answered with 2xx), and what reads must find of it from then on. Pure.

A write without a clear answer may be stored or not; both are right. A confirmed write must be found on whichever side
answers, and counted exactly once.
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
TOO_OFTEN: Final = "more often than it was done"  # marks a problem of something counted too often, not of a loss
COMPLETED: Final = 100.0  # the progress of a scan that accepts no more changes
FRESH_MOST: Final = 80  # scans written and not read since; older ones are read at the end of the run
_TIMES: Final[dict[WriteOutcome, tuple[int, ...]]] = {"done": (1,), "refused": (0,), "uncertain": (0, 1)}


class Promise(NamedTuple):
    """A read, and a function that says what is wrong with its answer ("" if right; the document of a 404 is None)."""

    what: str
    path: str
    problem: Callable[[Json | None], str]


@dataclass(slots=True)
class OwnScan:
    """A scan job of a visitor. Its progress takes the values in ``values``, in order; one change at a time."""

    id: str
    visitor: str
    values: list[float] = field(default_factory=lambda: [0.0])
    confirmed: int = 0  # index of the newest value that was confirmed
    files: int = 0  # confirmed
    files_uncertain: int = 0
    busy: bool = False  # a change of its progress is under way

    @property
    def open(self) -> bool:
        """Whether it certainly accepts changes: neither completed nor possibly completed."""
        return COMPLETED not in self.values[self.confirmed :]

    @property
    def running(self) -> bool:
        """Whether it certainly runs, and so may be completed: a queued one must run first."""
        return self.open and 0.0 not in self.values[self.confirmed :]

    def problem(self, shown: Json | None, since: int, files: int) -> str:
        """What is wrong with the job as read, if ``values[since]`` and ``files`` files were confirmed before."""
        if shown is None:
            return f"scan {self.id} is gone"
        progress, expected = shown.get("progress"), self.values[since:]
        if progress not in expected:
            return f"progress of its own scan {self.id}: read {progress!r}, expected one of {expected}"
        if shown.get("status") != _status(progress):
            return f"status of its own scan {self.id}: read {shown.get('status')!r} with a progress of {progress!r}"
        return self.files_problem(shown.get("files", -1), files)

    def files_problem(self, shown: int, files: int, page: int | None = None) -> str:
        """What is wrong with the number of shown files, if ``files`` are confirmed; a page shows at most ``page``."""
        least, most = files, self.files + self.files_uncertain
        if page is not None:
            least, most = min(least, page), min(most, page)
        if least <= shown <= most:
            return ""
        more = f", {TOO_OFTEN}" if shown > most else ""
        return f"files of its own scan {self.id}: read {shown!r}, expected {least} to {most}{more}"


def _status(progress: float) -> str:
    """The status for a progress: 0 is queued, 100 is completed."""
    return {0.0: "queued", COMPLETED: "completed"}.get(progress, "running")


class Ledger:
    """All confirmed writes of a run."""

    def __init__(self) -> None:
        self.scans: dict[str, OwnScan] = {}
        self.snapshots: dict[str, str] = {}  # id → published_at
        self.events: dict[str, WriteOutcome] = {}  # by user; each user sends one event once
        self.fresh: deque[OwnScan] = deque(maxlen=FRESH_MOST)  # written last, newest at the end

    def wrote(self, scan: OwnScan) -> None:
        """Record a confirmed write to a scan, or its creation."""
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


def _among(document: Json | None, snapshot: str) -> str:
    listed = [] if document is None else [shown["id"] for shown in document["snapshots"]]
    return "" if snapshot in listed else f"snapshot {snapshot} is not in the history"


def _counted(document: Json | None, user: str, outcome: WriteOutcome) -> str:
    events = None if document is None else document["events"]
    allowed = _TIMES[outcome]
    more = f", {TOO_OFTEN}" if events is not None and events > max(allowed) else ""
    return "" if events in allowed else f"event of {user}: counted {events!r} times, expected {allowed}{more}"
