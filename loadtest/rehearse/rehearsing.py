"""Runs one rehearsal: stage, load, fault, and the checks afterwards."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Final

from loadtest.generator.ledger import TOO_OFTEN, Promise
from loadtest.generator.visitors import regular
from loadtest.rehearse.acts import RehearsalScene
from loadtest.rehearse.faults import RehearsalRow
from loadtest.rehearse.judge import RehearsalVerdict, Seen, judge
from loadtest.rehearse.load import VISITORS, RehearsalLoad, document
from loadtest.rehearse.records import SOURCE, TARGET
from loadtest.stage.api import ControlApiError
from loadtest.stage.errors import StageError
from loadtest.stage.stage import StagedPhasegate, World

WARM_S: Final = 2.0  # of load before the migration starts, to fill views and open connections
WARM_WITHIN_S: Final = 30.0  # a freshly started target is slow at first
CALM: Final = 2  # polls in a row without pending changes
LOOK_EVERY_S: Final = 0.4  # between polls; longer than the gauges' update interval
BEFORE_S: Final = 3.0  # at weight 50 before the fault, so that each of the ``VISITORS`` has sent a request
AFTER_S: Final = 3.0  # likewise, after the fault
LOOK_AT_FAULT_EVERY_S: Final = 0.1  # between checks of the condition that ends it
SETTLE_S: Final = 10.0  # for pending changes to be mirrored
WHOLE_S: Final = 180.0  # timeout of a rehearsal
READERS: Final = 8  # concurrent readers of promises
READ_ATTEMPTS: Final = 3  # per promise: a temporary failure is not a lost write
READ_AGAIN_AFTER_S: Final = 0.5


async def rehearse(world: World, rehearsal: RehearsalRow, scale: float = 1.0) -> RehearsalVerdict:
    """Run a rehearsal and judge it. ``scale`` multiplies the quiet times and the fault's duration."""
    seen = Seen()
    try:
        async with asyncio.timeout(WHOLE_S * max(1.0, scale)):
            async with StagedPhasegate(world, rehearsal.setting, rehearsal.name) as stage:
                await _play(stage, rehearsal, seen, scale)
    except (StageError, ControlApiError) as error:
        seen.error = str(error)
    except TimeoutError:
        seen.error = f"not over after {WHOLE_S * max(1.0, scale):g} s"
    await _restore(world)
    return judge(rehearsal, seen)


async def _restore(world: World) -> None:
    """Start the shared processes again if they were killed."""
    if not world.target.running:
        await world.start_target()
    if not world.app.running:
        await world.start_app()


async def _play(stage: StagedPhasegate, rehearsal: RehearsalRow, seen: Seen, scale: float) -> None:
    load = RehearsalLoad(stage.listen, rehearsal.rate, rehearsal.mixture, seen.records.append)
    scene = RehearsalScene(stage)
    try:
        load.start()
        await _begin_migration(stage, rehearsal)
        seen.steady = time.monotonic()
        if rehearsal.begin:
            await asyncio.sleep(BEFORE_S * scale)
        scene.before = await asyncio.to_thread(stage.workers)
        known = len(await asyncio.to_thread(stage.audit))
        seen.begun, seen.unix_to_mono = time.monotonic(), time.monotonic() - time.time()
        for act in rehearsal.begin:
            await scene.do(act)
        await _last(scene, rehearsal, seen.begun, scale)
        for act in rehearsal.end:
            await scene.do(act)
        seen.ended = time.monotonic()
        await asyncio.sleep(AFTER_S * scale)
        await load.stop()
        await _look(stage, load, seen, known)
    finally:
        seen.facts = scene.facts
        await load.stop()
        await load.close()
        await scene.clear()


async def _begin_migration(stage: StagedPhasegate, rehearsal: RehearsalRow) -> None:
    """Start the migration once the target, perhaps freshly started, keeps up with mirrored changes."""
    await asyncio.sleep(WARM_S)
    if not await _settled(stage, WARM_WITHIN_S):
        raise StageError("the target does not keep up with the load's writes: the machine is too busy for this")
    await asyncio.to_thread(stage.api.act, "start", reason=rehearsal.name)
    if rehearsal.setting.plan == "held":
        await asyncio.to_thread(stage.api.act, "advance", reason=rehearsal.name)


