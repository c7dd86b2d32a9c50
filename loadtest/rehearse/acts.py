"""The actions on a stage, by name: the verbs of the table of rehearsals, and the conditions that end a fault.

Each act records as facts what it saw happen; the judge looks facts up by name.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

from loadtest.rehearse.crowd import BadClients, Flood
from loadtest.rehearse.faults import Act
from loadtest.stage.api import ControlApiError
from loadtest.stage.config import WORKERS
from loadtest.stage.errors import StageError
from loadtest.stage.processes import Process, until
from loadtest.stage.relay import Trouble
from loadtest.stage.stage import StagedPhasegate

REPLACED_WITHIN_S: Final = 30.0  # a process that was killed or asked to end, on a busy machine
SEEN_WITHIN_S: Final = 10.0  # a change in the status or the log, which are read every second
NEAR_S: Final = 60.0  # tolerance when checking a set clock: the verdict's time is some seconds old
_SPOIL: Final = '\n[migrations.phase6.thresholds.nonsense]\nerror_rate = "high"\n'
_NEW_P99: Final = 4900  # ms; differs from the stage's limit, and is as far from measured values


class RehearsalScene:
    """A stage, what was done to it, and the facts recorded so far."""

    def __init__(self, stage: StagedPhasegate) -> None:
        self.stage = stage
        self.facts: dict[str, Any] = {}
        self.crowd = BadClients(stage.listen)
        self.flood = Flood(stage.listen)
        self.before: dict[int, int] = {}  # the workers' process ids when the fault began
        self._stopped: list[int] = []

    async def do(self, act: Act) -> None:
        """Carry out one act."""
        await VERBS[act.verb](self, *act.args)

    async def holds(self, condition: str) -> bool:
        """Whether a condition is true now."""
        return await asyncio.to_thread(CONDITIONS[condition], self)

    async def clear(self) -> None:
        """Undo what would prevent the stage from ending."""
        for pid in self._stopped:
            _signal(pid, signal.SIGCONT)
        await self.crowd.leave()
        await self.flood.end()

    def process(self, name: str) -> Process:
        """The process that the table calls ``name``."""
        world = self.stage.world
        by_name = {"target": world.target, "app": world.app, "supervisor": self.stage.phasegate}
        return by_name[name]

    def hold(self, pid: int) -> None:
        """SIGSTOP a process; ``clear`` continues it at the latest."""
        self._stopped.append(pid)
        _signal(pid, signal.SIGSTOP)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


# Processes.


async def _kill(scene: RehearsalScene, name: str) -> None:
    process = scene.process(name)
    process.signal(signal.SIGKILL)
    scene.facts[f"{name}_killed"] = await asyncio.to_thread(process.wait, SEEN_WITHIN_S)


async def _stop(scene: RehearsalScene, name: str) -> None:
    scene.hold(scene.process(name).pid)
    scene.facts[f"{name}_stopped"] = True


async def _cont(scene: RehearsalScene, name: str) -> None:
    scene.process(name).signal(signal.SIGCONT)


async def _start(scene: RehearsalScene, name: str) -> None:
    if name == "target":
        await scene.stage.world.start_target()
    elif name == "app":
        await scene.stage.world.start_app()
    else:
        scene.stage.phasegate.start()
        await scene.stage.ready()


async def _kill_workers(scene: RehearsalScene) -> None:
    """Kill each worker in turn, the next one when every slot is served again."""
    killed = 0
    for pid in list(scene.before.values()):
        _signal(pid, signal.SIGKILL)
        killed += 1
        replaced = await until(
            lambda pid=pid: pid not in (now := scene.stage.workers()).values() and len(now) == WORKERS,  # type: ignore[misc]
            REPLACED_WITHIN_S,
        )
        if not replaced:
            raise StageError("a killed worker was not replaced")
    scene.facts["workers_killed"] = killed
    scene.facts["workers_replaced"] = _all_new(scene)


async def _kill_control(scene: RehearsalScene) -> None:
    before = scene.stage.control_pid()
    _signal(before, signal.SIGKILL)
    scene.facts["control_killed"] = before
    await until(lambda: scene.stage.control_pid() not in (0, before) and scene.stage.leads(), REPLACED_WITHIN_S)
    scene.facts["control_replaced"] = scene.stage.control_pid() not in (0, before)
    if "store_corrupted" in scene.facts:
        scene.facts["store_set_aside"] = any(scene.stage.run_dir.glob("control.db.broken-*"))


async def _stop_control(scene: RehearsalScene) -> None:
    pid = scene.stage.control_pid()
    scene.hold(pid)
    scene.facts["control_stopped"] = pid


async def _cont_control(scene: RehearsalScene) -> None:
    # Until now no control process led: the workers acted without control.
    scene.facts["left_at"] = time.monotonic()
    _signal(int(scene.facts["control_stopped"]), signal.SIGCONT)
    await until(scene.stage.leads, REPLACED_WITHIN_S)


# The target, and the way to it.


async def _trouble(scene: RehearsalScene, how: dict[str, Any]) -> None:
    assert scene.stage.relay is not None
    scene.stage.relay.begin(Trouble(**how))


async def _no_trouble(scene: RehearsalScene) -> None:
    assert scene.stage.relay is not None
    scene.stage.relay.end()
    scene.facts["calls_met"] = scene.stage.relay.met


async def _cut(scene: RehearsalScene) -> None:
    assert scene.stage.cable is not None
    scene.stage.cable.cut()


async def _mend(scene: RehearsalScene) -> None:
    assert scene.stage.cable is not None
    scene.stage.cable.mend()
    scene.facts["pieces_held"] = scene.stage.cable.held


# The machine.


async def _fill_disk(scene: RehearsalScene) -> None:
    def fill() -> None:
        with open(scene.stage.run_dir / "ballast", "wb", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12, 1):  # to the last byte
                try:
                    while True:
                        ballast.write(b"x" * size)
                except OSError:
                    continue

    await asyncio.to_thread(fill)
    space = os.statvfs(scene.stage.run_dir)
    scene.facts["disk_filled"] = space.f_bavail == 0


async def _free_disk(scene: RehearsalScene) -> None:
    checkpoint = (await asyncio.to_thread(scene.stage.status)).get("checkpoint", {})
    scene.facts["store_failed"] = checkpoint.get("ok") is False
    (scene.stage.run_dir / "ballast").unlink()
    scene.facts["store_well_again"] = await until(
        lambda: scene.stage.status().get("checkpoint", {}).get("ok") is True, SEEN_WITHIN_S
    )


async def _set_clock(scene: RehearsalScene, offset_s: int) -> None:
    scene.stage.set_clock(offset_s)

    def off_by() -> float:
        checked = scene.stage.status()["verdict"]["checked_at"]
        return datetime.fromisoformat(checked).timestamp() - time.time()

    reached = await until(lambda: abs(off_by() - offset_s) < NEAR_S, SEEN_WITHIN_S)
    if offset_s:
        scene.facts["clock_forth" if offset_s > 0 else "clock_back"] = reached


async def _corrupt_store(scene: RehearsalScene) -> None:
    path = scene.stage.run_dir / "control.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"this is no database any more\n" * (size // 29 + 1))
    for suffix in ("-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.write_bytes(b"nor is this")
    scene.facts["store_corrupted"] = size


async def _hoard(scene: RehearsalScene, count: int) -> None:
    scene.facts["memory_was_below"] = await asyncio.to_thread(_below, scene, "memory_mb")
    await _crowd(scene, "hoarding", count)


async def _crowd(scene: RehearsalScene, kind: Any, count: int) -> None:
    await scene.crowd.come(kind, count)
    scene.facts["crowd_came"] = scene.crowd.came
    scene.facts["crowd_turned_away"] = scene.crowd.turned_away


async def _disperse(scene: RehearsalScene) -> None:
    await scene.crowd.leave()


async def _flood(scene: RehearsalScene, connections: int) -> None:
    scene.facts["cpu_was_below"] = await asyncio.to_thread(_below, scene, "cpu")
    scene.flood.begin(connections)


async def _end_flood(scene: RehearsalScene) -> None:
    await scene.flood.end()
    scene.facts["flood_answered"] = scene.flood.answered
    scene.facts["flood_refused"] = scene.flood.refused


# What an operator does.


async def _reload(scene: RehearsalScene, how: str) -> None:
    stage = scene.stage
    if how == "bad":
        stage.write_config(spoil=_SPOIL)
    elif how == "good":
        stage.write_config(thresholds=(("p99_ms", _NEW_P99),))
    stage.phasegate.signal(signal.SIGHUP)
    if how == "bad":
        scene.facts["reload_refused"] = await until(lambda: stage.phasegate.logged("reload_refused"), SEEN_WITHIN_S)
        return
    scene.facts["workers_replaced"] = await until(lambda: _all_new(scene), REPLACED_WITHIN_S)
    if how == "good":
        scene.facts["threshold_new"] = await until(lambda: _limit(scene, "p99_ms") == _NEW_P99, SEEN_WITHIN_S)


async def _command(scene: RehearsalScene, action: str, to: str) -> None:
    began = time.monotonic()
    try:
        await asyncio.to_thread(scene.stage.api.act, action, to=to, reason="the rehearsal's")
    except ControlApiError as error:
        scene.facts["command_answer"] = str(error)
    scene.facts["command_s"] = round(time.monotonic() - began, 3)


async def _wait(scene: RehearsalScene, seconds: float) -> None:
    await asyncio.sleep(seconds)


VERBS: Final[dict[str, Callable[..., Awaitable[None]]]] = {
    "kill": _kill,
    "stop": _stop,
    "cont": _cont,
    "start": _start,
    "kill_workers": _kill_workers,
    "kill_control": _kill_control,
    "stop_control": _stop_control,
    "cont_control": _cont_control,
    "trouble": _trouble,
    "no_trouble": _no_trouble,
    "cut": _cut,
    "mend": _mend,
    "fill_disk": _fill_disk,
    "free_disk": _free_disk,
    "set_clock": _set_clock,
    "corrupt_store": _corrupt_store,
    "hoard": _hoard,
    "crowd": _crowd,
    "disperse": _disperse,
    "flood": _flood,
    "end_flood": _end_flood,
    "reload": _reload,
    "command": _command,
    "wait": _wait,
}


# Conditions.


def _back(scene: RehearsalScene) -> bool:
    """The rollback is complete."""
    return scene.stage.status().get("state") == "rolled_back"


def _at(weight: float, *states: str) -> Callable[[RehearsalScene], bool]:
    def holds(scene: RehearsalScene) -> bool:
        status = scene.stage.status()
        return status.get("weight") == weight and status.get("state") in states

    return holds


def _all_new(scene: RehearsalScene) -> bool:
    now = scene.stage.workers()
    return len(now) == WORKERS and not set(now.values()) & set(scene.before.values())


def _rule(scene: RehearsalScene, name: str) -> dict[str, Any]:
    rules = scene.stage.status().get("verdict", {}).get("rules", ())
    return next((rule for rule in rules if rule["rule"] == name), {})


def _limit(scene: RehearsalScene, name: str) -> float | None:
    return _rule(scene, name).get("limit")


def _below(scene: RehearsalScene, name: str) -> bool:
    rule = _rule(scene, name)
    return rule.get("value") is not None and rule["value"] <= rule["limit"]


CONDITIONS: Final[dict[str, Callable[[RehearsalScene], bool]]] = {
    "back": _back,
    "at_0": _at(0, "rolled_back"),
    "at_100": _at(100, "running", "completed"),
    "completed": _at(100, "completed"),
    "workers_new": _all_new,
    "control_ready": lambda scene: scene.stage.leads(),
}
