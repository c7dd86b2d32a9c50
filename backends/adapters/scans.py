"""Scan jobs: their state, the files they found, and which of these are duplicates.

    scans/{id}                    the job; also counts its files and bytes
    scans/{id}/results/{batch}    up to CHUNK_FILES files as they were posted: one document, not one a file
    scans/{id}/groups/{content}   files of equal content: copies and the bytes wasted on all but one of them

A batch's id is a digest of its content, and one commit creates the batch and makes its increments, so a batch posted
twice counts once. A group's waste is (copies - 1) x size. It is updated without reading the group: ``maximum(-size)``
starts a new group at -size and leaves an existing one unchanged, then each copy adds its size. So an ordinary index
orders the groups by waste, and one short query finds the largest, however long the scan.

Two writers may change one job at the same time, one on each side of a migration. Both changes stand: the two states
are joined field by field. The later message wins, by the times in ``edits``; a status never gives way to one that
comes before it in a job's life; of two values of progress the higher wins, unless one was set after the other, or
the job is finished.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec

from backends.adapters.adapter import ANCHOR, Adapter, Example, MadeUp, Spec, made_up
from backends.adapters.fitting import get_fitting, needing, query_fitting
from backends.adapters.pages import MOMENT_CURSOR, Cursor, Limit, invalid_cursor, moment_after, moment_cursor
from backends.adapters.replies import OperationRefused, Written, refused, reply
from backends.adapters.requests import Choice, read_body
from backends.adapters.shapes import Strict
from backends.adapters.streams import Scene, stream
from backends.adapters.times import from_unix
from backends.documents.changes import All, Change, Documents, Newest, Once, contended, write
from backends.documents.port import (
    Context,
    Document,
    DocumentStore,
    Fields,
    Filter,
    Mutation,
    Precondition,
    Query,
    Reason,
    Rejected,
    Transform,
    Value,
    merge,
)
from backends.documents.semantics import valid_id
from backends.documents.shape import Ask
from backends.operations import Answer, Call

COLLECTION: Final = "scans"
CHUNK_FILES: Final = 400  # files in one commit: with a group each it stays below the limit of 500 writes
CHUNK_BYTES: Final = 600_000  # of a batch's document, whose limit is 1 MiB
FILE_BYTES: Final = 64  # estimate of what one file takes in a document beside its path and hash
FIRST_BATCHES: Final = 4  # read at once for a page of results; doubled while they turn out to be small
MOST_BATCHES: Final = 64
LIST_AGE_S: Final = 1.0
RESULTS_AGE_S: Final = 2.0
SCANS: Final = 12  # made up

Status = Literal["queued", "running", "completed", "failed", "cancelled"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
FINISHED: Final = frozenset({"completed", "failed", "cancelled"})

# Their order in a job's life. Which of two ways to be finished is final is decided by time.
AGE: Final[dict[str, int]] = {"queued": 0, "running": 1, **dict.fromkeys(FINISHED, 2)}

# Which status may follow which. A job's own status may be repeated with new progress.
MAY_FOLLOW: Final[dict[str, frozenset[str]]] = {
    "queued": frozenset({"queued", "running", "cancelled", "failed"}),
    "running": frozenset({"running", "completed", "failed", "cancelled"}),
    **dict.fromkeys(FINISHED, frozenset[str]()),
}

STATUS: Final = Choice("status", STATUSES)
LIST_PAGE: Final = Limit(50, 200)
PAGE: Final = Limit(100, 500)
RESULTS_CURSOR: Final = Cursor((str, int))  # the batch that the page ended in, and how many of its files were shown
GROUPS_CURSOR: Final = Cursor((int, str))  # the last group's waste, and its id

_EXAMPLES: Final = {
    "create": '{"root": "/home", "name": "weekly"}',
    "update": '{"status": "running", "progress": 40}',
    "results": '{"files": [{"path": "/a.txt", "size": 12, "hash": "9f86d081"}]}',
}

_STATE: Final = (
    *("root", "name", "status", "progress", "message", "created_at", "updated_at"),
    *("revision", "change", "edits"),
)
MISFIT_BATCH: Final = needing({"files": (list,)})
MISFIT_GROUP: Final = needing({"hash": (str,), "size": (int,), "copies": (int,), "wasted": (int,)})
_WASTEFUL: Final = (Filter("wasted", ">", 0),)
_EDITED: Final = ("status", "message")  # the fields of which ``edits`` says when they were changed, and by which call
PATIENCE_S: Final = 0.25  # of its deadline that an update leaves unused: when less is left, it gives up the race
PAUSE_S: Final = 0.05  # the longest pause before an update is tried again
_SHOWN: Final = ("status", "progress", "root", "name", "message", "created_at", "updated_at")
_Files: TypeAlias = list[Value]


class Create(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a new job."""

    root: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)] = "/"
    name: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Update(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a change of a job: at least one field."""

    # Checked by the handler, whose message lists the expected words.
    status: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(STATUSES)})] | None = None
    progress: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    message: Annotated[str, msgspec.Meta(max_length=1024)] | None = None


class File(msgspec.Struct, forbid_unknown_fields=True):
    """One file that a scan found."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    size: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    hash: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Results(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a batch of results."""

    files: Annotated[list[File], msgspec.Meta(min_length=1, max_length=500)]


class Scan(Strict):
    """A scan job."""

    id: str
    status: Status
    progress: float
    root: str
    name: str
    message: str
    created_at: datetime
    updated_at: datetime
    files: int
    bytes: int


class ScanPage(Strict):
    """Scan jobs, newest first."""

    scans: list[Scan]
    next_cursor: str | None


class Accepted(Strict):
    """Accepted files."""

    scan: str
    accepted: int


class FilePage(Strict):
    """Files that a scan found."""

    files: list[File]
    next_cursor: str | None


class Group(Strict):
    """Files of equal content."""

    hash: str
    size: int
    copies: int
    bytes_wasted: int


class Duplicates(Strict):
    """Groups of equal files, the most wasteful first; the totals are over all groups, not this page's."""

    groups: list[Group]
    total_groups: int
    total_bytes_wasted: int
    next_cursor: str | None


def shown(document: Document) -> dict[str, object]:
    """A job as a client sees it."""
    fields = document.fields
    return {
        "id": document.id,
        **{name: fields[name] for name in _SHOWN},
        "files": fields.get("files", 0),
        "bytes": fields.get("bytes", 0),
    }


_MISFIT_STATE: Final = needing(
    {
        **dict.fromkeys(("root", "name", "message"), (str,)),
        **dict.fromkeys(("created_at", "updated_at"), (datetime,)),
        "progress": (float, int),
    }
)


def misfit(fields: Fields) -> str | None:
    """Why a document of ``scans`` is no job; None where it is one."""
    status = fields.get("status")
    if not isinstance(status, str) or status not in MAY_FOLLOW:
        return f"status: expected one of {', '.join(STATUSES)}, found {str(status)[:40] if status else 'nothing'}"
    return _MISFIT_STATE(fields)


def joined(one: Fields, other: Fields) -> Fields:
    """The state of a job that two states of it make together. What is no job, or only counters, adds nothing."""
    if misfit(one) is not None:
        return other
    if misfit(other) is not None:
        return one
    if "edits" not in one and "edits" not in other:
        return max((one, other), key=_age)  # jobs of version 0.1, whose fields have no times of their own
    state = one if _changed(one) >= _changed(other) else other
    mine, theirs = _edit(one, "status"), _edit(other, "status")
    mine_stays = (AGE[str(one["status"])], mine) >= (AGE[str(other["status"])], theirs)
    status, status_edit = (one, mine) if mine_stays else (other, theirs)
    mine, theirs = _edit(one, "message"), _edit(other, "message")
    message, message_edit = (one, mine) if mine >= theirs else (other, theirs)
    progress = one if _progress_rank(one) >= _progress_rank(other) else other
    return {
        **state,
        "status": status["status"],
        "message": message["message"],
        "progress": progress["progress"],
        "revision": max(_revision(one), _revision(other)),
        "edits": {"status": status_edit, "message": message_edit, "progress": _progress_edits(progress)},
    }


def _age(fields: Fields) -> tuple[Any, ...]:
    """By this, one state as a whole is newer than another: finished before unfinished, then the later revision."""
    return fields["status"] in FINISHED, _revision(fields), *_changed(fields)


def _changed(fields: Fields) -> list[Value]:
    """When the job was last changed, and by which call; a job from a fixture may not say by which."""
    change = fields.get("change")
    return [fields["updated_at"], change if isinstance(change, str) else ""]


def _edit(fields: Fields, name: str) -> list[Any]:
    """When a field was last changed, and by which call. A job of version 0.1 only says when it was changed at all."""
    edits = fields.get("edits")
    edit = edits.get(name) if isinstance(edits, dict) else None
    if isinstance(edit, list) and len(edit) == 2 and isinstance(edit[0], datetime) and isinstance(edit[1], str):
        return edit
    return _changed(fields)


def _progress_edits(fields: Fields) -> int:
    """How often progress was set, one time after the other."""
    edits = fields.get("edits")
    count = edits.get("progress") if isinstance(edits, dict) else None
    return count if isinstance(count, int) else 0


def _progress_rank(fields: Fields) -> tuple[Any, ...]:
    """By this, the progress of one state wins over another's. That of a finished job goes with the status."""
    if fields["status"] in FINISHED:
        return (1, *_edit(fields, "status"))
    return 0, _progress_edits(fields), fields["progress"]


def _revision(fields: Fields) -> int:
    """How often a job was changed; 0 for one from a fixture that does not say."""
    revision = fields.get("revision")
    return revision if isinstance(revision, int) else 0


class Scans:
    """The handlers of ``scans.*``."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._dice = random.Random()  # noqa: S311 - no secret

    async def _find(self, call: Call, ctx: Context) -> Document:
        scan_id = call.params["id"]
        path = f"{COLLECTION}/{scan_id}"
        scan = await get_fitting(self._store, path, misfit, ctx) if valid_id(scan_id) else None
        if scan is None:
            raise _unknown(scan_id)
        return scan

    async def create(self, call: Call, ctx: Context) -> Written:
        """A queued job."""
        body = read_body(call.body or b"{}", Create, _EXAMPLES["create"])
        now = from_unix(call.now)
        fields: Fields = {
            "root": body.root,
            "name": body.name,
            "status": "queued",
            "progress": 0.0,
            "message": "",
            "created_at": now,
            "updated_at": now,
            "revision": 1,
            "change": call.id,
            "edits": {**{name: [now, call.id] for name in _EDITED}, "progress": 0},
        }
        path = f"{COLLECTION}/{call.id}"
        change = Newest(path, fields)
        # Without a condition, which would take a read: nobody else has this id.
        await write(change, self._store, ctx, commit=(merge(path, fields),))
        return reply(201, shown(Document(path, fields, 0, 0))), change

    async def get(self, call: Call, ctx: Context) -> Answer:
        """One job."""
        return reply(200, shown(await self._find(call, ctx)))

    async def list(self, call: Call, ctx: Context) -> Answer:
        """Jobs, newest first, of one status or all."""
        limit = LIST_PAGE.of(call)
        status = STATUS.of(call)
        where = () if status is None else (Filter("status", "==", status),)
        place = moment_cursor(call)
        query = Query(COLLECTION, where, "created_at", True, limit + 1, place)
        # A session finds its own writes on the first page.
        min_age = 0.0 if place is None else LIST_AGE_S
        scans = await query_fitting(self._store, query, misfit, ctx, max_age=LIST_AGE_S, min_age=min_age)
        cursor = moment_after(scans[limit - 1], "created_at") if len(scans) > limit else None
        return reply(200, {"scans": [shown(scan) for scan in scans[:limit]], "next_cursor": cursor})

    async def update(self, call: Call, ctx: Context) -> Written:
        """Change progress and status; 409 for a transition that is not allowed."""
        body = read_body(call.body, Update, _EXAMPLES["update"])
        if body.status is None and body.progress is None and body.message is None:
            raise refused(400, "invalid_body", f"nothing to change, expected JSON such as {_EXAMPLES['update']}")
        if body.status is not None and body.status not in STATUSES:
            expected = ", ".join(STATUSES)
            raise refused(400, "invalid_body", f"$.status: expected one of {expected}, found {body.status[:40]!r}")
        pause = 0.0
        while True:
            scan = await self._find(call, ctx)
            if call.id in _calls(scan.fields):  # an earlier attempt was applied, but its answer was lost
                return reply(200, shown(scan)), _state(scan)
            fields = _stepped(scan, body, call)
            stepped = Document(scan.path, {**scan.fields, **fields}, 0, 0)
            change = _state(stepped)
            condition = Precondition(update_time=scan.update_time)
            try:
                await write(change, self._store, ctx, commit=(merge(scan.path, fields, precondition=condition),))
            except Rejected as refusal:
                if refusal.reason is Reason.INVALID:
                    raise
            else:
                return reply(200, shown(stepped)), change
            # Another write came first, perhaps only results that were counted: decide again on the new state. The
            # pause lets those who write the document all the time get out of step with this.
            if asyncio.get_running_loop().time() + pause > ctx.deadline - PATIENCE_S:
                raise contended(scan.path)
            await asyncio.sleep(self._dice.uniform(0.0, pause))
            pause = min(PAUSE_S, 2 * pause + 0.001)

    async def add_results(self, call: Call, ctx: Context) -> Written:
        """Files that the scan found. The same batch posted again changes nothing."""
        body = read_body(call.body, Results, _EXAMPLES["results"])
        scan = await self._find(call, ctx)
        if scan.fields["status"] in FINISHED:
            raise refused(409, "scan_finished", f"the scan is {scan.fields['status']} and takes no more results")
        state = _own_fields(scan)
        change = All(
            tuple(
                ResultBatch(scan.path, state, _batch(scan.path, files, call.now, nth))
                for nth, files in enumerate(_chunks(body.files))
            )
        )
        try:
            await write(change, self._store, ctx)
        except Rejected as refusal:
            if refusal.reason is Reason.MISSING:  # it was deleted after it was read
                raise _unknown(scan.id) from None
            raise
        return reply(201, {"scan": scan.id, "accepted": len(body.files)}), change

    async def results(self, call: Call, ctx: Context) -> Answer:
        """The files, in the order in which their batches came."""
        limit = PAGE.of(call)
        cursor = RESULTS_CURSOR.of(call)
        scan = await self._find(call, ctx)
        collection = f"{scan.path}/results"
        skip = 0
        batches: Sequence[Document] = ()
        if cursor is not None:
            batch_id, skip = str(cursor[0]), int(cursor[1])
            batch = await get_fitting(self._store, f"{collection}/{batch_id}", MISFIT_BATCH, ctx)
            if batch is None or skip < 0:
                raise invalid_cursor()
            batches = (batch,)
        page: _Files = []
        batch_limit = FIRST_BATCHES
        place: tuple[Value, str] | None = None
        while True:
            for batch in batches:
                files = batch.fields["files"]
                assert isinstance(files, list)
                taken = files[skip : skip + limit - len(page)]
                page += taken
                skip += len(taken)
                place = batch.fields["posted_at"], batch.id
                if len(page) == limit and skip < len(files):
                    return reply(200, {"files": page, "next_cursor": RESULTS_CURSOR.write(batch.id, skip)})
                if len(page) < limit:
                    skip = 0
                else:
                    break
            full = len(page) == limit
            query = Query(collection, (), "posted_at", False, 1 if full else batch_limit, place)
            min_age = 0.0 if cursor is None else RESULTS_AGE_S  # a session finds its own writes on the first page
            batches = await query_fitting(
                self._store, query, MISFIT_BATCH, ctx, max_age=RESULTS_AGE_S, min_age=min_age
            )
            if not batches:
                return reply(200, {"files": page, "next_cursor": None})
            if full:
                return reply(200, {"files": page, "next_cursor": RESULTS_CURSOR.write(batches[0].id, 0)})
            batch_limit = min(2 * batch_limit, MOST_BATCHES)

    async def duplicates(self, call: Call, ctx: Context) -> Answer:
        """Groups of equal files, those that waste most first, and what all of them waste together.

        Empty files waste nothing and are not among them.
        """
        limit = PAGE.of(call)
        cursor = GROUPS_CURSOR.of(call)
        scan = await self._find(call, ctx)
        wasteful = Query(f"{scan.path}/groups", _WASTEFUL, "wasted", True)
        place = None if cursor is None else (cursor[0], str(cursor[1]))
        page = dataclasses.replace(wasteful, limit=limit + 1, start_after=place)
        min_age = 0.0 if cursor is None else RESULTS_AGE_S  # a session finds its own writes on the first page
        groups = await query_fitting(self._store, page, MISFIT_GROUP, ctx, max_age=RESULTS_AGE_S, min_age=min_age)
        total = await self._store.count(wasteful, ctx, total="wasted", max_age=RESULTS_AGE_S, min_age=min_age)
        more = None
        if len(groups) > limit:
            wasted = groups[limit - 1].fields["wasted"]
            assert isinstance(wasted, int)
            more = GROUPS_CURSOR.write(wasted, groups[limit - 1].id)
        return reply(
            200,
            {
                "groups": [
                    {
                        "hash": group.fields["hash"],
                        "size": group.fields["size"],
                        "copies": group.fields["copies"],
                        "bytes_wasted": group.fields["wasted"],
                    }
                    for group in groups[:limit]
                ],
                "total_groups": total.documents,
                "total_bytes_wasted": total.total,
                "next_cursor": more,
            },
        )

    async def stream(self, call: Call, ctx: Context) -> Answer:
        """Server-sent events: the job now and after each change, until it has finished."""

        async def look(ctx: Context) -> Scene:
            scan = await self._find(call, ctx)
            finished = scan.fields["status"] in FINISHED
            return Scene(str(_revision(scan.fields)), "progress", reply(200, shown(scan)).body, finished)

        return stream(self._store, COLLECTION, call.params["id"], look, await look(ctx))


def _unknown(scan_id: str) -> OperationRefused:
    return refused(404, "not_found", f"there is no scan {scan_id[:80]!r}")


def _stepped(scan: Document, body: Update, call: Call) -> Fields:
    """The fields that the update changes; refused where the job's state does not allow it."""
    now = scan.fields["status"]
    assert isinstance(now, str)
    status: str = body.status or now
    if now in FINISHED:
        raise refused(409, "scan_finished", f"the scan is {now}, which is final")
    if status not in MAY_FOLLOW[now]:
        allowed = ", ".join(sorted(MAY_FOLLOW[now]))
        raise refused(409, "illegal_transition", f"the scan is {now}: found {status}, expected one of {allowed}")
    progress = body.progress if body.progress is not None else 100.0 if status == "completed" else None
    # Later than what was written before, also where that was written on a machine whose clock is ahead.
    last = scan.fields["updated_at"]
    assert isinstance(last, datetime)
    at = max(from_unix(call.now), last + timedelta(microseconds=1))
    edited = {"status": body.status, "message": body.message}
    return {
        "status": status,
        "progress": float(progress) if progress is not None else scan.fields["progress"],
        "message": body.message if body.message is not None else scan.fields["message"],
        "updated_at": at,
        "revision": _revision(scan.fields) + 1,
        "change": call.id,
        "edits": {
            **{
                name: [at, call.id] if edit is not None else _edit(scan.fields, name) for name, edit in edited.items()
            },
            "progress": _progress_edits(scan.fields) + (progress is not None),
        },
    }


def _calls(fields: Fields) -> set[object]:
    """The calls that are known to have changed the job."""
    return {fields.get("change"), *(_edit(fields, name)[1] for name in _EDITED)}


def _own_fields(scan: Document) -> Fields:
    """The job's own fields; its counters change with the batches."""
    return {name: scan.fields[name] for name in _STATE if name in scan.fields}


def _state(scan: Document) -> Change:
    """The change that brings the job's own fields to the other store."""
    return Newest(scan.path, _own_fields(scan))


class ResultBatch(Change, frozen=True, tag="scans.results"):
    """A batch of a job's results. A store that lacks the job gets its state with them.

    The other side may lack it: not told of it yet, or it was deleted there. Counters alone would be a document
    without a status. On its own side the job was found; if it is gone since, the batch is refused there.
    """

    job: str  # its path
    state: Fields  # its own fields when the batch came
    batch: Once  # its last write is that of the job's counters

    @property
    def own(self) -> Change:
        """As ``Change.own``."""
        return self.batch

    @property
    def group(self) -> str:
        """As ``Change.group``."""
        return self.job

    @property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``."""
        return self.batch.documents

    @property
    def traces(self) -> tuple[str, ...]:
        """As ``Change.traces``: also the job, to see whether it is there."""
        return (*self.batch.traces, self.job)

    def plan(self, stored: Documents) -> Sequence[Mutation]:
        """As ``Change.plan``."""
        planned = self.batch.plan(stored)
        if not planned or self.job not in stored or stored.get(self.job) is not None:
            return planned
        *others, counters = planned
        return (*others, merge(self.job, self.state, counters.transforms, Precondition(exists=False)))

    def held(self, stored: Documents) -> Change | None:
        """As ``Change.held``: all of it, where the batch is."""
        return self if self.batch.held(stored) is not None else None


def _chunks(files: Sequence[File]) -> Iterator[list[File]]:
    """The files in portions, each of which fits into one commit and one document."""
    portion: list[File] = []
    size = 0
    for file in files:
        cost = len(file.path.encode()) + len(file.hash.encode()) + FILE_BYTES
        if portion and (len(portion) == CHUNK_FILES or size + cost > CHUNK_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(file)
        size += cost
    yield portion


def _batch(scan: str, files: Sequence[File], now: float, nth: int) -> Once:
    """What a portion of results changes: the batch, the groups its files are in, the job's counters."""
    batch_id = _digest(msgspec.msgpack.encode(files))
    copies = Counter((file.hash, file.size) for file in files)
    groups = [
        merge(
            f"{scan}/groups/{_digest(f'{size} {content}'.encode())}",
            {"hash": content, "size": size},
            (
                Transform(("copies",), "increment", count),
                Transform(("wasted",), "maximum", -size),
                Transform(("wasted",), "increment", count * size),
            ),
        )
        for (content, size), count in copies.items()
    ]
    counters = merge(
        scan,
        {},
        (
            Transform(("files",), "increment", len(files)),
            Transform(("bytes",), "increment", sum(file.size for file in files)),
        ),
        Precondition(exists=True),  # or the counters alone would make a document that is no job
    )
    # A microsecond apart, so that the portions of one request are read in the order they had in it.
    posted_at = from_unix(now) + timedelta(microseconds=nth)
    fields: Fields = {"posted_at": posted_at, "files": [msgspec.structs.asdict(file) for file in files]}
    return Once(f"{scan}/results/{batch_id}", fields, (*groups, counters))


def _digest(content: bytes) -> str:
    """A document id that does not depend on when the document was made."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def jobs(dice: random.Random) -> Iterator[MadeUp]:
    """Jobs in turn queued, running and completed, with files of which some are equal."""
    for nth in range(SCANS):
        at = ANCHOR - timedelta(minutes=10 * (SCANS - nth))
        create = made_up(dice, Scans.create, at, {"root": f"/data/{nth}", "name": f"scan {nth}"})
        yield create
        steps: tuple[tuple[str, int], ...] = ((), (("running", 40),), (("running", 50), ("completed", 100)))[nth % 3]
        for minutes, (status, progress) in enumerate(steps, 1):
            later = at + timedelta(minutes=minutes)
            yield made_up(dice, Scans.update, later, {"status": status, "progress": progress}, id=create.id)
            if status == "running":
                files = [
                    {"path": f"/data/{nth}/{index}", "size": 1000 * (index % 7), "hash": f"{dice.randrange(40):08x}"}
                    for index in range(120)
                ]
                yield made_up(dice, Scans.add_results, later, {"files": files}, id=create.id)


_ONE: Final = "/api/scans/{id}"
_MADE: Final = Example(of=Scans.create)

ADAPTER: Final = Adapter(
    name="scans",
    handlers=Scans,
    serves=(
        Spec(
            *(Scans.create, "POST", "/api/scans", "write", Scan),
            status=201,
            body=Create,
            body_optional=True,
            example=Example(_EXAMPLES["create"]),
        ),
        Spec(Scans.list, "GET", "/api/scans", "read", ScanPage, parameters=(STATUS, LIST_PAGE, MOMENT_CURSOR)),
        Spec(Scans.get, "GET", _ONE, "read", Scan, refuses=(404,), example=_MADE),
        Spec(
            *(Scans.update, "PATCH", _ONE, "write", Scan),
            refuses=(404, 409),
            body=Update,
            example=Example(_EXAMPLES["update"], of=Scans.create),
        ),
        Spec(
            *(Scans.add_results, "POST", f"{_ONE}/results", "write", Accepted),
            status=201,
            refuses=(404, 409),
            body=Results,
            example=Example(_EXAMPLES["results"], of=Scans.create),
        ),
        Spec(
            *(Scans.results, "GET", f"{_ONE}/results", "read", FilePage),
            refuses=(404,),
            parameters=(PAGE, RESULTS_CURSOR),
            example=_MADE,
        ),
        Spec(
            *(Scans.duplicates, "GET", f"{_ONE}/duplicates", "read", Duplicates),
            refuses=(404,),
            parameters=(PAGE, GROUPS_CURSOR),
            example=_MADE,
        ),
        Spec(Scans.stream, "GET", f"{_ONE}/stream", "stream", refuses=(404,), example=_MADE),
    ),
    collections=(COLLECTION,),
    views=(Query(COLLECTION, order="created_at", descending=True, limit=500),),
    asks=(
        Ask(Query(COLLECTION, (), "created_at", True)),
        Ask(Query(COLLECTION, (Filter("status", "==", STATUSES[0]),), "created_at", True)),
        Ask(Query(f"{COLLECTION}/*/results", (), "posted_at")),
        Ask(Query(f"{COLLECTION}/*/groups", _WASTEFUL, "wasted", True)),
        Ask(Query(f"{COLLECTION}/*/groups", _WASTEFUL, "wasted", True), counted=True, total="wasted"),
    ),
    unindexed=(
        (f"{COLLECTION}/*/results", "files"),
        *((f"{COLLECTION}/*/groups", field) for field in ("hash", "size", "copies")),
    ),
    made_up=jobs,
    changes=(ResultBatch,),
    joins={COLLECTION: joined},
    patterns=(COLLECTION, f"{COLLECTION}/*/results", f"{COLLECTION}/*/groups"),
    counted={COLLECTION: ("files", "bytes"), f"{COLLECTION}/*/groups": ("copies", "wasted")},
)
