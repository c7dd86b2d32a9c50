"""Two stores in memory, a mirror between them that is late and out of order, and visitors who write meanwhile.

Nothing here takes time: every call gives way to others a random number of times, drawn from a seed, so each seed is
one order of events.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from backends.adapters import registry
from backends.adapters.replies import OperationRefused
from backends.copy.walk import Sides
from backends.documents.changes import Change, Put
from backends.documents.port import Context, Document, Mutation, Precondition, Rejected, delete, put
from backends.kinds.mock.memory import MemoryStore
from backends.operations import Call

FOREVER = Context(float("inf"))
ITEMS = ("tea", "cup", "spoon")
AT = "2026-01-01T00:00:00Z"


class Unhurried(MemoryStore):
    """A store in memory whose calls take a while, before and after they take effect."""

    def __init__(self, dice: random.Random, turns: int, page: int) -> None:
        super().__init__()
        self._dice = dice
        self._turns = turns
        self._page = page

    async def rest(self) -> None:
        for _ in range(self._dice.randrange(self._turns + 1)):
            await asyncio.sleep(0)

    async def get_many(self, paths: Sequence[str], ctx: Context) -> list[Document | None]:
        await self.rest()
        documents = await super().get_many(paths, ctx)
        await self.rest()
        return documents

    async def scan(self, pattern: str, after: str | None, limit: int, ctx: Context) -> list[Document]:
        await self.rest()
        documents = await super().scan(pattern, after, min(limit, self._page), ctx)
        await self.rest()
        return documents

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        await self.rest()
        when = await super().commit(mutations, ctx)
        await self.rest()
        return when


class World:
    """Both sides, what is on its way between them, and who writes."""

    def __init__(self, seed: int, turns: int = 3, page: int = 3) -> None:
        """``turns``: that a call gives way to others at most; ``page``: documents in a page of a scan at most."""
        self.dice = random.Random(seed)
        self.stores = (Unhurried(self.dice, turns, page), Unhurried(self.dice, turns, page))
        self.sides = Sides(*self.stores)
        self.on_its_way: dict[int, tuple[int, Change | None]] = {}  # by number: the side that lacks it
        self.made = 0
        self._handlers = [registry.handlers(store) for store in self.sides]
        self._operations = {operation.name: operation for operation in registry.operations()}
        self._bodies: list[tuple[str, bytes, int]] = []  # of results that were posted: they may be posted again
        self.scans: list[str] = []
        self.old: list[str] = []  # documents from before the mirror, some of which are deleted

    async def call(
        self, side: int, name: str, body: object, mirrored: bool, sent: int | None = None, **params: str
    ) -> None:
        """One request to one side; its change is on its way from the moment it may be visible.

        ``sent``: the number of an earlier request that this one repeats.
        """
        self.made += 1
        number = self.made
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        now = 1_700_000_000.0 + (sent or number)
        call = Call(self._operations[name], b"", params, {}, raw, now, f"{number:06d}")
        if mirrored:
            self.on_its_way[number] = (1 - side, None)
        change = None
        with contextlib.suppress(OperationRefused):  # the scan is not there yet, or has finished
            _, change = await self._handlers[side][name](call, Context(asyncio.get_running_loop().time() + 60))
        if name == "scans.create":
            self.scans.append(call.id)
        if not mirrored:
            return
        if change is None:
            del self.on_its_way[number]
        else:
            self.on_its_way[number] = (1 - side, change)

    async def visit(self, side: int, mirrored: bool = True) -> None:
        """Some write."""
        dice = self.dice
        scan = dice.choice(self.scans) if self.scans else ""
        match dice.randrange(10):
            case 0:
                await self.call(side, "scans.create", {"root": "/"}, mirrored)
            case 1 if scan:
                status = dice.choice(("running", "running", "completed"))
                await self.call(side, "scans.update", {"status": status}, mirrored, id=scan)
            case 2 | 3 | 4 if scan:
                files = [
                    {"path": f"/{self.made}/{nth}", "size": dice.randrange(3), "hash": dice.choice("ab")}
                    for nth in range(dice.randrange(1, 4))
                ]
                raw = msgspec.json.encode({"files": files})
                self._bodies.append((scan, raw, self.made + 1))
                await self.call(side, "scans.add_results", raw, mirrored, id=scan)
            case 5 if self._bodies:
                again, raw, sent = dice.choice(self._bodies)
                await self.call(side, "scans.add_results", raw, mirrored, sent, id=again)
            case 6 if self.old and mirrored:
                await self._delete(side, dice.choice(self.old))
            case 7:
                await self.call(side, "dashboard.publish", {"metrics": {"n": dice.randrange(9)}}, mirrored)
            case _:
                batch = dice.randrange(40)  # the same batch may come twice; two batches share no event
                events = [
                    {"id": f"e{batch}-{n}", "user": "u", "type": "view", "item": ITEMS[(batch + n) % 3], "at": AT}
                    for n in range(1 + batch % 3)
                ]
                await self.call(side, "analytics.ingest", events, mirrored)

    async def _delete(self, side: int, path: str) -> None:
        """Delete a document; where there is none a handler answers 404, and nothing is changed."""
        self.made += 1
        number = self.made
        self.on_its_way[number] = (1 - side, None)
        stored = await self.sides[side].get(path, FOREVER)
        if stored is None:
            del self.on_its_way[number]
            return
        try:
            await self.sides[side].commit((delete(path, Precondition(update_time=stored.update_time)),), FOREVER)
        except Rejected:
            del self.on_its_way[number]
            return
        self.on_its_way[number] = (1 - side, Put((delete(path),)))

    async def history(self, writes: int) -> None:
        """What the source has from before there was a mirror."""
        for number in range(3):
            path = f"dashboard_snapshots/old-{number}"
            await self.sides.source.commit((put(path, {"metrics": {"n": number}}),), FOREVER)
            self.old.append(path)
        for _ in range(writes):
            await self.visit(0, mirrored=False)

    async def visitors(self, writes: int, share: float) -> None:
        """Writes, of which ``share`` go to the target."""
        for _ in range(writes):
            await self.visit(int(self.dice.random() < share))
            for _ in range(self.dice.randrange(30)):
                await asyncio.sleep(0)

    async def mirror(self, eagerness: float | None = None) -> None:
        """Hand over what is on its way: any of it, some of it twice, some of it much later than the rest."""
        eagerness = eagerness or self.dice.choice((0.3, 0.05, 0.01))
        while True:
            await asyncio.sleep(0)
            ready = [number for number, (_, change) in self.on_its_way.items() if change is not None]
            if not ready or self.dice.random() > eagerness:
                continue
            number = self.dice.choice(ready)
            side, change = self.on_its_way[number]
            assert change is not None
            await change.apply(self.sides[side], FOREVER)
            if self.dice.random() < 0.8:  # else it was taken and nobody heard of it: it is sent again
                del self.on_its_way[number]

    def contents(self) -> list[dict[str, Any]]:
        """What the two sides hold, by path."""
        return [{one.path: one.fields for one in store.documents()} for store in self.stores]


class AllKnowing:
    """Knows exactly what is on its way."""

    served = True

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def reached_both(self, since: float, within: float) -> bool:
        """Wait until everything that is on its way now has arrived."""
        waiting = set(self._world.on_its_way)
        while waiting & self._world.on_its_way.keys():
            await asyncio.sleep(0)
        return True


class Careless(AllKnowing):
    """Says of everything that it has arrived."""

    async def reached_both(self, since: float, within: float) -> bool:
        return True
