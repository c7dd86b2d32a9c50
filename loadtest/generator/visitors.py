"""What the app's users do, in which proportions, and what their answers must be. Pure: the one place for all of it.

A ``Visitor`` is one user with an identity that sticks. It chooses its next request by ``PROPORTIONS`` and what it
knows (a scan it made, say), and judges the answer: the status, the shape, what it wrote itself and must read again,
and the arm that answered. The locust files and the open loop both ask it, so they send the same and expect the same.
"""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

# What a hundred requests are. One that asks for what the visitor has not yet got (a scan of its own) is replaced by
# the request that gets it.
PROPORTIONS: Final[Mapping[str, int]] = {
    "app.page": 14,
    "dashboard.current": 30,
    "dashboard.history": 6,
    "dashboard.publish": 1,
    "scans.create": 2,
    "scans.list": 6,
    "scans.get": 9,
    "scans.update": 4,
    "scans.add_results": 3,
    "scans.results": 4,
    "scans.duplicates": 3,
    "analytics.ingest": 8,
    "analytics.user": 4,
    "analytics.system": 2,
    "analytics.trending": 4,
}

AT_WEIGHT_0: Final = 0.4  # of a whole migration's visitors come before it; the others as the weight goes up
SCANS_KEPT: Final = 4  # a visitor's own, the newest; older ones it forgets
_OPEN: Final = ("queued", "running")  # a scan that still takes changes
FILES_MOST: Final = 60  # in one scan: more would make its pages longer and longer
SETTLING_S: Final = 5.0  # after a change of weight in which a visitor may be told from either arm


class Request(NamedTuple):
    """One request. ``operation`` names it in every report; ``data``: a migration answers it, or else the app."""

    operation: str
    method: str
    path: str
    body: bytes | None
    data: bool
    scan: str = ""  # the visitor's own scan that it is about


class Answer(NamedTuple):
    """What came back; field names in lower case. ``status`` 0: nothing did, and ``body`` says why."""

    status: int
    fields: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Scan:
    """A scan of the visitor's own, as the last confirmed write left it. None: not known for certain."""

    status: str | None = "queued"
    progress: float | None = 0.0
    files: int | None = 0


Shape = Mapping[str, type | tuple[type, ...]]
_NUMBER: Final = (int, float)
_TEXT_OR_NONE: Final = (str, type(None))
_SNAPSHOT: Final[Shape] = {"id": str, "published_at": str, "metrics": dict}
_SCAN: Final[Shape] = {
    "id": str,
    "status": str,
    "progress": _NUMBER,
    "root": str,
    "created_at": str,
    "updated_at": str,
    "files": int,
    "bytes": int,
}

# By operation: the status of success, and what its answer holds.
EXPECTED: Final[Mapping[str, tuple[int, Shape]]] = {
    "dashboard.current": (200, _SNAPSHOT),
    "dashboard.history": (200, {"snapshots": list, "next_cursor": _TEXT_OR_NONE}),
    "dashboard.publish": (200, _SNAPSHOT),
    "scans.create": (201, _SCAN),
    "scans.list": (200, {"scans": list, "next_cursor": _TEXT_OR_NONE}),
    "scans.get": (200, _SCAN),
    "scans.update": (200, _SCAN),
    "scans.add_results": (201, {"scan": str, "accepted": int}),
    "scans.results": (200, {"files": list, "next_cursor": _TEXT_OR_NONE}),
    "scans.duplicates": (200, {"groups": list}),
    "analytics.ingest": (202, {"accepted": int}),
    "analytics.user": (200, {"user": str, "events": int, "recent": list}),
    "analytics.system": (200, {"events": int, "types": dict}),
    "analytics.trending": (200, {"events": int, "items": list}),
}

# By operation: what each entry of the list in its answer holds.
ENTRIES: Final[Mapping[str, tuple[str, Shape]]] = {
    "dashboard.history": ("snapshots", _SNAPSHOT),
    "scans.list": ("scans", _SCAN),
    "scans.results": ("files", {"path": str, "size": int, "hash": str}),
    "analytics.user": ("recent", {"id": str, "type": str, "at": str}),
    "analytics.trending": ("items", {"item": str, "events": int}),
}

_OF_OWN_SCAN: Final = frozenset(
    ("scans.get", "scans.update", "scans.add_results", "scans.results", "scans.duplicates")
)
_NAMES: Final = tuple(PROPORTIONS)
_WEIGHTS: Final = tuple(PROPORTIONS.values())


