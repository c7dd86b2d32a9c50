"""Carries out ``phasegate copy`` and ``compare``: by a phasegate that serves, else in the run directory itself."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec

from control.api.client import ControlClient
from control.api.unanswered import ApiError, ApiRefused, Unreachable
from control.cli.base import client as make_client
from control.cli.base import settings as read_settings
from control.cli.finding import chosen_migration, peek
from control.cli.listing import Listing
from control.data.documents import DataBody
from control.data.messages import TaskCost, TaskDone, TaskEnd, TaskFailed
from control.plan.settings import Settings
from control.terminal.exits import GATE, OK, UNREACHABLE, USAGE, Stop
from control.terminal.moving import ProgressLine, print_cost, print_done

if TYPE_CHECKING:
    from control.data.state import AskedTask
    from control.lead.offline import OfflineData

LOOK_S: Final = 0.25  # between two looks at a task
DRAIN_S: Final = 60.0  # how long changes that an earlier run left may take, before the sides are looked at
PAGE: Final = 1000  # differences in one call
_CODES: Final = {"unreachable": UNREACHABLE, "refused": USAGE}


class Ended(NamedTuple):
    """What came of a task."""

    end: TaskEnd
    cost: TaskCost | None


def run(
    kind: str,
    *,
    config: str,
    url: str | None,
    migration: str | None,
    as_json: bool,
    report: str | None = None,
    **given: Any,
) -> None:
    """Do it, print the result, and exit with its code. ``given`` are fields of ``DataBody``. Raises ``Stop``."""
    name = chosen_migration(peek(config, needed=url is None), config) if migration is None else migration
    try:
        asked = msgspec.convert({"action": kind} | {key: value for key, value in given.items() if value}, DataBody)
    except msgspec.ValidationError as error:
        raise Stop(USAGE, f"what was asked for is too much, or too long: {error}") from None
    progress = ProgressLine(quiet=as_json)
    with ExitStack() as whole:
        listing = None if report is None else whole.enter_context(Listing(report))
        try:
            client = make_client(url, name, config)
            task = _begun(client, asked)
        except Unreachable as error:
            if url is not None or not Path(config).is_file():
                raise
            ended = _alone(config, name, asked, progress, listing, error)
        else:
            ended = _served(client, task, progress, listing)
        if isinstance(ended.end, TaskFailed):
            raise Stop(_CODES.get(ended.end.kind, GATE), f"{kind} was not done: {ended.end.message}")
        if listing is not None:
            listing.finish()
    if asked.dry_run:
        print_cost(ended.cost or TaskCost(), as_json=as_json, migration=name)
    elif as_json:
        click.echo(msgspec.json.encode(ended.end.result))
    else:
        print_done(kind, ended.end, migration=name)
    sys.exit(OK if kind == "copy" or ended.end.result.equal else GATE)


# By a phasegate that serves.


def _begun(client: ControlClient, asked: DataBody) -> str:
    """Begin it; returns the task's id. Raises ``Unreachable`` where none serves, ``ApiRefused`` and ``Stop``."""
    try:
        answer = client.act_on_data(asked)
    except ApiRefused as error:
        if error.code == "not_allowed":  # no store is concerned
            raise Stop(USAGE, str(error)) from None
        raise
    assert answer.task is not None
    return answer.task


def _served(client: ControlClient, task_id: str, progress: ProgressLine, listing: Listing | None) -> Ended:
    """Follow a task to its end, and list what differs. Raises ``Stop``, and ``ApiRefused``."""
    try:
        ended = _followed(client, task_id, progress)
        if listing is not None and isinstance(ended.end, TaskDone):
            _list(client, listing)
    except KeyboardInterrupt:
        with suppress(ApiError):
            client.act_on_data(DataBody("stop"))
        raise
    except Unreachable as error:
        message = f"{error}\nA copy goes on when phasegate serves again; a compare has to be begun again."
        raise Stop(UNREACHABLE, message) from None
    except ApiRefused as error:
        if error.code == "no_such_task":
            raise Stop(UNREACHABLE, "control was started anew meanwhile and gave it up: begin it again") from None
        raise
    finally:
        progress.end()
    return ended


