"""A copy toward the emulator while visitors write to both sides, and the product's own mirror brings it across."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic, time
from typing import Any

import msgspec
import pytest

from backends.adapters import registry
from backends.arm import GAUGES, SOURCE, TARGET
from backends.copy.calm import ArrivalLook, Watched
from backends.copy.comparing import compare
from backends.copy.copying import copy
from backends.copy.records import Differences
from backends.copy.rules import rules
from backends.copy.tally import result
from backends.copy.walk import Sides
from backends.documents.port import Context
from backends.durations import Duration
from backends.kinds.firestore.settings import Firestore
from backends.kinds.mock.settings import Mock
from backends.operations import Call
from backends.pair.manager import Source, build_source
from tests.support.patience import WITHIN_S

SCANS = 40  # of the source's own, from before there was a target
WRITES = 150  # meanwhile


class Pair:
    """Both arms, and visitors who write to them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.sides = Sides(source.arms[SOURCE].store, source.arms[TARGET].store)
        self.calm = Watched()
        self.scans: list[str] = []
        self._dice = random.Random(6)
        self._operations = {operation.name: operation for operation in registry.operations()}
        self._made = 0

    def call(self, name: str, body: Any, **params: str) -> Call:
        self._made += 1
        raw = msgspec.json.encode(body)
        return Call(self._operations[name], b"", params, {}, raw, time(), f"{self._made:08x}")

    def files(self) -> dict[str, Any]:
        return {"files": [{"path": f"/{self._made}/{n}", "size": n + 1, "hash": "ab"[n % 2]} for n in range(5)]}

    def events(self) -> list[dict[str, Any]]:
        at = "2026-01-01T00:00:00Z"
        return [{"id": f"{self._made}-{n}", "user": "u", "type": "view", "item": "tea", "at": at} for n in range(3)]

    async def history(self) -> None:
        """What only the source has: its handlers are asked, and nobody mirrors."""
        handlers = registry.handlers(self.sides.source)
        context = Context(asyncio.get_running_loop().time() + WITHIN_S)
        for _ in range(SCANS):
            call = self.call("scans.create", {"root": "/"})
            await handlers["scans.create"](call, context)
            self.scans.append(call.id)
            await handlers["scans.add_results"](self.call("scans.add_results", self.files(), id=call.id), context)
            await handlers["analytics.ingest"](self.call("analytics.ingest", self.events()), context)

    async def visit(self) -> None:
        """One write to either side."""
        scan = self._dice.choice(self.scans)
        call = self._dice.choice(
            (
                self.call("scans.create", {"root": "/"}),
                self.call("scans.add_results", self.files(), id=scan),
                self.call("scans.add_results", self.files(), id=scan),
                self.call("scans.update", {"status": "running", "progress": 10}, id=scan),
                self.call("analytics.ingest", self.events()),
                self.call("dashboard.publish", {"metrics": {"n": self._made}}),
            )
        )
        arm = int(self._dice.random() < 0.3)
        if call.operation.name == "scans.update" or (call.params and await self._lacks(arm, scan)):
            arm = SOURCE  # a visitor whose job the target lacks is on the source
        outcome = await self.source.answer(arm, call)
        assert outcome.answer.status < 300, outcome.answer.body

    async def _lacks(self, arm: int, scan: str) -> bool:
        context = Context(asyncio.get_running_loop().time() + WITHIN_S)
        stored = await self.sides[arm].get(f"scans/{scan}", context)
        return stored is None or "status" not in stored.fields

    async def visitors(self) -> None:
        for _ in range(WRITES):
            await self.visit()
            await asyncio.sleep(0.03)

    def behind(self) -> int:
        return dict(zip(GAUGES, self.source.gauges(), strict=True))["mirror_pending"]

    async def parent(self) -> None:
        """What a serving phasegate tells the task."""
        while True:
            looked = monotonic()
            self.calm.heard(ArrivalLook(self.source.arrived() / 1e9, looked, monotonic()))
            await asyncio.sleep(0.02)


@pytest.fixture
async def pair(emulated: str) -> AsyncIterator[Pair]:
    source = build_source(
        Mock(fixtures=None), Firestore(emulated, deadline_s=Duration(WITHIN_S)), run_dir=None, name="m", mode="hybrid"
    )
    await source.start()
    yield Pair(source)
    await source.close()


async def test_a_copy_beside_visitors_is_right_at_the_end(pair: Pair, tmp_path: Path) -> None:
    every = rules(registry.adapters())
    await pair.history()
    parent = asyncio.create_task(pair.parent())
    visitors = asyncio.create_task(pair.visitors())
    copied = result(await copy(pair.sides, every, pair.calm, tmp_path / "place"), "copy")
    await visitors
    assert copied["copied"] > SCANS
    assert sum(each["pending"] for each in copied["collections"]) == 0
    while pair.behind():
        await asyncio.sleep(0.1)
    with Differences(tmp_path / "differences.jsonl", values=True) as differences:
        tallies = await compare(pair.sides, every, pair.calm, tmp_path / "again", differences)
        differences.finish()
    assert (tmp_path / "differences.jsonl").read_text() == ""
    assert result(tallies, "compare")["equal"] is True
    parent.cancel()
    await asyncio.gather(parent, return_exceptions=True)
