"""Business analytics: events, what a user did, totals, and what trends in a window of time.

    analytics_events/{digest of the event's id}      the event itself
    analytics_totals/{shard}                         events and events by type, since the beginning
    analytics_minutes|hours|days/{digest}            events by item, in one bucket of time, in one of SHARDS parts

One commit creates the events' documents, each with the precondition that it does not exist yet, and adds them to one
shard of every counter: so an event counts once in a store, however often it is sent. A batch's content picks its
shard, which spreads writers over documents; a reader sums the shards. Document ids are digests, so that documents are
not written in key order, which would make one key range hot.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from backends.adapters.adapter import ANCHOR, Adapter, Example, MadeUp, Spec, made_up
from backends.adapters.fitting import needing, query_fitting
from backends.adapters.pages import MOMENT_CURSOR, Limit, moment_after, moment_cursor
from backends.adapters.replies import Written, refused, reply, rest_for
from backends.adapters.requests import read_body
from backends.adapters.shapes import Strict
from backends.adapters.times import EPOCH, Timestamp, from_unix, timestamp, to_micros
from backends.documents.changes import All, Change, Documents, write
from backends.documents.port import (
    COMMIT_LIMIT,
    Context,
    Document,
    DocumentStore,
    Fields,
    Filter,
    Mutation,
    Query,
    Rejected,
    Transform,
    create,
    merge,
)
from backends.documents.semantics import check
from backends.documents.shape import Ask
from backends.operations import Answer, Call

EVENTS: Final = "analytics_events"
TOTALS: Final = "analytics_totals"
SHARDS: Final = 8
USER_AGE_S: Final = 2.0
TOTALS_AGE_S: Final = 1.0  # where no live view has them
TRENDING_AGE_S: Final = 5.0  # also behind a session's own events: else every event would make the next read a query
USER_LENGTH: Final = 128  # characters; Firestore compares a field with at most 1,499 bytes
OTHER: Final = "(other)"  # counts every item or type once a counter's document has no room for more names


class Grain(NamedTuple):
    """A size of bucket, and how far back its queries look, ascending.

    A window is cut in memory from the result of the shortest of these that holds it. So there are seven queries in
    all, and not one for each window that a client can think of.
    """

    collection: str
    size: timedelta
    reaches: tuple[timedelta, ...]


GRAINS: Final = (
    Grain("analytics_minutes", timedelta(minutes=5), (timedelta(hours=1), timedelta(hours=6))),
    Grain("analytics_hours", timedelta(hours=1), (timedelta(days=1), timedelta(days=3))),
    Grain("analytics_days", timedelta(days=1), (timedelta(days=7), timedelta(days=30), timedelta(days=90))),
)
WIDEST: Final = GRAINS[-1].reaches[-1]

MISFIT_EVENT: Final = needing({"id": (str,), "type": (str,), "at": (datetime,)})
MISFIT_TOTALS: Final = needing({"events": (int,), "newest_us": (int,), "types": (dict,)})
MISFIT_BUCKET: Final = needing({"start": (datetime,), "items": (dict,)})

RECENT: Final = Limit(20, 100)
RANKED: Final = Limit(10, 100)
_WINDOW: Final = re.compile(r"([1-9]\d{0,4})([mhd])")
_USUAL: Final = "1h"
_UNIT: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_EXAMPLE: Final = '{"user": "u1", "type": "view", "item": "p7"}'
_EXPECTED: Final = f"{_EXAMPLE} or a list of up to 500 of these"
MADE_UP: Final = 500  # events


class Event(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Something a user did. An event without ``item`` trends by its type."""

    user: Annotated[str, msgspec.Meta(min_length=1, max_length=USER_LENGTH)]
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    item: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    at: Timestamp | None = None
    properties: dict[str, Any] | None = None


# Any, because a type checker does not accept a union as an argument of type ``type[T]``.
Batch: Final[Any] = Annotated[list[Event], msgspec.Meta(min_length=1, max_length=500)] | Event


class Ingested(Strict):
    """Accepted events, each id counted once."""

    accepted: int


class StoredEvent(Strict):
    """One event of a user."""

    id: str
    type: str
    item: str | None
    at: datetime
    properties: dict[str, Any]


class Activity(Strict):
    """What a user did, newest first."""

    user: str
    events: int
    recent: list[StoredEvent]
    next_cursor: str | None


class Totals(Strict):
    """Events since the beginning."""

    events: int
    types: dict[str, int]
    last_event_at: datetime | None


