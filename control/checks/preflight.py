"""Pre-flight: checks everything that a migration needs before it begins. Nothing here changes a running phasegate.

Each check is a function that takes ``Preflight`` and yields ``Check``s: what was found, and how to repair it. What
`serve` would refuse is checked by its own functions, which whoever calls hands over.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import psutil

from backends.arm import TARGET
from backends.backend import Backend
from backends.copy.folder import FixtureError
from backends.documents.port import Context, Rejected, delete, put
from backends.errors import Fault, said_by
from backends.kinds.registry import KINDS, Kind, opener
from backends.origin import Reach
from control.checks.check import Check
from control.checks.health import ask_once, ask_origin
from control.checks.indexed import indexed
from control.plan.phases import FULL_BP
from control.plan.settings import Settings, address
from proxy.board import board
from proxy.migration.buckets import assign, bucket, salt
from proxy.migration.routes import layout
from proxy.process.fixed import changed, fixed_of
from proxy.process.rundir import owner, ready_in

APP_TIMEOUT_S: Final = 5.0
BACKEND_TIMEOUT_S: Final = 10.0  # to write and delete one document
BYTES_PER_MB: Final = 1_000_000
DISK_FREE_MB: Final = 100  # least free space for checkpoints, audit trail and journal
LOAD_A_CORE: Final = 1.0  # load average per core above which latencies measure the machine and not the target
CLOCK_SKEW_S: Final = 30.0  # allowed between this clock and the app's; a larger one is a clock that is not set
REHEARSAL_KEYS: Final = 1000  # visitors in the rehearsed rollback: enough for some to be on the target
PROBE: Final = "phasegate/preflight"  # path of the document that the permission check writes and deletes
_VENDOR: Final = Path(__file__).parents[1] / "dashboard" / "vendor"

Look = Callable[["Preflight"], Iterator[Check]]
Obstacles = Callable[[Settings], Iterator[Check]]  # what keeps a configuration from being served


@dataclass(slots=True)
class Preflight:
    """The checks' input."""

    settings: Settings
    token: str | None
    obstacles: Obstacles
    is_served: bool  # whether a phasegate answers where this configuration's control plane would
    inside: bool  # whether this is the control process itself, whose ports and run directory are in use by it
    app_date: str | None = None  # the Date field of the app's answer, for the check of the clock


async def run_checks(settings: Settings, obstacles: Obstacles) -> list[Check]:
    """Make every check, from within the control process."""
    return await _run(Preflight(settings, None, obstacles, is_served=True, inside=True))


def preflight(settings: Settings, obstacles: Obstacles, *, token: str | None, is_served: bool) -> list[Check]:
    """Make every check, from another process; ``is_served``: whether a control plane answers."""
    return asyncio.run(_run(Preflight(settings, token, obstacles, is_served=is_served, inside=False)))


async def _run(scene: Preflight) -> list[Check]:
    """Make the checks in the order in which a person would repair things.

    App and backends are asked on the event loop. All other checks may block, so they run in a thread.
    """
    before = await asyncio.to_thread(_look, scene, _BEFORE)
    reached = [*await _app(scene), *await _backends(scene)]
    return before + reached + await asyncio.to_thread(_look, scene, _AFTER)


def _look(scene: Preflight, checks: tuple[Look, ...]) -> list[Check]:
    return [check for look in checks for check in look(scene)]


def _config(scene: Preflight) -> Iterator[Check]:
    settings = scene.settings
    plans = [f"{name}: {m.source} to {m.target}, {len(m.phases)} phases" for name, m in settings.migrations.items()]
    yield Check("configuration", True, "; ".join(plans))


def _phases(scene: Preflight) -> Iterator[Check]:
    """Warn of phases that are valid but probably a mistake. Invalid ones were refused when the file was read."""
    for name, migration in scene.settings.migrations.items():
        odd = []
        if migration.phases[-1].weight_bp != FULL_BP:
            odd.append(f"the last phase leaves {100 - migration.phases[-1].weight:g} % on the source for good")
        if any(phase.min_soak_s < migration.validate_every_s for phase in migration.phases):
            every = f"validate_every = {migration.validate_every_s:g}s"
            odd.append(f"a phase may end before its first validation ({every})")
        if migration.thresholds.p99_ms < migration.thresholds.p95_ms:
            odd.append("the limit of p99 is below that of p95")
        soak = sum(phase.min_soak_s for phase in migration.phases)
        found = f"{' → '.join(f'{phase.weight:g} %' for phase in migration.phases)}, at least {soak / 60:.1f} minutes"
        mend = f"Look at [migrations.{name}]: {'; '.join(odd)}." if odd else ""
        yield Check(f"phases of {name}", not odd, f"{found}; {'; '.join(odd)}" if odd else found, mend)