class Visitor:
    """One user: ``identity`` is its x-user-id. Its choices follow from ``seed`` and the answers alone.

    ``arm`` is the backend that answered last, or "" while it is open; ``forget_arm`` opens it.
    """

    def __init__(self, identity: str, seed: int, app_paths: tuple[str, ...] = ("/",)) -> None:
        self.identity = identity
        self.arm = ""
        self._followed = ""  # who answered its last write in another's place, until that one answers again
        self._chance = random.Random(seed)  # noqa: S311 - load is no secret
        self._app_paths = app_paths
        self._scans: dict[str, Scan] = {}
        self._batches = 0
        self._makers: dict[str, Callable[[str], tuple[str, str, object]]] = {
            "dashboard.current": lambda _: ("GET", "/api/dashboard/metrics", None),
            "dashboard.history": lambda _: ("GET", "/api/dashboard/metrics/history?limit=10", None),
            "dashboard.publish": self._publish,
            "scans.create": lambda _: ("POST", "/api/scans", {"root": f"/home/{identity}", "name": "load"}),
            "scans.list": lambda _: ("GET", "/api/scans?limit=10", None),
            "scans.get": lambda scan: ("GET", f"/api/scans/{scan}", None),
            "scans.update": self._update,
            "scans.add_results": self._add_results,
            "scans.results": lambda scan: ("GET", f"/api/scans/{scan}/results?limit=50", None),
            "scans.duplicates": lambda scan: ("GET", f"/api/scans/{scan}/duplicates", None),
            "analytics.ingest": self._ingest,
            "analytics.user": lambda _: ("GET", f"/api/analytics/users/{identity}", None),
            "analytics.system": lambda _: ("GET", "/api/analytics/system", None),
            "analytics.trending": lambda _: ("GET", "/api/analytics/trending?window=1h&limit=10", None),
        }

    def next(self) -> Request:
        """What it asks now."""
        (operation,) = self._chance.choices(_NAMES, _WEIGHTS)
        if operation == "app.page":
            return Request(operation, "GET", self._chance.choice(self._app_paths), None, False)
        scan = ""
        if operation in _OF_OWN_SCAN:
            scan = self._own(operation)
            if not scan:
                operation = "scans.create"
        method, path, body = self._makers[operation](scan)
        return Request(operation, method, path, None if body is None else json.dumps(body).encode(), True, scan)

    def judge(self, request: Request, answer: Answer, *, settled: Callable[[], bool]) -> str | None:
        """What is wrong with an answer, in words; None where nothing is. Keeps what it says for later.

        ``settled`` is asked where another arm answers than before: whether the weight has been the same for a while,
        so that this may not be.
        """
        if not request.data:
            if answer.status != 200:
                return _unexpected(answer, 200)
            return "an answer of the app's with x-data-source" if "x-data-source" in answer.fields else None
        expected, shape = EXPECTED[request.operation]
        if answer.status != expected:
            self._unsure(request)
            return _unexpected(answer, expected)
        found, problem = _read(answer.body, shape)
        if problem is not None or found is None:
            self._unsure(request)
            return problem
        wrong = self._source(request, answer, settled) or _entries(request.operation, found)
        return wrong or self._own_words(request, found)

    def forget_arm(self) -> None:
        """The weight changes: either arm may answer next."""
        self.arm = ""

    # Requests with a body

    def _publish(self, _: str) -> tuple[str, str, object]:
        metrics = {"active_users": self._chance.randrange(800, 1200), "revenue": self._chance.randrange(10**5) / 100}
        return "PUT", "/api/dashboard/metrics", {"metrics": metrics}

    def _ingest(self, _: str) -> tuple[str, str, object]:
        chance = self._chance
        kinds = ("view", "click", "purchase")
        events = [
            {"user": self.identity, "type": chance.choice(kinds), "item": f"item-{chance.randrange(40)}"}
            for _ in range(chance.choice((1, 1, 1, 5)))
        ]
        return "POST", "/api/analytics/events", events

    def _update(self, scan: str) -> tuple[str, str, object]:
        known = self._scans[scan]
        progress = min(99.0, (known.progress or 0.0) + self._chance.randrange(1, 20))
        body: dict[str, object] = {"status": "running", "progress": progress}
        if progress >= 99.0:
            body = {"status": "completed", "progress": 100.0}
        return "PATCH", f"/api/scans/{scan}", body

    def _add_results(self, scan: str) -> tuple[str, str, object]:
        # Never the same batch twice: it would rightly count once.
        self._batches += 1
        files = [
            {
                "path": f"/home/{self.identity}/{self._batches}/{i}",
                "size": 1000 * self._chance.randrange(1, 9),
                "hash": f"{self._chance.randrange(12):08x}",
            }
            for i in range(self._chance.randrange(1, 8))
        ]
        return "POST", f"/api/scans/{scan}/results", {"files": files}

    def _own(self, operation: str) -> str:
        """A scan of its own that this can be asked of; "" where there is none."""
        fit = list(self._scans)
        if operation == "scans.update":
            fit = [scan for scan, known in self._scans.items() if known.status in _OPEN]
        elif operation == "scans.add_results":
            fit = [
                scan
                for scan, known in self._scans.items()
                if known.status in _OPEN and known.files is not None and known.files < FILES_MOST
            ]
        return self._chance.choice(fit) if fit else ""

    # Answers

    def _source(self, request: Request, answer: Answer, settled: Callable[[], bool]) -> str | None:
        source = answer.fields.get("x-data-source")
        if not source:
            return "an answer without x-data-source"
        if "x-data-fallback" in answer.fields:
            if request.method != "GET":
                self._followed = source
            return None  # the source for once: that says nothing of the visitor's arm
        if source == self._followed:
            return None  # where its own write is, until the target has that too
        self._followed = ""
        before, self.arm = self.arm, source
        if before and before != source and settled():
            return f"answered by {source} and before by {before}, though the weight has not changed"
        return None

    def _own_words(self, request: Request, found: dict[str, Any]) -> str | None:
        """Does what it reads agree with what it wrote? Keeps what it has written now."""
        if request.operation == "scans.create":
            self._scans[found["id"]] = Scan()
            while len(self._scans) > SCANS_KEPT:
                del self._scans[next(iter(self._scans))]
            return None
        known = self._scans.get(request.scan)
        if known is None:
            return None
        if request.operation == "scans.update":
            known.status, known.progress = found["status"], found["progress"]
        elif request.operation == "scans.add_results" and known.files is not None:
            known.files += found["accepted"]
        elif request.operation == "scans.get":
            for name in ("status", "progress", "files"):
                wrote = getattr(known, name)
                if wrote is not None and found[name] != wrote:
                    return f"{name} of its own scan: wrote {wrote!r}, read {found[name]!r}"
        elif request.operation == "scans.results" and known.files is not None:
            shown = len(found["files"])
            if shown != min(known.files, 50):
                return f"its own scan has {known.files} files, the first page {shown}"
        return None

    def _unsure(self, request: Request) -> None:
        """A write that was not confirmed may have been applied or not: nothing is held against what is read."""
        known = self._scans.get(request.scan)
        if known is None or request.method == "GET":
            return
        if request.operation == "scans.update":
            known.status = known.progress = None
        else:
            known.files = None