class Trend(Strict):
    """An item and its events in the window."""

    item: str
    events: int


class Trending(Strict):
    """The items with most events since the start of the window's first bucket; ``events`` counts all items'."""

    since: datetime
    events: int
    items: list[Trend]


@dataclass(frozen=True, slots=True)
class TrendWindow:
    """The parameter ``window``: how far back to look."""

    name = "window"

    @property
    def schema(self) -> dict[str, Any]:
        """As ``Parameter.schema``."""
        pattern, widest = "^[1-9][0-9]{0,4}[mhd]$", f"at most {WIDEST.days}d"
        return {"type": "string", "pattern": pattern, "default": _USUAL, "description": widest}

    def of(self, call: Call) -> timedelta:
        """The window that the call asks for. Raises ``OperationRefused``."""
        text = call.query.get(self.name, _USUAL)
        match = _WINDOW.fullmatch(text)
        window = int(match[1]) * _UNIT[match[2]] if match else None
        if window is None or window > WIDEST:
            expected = f"expected 1m to {WIDEST.days}d, such as 15m, 1h or 7d"
            raise refused(400, "invalid_query", f"window: {expected}, found {text[:40]!r}")
        return window


WINDOW: Final = TrendWindow()


class Ingest(Change, frozen=True, tag="analytics.ingest", dict=True):
    """Stores events and counts each of them once. They fit into one commit."""

    events: tuple[Fields, ...]
    shard: int
    named: bool = True  # whether items and types are counted under their own names

    @property
    def group(self) -> str:
        """As ``Change.group``: those that add to the same counters."""
        return f"{TOTALS}/{self.shard}"

    @cached_property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``: the events. Their counters follow from them."""
        return tuple(_path(event) for event in self.events)

    @property
    def traces(self) -> tuple[str, ...]:
        """As ``Change.traces``."""
        return self.documents

    def plan(self, stored: Documents) -> Sequence[Mutation]:
        """As ``Change.plan``: for the events that are not there yet."""
        missing = [path for path in self.documents if stored.get(path) is None]
        if len(missing) == len(self.events):
            return self._whole_plan
        return self._only(missing)._whole_plan if missing else ()

    def held(self, stored: Documents) -> Change | None:
        """As ``Change.held``: the events that are there."""
        held = [path for path in self.documents if stored.get(path) is not None]
        return self._only(held) if held else None

    @property
    def coarser(self) -> Change | None:
        """As ``Change.coarser``: a counter's document may have no room for more names."""
        return Ingest(self.events, self.shard, False) if self.named else None

    def forget(self) -> None:
        """As ``Change.forget``."""
        self.__dict__.clear()

    def _only(self, paths: Sequence[str]) -> Ingest:
        by_path = dict(zip(self.documents, self.events, strict=True))
        return Ingest(tuple(by_path[path] for path in paths), self.shard, self.named)

    @cached_property  # both sides need it
    def _whole_plan(self) -> list[Mutation]:
        events, named = self.events, self.named
        buckets: defaultdict[tuple[Grain, int], Counter[str]] = defaultdict(Counter)
        types: Counter[str] = Counter()
        for event in events:
            types[str(event["type"]) if named else OTHER] += 1
            name = str(event.get("item") or event["type"]) if named else OTHER
            for bucket in _buckets(event):
                buckets[bucket][name] += 1
        newest = max(to_micros(_moment(event)) for event in events)
        totals = merge(f"{TOTALS}/{self.shard}", {}, (
            Transform(("events",), "increment", len(events)),
            Transform(("newest_us",), "maximum", newest),
            *_counted("types", types),
        ))  # fmt: skip
        counters = [
            merge(
                f"{grain.collection}/{_digest(f'{start} {self.shard}')}",
                {"start": EPOCH + start * grain.size},
                _counted("items", items),
            )
            for (grain, start), items in buckets.items()
        ]
        creations = map(create, self.documents, events)
        return [*creations, totals, *counters]


def _counted(field: str, names: Counter[str]) -> tuple[Transform, ...]:
    # OTHER is created with the first count, at zero: a full document would have no room to add it.
    counts = {OTHER: 0} | names
    return tuple(Transform((field, name), "increment", count) for name, count in counts.items())


def _moment(event: Fields) -> datetime:
    at = event["at"]
    assert isinstance(at, datetime)
    return at


def _buckets(event: Fields) -> Iterator[tuple[Grain, int]]:
    since = _moment(event) - EPOCH
    for grain in GRAINS:
        yield grain, since // grain.size


