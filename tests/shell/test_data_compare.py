"""Compare and repair: every difference is found, and nothing else; what is on its way is told apart; repairs hold."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from backends.adapters import registry
from backends.arm import SOURCE, TARGET
from backends.copy import settling, walk
from backends.copy.calm import ArrivalLook, Calm, Undisturbed, Watched
from backends.copy.comparing import compare
from backends.copy.copying import copy
from backends.copy.pace import Pace
from backends.copy.records import Again, Differences, Progress, Unsettled
from backends.copy.repairing import Repairing
from backends.copy.rules import PatternRule, rules
from backends.copy.tally import Tally, result
from backends.copy.walk import Sides
from backends.documents.port import Context, Document, Mutation, delete, put
from backends.errors import Fault, FaultKind
from backends.kinds.mock.memory import MemoryStore
from tests.support.generated import GeneratedStore, fields_of, path_of
from tests.support.traffic import FOREVER, AllKnowing, World

DOCUMENTS = int(os.environ.get("PHASEGATE_DATA_DOCUMENTS", "5000"))
PLANTED = 10
KINDS = ("missing_on_target", "missing_on_source", "different")


def every_rule() -> dict[str, PatternRule]:
    return rules(registry.adapters())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "PAUSE_S", 0)
    monkeypatch.setattr(walk, "BASE_S", 0)


class Compared:
    """What a compare told."""

    def __init__(self, tallies: list[Tally], lines: list[dict[str, Any]]) -> None:
        self.result = result(tallies, "compare")
        self.lines = lines

    def kinds(self) -> dict[str, str]:
        return {line["path"]: line["kind"] for line in self.lines}


async def compared(sides: Sides, folder: Path, calm: Calm | None = None, **options: Any) -> Compared:
    file = folder / "differences.jsonl"
    with Differences(file, values=options.pop("values", False)) as differences:
        calm = calm or Undisturbed()
        tallies = await compare(sides, every_rule(), calm, folder / "again", differences, **options)
        differences.finish()
    assert sorted(path.name for path in folder.iterdir()) == ["differences.jsonl"]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({line["path"] for line in lines}) == len(lines), "a difference was told twice"
    return Compared(tallies, lines)


async def plant(sides: Sides, dice: random.Random) -> dict[str, str]:
    """Ten differences of each kind among the made-up documents: by path, of what kind."""
    numbers = iter(dice.sample(range(DOCUMENTS), 3 * PLANTED))
    planted = {}
    for kind in KINDS:
        for _ in range(PLANTED):
            path = path_of(next(numbers))
            planted[path] = kind
            if kind == "different":
                stored = await sides.target.get(path, FOREVER)
                assert stored is not None
                changed = {**stored.fields, "note": "y", "more": 1}
                await sides.target.commit((put(path, changed),), FOREVER)
            else:
                side = sides[TARGET if kind == "missing_on_target" else SOURCE]
                await side.commit((delete(path),), FOREVER)
    return planted


# --------------------------------------------------------------------------------------- finding what was planted


async def test_every_planted_difference_is_found_and_nothing_else_while_writes_go_on(tmp_path: Path) -> None:
    world = World(7, turns=8, page=100)
    await world.history(20)
    for one in world.sides.source.documents():
        await world.sides.target.commit((put(one.path, one.fields),), FOREVER)
    batch = [put(path_of(number), fields_of(number)) for number in range(DOCUMENTS)]
    for store in world.sides:
        for at in range(0, len(batch), 500):
            await MemoryStore.commit(store, batch[at : at + 500], FOREVER)
    planted = await plant(world.sides, random.Random(3))
    mirror = asyncio.ensure_future(world.mirror(0.5))  # so that it keeps up with writes that do not end
    before = world.made
    visitors = asyncio.ensure_future(world.visitors(10**9, 0.5))
    found = await compared(world.sides, tmp_path, AllKnowing(world))
    assert world.made - before > 20, "there was hardly any traffic"
    assert found.kinds() == planted
    assert {tuple(line["fields"]) for line in found.lines if line["kind"] == "different"} == {("more", "note")}
    assert found.result["equal"] is False
    snapshots = next(each for each in found.result["collections"] if each["name"] == "dashboard_snapshots")
    assert {kind: snapshots[kind] for kind in (*KINDS, "pending")} == {**dict.fromkeys(KINDS, PLANTED), "pending": 0}
    visitors.cancel()
    mirror.cancel()
    await asyncio.gather(visitors, mirror, return_exceptions=True)


async def test_documents_of_any_number_are_compared_a_page_at_a_time(tmp_path: Path) -> None:
    sides = Sides(GeneratedStore(DOCUMENTS), GeneratedStore(DOCUMENTS))
    planted = await plant(sides, random.Random(5))
    found = await compared(sides, tmp_path, values=True)
    assert found.kinds() == planted
    assert found.result["collections"][0]["equal"] == DOCUMENTS - 3 * PLANTED
    whole = next(line for line in found.lines if line["kind"] == "different")
    number = int(whole["path"].rpartition("/")[2], 16)
    assert whole["source"] == fields_of(number)  # not cut off
    assert whole["target"] == {**fields_of(number), "note": "y", "more": 1}
    one_sided = next(line for line in found.lines if line["kind"] == "missing_on_target")
    assert one_sided["target"] is None
    assert one_sided["source"]["note"] == "x" * 120


async def test_equal_sides_are_equal_and_empty_ones_too(tmp_path: Path) -> None:
    sides = Sides(GeneratedStore(10), GeneratedStore(10))
    assert (await compared(sides, tmp_path)).result["equal"] is True
    assert (await compared(Sides(GeneratedStore(0), GeneratedStore(0)), tmp_path)).result["equal"] is True


# ------------------------------------------------------------------------------------- on its way, and not wrong


class Never:
    """Something is always on its way."""

    served = True

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def reached_both(self, since: float, within: float) -> bool:
        return False


async def test_what_is_still_on_its_way_is_pending_and_no_difference(tmp_path: Path) -> None:
    sides = Sides(GeneratedStore(50), GeneratedStore(47))
    found = await compared(sides, tmp_path, Never(), patience_s=0.05)
    assert found.lines == []
    assert found.result["equal"] is False
    assert found.result["collections"][0]["pending"] == 3
    assert found.result["collections"][0]["equal"] == 47


async def test_a_document_that_arrives_while_it_is_looked_at_again_is_equal(tmp_path: Path) -> None:
    sides = Sides(GeneratedStore(50), GeneratedStore(49))

    class Arrives(Never):
        async def reached_both(self, since: float, within: float) -> bool:
            await sides.target.commit((put(path_of(49), fields_of(49)),), FOREVER)
            return True

    found = await compared(sides, tmp_path, Arrives())
    assert found.result["equal"] is True
    assert found.lines == []


# ------------------------------------------------------------------------------------------------------- repair


async def two_sides() -> Sides:
    """A newer and an older scan on each side, a counter that is ahead, one that nobody can decide, one-sided ones."""
    source, target = MemoryStore(), MemoryStore()

    async def both(path: str, one: Any, other: Any) -> None:
        for store, fields in ((source, one), (target, other)):
            if fields is not None:
                await store.commit((put(path, fields),), FOREVER)

    at = datetime(2026, 1, 1, tzinfo=UTC)
    old = {
        "root": "/",
        "name": "",
        "status": "running",
        "progress": 1.0,
        "message": "",
        "created_at": at,
        "updated_at": at,
        "revision": 1,
        "change": "a",
    }
    new = {**old, "revision": 2}
    await both("scans/a", old, new)
    await both("scans/b", {**new, "files": 1}, {**old, "files": 9})
    await both("scans/c/groups/x", {"copies": 2, "wasted": 1}, {"copies": 1, "wasted": 1})
    await both("scans/c/groups/y", {"copies": 2, "wasted": 1}, {"copies": 1, "wasted": 2})
    await both("dashboard_snapshots/s", {"metrics": {"n": 1}}, None)
    await both("dashboard_snapshots/t", None, {"metrics": {"n": 1}})
    await both("dashboard_snapshots/u", {"metrics": {"n": 1}}, {"metrics": {"n": 2}})
    return Sides(source, target)


def contents(store: Any) -> dict[str, Any]:
    return {one.path: one.fields for one in store.documents()}


async def test_without_a_side_the_newer_wins_and_what_no_rule_decides_stays_listed(tmp_path: Path) -> None:
    sides = await two_sides()
    found = await compared(sides, tmp_path, repairing=Repairing(None, deletes=False))
    assert found.kinds() == {"scans/c/groups/y": "different", "dashboard_snapshots/u": "different"}
    assert found.result["repaired"] == 5  # scans/b on both sides: its state here, its counter there
    one, other = map(contents, sides)
    assert one["scans/a"]["revision"] == 2
    assert other["scans/b"] == {**one["scans/b"]} == {**one["scans/b"], "revision": 2, "files": 9}
    assert one["dashboard_snapshots/t"] == other["dashboard_snapshots/s"] == {"metrics": {"n": 1}}


@pytest.mark.parametrize("follow", [SOURCE, TARGET])
@pytest.mark.parametrize("deletes", [False, True])
async def test_the_other_side_is_made_like_the_one_that_is_right(tmp_path: Path, follow: int, deletes: bool) -> None:
    sides = await two_sides()
    right = contents(sides[follow])
    found = await compared(sides, tmp_path, repairing=Repairing(follow, deletes=deletes))
    assert contents(sides[follow]) == right
    other = contents(sides[1 - follow])
    if deletes:
        assert other == right
        assert found.result["equal"] is True
    else:
        left = other.keys() - right.keys()
        assert left == {"dashboard_snapshots/t" if follow == SOURCE else "dashboard_snapshots/s"}
        assert found.kinds().keys() == left
    assert (await compared(sides, tmp_path)).result["equal"] is deletes


async def test_a_copy_overwrites_nothing_newer_and_deletes_nothing(tmp_path: Path) -> None:
    sides = await two_sides()
    before = contents(sides.target)
    source = contents(sides.source)
    tallies = await copy(sides, every_rule(), Undisturbed(), tmp_path / "place")
    assert contents(sides.source) == source
    after = contents(sides.target)
    assert after["scans/a"] == before["scans/a"]  # newer there
    assert after["scans/b"] == {**source["scans/b"], "files": 9}  # newer here, and counted further there
    assert after["scans/c/groups/x"] == source["scans/c/groups/x"]
    assert after["dashboard_snapshots/s"] == source["dashboard_snapshots/s"]
    for path in ("scans/c/groups/y", "dashboard_snapshots/t", "dashboard_snapshots/u"):
        assert after[path] == before[path]
    told = result(tallies, "copy")
    assert (told["copied"], told["skipped_newer"], told["equal"]) == (3, 4, False)
    assert (await copied_again(sides, tmp_path))["copied"] == 0


async def copied_again(sides: Sides, folder: Path) -> dict[str, Any]:
    return result(await copy(sides, every_rule(), Undisturbed(), folder / "place"), "copy")


async def test_a_stuck_mirror_makes_what_differs_pending_and_not_all_that_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ARRIVAL_S", "STARVED_S"):
        monkeypatch.setattr(settling, name, 0.01)
    sides = Sides(MemoryStore(), MemoryStore())
    for number in range(20):
        counter = Document(f"scans/a/groups/{number}", {"copies": number}, 1, 1)  # written long ago
        for store in sides:
            store._of("scans/a/groups").put(counter)
    await sides.source.commit((put("scans/a/groups/0", {"copies": 9}),), FOREVER)
    found = await compared(sides, tmp_path, Never(), patience_s=0.05)
    groups = next(each for each in found.result["collections"] if each["name"] == "scans/*/groups")
    assert (groups["equal"], groups["pending"], groups["different"]) == (19, 1, 0)


async def test_a_repair_beside_traffic_mends_what_was_planted_and_leaves_the_rest_right(tmp_path: Path) -> None:
    for seed in range(8):
        world = World(seed)
        await world.history(30)  # the target has nothing of it: it is all to be mended
        mirror = asyncio.ensure_future(world.mirror())
        visitors = asyncio.ensure_future(world.visitors(40, 0.4))
        repairing = Repairing(SOURCE, deletes=False)
        await compared(world.sides, tmp_path, AllKnowing(world), repairing=repairing, patience_s=3600.0)
        await visitors
        while world.on_its_way:
            await asyncio.sleep(0)
        mirror.cancel()
        source, target = world.contents()
        assert target == source, seed


async def test_a_repair_of_a_document_that_was_written_meanwhile_does_not_overwrite_it(tmp_path: Path) -> None:
    class Busy(MemoryStore):
        async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
            if not self.busy:
                self.busy = True
                await super().commit((put("dashboard_snapshots/a", {"n": 3}),), ctx)
            return await super().commit(mutations, ctx)

    source, target = MemoryStore(), Busy()
    target.busy = True
    await source.commit((put("dashboard_snapshots/a", {"n": 1}),), FOREVER)
    await target.commit((put("dashboard_snapshots/a", {"n": 2}),), FOREVER)
    target.busy = False
    found = await compared(Sides(source, target), tmp_path, repairing=Repairing(SOURCE, deletes=False))
    assert found.result["equal"] is True  # it was looked at again, and mended on its new version
    assert contents(target) == {"dashboard_snapshots/a": {"n": 1}}


async def test_a_document_that_the_other_store_cannot_take_is_listed_with_the_reason(tmp_path: Path) -> None:
    source, target = MemoryStore(), MemoryStore()
    for number in range(5):
        await source.commit((put(f"dashboard_snapshots/{number}", {"n": number}),), FOREVER)
    whole = Document("dashboard_snapshots/2", {"n": float("nan")}, 1, 1)
    source._collections["dashboard_snapshots"].put(whole)  # as a Firestore may hold it
    found = await compared(Sides(source, target), tmp_path, repairing=Repairing(SOURCE, deletes=False))
    assert found.kinds() == {"dashboard_snapshots/2": "missing_on_target"}
    assert "not finite" in found.lines[0]["reason"]
    assert len(contents(target)) == 4


# ------------------------------------------------------------------------------------------- faults, pace, sample


class Exhausted(GeneratedStore):
    """A service that is exhausted now and then."""

    async def commit(self, mutations: Sequence[Mutation], ctx: Context) -> int:
        self.tries = getattr(self, "tries", 0) + 1
        if self.tries % 3 == 1:
            raise Fault(FaultKind.EXHAUSTED, "Firestore: RESOURCE_EXHAUSTED: quota")
        return await super().commit(mutations, ctx)


async def test_an_exhausted_target_is_written_to_more_slowly_until_all_is_there(
    tmp_path: Path, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = Sides(GeneratedStore(1200), Exhausted(0))
    pace = Pace(1e9, asyncio.get_running_loop().time())
    monkeypatch.setattr("backends.copy.pace.REST_S", 0.0)
    tallies = await copy(sides, every_rule(), Undisturbed(), tmp_path / "place", pace=pace)
    assert result(tallies, "copy")["copied"] == 1200
    assert pace.rate < 1e9
    slowed = [line for line in logged if line["event"] == "data_slowed"]
    assert slowed
    assert "quota" in slowed[0]["reason"]


async def test_a_side_that_stays_unreachable_ends_the_task_with_its_fault(tmp_path: Path) -> None:
    class Down(GeneratedStore):
        async def scan(self, pattern: str, after: str | None, limit: int, ctx: Context) -> list[Document]:
            raise Fault(FaultKind.UNAVAILABLE, "Firestore: UNAVAILABLE: no route")

    with pytest.raises(Fault, match="no route"):
        await compared(Sides(GeneratedStore(3), Down(3)), tmp_path)
    assert not (tmp_path / "differences.jsonl").exists()


async def test_a_sample_looks_at_so_many_documents_and_finds_what_is_common(tmp_path: Path) -> None:
    sides = Sides(MemoryStore(), MemoryStore())
    dice = random.Random(2)
    for number in range(400):
        path = f"dashboard_snapshots/{dice.getrandbits(128):032x}"
        await sides.source.commit((put(path, {"n": number}),), FOREVER)
        if number % 4:
            await sides.target.commit((put(path, {"n": number}),), FOREVER)
        await sides.source.commit((put(f"scans/{number:08x}/results/{number:08x}", {"n": 1}),), FOREVER)
        await sides.target.commit((put(f"scans/{number:08x}/results/{number:08x}", {"n": 1}),), FOREVER)
    found = await compared(sides, tmp_path, sample=100)
    looked_at = sum(each["source"] for each in found.result["collections"])
    assert 80 <= looked_at <= 100
    assert {line["kind"] for line in found.lines} == {"missing_on_target"}


# ------------------------------------------------------------------------------------------------------ the files


def test_what_must_be_looked_at_again_survives_a_death_in_the_middle_of_a_line(tmp_path: Path) -> None:
    again = Again(tmp_path / "again")
    for number in range(120):
        again.put(Unsettled(f"scans/{number}", number % 2))
    again.close()
    with (tmp_path / "again").open("ab") as file:
        file.write(b'["scans/torn')
    again = Again(tmp_path / "again")
    again.put(Unsettled("scans/last"))
    assert again.count == 121
    seen = [one for few in again.round() for one in few]
    assert [one.path for one in seen] == [*(f"scans/{number}" for number in range(120)), "scans/last"]
    assert again.count == 0
    again.remove()
    assert [*tmp_path.iterdir()] == []


def test_a_round_that_did_not_end_is_begun_again(tmp_path: Path) -> None:
    again = Again(tmp_path / "again")
    again.put(Unsettled("scans/a"))
    for _ in again.round():
        break  # killed here
    again.close()
    again = Again(tmp_path / "again")
    assert again.count == 1
    again.remove()


def test_a_place_that_cannot_be_read_is_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "place").write_bytes(b'{"done": ["sc')
    assert Progress(tmp_path / "place").place.done == []


def test_a_copy_that_was_interrupted_long_ago_begins_anew(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "place")
    progress.place.done.append("scans")
    progress.save()
    assert Progress(tmp_path / "place").place.done == ["scans"]
    os.utime(tmp_path / "place", (0, 0))
    assert Progress(tmp_path / "place").place.done == []


def look(before: float) -> ArrivalLook:
    """Of workers that looked just now."""
    now = monotonic()
    return ArrivalLook(before, now, monotonic())


async def test_waiting_ends_with_what_the_parent_says_or_after_its_time() -> None:
    calm = Watched()
    since = calm.now()
    assert await calm.reached_both(since, 0.01) is False
    waiting = asyncio.ensure_future(calm.reached_both(since, 60.0))
    for _ in range(3):
        calm.heard(look(since))  # what was made at that moment is not said to be there
        for _ in range(3):
            await asyncio.sleep(0)
    assert not waiting.done()
    while not waiting.done():  # some always wait, but by and by they are younger ones
        calm.heard(look(calm.now()))
        await asyncio.sleep(0)
    assert await waiting is True
