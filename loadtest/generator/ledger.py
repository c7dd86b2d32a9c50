"""Every write that was answered with 2xx, and what a reader must find of it from then on. Pure.

A write without a clear answer may be there or not; both are right. One that was confirmed must be found, exactly once
where it counts something, whichever side answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

Json = dict[str, Any]
Outcome = Literal["done", "refused", "uncertain"]
TOO_OFTEN: Final = "more often than it was done"  # how a problem ends that is no lack
_TIMES: Final[dict[Outcome, tuple[int, ...]]] = {"done": (1,), "refused": (0,), "uncertain": (0, 1)}


class Promise(NamedTuple):
    """A question, and what is wrong with an answer to it ("" where it is right; the document of a 404 is None)."""

    what: str
    path: str
    problem: Callable[[Json | None], str]


@dataclass(slots=True)
class Scan:
    """A scan job that was made. Its progress takes the values of ``values``, in order; one change at a time."""

    id: str
    visitor: str
    values: list[float] = field(default_factory=lambda: [0.0])
    confirmed: int = 0  # index of the newest value that was confirmed
    files: int = 0  # confirmed
    files_uncertain: int = 0
    busy: bool = False

    def problem(self, found: Json | None, since: int, files: int) -> str:
        """What is wrong with the job as it was read by one who knew of ``since`` and of so many files."""
        if found is None:
            return f"scan {self.id} is gone"
        if found.get("progress") not in self.values[since:]:
            return f"scan {self.id}: progress {found.get('progress')!r}, expected one of {self.values[since:]}"
        most = self.files + self.files_uncertain
        if not files <= found.get("files", -1) <= most:
            more = f", {TOO_OFTEN}" if found.get("files", -1) > most else ""
            return f"scan {self.id}: {found.get('files')!r} files, expected {files} to {most}{more}"
        return ""


class Ledger:
    """All writes of a run."""

    def __init__(self) -> None:
        self.scans: dict[str, Scan] = {}
        self.snapshots: dict[str, str] = {}  # id → published_at
        self.events: dict[str, Outcome] = {}  # by user, each of whom does one thing once

    def promises(self) -> Iterator[Promise]:
        """Everything that must be readable now."""
        for scan in self.scans.values():
            check = partial(Scan.problem, scan, since=scan.confirmed, files=scan.files)
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


def _counted(found: Json | None, user: str, outcome: Outcome) -> str:
    events = None if found is None else found["events"]
    allowed = _TIMES[outcome]
    more = f", {TOO_OFTEN}" if events is not None and events > max(allowed) else ""
    return "" if events in allowed else f"event of {user}: counted {events!r} times, expected {allowed}{more}"
