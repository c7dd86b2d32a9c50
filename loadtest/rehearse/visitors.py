"""What visitors ask, how often, and what is a right answer. Pure, given its dice."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from loadtest.generator.ledger import Json, Ledger, Outcome, Scan

VISITORS: Final = 80
SCANS_EACH: Final = 6  # jobs a visitor goes on with; older ones are only read at the end

Check = Callable[[Json], str]


def _there(found: Json) -> str:
    """It is there, and nothing more is asked."""
    return ""


def _nothing(outcome: Outcome, document: Json | None) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``check`` says what is wrong with a good answer's document; ``settle`` is told the outcome."""

    operation: str
    visitor: str
    method: str
    path: str
    status: int
    check: Check
    body: bytes = b""
    settle: Callable[[Outcome, Json | None], None] = _nothing
    app: bool = False
    own: Check | None = None  # what is missing of the visitor's own writes; with it, 404 means that all of it is


class Visitors:
    """Makes requests: a seeded choice of visitor and deed, checked against the ledger."""

    def __init__(self, ledger: Ledger, dice: random.Random, only: frozenset[str] = frozenset()) -> None:
        """``only``: these operations alone (default: all)."""
        self._ledger = ledger
        self._dice = dice
        self._made = 0
        self._scans: dict[str, list[Scan]] = {}
        self._written: deque[Scan] = deque(maxlen=VISITORS)
        table = [row for row in _TABLE if not only or row[1] in only]
        self._makers = [make for _, _, make in table]
        self._weights = [weight for weight, _, _ in table]

    def next(self) -> Ask:
        """The next request. Half of the time it is a look at what was just written: if it is missing, it is now."""
        if self._written and self._dice.random() < 0.5:
            return self._read(self._written.pop())
        visitor = f"visitor-{self._dice.randrange(VISITORS)}"
        make = self._dice.choices(self._makers, self._weights)[0]
        return make(self, visitor)

    def number(self) -> int:
        """A number not given before."""
        self._made += 1
        return self._made

    # The dashboard.

    def current(self, visitor: str) -> Ask:
        return Ask("dashboard.current", visitor, "GET", "/api/dashboard/metrics", 200, _snapshot)

    def history(self, visitor: str) -> Ask:
        path = f"/api/dashboard/metrics/history?limit={self._dice.choice((5, 10, 20))}"
        return Ask("dashboard.history", visitor, "GET", path, 200, _all("snapshots", _snapshot))

    def publish(self, visitor: str) -> Ask:
        metrics = {"active_users": self._dice.randrange(500, 1500), "number": self.number()}

        def check(found: Json) -> str:
            return _snapshot(found) or ("" if found["metrics"] == metrics else f"published {metrics}, got {found}")

        def settle(outcome: Outcome, found: Json | None) -> None:
            if outcome == "done" and found is not None:
                self._ledger.snapshots[found["id"]] = found["published_at"]

        body = json.dumps({"metrics": metrics}).encode()
        return Ask("dashboard.publish", visitor, "PUT", "/api/dashboard/metrics", 200, check, body, settle)

    # Scans.

    def _own(self, visitor: str) -> Scan | None:
        own = self._scans.get(visitor)
        return self._dice.choice(own) if own else None

    def scans(self, visitor: str) -> Ask:
        return Ask("scans.list", visitor, "GET", "/api/scans?limit=10", 200, _all("scans", _scan))

    def create(self, visitor: str) -> Ask:
        name = f"scan-{self.number()}"

        def check(found: Json) -> str:
            return _scan(found) or ("" if found["name"] == name else f"asked for {name}, got {found['name']!r}")

        def settle(outcome: Outcome, found: Json | None) -> None:
            if outcome == "done" and found is not None:
                scan = self._ledger.scans[found["id"]] = Scan(found["id"], visitor)
                own = self._scans.setdefault(visitor, [])
                own.append(scan)
                del own[:-SCANS_EACH]
                self._written.append(scan)

        body = json.dumps({"root": "/home", "name": name}).encode()
        return Ask("scans.create", visitor, "POST", "/api/scans", 201, check, body, settle)

    def scan(self, visitor: str) -> Ask:
        scan = self._own(visitor)
        return self.create(visitor) if scan is None else self._read(scan)

    def _read(self, scan: Scan) -> Ask:
        since, files = scan.confirmed, scan.files

        def own(found: Json) -> str:
            return scan.problem(found, since, files)

        return Ask("scans.get", scan.visitor, "GET", f"/api/scans/{scan.id}", 200, _scan, own=own)

    def update(self, visitor: str) -> Ask:
        scan = self._own(visitor)
        if scan is None:
            return self.create(visitor)
        if scan.busy:
            return self.scan(visitor)
        value = round(self._dice.uniform(0.001, 99.999), 3)
        scan.values.append(value)
        mine = len(scan.values) - 1
        scan.busy = True

        def settle(outcome: Outcome, found: Json | None) -> None:
            scan.busy = False
            if outcome == "done":
                scan.confirmed = mine
                self._written.append(scan)
            elif outcome == "refused":
                scan.values.pop()

        def check(found: Json) -> str:
            return _scan(found) or ("" if found["progress"] == value else f"set {value}, got {found['progress']!r}")

        body = json.dumps({"status": "running", "progress": value}).encode()
        return Ask("scans.update", visitor, "PATCH", f"/api/scans/{scan.id}", 200, check, body, settle, own=_there)

    def add_results(self, visitor: str) -> Ask:
        scan = self._own(visitor)
        if scan is None:
            return self.create(visitor)
        number = self.number()
        files = [{"path": f"/f{number}-{i}", "size": 10, "hash": f"{number % 7}"} for i in range(3)]
        scan.files_uncertain += len(files)

        def settle(outcome: Outcome, found: Json | None) -> None:
            if outcome == "done":
                scan.files += len(files)
                self._written.append(scan)
            if outcome != "uncertain":
                scan.files_uncertain -= len(files)

        def check(found: Json) -> str:
            return "" if found.get("accepted") == len(files) else f"gave {len(files)} files, got {found}"

        body = json.dumps({"files": files}).encode()
        path = f"/api/scans/{scan.id}/results"
        return Ask("scans.add_results", visitor, "POST", path, 201, check, body, settle, own=_there)

    def results(self, visitor: str) -> Ask:
        scan = self._own(visitor)
        if scan is None:
            return self.create(visitor)
        path = f"/api/scans/{scan.id}/results"
        return Ask("scans.results", visitor, "GET", path, 200, _all("files", _file), own=_there)

    def duplicates(self, visitor: str) -> Ask:
        scan = self._own(visitor)
        if scan is None:
            return self.create(visitor)
        path = f"/api/scans/{scan.id}/duplicates"
        return Ask("scans.duplicates", visitor, "GET", path, 200, _duplicates, own=_there)

    # Analytics.

    def event(self, visitor: str) -> Ask:
        user = f"once-{self.number()}"

        def settle(outcome: Outcome, found: Json | None) -> None:
            self._ledger.events[user] = outcome

        def check(found: Json) -> str:
            return "" if found.get("accepted") == 1 else f"gave one event, got {found}"

        body = json.dumps({"user": user, "type": "view", "item": f"p{self._dice.randrange(30)}"}).encode()
        return Ask("analytics.ingest", visitor, "POST", "/api/analytics/events", 202, check, body, settle)

    def user(self, visitor: str) -> Ask:
        return Ask("analytics.user", visitor, "GET", f"/api/analytics/users/{visitor}", 200, _user)

    def system(self, visitor: str) -> Ask:
        return Ask("analytics.system", visitor, "GET", "/api/analytics/system", 200, _system)

    def trending(self, visitor: str) -> Ask:
        path = "/api/analytics/trending?window=1h&limit=10"
        return Ask("analytics.trending", visitor, "GET", path, 200, _all("items", _trend))

    # The app.

    def page(self, visitor: str) -> Ask:
        number = self.number()

        def check(found: Json) -> str:
            return "" if found.get("number") == number else f"asked for page {number}, got {found}"

        return Ask("app.page", visitor, "GET", f"/page/{number}", 200, check, app=True)

    def form(self, visitor: str) -> Ask:
        body = json.dumps({"text": "x" * self._dice.randrange(3000)}).encode()

        def check(found: Json) -> str:
            return "" if found.get("bytes") == len(body) else f"sent {len(body)} bytes, the app got {found}"

        return Ask("app.form", visitor, "POST", "/form", 200, check, body, app=True)


