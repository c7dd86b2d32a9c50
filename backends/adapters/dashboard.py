"""Dashboard metrics: the newest snapshot, those before it, and a stream of them.

A snapshot is one document that is created once and never changed; the newest by (time, id) is the current one. So two
publishers need no lock, a publication can be applied twice or late, and no single document is written repeatedly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from backends.adapters.adapter import ANCHOR, Adapter, Example, MadeUp, Spec, made_up
from backends.adapters.fitting import needing, query_fitting
from backends.adapters.pages import MOMENT_CURSOR, Limit, moment_after, moment_cursor
from backends.adapters.replies import Written, refused, reply
from backends.adapters.requests import Moment, read_body
from backends.adapters.shapes import Strict
from backends.adapters.streams import Scene, stream
from backends.adapters.times import from_unix
from backends.documents.changes import Put, write
from backends.documents.port import Context, Document, DocumentStore, Fields, Filter, Query, put
from backends.documents.shape import Ask
from backends.operations import Answer, Call, error_answer

COLLECTION: Final = "dashboard_snapshots"
MISFIT: Final = needing({"published_at": (datetime,), "metrics": (dict,)})
NEWEST: Final = Query(COLLECTION, order="published_at", descending=True, limit=1)
NEWEST_AGE_S: Final = 1.0  # how old the current snapshot may be where no live view has it
HISTORY_AGE_S: Final = 2.0  # how old a page of history may be
SNAPSHOTS: Final = 60  # made up, one a minute
FROM: Final = Moment("from")
TO: Final = Moment("to")
PAGE: Final = Limit(50, 500)
_EXAMPLE: Final = '{"metrics": {"active_users": 120, "revenue": 99.5}}'


class Publish(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a publication. A snapshot may be sent back as it was read: it gets a new id and time."""

    metrics: dict[str, Any]
    id: str | None = None
    published_at: str | None = None


class Snapshot(Strict):
    """Dashboard metrics as they were published."""

    id: str
    published_at: datetime
    metrics: dict[str, Any]


class History(Strict):
    """Earlier snapshots, newest first."""

    snapshots: list[Snapshot]
    next_cursor: str | None


def _order(document: Document) -> tuple[datetime, str]:
    at = document.fields["published_at"]
    assert isinstance(at, datetime)
    return at, document.id


def shown(document: Document) -> dict[str, object]:
    """A snapshot as a client sees it."""
    return {"id": document.id, **{name: document.fields[name] for name in ("published_at", "metrics")}}


class Dashboard:
    """The handlers of ``dashboard.*``."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    async def _newest(self, ctx: Context) -> Document | None:
        newest = await query_fitting(self._store, NEWEST, MISFIT, ctx, max_age=NEWEST_AGE_S)
        return newest[0] if newest else None

    async def current(self, call: Call, ctx: Context) -> Answer:
        """The newest snapshot."""
        newest = await self._newest(ctx)
        if newest is None:
            return error_answer(404, "not_found", "no snapshot has been published")
        return reply(200, shown(newest))

    async def history(self, call: Call, ctx: Context) -> Answer:
        """Snapshots before the current one, newest first, from ``from`` to ``to``, both included."""
        limit = PAGE.of(call)
        first, last = FROM.of(call), TO.of(call)
        if first is not None and last is not None and first > last:
            raise refused(400, "invalid_query", "from is later than to")
        bounds = [] if first is None else [Filter("published_at", ">=", first)]
        bounds += [] if last is None else [Filter("published_at", "<=", last)]
        # Two documents more than the limit: one tells whether there is a next page, and one may be the current
        # snapshot, which is not history. The current one is read after the page: a snapshot published in between is
        # then missing from the page. In the other order it would be listed as history.
        place = moment_cursor(call)
        page = await query_fitting(
            self._store,
            Query(COLLECTION, tuple(bounds), "published_at", True, limit + 2, place),
            MISFIT,
            ctx,
            max_age=HISTORY_AGE_S,
            min_age=0.0 if place is None else HISTORY_AGE_S,
        )
        newest = await self._newest(ctx)
        if page and (newest is None or _order(page[0]) > _order(newest)):
            newest = page[0]  # the page is newer than the cached result of the other query
        past = [document for document in page if newest is None or document.id != newest.id]
        cursor = moment_after(past[limit - 1], "published_at") if len(past) > limit else None
        return reply(200, {"snapshots": list(map(shown, past[:limit])), "next_cursor": cursor})

    async def publish(self, call: Call, ctx: Context) -> Written:
        """Make a snapshot the current one."""
        body = read_body(call.body, Publish, _EXAMPLE)
        if not body.metrics:
            raise refused(400, "invalid_body", f"$.metrics: found no metric, expected JSON such as {_EXAMPLE}")
        fields: Fields = {"published_at": from_unix(call.now), "metrics": body.metrics}
        change = Put((put(f"{COLLECTION}/{call.id}", fields),))
        await write(change, self._store, ctx)
        return reply(200, {"id": call.id, **fields}), change

    async def stream(self, call: Call, ctx: Context) -> Answer:
        """Server-sent events: the newest snapshot now, and each newer one when it is published."""

        async def look(ctx: Context) -> Scene | None:
            newest = await self._newest(ctx)
            if newest is None:
                return None
            return Scene(newest.id, "metrics", reply(200, shown(newest)).body)

        return stream(self._store, COLLECTION, None, look, await look(ctx))


def snapshots(dice: random.Random) -> Iterator[MadeUp]:
    """An hour of snapshots."""
    for ago in reversed(range(SNAPSHOTS)):
        metrics = {
            "active_users": dice.randint(800, 1200),
            "requests_per_minute": dice.randint(9_000, 12_000),
            "error_rate": round(dice.uniform(0.001, 0.01), 4),
            "revenue": round(dice.uniform(1_000, 2_000), 2),
        }
        yield made_up(dice, Dashboard.publish, ANCHOR - timedelta(minutes=ago), {"metrics": metrics})


_METRICS: Final = "/api/dashboard/metrics"

ADAPTER: Final = Adapter(
    name="dashboard",
    handlers=Dashboard,
    serves=(
        Spec(Dashboard.current, "GET", _METRICS, "read", Snapshot, refuses=(404,)),
        Spec(
            *(Dashboard.history, "GET", f"{_METRICS}/history", "read", History),
            parameters=(FROM, TO, PAGE, MOMENT_CURSOR),
        ),
        Spec(Dashboard.publish, "PUT", _METRICS, "write", Snapshot, body=Publish, example=Example(_EXAMPLE)),
        Spec(Dashboard.stream, "GET", f"{_METRICS}/stream", "stream"),
    ),
    collections=(COLLECTION,),
    views=(Query(COLLECTION, order="published_at", descending=True, limit=100),),
    asks=(Ask(NEWEST),),
    unindexed=((COLLECTION, "metrics"),),
    made_up=snapshots,
)
