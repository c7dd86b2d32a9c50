"""The requests of the app's users, their proportions, and checks of the answers. Pure.

A ``Visitor`` is one user with a fixed identity. It chooses its next request by its mixture and what it knows (for
example a scan it made), and judges the answer: the status, the shape, the echo of what it sent, its own earlier
writes (read-your-writes), and the arm that answered. Several of its requests may be under way at once. The locust
files, the open loop and the rehearsals all use it, so they send and expect the same; they differ in when visitors
come and in the mixture.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple

from loadtest.generator.client import Reply
from loadtest.generator.ledger import COMPLETED, Json, Ledger, OwnScan, WriteOutcome

# A user's requests, in percent. A request that needs something the visitor does not have yet (a scan of its own) is
# replaced by the request that creates it.
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

AT_WEIGHT_0: Final = 0.4  # share of a migration's peak visitors at weight 0; the others come as it rises
SCANS_KEPT: Final = 4  # a visitor's own, the newest; it forgets older ones
FILES_MOST: Final = 60  # in one scan, so that its pages do not grow without limit
PAGE: Final = 50  # files of a scan on one page
COMPLETING: Final = 0.1  # share of the changes to a scan that complete it
LOOKING_AGAIN: Final = 0.5  # share of a rehearsal's requests that read what was just written: a loss is seen at once
# The error code that says that nothing was written; after any other 5xx the write may be stored.
_NOT_WRITTEN: Final = "backend_unavailable"

Echo = Callable[[Json], str]


class AnswerProblem(NamedTuple):
    """What is wrong with an answer.

    ``kind`` is the reason for no answer (``Reply.failure``), or what is wrong with the answer: its status, its
    content (wrong), or a missing earlier write of the visitor's own (stale).
    """

    kind: Literal["refused", "broken", "timeout", "unsent", "status", "wrong", "stale"]
    words: str


def _nothing(outcome: WriteOutcome, document: Json | None) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``operation`` names it in every report; the app answers ``app.*``, a migration all others.

    ``echo`` checks that a good answer repeats what was sent; ``own`` checks that it holds the visitor's own writes
    (if set, a 404 means that all of them are missing). ``settle`` is called with the outcome of a write.
    """

    operation: str
    method: str
    path: str
    body: bytes | None = None
    echo: Echo | None = None
    own: Echo | None = None
    settle: Callable[[WriteOutcome, Json | None], None] = _nothing

    @property
    def data(self) -> bool:
        """Whether a migration answers it; if not, the app does."""
        return not self.operation.startswith("app.")


Shape = Mapping[str, type | tuple[type, ...]]
_NUMBER: Final = (int, float)
_TEXT_OR_NONE: Final = (str, type(None))
_SNAPSHOT: Final[Shape] = {"id": str, "published_at": str, "metrics": dict}
_SCAN: Final[Shape] = {
    "id": str,
    "status": str,
    "progress": _NUMBER,
    "root": str,
    "name": str,
    "created_at": str,
    "updated_at": str,
    "files": int,
    "bytes": int,
}

# By operation: the status of success, and the fields of its answer; None: any body.
EXPECTED: Final[Mapping[str, tuple[int, Shape | None]]] = {
    "app.page": (200, None),
    "app.numbered": (200, {"number": int}),
    "app.form": (200, {"bytes": int}),
    "dashboard.current": (200, _SNAPSHOT),
    "dashboard.history": (200, {"snapshots": list, "next_cursor": _TEXT_OR_NONE}),
    "dashboard.publish": (200, _SNAPSHOT),
    "scans.create": (201, _SCAN),
    "scans.list": (200, {"scans": list, "next_cursor": _TEXT_OR_NONE}),
    "scans.get": (200, _SCAN),
    "scans.update": (200, _SCAN),
    "scans.add_results": (201, {"scan": str, "accepted": int}),
    "scans.results": (200, {"files": list, "next_cursor": _TEXT_OR_NONE}),
    "scans.duplicates": (200, {"groups": list, "total_groups": int, "total_bytes_wasted": int}),
    "analytics.ingest": (202, {"accepted": int}),
    "analytics.user": (200, {"user": str, "events": int, "recent": list}),
    "analytics.system": (200, {"events": int, "types": dict}),
    "analytics.trending": (200, {"events": int, "items": list}),
}

