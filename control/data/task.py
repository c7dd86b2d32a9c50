"""A copy, compare or repair in a process of its own, which ``control.data.launch`` has made one.

One JSON document, on the first line of standard input, says what to do (``OrderedTask``). Where a phasegate serves,
its parent then tells on each line what has reached both sides (``ParentLine``), and may end it with
``{"stop": true}``; so does SIGTERM, and the parent's end. On standard output, one JSON document a
line: what it will cost, its progress, and last what came of it, ``done`` or ``failed`` in words. The log goes to
standard error.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import uvloop

from backends import extensions
from backends.adapters import registry
from backends.arm import SOURCE, TARGET
from backends.backend import Backend
from backends.copy.calm import Calm, Undisturbed, Watched
from backends.copy.comparing import CONFIDENCE, compare, share_found
from backends.copy.copying import copy
from backends.copy.cost import estimate
from backends.copy.folder import FixtureError
from backends.copy.pace import Pace
from backends.copy.records import Differences
from backends.copy.repairing import Repairing
from backends.copy.rules import PatternRule, rules
from backends.copy.tally import Tally, result
from backends.copy.walk import Sides, patiently
from backends.documents.port import Rejected, Skipped
from backends.errors import Fault, FaultKind
from backends.kinds.registry import KINDS, decode_hook
from backends.pair.manager import store_arm
from control.data.messages import OrderedTask, ParentLine
from proxy.settings import Plan, Route

NAMED: Final = 5  # documents that one line of the log names; the result names more
FIRST_TRIES: Final = 3  # of the first question to a side: somebody waits to hear whether it can be reached
PROGRESS_S: Final = 0.5  # between two lines of progress
LINE_BYTES: Final = 64 * 2**20  # of the orders, which hold the whole plan

_log = structlog.get_logger("phasegate.data")
_encode: Final = msgspec.json.Encoder().encode


class _Extensions(msgspec.Struct, frozen=True):
    """The part of a plan that must be known before the rest can be decoded."""

    extensions: tuple[str, ...] = ()


class TaskRefusedError(Exception):
    """The task cannot be done as it was ordered; the message says why, and what is possible."""


class Meter:
    """Tells how far the task is, at most twice a second."""

    def __init__(self, kind: str, of: int, say: Callable[[dict[str, Any]], None]) -> None:
        self._kind = kind
        self._of = of
        self._say = say
        self._began = self._told = asyncio.get_running_loop().time()
        self._done = 0

    def page(self, collection: str, documents: int) -> None:
        """So many documents more were gone through."""
        self._done += documents
        now = asyncio.get_running_loop().time()
        if now - self._told < PROGRESS_S:
            return
        self._told = now
        rate = self._done / (now - self._began)
        of = max(self._of, self._done)
        left = (of - self._done) / rate if rate else None
        self._say(
            {
                "event": "progress",
                "kind": self._kind,
                "done": self._done,
                "of": of,
                "rate": round(rate, 1),
                "left_s": None if left is None else round(left, 1),
                "collection": collection,
            }
        )


def say(document: dict[str, Any]) -> None:
    """One line of standard output."""
    sys.stdout.buffer.write(_encode(document) + b"\n")
    sys.stdout.buffer.flush()


def stores(orders: OrderedTask, plan: Plan) -> tuple[Sides, tuple[Backend, Backend]]:
    """The stores of both arms, not started, over the same files as the workers'. Raises ``TaskRefusedError``."""
    route = _route(orders, plan)
    source, target = plan.backends[route.source], plan.backends[route.target]
    run_dir = Path(orders.run_dir)
    # As ``build_source`` has it: two backends of one kind do not share files.
    second = run_dir / (f"{route.name}.target" if source.kind == target.kind else route.name)
    try:
        arms = (store_arm(source, run_dir / route.name, live=False), store_arm(target, second, live=False))
    except FixtureError as problem:
        raise TaskRefusedError(str(problem)) from None
    except ValueError as problem:
        message = (
            f"migration {route.name}: {problem}; only between two document stores is there data to {orders.kind}"
        )
        raise TaskRefusedError(message) from None
    return Sides(arms[SOURCE].store, arms[TARGET].store), (source, target)


def _route(orders: OrderedTask, plan: Plan) -> Route:
    for route in plan.migrations:
        if route.name == orders.migration:
            return route
    known = ", ".join(route.name for route in plan.migrations)
    raise TaskRefusedError(f"there is no migration {orders.migration}; expected one of: {known}")


def chosen(collections: tuple[str, ...]) -> dict[str, PatternRule]:
    """The patterns to go through, with their rules. Raises ``TaskRefusedError`` for one that no adapter has."""
    every = rules(registry.adapters())
    unknown = [name for name in collections if name not in every]
    if unknown:
        raise TaskRefusedError(
            f"no adapter has the collection {', '.join(unknown)}; expected some of: {', '.join(every)}"
        )
    return {name: rule for name, rule in every.items() if not collections or name in collections}


