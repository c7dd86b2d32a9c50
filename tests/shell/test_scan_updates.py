"""An update of a scan job meets other writers: those who only count do not starve it, and later stays later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from backends.adapters.registry import operations
from backends.documents.port import Context, Mutation, Transform, merge
from backends.errors import Fault
from backends.kinds.mock.memory import MemoryStore
from backends.operations import Call
from backends.pair.storearm import StoreArm
from tests.support.patience import WITHIN_S

NOW = 1_800_000_000.0
BY_NAME = {operation.name: operation for operation in operations()}


class Busy(MemoryStore):
    """Between each read of an update and its write, somebody else counts files."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        if mutations[0].precondition is not None and self.left:
            self.left -= 1
            self._commit((merge(mutations[0].path, {}, (Transform(("files",), "increment", 1),)),))
        return await super().commit(mutations, ctx)


def call(name: str, body: object, call_id: str = "made", now: float = NOW, **params: str) -> Call:
    return Call(BY_NAME[name], b"", params, {}, json.dumps(body).encode(), now, call_id)


async def updated(
    store: MemoryStore, body: object, call_id: str, deadline_s: float = WITHIN_S, now: float = NOW
) -> Any:
    arm = StoreArm(store, deadline_s)
    return json.loads((await arm.answer(call("scans.update", body, call_id, now, id="made"))).body)


async def made(times: int = 0) -> Busy:
    store = Busy(times)
    await StoreArm(store, WITHIN_S).answer(call("scans.create", {"root": "/"}))
    return store


async def test_an_update_is_not_starved_by_those_who_count() -> None:
    store = await made(times=40)
    assert (await updated(store, {"message": "here"}, "a"))["message"] == "here"
    assert store.left == 0
    document = await store.get("scans/made", Context(0.0))
    assert document is not None
    assert document.fields["files"] == 40


async def test_an_update_that_loses_every_race_ends_by_its_deadline_and_says_so() -> None:
    store = await made(times=1_000_000)
    with pytest.raises(Fault, match="scans/made changed") as raised:
        await updated(store, {"message": "here"}, "a", deadline_s=0.4)
    assert not raised.value.may_have_applied


async def test_a_later_change_is_later_though_the_clock_is_behind() -> None:
    store = await made()
    assert (await updated(store, {"status": "running", "progress": 60}, "a"))["progress"] == 60.0
    after = await updated(store, {"progress": 30, "message": "late"}, "b", now=NOW - 3600)
    assert (after["progress"], after["message"]) == (30.0, "late")
    document = await store.get("scans/made", Context(0.0))
    assert document is not None
    edits: Any = document.fields["edits"]
    assert edits["message"][0] > edits["status"][0]


async def test_a_call_that_was_applied_before_is_not_applied_again_though_others_came_after_it() -> None:
    store = await made()
    await updated(store, {"message": "mine"}, "a")
    await updated(store, {"status": "running"}, "b")
    before = await store.get("scans/made", Context(0.0))
    assert (await updated(store, {"message": "mine"}, "a"))["status"] == "running"
    assert await store.get("scans/made", Context(0.0)) == before