# By operation: the list in its answer, and the fields of each entry.
ENTRIES: Final[Mapping[str, tuple[str, Shape]]] = {
    "dashboard.history": ("snapshots", _SNAPSHOT),
    "scans.list": ("scans", _SCAN),
    "scans.results": ("files", {"path": str, "size": int, "hash": str}),
    "analytics.user": ("recent", {"id": str, "type": str, "at": str}),
    "analytics.trending": ("items", {"item": str, "events": int}),
}

WRITES: Final = frozenset(
    {"dashboard.publish", "scans.create", "scans.update", "scans.add_results", "analytics.ingest"}
)


class Visitor:
    """One user: ``identity`` is its x-user-id. Its choices depend only on ``chance`` and the answers.

    ``mixture`` gives the frequency of each operation. ``app.page`` is one of ``app_paths``, which any app may have;
    ``app.numbered`` and ``app.form`` need ``loadtest.stage.app``. In a ``ledger`` it records what must be found at
    the end of the run. ``arm`` is the backend that answered last, or "" if unknown; ``forget_arm`` resets it.
    """

    def __init__(
        self,
        identity: str,
        chance: random.Random,
        *,
        mixture: Mapping[str, int] = PROPORTIONS,
        app_paths: tuple[str, ...] = ("/",),
        ledger: Ledger | None = None,
    ) -> None:
        self.identity = identity
        self.arm = ""
        self._followed = ""  # the backend that answered its last write as fallback, until its own arm answers again
        self._chance = chance
        self._app_paths = app_paths
        self._ledger = ledger
        self._makers = [_MAKERS[operation] for operation in mixture]
        self._up_to = list(accumulate(mixture.values()))
        # A completed scan must be replaced by a new one, so a visitor that creates none completes none.
        self._completes = "scans.create" in mixture
        self._scans: deque[OwnScan] = deque(maxlen=SCANS_KEPT)
        self._made = 0

    def next(self) -> Ask:
        """Its next request."""
        (make,) = self._chance.choices(self._makers, cum_weights=self._up_to)
        return make(self)

    def forget_arm(self) -> None:
        """The weight has changed: either arm may answer next."""
        self.arm = ""

    def _number(self) -> int:
        """A number that this visitor has not used before."""
        self._made += 1
        return self._made

    # The app

    def page(self) -> Ask:
        return Ask("app.page", "GET", self._chance.choice(self._app_paths))

    def numbered(self) -> Ask:
        """A page that returns its own number, so that an answer to another request is noticed."""
        number = self._chance.randrange(10**9)
        return Ask("app.numbered", "GET", f"/page/{number}", echo=_says("number", number))

    def form(self) -> Ask:
        body = json.dumps({"text": "x" * self._chance.randrange(3000)}).encode()
        return Ask("app.form", "POST", "/form", body, _says("bytes", len(body)))

    # The dashboard

    def current(self) -> Ask:
        return Ask("dashboard.current", "GET", "/api/dashboard/metrics")

    def history(self) -> Ask:
        limit = self._chance.choice((5, 10, 20))
        return Ask("dashboard.history", "GET", f"/api/dashboard/metrics/history?limit={limit}")

    def publish(self) -> Ask:
        metrics = {"active_users": self._chance.randrange(500, 1500), "revenue": self._chance.randrange(10**5) / 100}
        ledger = self._ledger

        def settle(outcome: WriteOutcome, document: Json | None) -> None:
            if ledger is not None and outcome == "done" and document is not None:
                ledger.snapshots[document["id"]] = document["published_at"]

        body = _body({"metrics": metrics})
        return Ask(
            "dashboard.publish", "PUT", "/api/dashboard/metrics", body, _says("metrics", metrics), settle=settle
        )

    # Scans

    def scans(self) -> Ask:
        return Ask("scans.list", "GET", "/api/scans?limit=10")

    def create(self) -> Ask:
        name = f"{self.identity}-{self._number()}"

        def settle(outcome: WriteOutcome, document: Json | None) -> None:
            if outcome == "done" and document is not None:
                scan = OwnScan(document["id"], self.identity)
                self._scans.append(scan)
                self._wrote(scan)

        body = _body({"root": f"/home/{self.identity}", "name": name})
        return Ask("scans.create", "POST", "/api/scans", body, _says("name", name), settle=settle)

    def _wrote(self, scan: OwnScan) -> None:
        if self._ledger is not None:
            self._ledger.wrote(scan)

    def _own(self, fit: Callable[[OwnScan], bool] | None = None) -> OwnScan | None:
        """A random scan of its own that fits; None if there is none."""
        scans = self._scans if fit is None else [scan for scan in self._scans if fit(scan)]
        return self._chance.choice(scans) if scans else None

    def scan(self) -> Ask:
        scan = self._own()
        return self.create() if scan is None else self.read(scan)

    def read(self, scan: OwnScan) -> Ask:
        """A read of one of its own scans, which must hold everything confirmed before now."""
        since, files = scan.confirmed, scan.files
        return Ask("scans.get", "GET", f"/api/scans/{scan.id}", own=lambda shown: scan.problem(shown, since, files))

    def update(self) -> Ask:
        scan = self._own(lambda scan: scan.open)
        if scan is None:
            return self.create()
        if scan.busy:
            return self.read(scan)
        # A completed scan would refuse results that are still under way.
        may_complete = self._completes and scan.running and not scan.files_uncertain
        completes = may_complete and self._chance.random() < COMPLETING
        value = COMPLETED if completes else round(self._chance.uniform(0.001, 99.0), 3)
        scan.values.append(value)
        mine = len(scan.values) - 1
        scan.busy = True

        def settle(outcome: WriteOutcome, document: Json | None) -> None:
            scan.busy = False
            if outcome == "done":
                scan.confirmed = mine
                self._wrote(scan)
            elif outcome == "refused":
                scan.values.pop()

        body = _body({"status": "completed" if completes else "running", "progress": value})
        return Ask("scans.update", "PATCH", f"/api/scans/{scan.id}", body, _says("progress", value), _there, settle)

    def add_results(self) -> Ask:
        scan = self._own(lambda scan: scan.open and scan.files + scan.files_uncertain < FILES_MOST)
        if scan is None:
            return self.create()
        batch = self._number()  # never the same batch twice, because that rightly counts once
        files = [
            {
                "path": f"/home/{self.identity}/{batch}/{i}",
                "size": 1000 * self._chance.randrange(1, 9),
                "hash": f"{self._chance.randrange(12):08x}",
            }
            for i in range(self._chance.randrange(1, 8))
        ]
        count = len(files)
        scan.files_uncertain += count

        def settle(outcome: WriteOutcome, document: Json | None) -> None:
            if outcome != "uncertain":
                scan.files_uncertain -= count
            if outcome == "done":
                scan.files += count
                self._wrote(scan)

        path, body = f"/api/scans/{scan.id}/results", _body({"files": files})
        return Ask("scans.add_results", "POST", path, body, _says("accepted", count), _there, settle)

    def results(self) -> Ask:
        scan = self._own()
        if scan is None:
            return self.create()
        files = scan.files

        def own(document: Json) -> str:
            return scan.files_problem(len(document["files"]), files, PAGE)

        return Ask("scans.results", "GET", f"/api/scans/{scan.id}/results?limit={PAGE}", own=own)

    def duplicates(self) -> Ask:
        scan = self._own()
        if scan is None:
            return self.create()
        return Ask("scans.duplicates", "GET", f"/api/scans/{scan.id}/duplicates", own=_there)

    # Analytics

    def ingest(self) -> Ask:
        ledger, chance = self._ledger, self._chance
        # With a ledger each event has its own user, so that the end of the run can check that it was counted once.
        user = self.identity if ledger is None else f"{self.identity}-once-{self._number()}"
        count = chance.choice((1, 1, 1, 5)) if ledger is None else 1
        events = [
            {
                "user": user,
                "type": chance.choice(("view", "click", "purchase")),
                "item": f"item-{chance.randrange(40)}",
            }
            for _ in range(count)
        ]

        def settle(outcome: WriteOutcome, document: Json | None) -> None:
            if ledger is not None:
                ledger.events[user] = outcome

        body = _body(events if count > 1 else events[0])
        return Ask("analytics.ingest", "POST", "/api/analytics/events", body, _says("accepted", count), settle=settle)

    def user(self) -> Ask:
        return Ask("analytics.user", "GET", f"/api/analytics/users/{self.identity}")

    def system(self) -> Ask:
        return Ask("analytics.system", "GET", "/api/analytics/system")

    def trending(self) -> Ask:
        return Ask("analytics.trending", "GET", "/api/analytics/trending?window=1h&limit=10")

    # Answers

    def judge(self, ask: Ask, reply: Reply, *, settled: Callable[[], bool] = _never) -> AnswerProblem | None:
        """What is wrong with an answer; None if nothing is. Settles the write behind it; call it once for every
        ``Ask``.

        ``settled`` is called when another arm answers than before: whether the weight has been the same for a while,
        so that this is a mistake.
        """
        expected, shape = EXPECTED[ask.operation]
        if reply.status != expected:
            ask.settle(_outcome(reply), None)
            lacking = "stale" if ask.own is not None and reply.status == 404 else "status"
            return AnswerProblem(reply.failure or lacking, _unexpected(reply, expected))  # type: ignore[arg-type]
        document, words = ({}, "") if shape is None else _read(reply.body, shape)
        words = words or _source_problem(ask, reply) or _entries(ask.operation, document)
        if not words and ask.echo is not None:
            words = ask.echo(document)
        ask.settle("uncertain" if words else "done", document)
        if not words and ask.data:
            words = self._arm(ask, reply, settled)
        if words:
            return AnswerProblem("wrong", words)
        lacks = "" if ask.own is None else ask.own(document)
        return AnswerProblem("stale", lacks) if lacks else None

    def _arm(self, ask: Ask, reply: Reply, settled: Callable[[], bool]) -> str:
        """What is wrong with the arm that answered."""
        source = reply.fields["x-data-source"]
        if "x-data-fallback" in reply.fields:
            if ask.method != "GET":
                self._followed = source
            return ""  # a fallback says nothing about the visitor's arm
        if source == self._followed:
            return ""  # the arm that has its own write, until the target has it too
        self._followed = ""
        before, self.arm = self.arm, source
        if before and before != source and settled():
            return f"answered by {source} and before by {before}, though the weight has not changed"
        return ""


