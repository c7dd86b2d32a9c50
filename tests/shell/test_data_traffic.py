"""A copy beside traffic is right at the end, whatever the order of events: killed, late, out of order, and twice.

The theory is in ``backends.copy.settling``. Each seed is one history, one traffic to both sides, one order of events.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from backends.adapters import registry
from backends.copy import settling
from backends.copy.comparing import compare
from backends.copy.copying import Copying, copy
from backends.copy.records import Differences
from backends.copy.rules import rules
from backends.copy.tally import Tally
from tests.support.traffic import AllKnowing, Careless, World

SEEDS = int(os.environ.get("PHASEGATE_TRAFFIC_SEEDS", "40"))
ENDLESS_S = 3600.0


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "PAUSE_S", 0)


async def copied(world: World, calm: AllKnowing, place: Path, kills: int) -> None:
    """Copy, killed so many times on the way, each time after a random number of turns."""
    for _ in range(kills):
        task = asyncio.ensure_future(copy(world.sides, rules(registry.adapters()), calm, place))
        for _ in range(world.dice.randrange(400)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await copy(world.sides, rules(registry.adapters()), calm, place, handling=Copying(ENDLESS_S))


async def played(seed: int, calm_of: type[AllKnowing], folder: Path) -> World:
    """A world after a copy beside traffic; everything has arrived."""
    world = World(seed)
    await world.history(25)
    share = world.dice.choice((0.0, 0.3, 1.0))
    mirror = asyncio.ensure_future(world.mirror())
    visitors = asyncio.ensure_future(world.visitors(40, share))
    await copied(world, calm_of(world), folder / f"{seed}.copy.json", world.dice.randrange(4))
    await visitors
    while world.on_its_way:
        await asyncio.sleep(0)
    mirror.cancel()
    return world


async def compared(world: World, folder: Path) -> tuple[list[Tally], int]:
    with Differences(folder / "differences", values=False) as differences:
        every = rules(registry.adapters())
        tallies = await compare(world.sides, every, AllKnowing(world), folder / "again", differences)
        return tallies, differences.count


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_copy_beside_traffic_is_right_at_the_end(seed: int, tmp_path: Path) -> None:
    world = await played(seed, AllKnowing, tmp_path)
    source, target = world.contents()
    assert target == source
    tallies, differences = await compared(world, tmp_path)
    assert differences == 0
    assert sum(tally.equal for tally in tallies) == len(source)
    assert [*tmp_path.glob("*.copy.json*")] == []  # a finished copy leaves no file of its progress


async def test_without_waiting_for_what_is_on_its_way_some_would_be_wrong(tmp_path: Path) -> None:
    wrong = 0
    for seed in range(SEEDS):
        world = await played(seed, Careless, tmp_path)
        source, target = world.contents()
        wrong += target != source
    assert wrong > 0
