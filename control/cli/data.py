"""Carries out ``phasegate copy`` and ``compare``: by a phasegate that serves, else in the run directory itself."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec

from control.api.client import ControlClient
from control.api.unanswered import Unreachable
from control.cli.base import client as make_client
from control.cli.base import print_json
from control.cli.base import settings as read_settings
from control.data.documents import DataBody
from control.data.messages import TaskCost, TaskDone, TaskEnd, TaskFailed, TaskProgress, TaskResult
from control.terminal.exits import GATE, OK, UNREACHABLE, USAGE, Stop

LOOK_S: Final = 0.25  # between two looks at a task
TELL_S: Final = 5.0  # between two lines of progress where nobody sits at a terminal
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
    collections: tuple[str, ...],
    as_json: bool,
    dry_run: bool = False,
    sample: int | None = None,
    right: str | None = None,
    delete: bool = False,
    values: bool = False,
    report: str | None = None,
) -> None:
    """Do it, print the result, and exit with its code. Raises ``Stop``."""
    client = make_client(url, migration, config)
    asked = _asked(kind, collections, right, delete, sample, values, dry_run)
    progress = ProgressLine(quiet=as_json)
    try:
        ended = _served(client, asked, progress)
        differences = None if report is None or kind == "copy" else _all_differences(client)
    except Unreachable:
        if url is not None or not Path(config).is_file():
            raise
        ended, differences = _alone(config, client.migration, asked, progress, wants_list=report is not None)
    if isinstance(ended.end, TaskFailed):
        raise Stop(_CODES.get(ended.end.kind, GATE), f"{kind} was not done: {ended.end.message}")
    if report is not None and differences is not None:
        Path(report).write_bytes(differences)
    _print(kind, ended, as_json=as_json, dry_run=dry_run, migration=client.migration)
    result = ended.end.result
    sys.exit(OK if kind == "copy" or result.equal else GATE)


def _asked(
    kind: str,
    collections: tuple[str, ...],
    right: str | None,
    delete: bool,
    sample: int | None,
    values: bool,
    dry_run: bool,
) -> DataBody:
    fields: dict[str, Any] = {"action": kind, "from": right, "delete": delete, "collections": collections}
    fields |= {"sample": sample, "values": values, "dry_run": dry_run}
    return msgspec.convert({name: value for name, value in fields.items() if value}, DataBody)


class ProgressLine:
    """Tells on standard error how far a task is: one line that changes at a terminal, else one now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._told = time.monotonic()

    def show(self, done: int, of: int | None, rate: float | None, left_s: float | None) -> None:
        """How far it is."""
        now = time.monotonic()
        if self._quiet or not (self._live or now - self._told >= TELL_S):
            return
        self._told = now
        share = "" if not of else f" of {of:,}"
        pace = "" if rate is None else f", {rate:,.0f} a second"
        left = "" if left_s is None else f", about {left_s:,.0f} s left"
        text = f"{done:,}{share} documents{pace}{left}"
        click.echo(f"\r\033[K{text}" if self._live else text, err=True, nl=not self._live)

    def end(self) -> None:
        """Nothing more is shown."""
        if self._live:
            click.echo("\r\033[K", err=True, nl=False)


def _served(client: ControlClient, asked: DataBody, progress: ProgressLine) -> Ended:
    """Have the phasegate that serves do it. Raises ``Unreachable`` where none does, and ``Stop``."""
    answer = client.act_on_data(asked)
    assert answer.task is not None
    try:
        while True:
            task = client.data_task(answer.task)
            if task.ended_at is not None:
                break
            running = client.data().task
            if running is not None:
                progress.show(running.done, running.of, running.rate, running.left_s)
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        client.act_on_data(DataBody("stop"))
        raise
    except Unreachable as error:
        message = f"{error}\nA copy goes on when phasegate serves again; a compare has to be begun again."
        raise Stop(UNREACHABLE, message) from None
    finally:
        progress.end()
    cost = None if task.cost is None else TaskCost(task.cost.reads, task.cost.writes, task.cost.usd)
    if task.failure is not None:
        return Ended(TaskFailed(task.message, task.failure), cost)
    return Ended(TaskDone(task.result or TaskResult(), task.differences, task.documents), cost)