def _followed(client: ControlClient, task_id: str, progress: ProgressLine) -> Ended:
    while True:
        task = client.data_task(task_id)
        if task.ended_at is not None:
            break
        running = client.data().task
        if running is not None:
            progress.show(running.done, running.of, running.rate, running.left_s)
        time.sleep(LOOK_S)
    cost = None if task.cost is None else TaskCost(task.cost.reads, task.cost.writes, task.cost.usd)
    if task.failure is not None:
        return Ended(TaskFailed(task.message, task.failure), cost)
    assert task.result is not None
    return Ended(TaskDone(task.result, task.differences, task.documents), cost)


def _list(client: ControlClient, listing: Listing) -> None:
    cursor: str | None = None
    while True:
        page = client.differences(PAGE, cursor)
        listing.write(b"".join(msgspec.json.encode(item) + b"\n" for item in page.items))
        cursor = page.next_cursor
        if cursor is None:
            return


# In the run directory, while none serves.


def _alone(
    config: str, name: str, body: DataBody, progress: ProgressLine, listing: Listing | None, unreachable: Unreachable
) -> Ended:
    """Do it in the run directory, which nobody may use meanwhile.

    Raises ``Stop``, and ``unreachable`` where a phasegate serves from there whose control does not answer.
    """
    from control.data.differences import path_of
    from control.lead.offline import OfflineData
    from proxy.process import rundir
    from proxy.settings import CannotStartError

    settings: Settings = read_settings(config)
    if name not in settings.migrations:
        raise Stop(USAGE, f"there is no migration {name!r}; there are {', '.join(settings.migrations)}")
    run_dir = Path(settings.proxy.run_dir)
    try:
        with rundir.take(run_dir):
            data = OfflineData(settings, name)
            ended = _in_run_dir(settings, name, body.asked(), progress, data)
            if listing is not None and isinstance(ended.end, TaskDone):
                with path_of(run_dir, name).open("rb") as found:
                    shutil.copyfileobj(found, listing)
    except rundir.RunDirInUseError as error:
        if rundir.served_by(run_dir) is not None:
            raise unreachable from None
        raise Stop(GATE, f"{name}: {error}") from None
    except (CannotStartError, ValueError, OSError) as error:
        raise Stop(USAGE, f"{name}: {error}") from None
    if isinstance(ended.end, TaskDone) and not body.dry_run:
        lack = data.lack()
        known = "the target is not known to lack anything" if lack is None else str(lack)
        click.echo(f"No phasegate serves. The next one will know of this: {known}.", err=True)
    return ended


def _in_run_dir(settings: Settings, name: str, asked: AskedTask, progress: ProgressLine, data: OfflineData) -> Ended:
    from backends.pair.manager import drain_left

    migration, run_dir = settings.migrations[name], Path(settings.proxy.run_dir)
    source, target = settings.backends[migration.source], settings.backends[migration.target]
    left = asyncio.run(drain_left(source, target, run_dir=run_dir, name=name, within_s=DRAIN_S))
    if left:
        message = f"{left} changes of an earlier run still wait for the other side, which does not take them"
        return Ended(TaskFailed(message, "unreachable"), None)
    if asked.dry_run:
        return asyncio.run(_worked(settings, name, asked, progress))
    try:
        data.begin(asked)
        ended = asyncio.run(_worked(settings, name, asked, progress))
        data.over(ended.end)
    except KeyboardInterrupt:
        data.over(TaskFailed("interrupted at the terminal", "stopped"))
        raise
    return ended


async def _worked(settings: Settings, name: str, asked: AskedTask, progress: ProgressLine) -> Ended:
    """The task's process, to its end."""
    from backends.copy.calm import NOTHING_KNOWN
    from backends.durations import encode_hook
    from control.data.runner import TaskRunner, command
    from control.data.state import task_orders

    plan = msgspec.json.encode(settings.plan(), enc_hook=encode_hook)
    orders = task_orders(asked, name, plan, settings.proxy.run_dir, settings.migrations[name].data.rate)
    ended: asyncio.Future[TaskEnd] = asyncio.get_running_loop().create_future()
    runner = TaskRunner(name, lambda: NOTHING_KNOWN, command(2))
    runner.begin(msgspec.structs.replace(orders, served=False), ended.set_result)
    try:
        while not ended.done():
            known = runner.progress
            if known is not None:
                progress.show(known.done, known.of, known.rate, known.left_s)
            await asyncio.wait([ended], timeout=LOOK_S)
    finally:
        progress.end()
        await runner.close()
    return Ended(ended.result(), runner.cost)