_TABLE: Final[list[tuple[int, str, Callable[[Visitors, str], Ask]]]] = [
    (18, "dashboard.current", Visitors.current),
    (5, "dashboard.history", Visitors.history),
    (4, "dashboard.publish", Visitors.publish),
    (5, "scans.list", Visitors.scans),
    (5, "scans.create", Visitors.create),
    (16, "scans.get", Visitors.scan),
    (6, "scans.update", Visitors.update),
    (3, "scans.add_results", Visitors.add_results),
    (4, "scans.results", Visitors.results),
    (3, "scans.duplicates", Visitors.duplicates),
    (6, "analytics.ingest", Visitors.event),
    (4, "analytics.user", Visitors.user),
    (3, "analytics.system", Visitors.system),
    (3, "analytics.trending", Visitors.trending),
    (11, "app.page", Visitors.page),
    (4, "app.form", Visitors.form),
]

# One call to the target each, so that the share of failing requests is the share of failing calls.
SINGLE: Final = frozenset(
    {"dashboard.current", "scans.get", "scans.list", "scans.create", "dashboard.publish", "analytics.ingest"}
)


def _shape(found: Any, shape: dict[str, type | tuple[type, ...]]) -> str:
    """What is wrong with a document of these fields and types."""
    if not isinstance(found, dict):
        return f"expected an object, got {str(found)[:80]!r}"
    wrong = [name for name, kind in shape.items() if not isinstance(found.get(name), kind)]
    return f"wrong or missing: {', '.join(wrong)} in {str(found)[:160]}" if wrong else ""


def _all(name: str, each: Check) -> Check:
    def check(found: Json) -> str:
        return _shape(found, {name: list}) or next((why for item in found[name] if (why := each(item))), "")

    return check


def _snapshot(found: Json) -> str:
    return _shape(found, {"id": str, "published_at": str, "metrics": dict}) or (
        "" if found["metrics"] and all(isinstance(value, int | float) for value in found["metrics"].values())
        else f"metrics that are no numbers: {str(found)[:160]}"
    )  # fmt: skip


def _scan(found: Json) -> str:
    shape: dict[str, type | tuple[type, ...]] = {
        "id": str, "status": str, "root": str, "name": str, "progress": (int, float), "files": int, "bytes": int,
        "created_at": str, "updated_at": str,
    }  # fmt: skip
    return _shape(found, shape)


def _file(found: Json) -> str:
    return _shape(found, {"path": str, "size": int, "hash": str})


def _duplicates(found: Json) -> str:
    return _shape(found, {"groups": list, "total_groups": int, "total_bytes_wasted": int})


def _user(found: Json) -> str:
    return _shape(found, {"user": str, "events": int, "recent": list})


def _system(found: Json) -> str:
    return _shape(found, {"events": int, "types": dict})


def _trend(found: Json) -> str:
    return _shape(found, {"item": str, "events": int})