def _all_differences(client: ControlClient) -> bytes:
    lines: list[bytes] = []
    cursor: str | None = None
    while True:
        page = client.differences(PAGE, cursor)
        lines += [msgspec.json.encode(item) + b"\n" for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return b"".join(lines)


def _alone(
    config: str, name: str, body: DataBody, progress: ProgressLine, *, wants_list: bool
) -> tuple[Ended, bytes | None]:
    """Do it in the run directory, which nobody may use meanwhile. Raises ``Stop``."""
    from backends.copy.calm import NOTHING_KNOWN
    from backends.durations import encode_hook
    from backends.pair.manager import drain_left
    from control.data.differences import path_of
    from control.data.runner import TaskRunner, command
    from control.data.state import task_orders
    from proxy.process import rundir
    from proxy.settings import CannotStartError

    settings = read_settings(config)
    migration = settings.migrations.get(name)
    if migration is None:
        raise Stop(USAGE, f"there is no migration {name!r}; there are {', '.join(settings.migrations)}")
    source, target = settings.backends[migration.source], settings.backends[migration.target]
    run_dir = Path(settings.proxy.run_dir)
    plan = msgspec.json.encode(settings.plan(), enc_hook=encode_hook)
    orders = task_orders(body.asked(), name, plan, str(run_dir), migration.data.rate)
    orders = msgspec.structs.replace(orders, served=False)

    async def work() -> Ended:
        left = await drain_left(source, target, run_dir=run_dir, name=name, within_s=DRAIN_S)
        if left:
            message = f"{left} changes of an earlier run still wait for the other side, which does not take them"
            return Ended(TaskFailed(message, "unreachable"), None)
        ended: asyncio.Future[TaskEnd] = asyncio.get_running_loop().create_future()
        runner = TaskRunner(name, lambda: NOTHING_KNOWN, command(2))
        runner.begin(orders, ended.set_result)
        try:
            while not ended.done():
                known: TaskProgress | None = runner.progress
                if known is not None:
                    progress.show(known.done, known.of, known.rate, known.left_s)
                await asyncio.wait([ended], timeout=LOOK_S)
        finally:
            progress.end()
            await runner.close()
        return Ended(ended.result(), runner.cost)

    try:
        with rundir.take(run_dir):
            done = asyncio.run(work())
    except (CannotStartError, ValueError, OSError) as error:
        raise Stop(USAGE, f"{name}: {error}") from None
    differences = path_of(run_dir, name)
    listed = differences.read_bytes() if wants_list and body.action != "copy" and differences.exists() else None
    if body.action == "copy" and not body.dry_run and isinstance(done.end, TaskDone):
        click.echo(
            "No phasegate serves, so none knows of this copy: once one does, `phasegate compare` opens the gate.",
            err=True,
        )
    return done, listed


def _print(kind: str, ended: Ended, *, as_json: bool, dry_run: bool, migration: str) -> None:
    assert isinstance(ended.end, TaskDone)
    result, cost = ended.end.result, ended.cost
    if dry_run:
        price = cost or TaskCost()
        if as_json:
            print_json({"reads": price.reads, "writes": price.writes, "usd": price.usd})
            return
        dollars = "" if price.usd is None else f", about ${price.usd:,.2f}"
        click.echo(f"{migration}: a copy reads {price.reads:,} and writes {price.writes:,} documents{dollars}")
        return
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    if result.collections:
        width = max(len(each.name) for each in result.collections)
        click.echo(
            f"{'collection':{width}}  {'source':>10} {'target':>10} {'missing on target':>18} {'on source':>10} "
            f"{'different':>10} {'pending':>8}"
        )
        for each in result.collections:
            click.echo(
                f"{each.name:{width}}  {each.source:>10,} {each.target:>10,} {each.missing_on_target:>18,} "
                f"{each.missing_on_source:>10,} {each.different:>10,} {each.pending:>8,}"
            )
    if kind == "copy":
        newer = f", {result.skipped_newer:,} were newer on the target" if result.skipped_newer else ""
        click.echo(f"{migration}: copied {result.copied or 0:,} documents{newer}")
        return
    mended = f"{result.repaired:,} documents were repaired; " if kind == "repair" else ""
    left = ended.end.differences
    if result.equal:
        click.echo(f"{migration}: {mended}both sides are equal, in {ended.end.documents:,} documents")
    elif left:
        hint = "" if kind == "repair" else "; `phasegate compare --repair` mends them, --report FILE lists them"
        click.echo(f"{migration}: {mended}{left:,} documents differ{hint}")
    else:
        click.echo(f"{migration}: {mended}nothing differs so far; what is pending has yet to settle: compare again")