# By operation: the method that makes a request.
_MAKERS: Final[Mapping[str, Callable[[Visitor], Ask]]] = {
    "app.page": Visitor.page,
    "app.numbered": Visitor.numbered,
    "app.form": Visitor.form,
    "dashboard.current": Visitor.current,
    "dashboard.history": Visitor.history,
    "dashboard.publish": Visitor.publish,
    "scans.create": Visitor.create,
    "scans.list": Visitor.scans,
    "scans.get": Visitor.scan,
    "scans.update": Visitor.update,
    "scans.add_results": Visitor.add_results,
    "scans.results": Visitor.results,
    "scans.duplicates": Visitor.duplicates,
    "analytics.ingest": Visitor.ingest,
    "analytics.user": Visitor.user,
    "analytics.system": Visitor.system,
    "analytics.trending": Visitor.trending,
}


def _body(document: object) -> bytes:
    return json.dumps(document).encode()


def _says(name: str, sent: object) -> Echo:
    """A check that the answer's field ``name`` repeats what was sent."""
    return lambda document: "" if document[name] == sent else f"{name}: sent {sent!r}, answered {document[name]!r}"


def _there(document: Json) -> str:
    """No check beyond the answer's existence."""
    return ""


def _outcome(reply: Reply) -> WriteOutcome:
    """The outcome of a write that did not get the expected answer."""
    if not reply.status:
        return "refused" if reply.failure in ("refused", "unsent") else "uncertain"
    if 400 <= reply.status < 500:
        return "refused"
    try:
        not_written = json.loads(reply.body)["error"]["code"] == _NOT_WRITTEN
    except (ValueError, LookupError, TypeError):
        not_written = False
    return "refused" if not_written else "uncertain"


