"""Writers of an app that remember what was acknowledged, and hold a side's documents against it.

Each writer is one visitor, so that its requests go to one side as long as that is well. It writes one thing after the
other: events, scan jobs, their states and results, dashboard snapshots. What was answered with 2xx is acknowledged;
what had another answer, or none, may be stored or not.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.sides import Side

_TIMEOUT_S: Final = 60.0
PAUSE_S: Final = 0.01  # of a writer, between two writes


@dataclass
class Ledger:
    """What was acknowledged, and what may be stored besides."""

    events: set[str] = field(default_factory=set)
    maybe_events: set[str] = field(default_factory=set)
    scans: dict[str, str] = field(default_factory=dict)  # id: the message acknowledged last
    maybe_messages: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # sent after it, unanswered
    files: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by scan, acknowledged
    maybe_files: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    snapshots: set[str] = field(default_factory=set)
    answers: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by status; 0: none

    @property
    def acknowledged(self) -> int:
        """How many writes."""
        return sum(count for status, count in self.answers.items() if 200 <= status < 300)

    def missing(self, side: Side) -> list[str]:
        """What a side lacks of what was acknowledged, or holds more than once, in words."""
        told = []
        stored = {fields["id"] for path, fields in side.items() if path.startswith("analytics_events/")}
        told += [f"event {name} is missing" for name in sorted(self.events - stored)]
        ours = {name for name in stored if name.startswith("e-")}
        told += [f"event {name} was never sent" for name in sorted(ours - self.events - self.maybe_events)]
        told += _sums(side, len(stored))
        for scan, message in self.scans.items():
            fields = side.get(f"scans/{scan}")
            if fields is None or "status" not in fields:
                told.append(f"scan {scan} is missing: {fields}")
                continue
            if fields["message"] != message and fields["message"] not in self.maybe_messages[scan]:
                told.append(f"scan {scan}: found the message {fields['message']!r}, acknowledged was {message!r}")
            files = fields.get("files", 0)
            most = self.files[scan] + self.maybe_files[scan]
            if not self.files[scan] <= files <= most:
                told.append(f"scan {scan}: found {files} files, expected {self.files[scan]} to {most}")
        told += [f"snapshot {n} is missing" for n in self.snapshots if f"dashboard_snapshots/{n}" not in side]
        return told


def _sums(side: Side, events: int) -> list[str]:
    """Counters that do not fit what they count."""
    told = []
    counted = sum(fields["events"] for path, fields in side.items() if path.startswith("analytics_totals/"))
    if counted != events:
        told.append(f"the totals say {counted} events, there are {events}")
    for grain in ("minutes", "hours", "days"):
        items = sum(
            sum(fields["items"].values()) for path, fields in side.items() if path.startswith(f"analytics_{grain}/")
        )
        if items != events:
            told.append(f"the {grain} say {items} events, there are {events}")
    batches: dict[str, int] = defaultdict(int)
    copies: dict[str, int] = defaultdict(int)
    for path, fields in side.items():
        _, _, rest = path.partition("scans/")
        scan, _, below = rest.partition("/")
        if below.startswith("results/"):
            batches[scan] += len(fields["files"])
        elif below.startswith("groups/"):
            copies[scan] += fields["copies"]
    for path, fields in side.items():
        if path.startswith("scans/") and path.count("/") == 1:
            scan = path.partition("/")[2]
            found = (fields.get("files", 0), copies[scan])
            if found != (batches[scan], batches[scan]):
                told.append(
                    f"scan {scan}: {batches[scan]} files in batches, counted {found[0]}, in groups {found[1]}"
                )
    return told


class Writers:
    """Threads that write until the block ends; ``port`` is where the data plane listens on loopback."""

    def __init__(self, port: int, ledger: Ledger, count: int = 6, seed: int = 0, pause_s: float = PAUSE_S) -> None:
        self._pause_s = pause_s
        self._port = port
        self._ledger = ledger
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(n, random.Random(f"{seed} {n}")), daemon=True)
            for n in range(count)
        ]
        self._tag = seed

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, dice: random.Random) -> None:
        own: list[str] = []
        nth = 0
        while not self._stop.is_set():
            nth += 1
            kind = dice.choices(("event", "events", "scan", "state", "results", "snapshot"), (6, 1, 2, 3, 3, 1))[0]
            tag = f"{self._tag}-{number}-{nth}"
            if kind == "event":
                self._events(number, dice, [f"e-{tag}"])
            elif kind == "events":
                self._events(number, dice, [f"e-{tag}-{i}" for i in range(20)])
            elif kind == "scan" or not own:
                self._scan(number, own, tag)
            elif kind == "state":
                self._state(number, dice.choice(own), f"m-{tag}")
            elif kind == "results":
                self._results(number, dice.choice(own), dice, tag)
            else:
                self._snapshot(number, nth)
            self._stop.wait(self._pause_s)

    def _ask(self, number: int, method: str, path: str, body: object) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)
        headers = {"content-type": "application/json", "x-user-id": f"visitor-{number}"}
        try:
            connection.request(method, path, json.dumps(body), headers)
            answer = connection.getresponse()
            status, document = answer.status, json.loads(answer.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError):
            status, document = 0, None
        finally:
            connection.close()
        with self._lock:
            self._ledger.answers[status] += 1
        return status, document

    def _events(self, number: int, dice: random.Random, names: list[str]) -> None:
        events = [
            {"id": n, "user": f"u{number}", "type": dice.choice(("view", "click")), "item": f"i{dice.randrange(9)}"}
            for n in names
        ]
        with self._lock:
            self._ledger.maybe_events.update(names)
        status, _ = self._ask(number, "POST", "/api/analytics/events", events)
        if status == 202:
            with self._lock:
                self._ledger.events.update(names)

    def _scan(self, number: int, own: list[str], tag: str) -> None:
        status, scan = self._ask(number, "POST", "/api/scans", {"root": f"/{tag}"})
        if status == 201:
            own.append(scan["id"])
            with self._lock:
                self._ledger.scans[scan["id"]] = ""

    def _state(self, number: int, scan: str, message: str) -> None:
        with self._lock:
            self._ledger.maybe_messages[scan].add(message)
        status, _ = self._ask(number, "PATCH", f"/api/scans/{scan}", {"status": "running", "message": message})
        if status == 200:
            with self._lock:
                self._ledger.scans[scan] = message
                self._ledger.maybe_messages[scan].clear()

    def _results(self, number: int, scan: str, dice: random.Random, tag: str) -> None:
        files = [
            {"path": f"/{tag}/{i}", "size": 1000 * dice.randrange(5), "hash": f"{dice.randrange(20):08x}"}
            for i in range(dice.randint(1, 30))
        ]
        status, _ = self._ask(number, "POST", f"/api/scans/{scan}/results", {"files": files})
        with self._lock:
            if status == 201:
                self._ledger.files[scan] += len(files)
            elif not 400 <= status < 500:
                self._ledger.maybe_files[scan] += len(files)

    def _snapshot(self, number: int, nth: int) -> None:
        status, snapshot = self._ask(number, "PUT", "/api/dashboard/metrics", {"metrics": {"n": nth}})
        if status == 200:
            with self._lock:
                self._ledger.snapshots.add(snapshot["id"])