def _path(event: Fields) -> str:
    return f"{EVENTS}/{_digest(str(event['id']))}"


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _portions(events: Sequence[Fields]) -> Iterator[tuple[Fields, ...]]:
    """The events in portions whose documents and counters fit into one commit each."""
    portion: list[Fields] = []
    counters: set[tuple[Grain, int]] = set()
    for event in events:
        touched = set(_buckets(event))
        if portion and len(portion) + len(counters | touched) + 2 > COMMIT_LIMIT:
            yield tuple(portion)
            portion, counters = [], set()
        portion.append(event)
        counters |= touched
    yield tuple(portion)


def _fields(event: Event, fallback_id: str, now: float) -> Fields:
    """The event as it is stored; ``fallback_id`` and ``now`` where it has no id or time of its own.

    Raises ``ValueError`` where its time is none.
    """
    at = from_unix(now) if event.at is None else timestamp(event.at)
    if at is None:
        raise ValueError(f"at: expected a time such as 2026-01-31T12:00:00Z, found {str(event.at)[:40]!r}")
    fields: Fields = {"id": event.id or fallback_id, "user": event.user, "type": event.type, "at": at}
    if event.item is not None:
        fields["item"] = event.item
    if event.properties is not None:
        fields["properties"] = event.properties
    return fields


class Analytics:
    """The handlers of ``analytics.*``."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    async def ingest(self, call: Call, ctx: Context) -> Written:
        """Store events and count them. An event whose id is known already changes nothing."""
        body: list[Event] | Event = read_body(call.body, Batch, _EXPECTED)
        batch = [body] if isinstance(body, Event) else body
        events: dict[str, Fields] = {}
        for index, event in enumerate(batch):
            try:
                fields = _fields(event, f"{call.id}-{index}", call.now)
                check((create(_path(fields), fields),))
            except (Rejected, ValueError) as problem:
                raise refused(400, "invalid_body", f"event {index}: {problem}") from None
            events.setdefault(str(fields["id"]), fields)
        change = All(
            tuple(
                Ingest(portion, int(_digest(str(portion[0]["id"])), 16) % SHARDS)
                for portion in _portions(list(events.values()))
            )
        )
        await write(change, self._store, ctx)
        return reply(202, {"accepted": len(events)}), change

    async def user(self, call: Call, ctx: Context) -> Answer:
        """How many events a user has, and the newest of them."""
        user = call.params["uid"]
        if len(user) > USER_LENGTH:
            message = f"the user's name has {len(user)} characters, expected at most {USER_LENGTH}"
            raise refused(400, "invalid_path", message)
        limit = RECENT.of(call)
        mine = (Filter("user", "==", user),)
        query = Query(EVENTS, mine, "at", True, limit + 1, moment_cursor(call))
        min_age = 0.0 if query.start_after is None else USER_AGE_S  # a session finds its own events on the first page
        recent = await query_fitting(self._store, query, MISFIT_EVENT, ctx, max_age=USER_AGE_S, min_age=min_age)
        total = await self._store.count(Query(EVENTS, mine), ctx, max_age=USER_AGE_S, min_age=min_age)
        cursor = moment_after(recent[limit - 1], "at") if len(recent) > limit else None
        return reply(
            200,
            {
                "user": user,
                "events": total.documents,
                "recent": [_shown(event) for event in recent[:limit]],
                "next_cursor": cursor,
            },
        )

    async def system(self, call: Call, ctx: Context) -> Answer:
        """Totals since the beginning."""
        events = 0
        newest: list[int] = []
        types: Counter[str] = Counter()
        for shard in await query_fitting(self._store, Query(TOTALS), _misfit_totals, ctx, max_age=TOTALS_AGE_S):
            events += _number(shard.fields["events"])
            newest.append(_number(shard.fields["newest_us"]))
            types.update(_numbers(shard.fields["types"]))
        return reply(
            200,
            {
                "events": events,
                "types": dict(sorted((+types).items())),  # without zero counts
                "last_event_at": EPOCH + timedelta(microseconds=max(newest)) if newest else None,
            },
        )

    async def trending(self, call: Call, ctx: Context) -> Answer:
        """The items with most events in the window, which begins at a bucket's start."""
        limit = RANKED.of(call)
        window = WINDOW.of(call)
        grain, reach = next((grain, reach) for grain in GRAINS for reach in grain.reaches if window <= reach)
        now = from_unix(call.now)
        first, since, newest = (_bucket_start(grain, at) for at in (now - reach, now - window, now))
        # Both ends are a bucket's, so that everybody who asks within one bucket asks the same.
        query = Query(
            grain.collection, (Filter("start", ">=", first), Filter("start", "<", newest + grain.size)), "start"
        )
        items: Counter[str] = Counter()
        buckets = await query_fitting(
            self._store, query, _misfit_bucket, ctx, max_age=TRENDING_AGE_S, min_age=TRENDING_AGE_S
        )
        for bucket in buckets:
            start = bucket.fields["start"]
            assert isinstance(start, datetime)
            if since <= start <= now:  # a fixture's bucket may start anywhere
                items.update(_numbers(bucket.fields["items"]))
        # The answer holds until the oldest bucket leaves the window, or a new bucket begins.
        changes_in = (grain.size - (edge - EPOCH) % grain.size for edge in (now, now - window))
        rest_for(ctx, min(changes_in).total_seconds())
        ranked = sorted((+items).items(), key=lambda entry: (-entry[1], entry[0]))
        return reply(
            200,
            {
                "since": since,
                "events": items.total(),
                "items": [{"item": name, "events": count} for name, count in ranked[:limit]],
            },
        )