async def carry_out(orders: OrderedTask, plan: Plan, calm: Calm) -> None:
    """Do it, and tell what came of it. Raises ``Fault``, ``Rejected``, ``TaskRefusedError`` and ``OSError``."""
    sides, backends = stores(orders, plan)
    metered = [KINDS[backend.kind].metered for backend in backends]
    await asyncio.gather(*(store.start() for store in sides))
    try:
        patterns = chosen(orders.collections)
        sizes = [
            [await patiently(partial(store.size, pattern), tries=FIRST_TRIES) for pattern in patterns]
            for store in sides
        ]
        cost = estimate(
            "copy" if orders.kind == "cost" else orders.kind,
            (sum(sizes[SOURCE]), sum(sizes[TARGET])),
            (metered[SOURCE], metered[TARGET]),
            orders.sample,
            served=orders.served,
        )
        say({"event": "cost", "reads": cost.reads, "writes": cost.writes, "usd": cost.usd})
        if orders.kind == "cost":
            say({"event": "done", "result": {}, "differences": 0, "documents": 0})
            return
        of = sum(map(max, *sizes)) if orders.sample is None else orders.sample
        meter = Meter(orders.kind, of, say)
        now = asyncio.get_running_loop().time()
        paces = tuple(Pace(orders.rate, now) if is_metered else None for is_metered in metered)
        prefix = Path(orders.run_dir) / orders.migration
        if orders.kind == "copy":
            place = prefix.with_name(f"{prefix.name}.copy.json")
            tallies = await copy(sides, patterns, calm, place, pace=paces[TARGET], on_page=meter.page)
        else:
            tallies = await _compare(orders, sides, patterns, calm, (paces[SOURCE], paces[TARGET]), meter)
        _tell(orders, tallies, sides)
    finally:
        await asyncio.gather(*(store.close() for store in sides))


async def _compare(
    orders: OrderedTask,
    sides: Sides,
    patterns: dict[str, PatternRule],
    calm: Calm,
    paces: tuple[Pace | None, Pace | None],
    meter: Meter,
) -> list[Tally]:
    prefix = Path(orders.run_dir) / orders.migration
    arms = {"source": SOURCE, "target": TARGET, None: None}
    repairing = Repairing(arms[orders.from_], deletes=orders.delete) if orders.kind == "repair" else None
    with Differences(prefix.with_name(f"{prefix.name}.differences.jsonl"), values=orders.values) as differences:
        tallies = await compare(
            sides,
            patterns,
            calm,
            prefix.with_name(f"{prefix.name}.compare.again"),
            differences,
            repairing=repairing,
            sample=orders.sample,
            paces=paces,
            on_page=meter.page,
        )
        differences.finish()
    if orders.report is not None:
        shutil.copyfile(differences.path, orders.report)
    return tallies


def _tell(orders: OrderedTask, tallies: list[Tally], sides: Sides) -> None:
    document = result(tallies, orders.kind)
    documents = sum(tally.equal + tally.differences + tally.pending for tally in tallies)
    if orders.sample is not None:
        share = share_found(documents)
        document["sample"] = {"documents": documents, "share": share, "confidence": CONFIDENCE}
    skipped = {name: store.skipped for name, store in zip(("source", "target"), sides, strict=True)}
    document["skipped"] = {name: _named(one) for name, one in skipped.items()}
    for name, one in skipped.items():
        if one.count:
            _log.warning("documents_skipped", side=name, count=one.count, documents=[*one.named][:NAMED])
    differences = sum(tally.differences for tally in tallies)
    say({"event": "done", "result": document, "differences": differences, "documents": documents})


def _named(skipped: Skipped) -> dict[str, Any]:
    return {"count": skipped.count, "documents": skipped.named}


async def _listen(lines: asyncio.StreamReader, calm: Watched, stop: Callable[[], object]) -> None:
    """Hear the parent until it ends the task, or is gone."""
    while line := await lines.readline():
        try:
            heard = msgspec.json.decode(line, type=ParentLine)
        except msgspec.DecodeError as problem:
            _log.error("data_task_line_unreadable", reason=str(problem))
            continue
        if heard.stop:
            break
        if heard.arrival is not None:
            calm.heard(heard.arrival)
    stop()


async def run() -> int:
    """The whole task; returns the exit code."""
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    loop.add_signal_handler(signal.SIGTERM, this.cancel)
    lines = asyncio.StreamReader(limit=LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    ear: asyncio.Task[None] | None = None
    try:
        orders = msgspec.json.decode(await lines.readline(), type=OrderedTask)
        extensions.use(msgspec.json.decode(orders.plan, type=_Extensions).extensions)
        plan = msgspec.json.decode(orders.plan, type=Plan, dec_hook=decode_hook)
        calm: Calm = Undisturbed()
        if orders.served:
            calm = Watched()
            ear = asyncio.create_task(_listen(lines, calm, this.cancel))
        await carry_out(orders, plan, calm)
    except asyncio.CancelledError:
        return _failed("stopped", "stopped before its end; a copy goes on from here when it is started again")
    except Fault as fault:
        kind = "refused" if fault.kind is FaultKind.PERMISSION else "unreachable"
        return _failed(kind, str(fault))
    except (Rejected, TaskRefusedError, extensions.ExtensionError, msgspec.DecodeError, OSError) as problem:
        return _failed("refused", str(problem))
    except Exception as error:
        _log.error("data_task_failed", exc_info=error)
        _failed("refused", f"a mistake of phasegate's ({type(error).__name__}): the log has its traceback; report it")
        return 1
    finally:
        if ear is not None:
            ear.cancel()
    return 0


def _failed(kind: str, message: str) -> int:
    with suppress(BrokenPipeError):
        say({"event": "failed", "message": message, "kind": kind})
    return 0


def main() -> None:
    """The process, once it logs, has its priority and ends with its parent."""
    os.umask(0o077)  # its files hold what the documents hold
    code = uvloop.run(run())
    sys.stdout.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