def _unexpected(reply: Reply, expected: int) -> str:
    text = reply.body[:160].decode("utf-8", "replace")
    return f"expected {expected}, found {reply.status}: {text}" if reply.status else text


def _read(body: bytes, shape: Shape) -> tuple[Json, str]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}, f"the body is not JSON: {body[:80]!r}"
    return (document, "") if not (words := _misfit(document, shape)) else ({}, words)


def _misfit(document: Any, shape: Shape) -> str:
    """What is wrong with a document that must have these fields of these types."""
    if not isinstance(document, dict):
        return f"expected an object, found {type(document).__name__}"
    for name, kind in shape.items():
        if name not in document:
            return f"{name} is missing"
        if not isinstance(document[name], kind) or (isinstance(document[name], bool) and kind in (int, _NUMBER)):
            return f"{name} is {document[name]!r}"
    if shape is _SNAPSHOT and not (numbers := document["metrics"]):
        return "metrics are empty"
    if shape is _SNAPSHOT and not all(isinstance(value, _NUMBER) for value in numbers.values()):
        return f"metrics that are not numbers: {numbers!r}"
    return ""


def _source_problem(ask: Ask, reply: Reply) -> str:
    """What is wrong with the answer's x-data-source."""
    if ask.data:
        return "" if reply.fields.get("x-data-source") else "an answer without x-data-source"
    return "an answer of the app's with x-data-source" if "x-data-source" in reply.fields else ""