def _obstacles(scene: Preflight) -> Iterator[Check]:
    yield from scene.obstacles(scene.settings)


async def _app(scene: Preflight) -> list[Check]:
    app = scene.settings.app
    health, scene.app_date, unusable_tls = await ask_origin(Reach(app.origin, APP_TIMEOUT_S, app.tls), below_500=True)
    found = f"{health.detail} ({health.latency_ms:.0f} ms)"
    mend = f"Start the app, or correct app.origin ({app.origin})."
    return [Check("app", health.ok, found, unusable_tls or mend)]


async def _backends(scene: Preflight) -> list[Check]:
    used = {name for m in scene.settings.migrations.values() for name in (m.source, m.target)}
    return [check for name in sorted(used) for check in await _backend(scene.settings, name)]


async def _backend(settings: Settings, name: str) -> list[Check]:
    try:
        health = await ask_once(settings, name)
    except FixtureError:
        return []  # told among the obstacles
    backend = settings.backends[name]
    kind = KINDS[backend.kind]
    if not health.ok or kind.open_store is None or kind.local:
        return [health]
    permissions = await _permissions(f"{health.name}, permissions", backend, kind)
    return [health, permissions, *await indexed(health.name, backend, kind)]


async def _permissions(title: str, backend: Backend, kind: Kind) -> Check:
    """Write and delete a document: a health check only reads, so it cannot tell whether writing is allowed."""
    store = opener(backend)(backend, None)
    await store.start()
    try:
        context = Context(asyncio.get_running_loop().time() + BACKEND_TIMEOUT_S)
        await store.commit([put(PROBE, {"checked": True})], context)
        await store.commit([delete(PROBE)], context)
    except (Fault, Rejected) as problem:
        mend = kind.mend_writing if problem.trouble is None else problem.trouble.mend
        return Check(title, False, f"reading works, writing does not: {problem}", mend)
    finally:
        await store.close()
    where = f" in {kind.project(backend)}" if kind.project is not None else ""
    return Check(title, True, f"a document was written and deleted{where}")


def _access(scene: Preflight) -> Iterator[Check]:
    control = scene.settings.control
    operators = [token.name for token in control.tokens if token.role == "operator"]
    who = [f"{len(control.admins)} admins", f"operator tokens: {', '.join(operators) or 'none'}"]
    mend = "Add an e-mail address to control.admins, or the line that `phasegate token` prints to control.tokens."
    yield Check("admin access", bool(operators or control.admins), "; ".join(who), mend)
    if scene.token is not None:
        digest = hashlib.sha256(scene.token.encode()).hexdigest()
        known = next((token for token in control.tokens if token.sha256.lower() == digest), None)
        whose = f"{known.name}'s, role {known.role}" if known else "in no line of control.tokens"
        good = known is not None and known.role == "operator"
        yield Check("token", good, f"PHASEGATE_TOKEN is {whose}", "Put an operator's token into PHASEGATE_TOKEN.")


