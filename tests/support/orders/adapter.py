"""An adapter as a user of phasegate would write it: orders, in a package outside the product."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from backends.adapters.adapter import ANCHOR, Adapter, Example, MadeUp, Spec, made_up
from backends.adapters.pages import MOMENT_CURSOR, Limit, moment_after, moment_cursor
from backends.adapters.replies import Written, refused, reply
from backends.adapters.requests import read_body
from backends.adapters.shapes import Strict
from backends.adapters.streams import Scene, stream
from backends.adapters.times import from_unix
from backends.documents.changes import Newest
from backends.documents.port import Context, Document, DocumentStore, Fields, Query
from backends.documents.semantics import valid_id
from backends.operations import Answer, Call

ORDERS = "orders"
NEWEST = Query(ORDERS, order="placed", descending=True, limit=50)
STATES = ("placed", "paid", "sent")
PAGE = Limit(20, 50)
PLACE_EXAMPLE = '{"item": "tea", "count": 2}'
MOVE_EXAMPLE = '{"state": "paid"}'


class Place(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a new order."""

    item: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    count: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


class Move(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an order's next state."""

    state: Literal["paid", "sent"]


class Order(Strict):
    """An order."""

    id: str
    item: str
    count: int
    state: Literal["placed", "paid", "sent"]
    placed: datetime


class OrderPage(Strict):
    """Orders, newest first."""

    orders: list[Order]
    next_cursor: str | None


def shown(order: Document) -> dict[str, Any]:
    """An order as a client sees it."""
    return {"id": order.id, **order.fields}


def newer(mine: Fields, stored: Fields) -> bool:
    """Whether a state replaces the stored one: an order never goes back."""
    return STATES.index(str(mine["state"])) > STATES.index(str(stored["state"]))


class Orders:
    """The handlers of ``orders.*``."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    async def _find(self, call: Call, ctx: Context) -> Document:
        order_id = call.params["id"]
        order = await self._store.get(f"{ORDERS}/{order_id}", ctx) if valid_id(order_id) else None
        if order is None:
            raise refused(404, "not_found", f"there is no order {order_id[:80]!r}")
        return order

    async def _save(self, path: str, fields: Fields, ctx: Context) -> Newest:
        change = Newest(path, fields)
        await change.apply(self._store, ctx)
        return change

    async def place(self, call: Call, ctx: Context) -> Written:
        """A new order."""
        body = read_body(call.body, Place, PLACE_EXAMPLE)
        fields: Fields = {"item": body.item, "count": body.count, "state": "placed", "placed": from_unix(call.now)}
        change = await self._save(f"{ORDERS}/{call.id}", fields, ctx)
        return reply(201, {"id": call.id, **fields}), change

    async def move(self, call: Call, ctx: Context) -> Written:
        """The next state of an order."""
        body = read_body(call.body, Move, MOVE_EXAMPLE)
        order = await self._find(call, ctx)
        change = await self._save(order.path, {**order.fields, "state": body.state}, ctx)
        return reply(200, shown(await self._find(call, ctx))), change

    async def get(self, call: Call, ctx: Context) -> Answer:
        """One order."""
        return reply(200, shown(await self._find(call, ctx)))

    async def newest(self, call: Call, ctx: Context) -> Answer:
        """Orders, newest first."""
        limit = PAGE.of(call)
        query = Query(ORDERS, order="placed", descending=True, limit=limit + 1, start_after=moment_cursor(call))
        orders = await self._store.query(query, ctx)
        cursor = moment_after(orders[limit - 1], "placed") if len(orders) > limit else None
        return reply(200, {"orders": [shown(order) for order in orders[:limit]], "next_cursor": cursor})

    async def stream(self, call: Call, ctx: Context) -> Answer:
        """The newest order, and each newer one when it is placed."""

        async def look(ctx: Context) -> Scene | None:
            orders = await self._store.query(NEWEST, ctx)
            return Scene(orders[0].id, "order", reply(200, shown(orders[0])).body) if orders else None

        return stream(self._store, ORDERS, None, look, await look(ctx))


def sample_orders(dice: random.Random) -> Iterator[MadeUp]:
    """Ten orders, the last of them paid."""
    for nth in range(10):
        body = {"item": dice.choice(("tea", "cup")), "count": dice.randint(1, 9)}
        place = made_up(dice, Orders.place, ANCHOR - timedelta(hours=10 - nth), body)
        yield place
    yield made_up(dice, Orders.move, ANCHOR, {"state": "paid"}, id=place.id)


ADAPTER = Adapter(
    name="orders",
    handlers=Orders,
    serves=(
        Spec(Orders.place, "POST", "/api/orders", "write", Order, 201, body=Place, example=Example(PLACE_EXAMPLE)),
        Spec(Orders.newest, "GET", "/api/orders", "read", OrderPage, parameters=(PAGE, MOMENT_CURSOR)),
        Spec(Orders.stream, "GET", "/api/orders/stream", "stream"),
        Spec(Orders.get, "GET", "/api/orders/{id}", "read", Order, refuses=(404,), example=Example(of=Orders.place)),
        Spec(
            *(Orders.move, "PUT", "/api/orders/{id}/state", "write", Order),
            refuses=(404,),
            body=Move,
            example=Example(MOVE_EXAMPLE, of=Orders.place),
        ),
    ),
    collections=(ORDERS,),
    views=(NEWEST,),
    made_up=sample_orders,
    times=frozenset({"placed"}),
    newer={ORDERS: newer},
)