async def _last(scene: RehearsalScene, rehearsal: RehearsalRow, begun: float, scale: float) -> None:
    """Wait for the fault's duration, or until its condition is true."""
    while time.monotonic() - begun < rehearsal.lasts_s * scale:
        if rehearsal.until and await scene.holds(rehearsal.until):
            return
        await asyncio.sleep(LOOK_AT_FAULT_EVERY_S)


async def _look(stage: StagedPhasegate, load: RehearsalLoad, seen: Seen, known: int) -> None:
    """Record the state after the load: status, counters, audit trail, lost writes."""
    seen.status = await asyncio.to_thread(stage.api.status)
    if seen.status["weight"] > 0:
        await _settled(stage, SETTLE_S)
    figures = await asyncio.to_thread(stage.api.call, "GET", f"{stage.api.path}/metrics")
    seen.counters = {
        arm: sum(row["arms"][arm]["requests"] for row in figures["operations"]) for arm in ("source", "target")
    } | {"fallbacks": sum(row["fallbacks"] for row in figures["operations"])}
    seen.mirror_lost = sum(figures["gauges"]["mirror_lost"])
    audit = await asyncio.to_thread(stage.audit)
    fresh = audit if len(audit) < known else audit[known:]  # a store that was set aside took its audit trail with it
    seen.audit = [line | {"unix": datetime.fromisoformat(line["at"]).timestamp()} for line in fresh]
    verified = await asyncio.to_thread(stage.api.call, "GET", f"{stage.api.path}/audit/verify")
    seen.chain = verified["problems"]
    await _find_everything(load, seen)


async def _settled(stage: StagedPhasegate, within_s: float) -> bool:
    """Wait until no mirrored changes are pending; returns whether that was reached in time."""
    deadline = time.monotonic() + within_s
    calm = 0
    while time.monotonic() < deadline and calm < CALM:
        figures = await asyncio.to_thread(stage.api.call, "GET", f"{stage.api.path}/metrics")
        calm = 0 if any(figures["gauges"]["mirror_pending"]) else calm + 1
        await asyncio.sleep(LOOK_EVERY_S)
    return calm >= CALM


async def _find_everything(load: RehearsalLoad, seen: Seen) -> None:
    """Look for every confirmed write on each side that answers now."""
    probes: dict[str, str] = {}
    for number in range(VISITORS):
        source, _ = await _current(load, regular(number))
        probes.setdefault(source, regular(number))
    newest = {}
    for source, visitor in probes.items():
        _, newest[source] = await _current(load, visitor)
    promises = list(load.ledger.promises())
    seen.promises = len(promises)
    sides = [(source, probes[source]) for source in (SOURCE, TARGET) if source in probes]
    if not sides:
        seen.lost.append("nobody answers")
    waiting = promises[::-1]

    async def reader() -> None:
        while waiting:
            promise = waiting.pop()
            problems = {
                source: await _missing(load, promise, visitor)
                for source, visitor in sides
                if promise.what != f"snapshot {newest[source]}"  # the current snapshot is not in the history
            }
            for source, problem in problems.items():
                if problem:
                    seen.lost.append(f"{source}: {problem}")
                    if problems.get(SOURCE) == "" and not problem.endswith(TOO_OFTEN):
                        seen.uncopied.append(seen.lost[-1])

    await asyncio.gather(*(reader() for _ in range(READERS)))


async def _current(load: RehearsalLoad, visitor: str) -> tuple[str, str]:
    """The backend that answers a visitor now, and the snapshot's id. Raises ``StageError`` without an answer."""
    reply = await load.read(visitor, "/api/dashboard/metrics")
    if not reply.status:
        raise StageError(f"{visitor} was not answered once the load was over: {reply.body.decode()}")
    snapshot = document(reply) or {}
    return reply.fields.get("x-data-source", ""), snapshot.get("id", "")


async def _missing(load: RehearsalLoad, promise: Promise, visitor: str) -> str:
    """What is wrong with a promise's answer; a failed read is retried."""
    problem = ""
    for _ in range(READ_ATTEMPTS):
        reply = await load.read(visitor, promise.path)
        if reply.status and reply.status < 500:
            return promise.problem(document(reply) if reply.status == 200 else None)
        problem = f"{promise.what}: {reply.status} {reply.body[:200]!r}"
        await asyncio.sleep(READ_AGAIN_AFTER_S)
    return problem