def _entries(operation: str, document: Json) -> str:
    if operation not in ENTRIES:
        return ""
    name, shape = ENTRIES[operation]
    problems = (_misfit(entry, shape) for entry in document[name])
    words = next((problem for problem in problems if problem), "")
    return f"{name}: {words}" if words else ""


class Crowd:
    """Visitors for an open loop: each request is an idle visitor's, or a new one's if there are fewer than ``most``.

    Identities are ``prefix-0``, ``prefix-1``, …: the same in every run with the same prefix.
    """

    def __init__(self, prefix: str, least: int, most: int, app_paths: tuple[str, ...] = ("/",)) -> None:
        self._visitors = 0
        self._prefix = prefix
        self._most = most
        self._app_paths = app_paths
        self._idle: deque[Visitor] = deque(self._new() for _ in range(least))

    def _new(self) -> Visitor:
        number = self._visitors
        self._visitors += 1
        chance = random.Random(number)  # noqa: S311 - load is no secret
        return Visitor(f"{self._prefix}-{number}", chance, app_paths=self._app_paths)

    def take(self) -> Visitor | None:
        """A visitor without a pending request; None if all ``most`` have one."""
        if self._idle:
            return self._idle.popleft()
        return self._new() if self._visitors < self._most else None

    def put(self, visitor: Visitor) -> None:
        """Its request is answered or given up."""
        self._idle.append(visitor)


class Regulars:
    """``count`` visitors for a rehearsal, drawn with one seed; each may have several requests under way.

    The share ``LOOKING_AGAIN`` of the requests reads what was just written.
    """

    def __init__(self, count: int, mixture: Mapping[str, int], ledger: Ledger, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - the same load every time
        self._ledger = ledger
        self._visitors = {
            identity: Visitor(identity, self._chance, mixture=mixture, ledger=ledger)
            for identity in map(regular, range(count))
        }
        self._all = list(self._visitors.values())

    def next(self) -> tuple[Visitor, Ask]:
        """The next visitor and its request."""
        if self._ledger.fresh and self._chance.random() < LOOKING_AGAIN:
            scan = self._ledger.fresh.pop()
            visitor = self._visitors[scan.visitor]
            return visitor, visitor.read(scan)
        visitor = self._chance.choice(self._all)
        return visitor, visitor.next()


def regular(number: int) -> str:
    """The identity of one of the ``Regulars``."""
    return f"visitor-{number}"


def crowd_at(weight: float, peak: int) -> int:
    """How many visitors the load of a whole migration has at ``weight`` percent: ``peak`` at 100."""
    return max(1, round(peak * (AT_WEIGHT_0 + (1 - AT_WEIGHT_0) * weight / 100)))
