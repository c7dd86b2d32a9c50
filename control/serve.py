"""The composition root, which alone knows everything: ``serve`` runs phasegate, ``main`` is its control process.

The control process is spawned by the supervisor as ``python -m control.serve`` with one JSON document on its standard
input: the control port's inherited socket, the board's place, and the settings.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from backends.durations import encode_hook
from control.checks.check import Check
from control.lead import priority, splitkey, starting
from control.lead.succession import STORE, ConfiguredSuccession
from control.plan.settings import ConfigError, Settings, decode, encode, load

if TYPE_CHECKING:
    from control.checks.health import Arms
    from control.data.messages import OrderedTask
    from control.data.runner import TaskRunner
    from control.lead.datakeeper import DataSetup
    from proxy.board.board import Board

_log = structlog.get_logger("phasegate.control")

STDERR: Final = 2
SESSIONS: Final = "sessions.json"


def serve(config: str | Path) -> int:
    """Serve traffic by a configuration file until told to end; returns the exit code. Raises ``CannotStartError``."""
    from proxy.process import supervisor

    def read() -> supervisor.Launch:
        settings = load(config)
        if problems := starting.refusals(settings):
            raise ConfigError(problems)
        return supervisor.Launch(
            settings.plan(),
            settings.control.listen,
            "control.serve",
            encode(settings).decode(),
            ConfiguredSuccession(settings, Path(settings.proxy.run_dir) / STORE),
        )

    try:
        return supervisor.supervise(read)
    except ConfigError as error:
        raise supervisor.CannotStartError("\n".join(error.problems)) from error


class ControlOrders(msgspec.Struct, frozen=True):
    """What the supervisor tells the control process."""

    fd: int
    rows: int
    board: str
    boot: int
    orders: str
    extensions: tuple[str, ...] = ()  # from outside the product, as MODULE:NAME: loaded before ``orders`` is decoded
    log: int = 2  # the descriptor to log to


def main() -> None:
    """The control process."""
    import uvloop

    from backends import extensions
    from proxy.process import child, logs

    orders = msgspec.json.decode(child.read_orders(), type=ControlOrders)
    child.die_with_parent()
    logs.configure("control", orders.log)
    extensions.use(orders.extensions)
    uvloop.run(control(orders))


async def control(orders: ControlOrders) -> None:
    """Lead every migration and answer the control port, until SIGTERM."""
    from proxy.board.board import Board
    from proxy.migration.routes import layout

    settings = decode(orders.orders.encode())
    board = Board.open(Path(orders.board), layout(settings.plan(), orders.rows), orders.boot)
    listening = socket.socket(fileno=orders.fd)
    listening.setblocking(False)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Ctrl-C reaches every process at once, and is the supervisor's to act on: control ends after the workers.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    await lead(settings, board, listening, stop, orders.log)


async def lead(
    settings: Settings, board: Any, listening: socket.socket, stop: asyncio.Event, log: int = STDERR
) -> None:
    """Everything the control process does, until ``stop``. ``log`` is the descriptor that it logs to."""
    from aiohttp import web

    from control.api.app import Api
    from control.api.auth import Gatekeeper
    from control.checks.health import Arms
    from control.lead.clock import SystemClock
    from control.lead.coordinator import Coordinator
    from control.lead.webhooks import Webhooks
    from control.store.sqlite import StoreThread
    from proxy.board.board import boot_id

    clock = SystemClock()
    run_dir = Path(settings.proxy.run_dir)
    store = StoreThread(run_dir / STORE)
    secret = splitkey.secret_of(run_dir)
    arms = Arms(settings)
    hooks = {name: migration.webhooks for name, migration in settings.migrations.items()}
    webhooks = Webhooks(hooks, run_dir, names=_renamed(settings))
    coordinators = {
        name: Coordinator(
            name,
            index,
            migration,
            board,
            store,
            clock,
            arms.health_of(migration),
            arms.probe_of(migration),
            diagnose=arms.diagnosis_of(migration),
            kinds=(settings.backends[migration.source].kind, settings.backends[migration.target].kind),
            notify=webhooks.notify,
            split=splitkey.new_run(secret, name),
            data=_data_setup(settings, name, board, arms, log),
        )
        for index, (name, migration) in enumerate(settings.migrations.items())
    }
    await asyncio.gather(*(coordinator.recover() for coordinator in coordinators.values()))
    board.forget_end()
    # From here on they renew the leases, however long the API takes to come up on a busy machine.
    loops = [asyncio.create_task(c.run(), name=f"coordinator {name}") for name, c in coordinators.items()]
    kept = (run_dir / SESSIONS, f"{boot_id():x}")
    gatekeeper = Gatekeeper(settings.control, time.monotonic, _verifier(settings), kept)
    api = Api(settings, coordinators, store, gatekeeper, board, _dry_run(settings), [*webhooks.receivers.values()])
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    host, _, _ = settings.control.listen.rpartition(":")
    dashboard = f"http://{host}:{listening.getsockname()[1]}/admin/migration"
    _log.info("control_serving", migrations=list(coordinators), dashboard=dashboard)
    webhooks.start()
    loops.append(asyncio.create_task(arms.run(), name="arms"))
    loops.append(asyncio.create_task(priority.keep(), name="priority"))
    ending = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([*loops, ending], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a loop that died takes the process with it: it is started anew, and recovers
    finally:
        await runner.cleanup()  # while the loops go on renewing the lease: an open stream may hold it up
        for task in (*loops, ending):
            task.cancel()
        await asyncio.gather(*loops, ending, return_exceptions=True)
        await asyncio.gather(*(coordinator.close() for coordinator in coordinators.values()))
        await store.close()
        await webhooks.close()
        await arms.close()


def _renamed(settings: Settings) -> dict[str, str]:
    """The new names of renamed migrations by the old ones, where no other migration has taken the old one."""
    named = {migration.was: name for name, migration in settings.migrations.items() if migration.was is not None}
    return {was: name for was, name in named.items() if was not in settings.migrations}


def _data_setup(settings: Settings, name: str, board: Board, arms: Arms, log: int) -> DataSetup | None:
    """What a migration's data is kept with; None where an arm is no document store."""
    from backends.copy.seed import began
    from control.data.pair import arrival_of, counts_of, pair_of
    from control.data.runner import TaskRunner, command
    from control.data.state import AskedTask, task_orders
    from control.lead.datakeeper import DataSetup

    pair = pair_of(settings, name)
    if pair is None:
        return None
    migration, plan = settings.migrations[name], settings.plan()
    source = settings.backends[migration.source]
    written_plan, run_dir = msgspec.json.encode(plan, enc_hook=encode_hook), settings.proxy.run_dir

    def orders(asked: AskedTask) -> OrderedTask:
        return task_orders(asked, name, written_plan, run_dir, migration.data.rate)

    def runner() -> TaskRunner:
        return TaskRunner(name, arrival_of(settings, board, name), command(log), log=log)

    target_seed = arms.seed_of(migration)

    async def seed() -> str | None:
        # What the source was written beside its fixtures, the seed has not; later the counts of its writes tell that.
        known = await asyncio.to_thread(began, source, Path(run_dir), name)
        return None if known is not None and known.written else await target_seed()

    every_s = float(migration.data.compare_every_s)
    return DataSetup(pair, every_s, orders, counts_of(settings, board, name), runner, seed)


def _verifier(settings: Settings) -> Callable[[str], Awaitable[str]] | None:
    """Who believes ID tokens; nobody, where no e-mail address may do anything."""
    project = settings.firebase_project()
    if project is None or not (settings.control.admins or settings.control.viewers):
        return None
    from control.api.firebase import Verifier

    return Verifier(project).email


def _dry_run(settings: Settings) -> Callable[[], Awaitable[list[Check]]]:
    async def checks() -> list[Check]:
        from control.checks.preflight import run_checks

        return await run_checks(settings, lambda each: starting.checks(each, same_environment=True))

    return checks


if __name__ == "__main__":
    main()