def _unexpected(answer: Answer, expected: int) -> str:
    said = answer.body[:160].decode("utf-8", "replace")
    return f"expected {expected}, found {answer.status}: {said}" if answer.status else said


def _read(body: bytes, shape: Shape) -> tuple[dict[str, Any] | None, str | None]:
    try:
        found = json.loads(body)
    except ValueError:
        return None, f"the body is no JSON: {body[:80]!r}"
    problem = _misfit(found, shape)
    return (None, problem) if problem else (found, None)


def _misfit(found: object, shape: Shape) -> str | None:
    if not isinstance(found, dict):
        return f"expected an object, found {type(found).__name__}"
    for name, kind in shape.items():
        if name not in found:
            return f"{name} is missing"
        if not isinstance(found[name], kind) or (isinstance(found[name], bool) and kind in (int, _NUMBER)):
            return f"{name} is {found[name]!r}"
    return None


def _entries(operation: str, found: dict[str, Any]) -> str | None:
    if operation not in ENTRIES:
        return None
    name, shape = ENTRIES[operation]
    problems = (_misfit(entry, shape) for entry in found[name])
    problem = next((problem for problem in problems if problem), None)
    return f"{name}: {problem}" if problem else None


class Crowd:
    """Visitors for an open loop: each arrival is an idle one's, or a new one's while there may be more.

    ``most`` bounds them. Identities are ``prefix-0``, ``prefix-1``, …: the same in every run of the same name.
    """

    def __init__(self, prefix: str, least: int, most: int, app_paths: tuple[str, ...] = ("/",)) -> None:
        self.visitors: list[Visitor] = []
        self._prefix = prefix
        self._most = most
        self._app_paths = app_paths
        self._idle: deque[Visitor] = deque(self._new() for _ in range(least))

    def _new(self) -> Visitor:
        number = len(self.visitors)
        visitor = Visitor(f"{self._prefix}-{number}", number, self._app_paths)
        self.visitors.append(visitor)
        return visitor

    def take(self) -> Visitor | None:
        """A visitor that waits for nothing; None where all that may be are waiting."""
        if self._idle:
            return self._idle.popleft()
        return self._new() if len(self.visitors) < self._most else None

    def put(self, visitor: Visitor) -> None:
        """Its answer has come, or will not."""
        self._idle.append(visitor)

    def forget_arms(self) -> None:
        """The weight changes."""
        for visitor in self.visitors:
            visitor.forget_arm()


def crowd_at(weight: float, peak: int) -> int:
    """How many visitors a whole migration's load has at a weight in percent: ``peak`` at 100."""
    return max(1, round(peak * (AT_WEIGHT_0 + (1 - AT_WEIGHT_0) * weight / 100)))


def split_problem(on_target: int, visitors: int, weight: float) -> str | None:
    """Whether so many of the visitors on the target can be ``weight`` percent of them; in words where they cannot.

    Each visitor falls to the target with that chance, so the count strays by at most five standard deviations but
    once in two million runs; at 0 and 100 percent it does not stray.
    """
    if not visitors:
        return None
    share = weight / 100
    allowed = 5 * math.sqrt(share * (1 - share) * visitors) + (0.5 if 0 < share < 1 else 0)
    if abs(on_target - share * visitors) <= allowed:
        return None
    return (
        f"{on_target} of {visitors} visitors are on the target: {100 * on_target / visitors:.1f} %, not {weight:g} %"
    )