def _load(scene: Preflight) -> Iterator[Check]:
    """Warn of a busy machine. It is no failure: the load of one moment says nothing of when the migration begins."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    found = f"load {load:.2f} on {cores} cores"
    if load < LOAD_A_CORE * cores:
        yield Check("system load", True, found)
        return
    mend = "Wait until the machine is quieter, or give it more processors: a loaded one makes any target look slow."
    yield Check("system load", None, f"{found}, more than {LOAD_A_CORE * cores:g}", mend)


def _memory(scene: Preflight) -> Iterator[Check]:
    free = psutil.virtual_memory().available / BYTES_PER_MB
    needed = max(m.thresholds.memory_mb for m in scene.settings.migrations.values())
    mend = "Give the machine more memory: without it any target looks slow."
    yield Check("memory", free > needed, f"{free:.0f} MB of memory free, {needed:.0f} MB needed", mend)


def _ports(scene: Preflight) -> Iterator[Check]:
    """Whether each address is free, but for those that the serving phasegate has; and what it takes at a restart."""
    settings = scene.settings
    wanted = fixed_of(settings.plan(), settings.control.listen)
    ready = ready_in(Path(settings.proxy.run_dir)) if scene.is_served else None
    served = wanted if scene.inside or ready is None else ready.fixed or wanted
    taken = (*served.listen, *served.listeners, served.control) if scene.is_served else ()
    listens = [("proxy.listen", text) for text in wanted.listen]
    listens += [("proxy.listeners", text) for text in wanted.listeners]
    for key, text in [*listens, ("control.listen", wanted.control)]:
        if text in taken:
            yield Check(key, True, f"{text}: this phasegate is running")
            continue
        host, port = address(text)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
            yield Check(key, True, f"{text} is free")
        except OSError as error:
            mend = "Stop the process that listens there, or choose another address."
            yield Check(key, False, f"{text}: {_why(error)}", mend)
    if keys := changed(served, wanted):
        found = f"{', '.join(keys)}: not as the serving phasegate has it"
        yield Check("restart", None, found, "Restart phasegate to take this configuration: a reload refuses it.")


def _dashboard(scene: Preflight) -> Iterator[Check]:
    complete = any(_VENDOR.glob("*.js"))
    found = "its libraries are installed" if complete else "its libraries are missing"
    yield Check("dashboard", complete, found, "Run `make vendor` in the source tree.")


def _state(scene: Preflight) -> Iterator[Check]:
    folder = Path(scene.settings.proxy.run_dir)
    mend = "Choose another proxy.run_dir, or give the user that runs phasegate the right to write there."
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"phasegate")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free / BYTES_PER_MB
        yield Check("state", free > DISK_FREE_MB, f"{folder} can be written, {free:.0f} MB free", mend)
    except OSError as error:
        yield Check("state", False, f"{folder}: {_why(error)}", mend)
        return
    if not scene.is_served and (process := owner(folder)) is not None:
        found = f"process {process} uses {folder}"
        yield Check("run directory", False, found, "Stop that phasegate, or choose another proxy.run_dir.")


def _rehearsal(scene: Preflight) -> Iterator[Check]:
    """Rehearse a rollback on a board of this configuration: once the weight is published, no key is on the target."""
    plan = scene.settings.plan()
    keys = [f"rehearsal-{i}".encode() for i in range(REHEARSAL_KEYS)]
    with tempfile.TemporaryDirectory() as folder:
        rehearsed = board.Board.create(Path(folder) / "board", layout(plan, plan.proxy.workers), board.boot_id())
        try:
            for number, (name, migration) in enumerate(scene.settings.migrations.items()):
                buckets = [bucket(salt(name), key) for key in keys]
                weight_bp = migration.phases[-1].weight_bp

                def on_target(number: int = number, buckets: list[int] = buckets) -> int:
                    word = rehearsed.word(number)
                    return sum(assign(one, word.weight_bp) == TARGET for one in buckets)

                rehearsed.publish(number, weight_bp, pinned=False, now_ns=time.monotonic_ns())
                before = on_target()
                began = time.perf_counter_ns()
                rehearsed.publish(number, 0, pinned=False, now_ns=time.monotonic_ns())
                took = (time.perf_counter_ns() - began) / 1000
                after = on_target()
                found = f"{before} of {len(keys)} keys on the target before, {after} after one store of {took:.0f} µs"
                good = before > 0 and after == 0
                yield Check(f"rollback of {name}, rehearsed", good, found, "This is a bug of phasegate: report it.")
        finally:
            rehearsed.close()


def _clock(scene: Preflight) -> Iterator[Check]:
    """Compare the wall clock with the app's. It dates the audit trail and the data; deadlines do not depend on it."""
    if scene.app_date is None:
        yield Check("clock", None, "the app sent no Date to compare it with")
        return
    try:
        skew = time.time() - parsedate_to_datetime(scene.app_date).timestamp()
    except ValueError:
        yield Check("clock", None, f"the app's Date cannot be read: {scene.app_date}")
        return
    mend = "Set the clock (NTP) here or where the app runs."
    yield Check("clock", abs(skew) < CLOCK_SKEW_S, f"{skew:+.0f} s from the app's clock", mend)


_BEFORE: Final[tuple[Look, ...]] = (_config, _phases, _obstacles)
_AFTER: Final[tuple[Look, ...]] = (_access, _load, _memory, _ports, _dashboard, _state, _rehearsal, _clock)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return said_by(error)