def _bucket_start(grain: Grain, at: datetime) -> datetime:
    return EPOCH + (at - EPOCH) // grain.size * grain.size


def _misfit_totals(fields: Fields) -> str | None:
    return MISFIT_TOTALS(fields) or _uncountable("types", fields)


def _misfit_bucket(fields: Fields) -> str | None:
    return MISFIT_BUCKET(fields) or _uncountable("items", fields)


def _uncountable(name: str, fields: Fields) -> str | None:
    return (
        None if all(type(count) is int for count in _numbers(fields[name]).values()) else f"{name}: expected counts"
    )


def _shown(document: Document) -> dict[str, object]:
    fields = document.fields
    return {
        **{name: fields[name] for name in ("id", "type", "at")},
        "item": fields.get("item"),
        "properties": fields.get("properties", {}),
    }


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _numbers(value: object) -> dict[str, int]:
    assert isinstance(value, dict)
    return value


def events(dice: random.Random) -> Iterator[MadeUp]:
    """A day of events, in one batch."""
    batch = [
        {
            "id": f"seed-{nth}",
            "user": f"user-{dice.randrange(20)}",
            "type": dice.choice(("view", "click", "purchase")),
            "item": f"item-{min(dice.randrange(30), dice.randrange(30))}",
            "at": (ANCHOR - timedelta(seconds=dice.randrange(86_400))).isoformat(),
        }
        for nth in range(MADE_UP)
    ]
    yield made_up(dice, Analytics.ingest, ANCHOR, batch)


_OF_A_USER: Final = (Filter("user", "==", ""),)  # nobody's name

ADAPTER: Final = Adapter(
    name="analytics",
    handlers=Analytics,
    serves=(
        Spec(
            *(Analytics.ingest, "POST", "/api/analytics/events", "write", Ingested),
            status=202,
            body=Batch,
            example=Example(_EXAMPLE),
        ),
        Spec(
            *(Analytics.user, "GET", "/api/analytics/users/{uid}", "read", Activity),
            parameters=(RECENT, MOMENT_CURSOR),
            in_path={"uid": {"maxLength": USER_LENGTH}},
            example=Example(params={"uid": "u1"}),
        ),
        Spec(Analytics.system, "GET", "/api/analytics/system", "read", Totals),
        Spec(Analytics.trending, "GET", "/api/analytics/trending", "read", Trending, parameters=(WINDOW, RANKED)),
    ),
    collections=(EVENTS, TOTALS, *(grain.collection for grain in GRAINS)),
    changes=(Ingest,),
    views=(Query(TOTALS),),
    asks=(
        Ask(Query(EVENTS, _OF_A_USER, "at", True)),
        Ask(Query(EVENTS, _OF_A_USER), counted=True),
        Ask(Query(TOTALS)),
        *(Ask(Query(grain.collection, (Filter("start", ">=", EPOCH),), "start")) for grain in GRAINS),
    ),
    unindexed=(
        (EVENTS, "properties"),
        (TOTALS, "types"),
        *((grain.collection, "items") for grain in GRAINS),
    ),
    made_up=events,
    times=frozenset({"start"}),  # of a bucket
    counted={TOTALS: ("events", "newest_us", "types"), **{grain.collection: ("items",) for grain in GRAINS}},
)
