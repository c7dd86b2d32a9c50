"""One log: every call that logs is in the table of docs/operations.md, and nothing of ours writes past the log."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.loglines import AS_SAID, ON_EVERY_LINE, PAGE, table

ROOT = Path(__file__).parents[2]
PACKAGES = ("backends", "proxy", "control")
LEVELS = {"debug", "info", "warning", "error", "critical"}
PROCESSES = {"supervisor", "control", "worker", "any"}
NAME = re.compile(r"[a-z]+(_[a-z]+)*")
# These speak to the person at a command line, are the demo's parts, or are tools run by `python -m`.
SPEAKS = ("control/cli/", "control/demo/", "control/terminal/", "control/reference.py", "control/judge/simulate.py")
ROUTES = {"proxy/process/logs.py", "control/cli/base.py"}  # may name the standard library's logging


class Event(NamedTuple):
    """What a line shows: its name, its level and the fields of its own."""

    name: str
    level: str
    fields: frozenset[str]


class UnreadableError(Exception):
    """A call whose line cannot be told from the source."""


@cache
def sources() -> dict[str, ast.Module]:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(), str(path)) for path in paths}


def is_logger(node: ast.AST) -> bool:
    """Whether this is a call of ``get_logger``."""
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("get_logger")


def events(tree: ast.Module) -> Iterator[Event]:
    """What a module may log. Raises ``UnreadableError``."""
    names = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and is_logger(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assigned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    called = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for node in ast.walk(tree):
        if is_logger(node) and node not in [*assigned, *called]:
            raise UnreadableError(f"line {node.lineno}: a logger that is neither named nor used at once")  # type: ignore[attr-defined]
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        if is_logger(owner) or (isinstance(owner, ast.Name) and owner.id in names):
            yield event(node, node.func.attr)


def event(call: ast.Call, method: str) -> Event:
    """The event of one call of a logger's method."""
    where = f"line {call.lineno}: {ast.unparse(call)}"
    args = call.args[1:] if method == "log" else call.args
    match args:
        case [ast.Constant(value=str(name))] if NAME.fullmatch(name):
            pass
        case _:
            raise UnreadableError(f"{where}: the event is one constant in snake_case; all else is a field")
    fields = {keyword.arg or "**" for keyword in call.keywords}
    if fields & {"**", *ON_EVERY_LINE}:
        raise UnreadableError(f"{where}: fields are said by name, and none is {', '.join(sorted(ON_EVERY_LINE))}")
    level = {"log": AS_SAID, "exception": "error"}.get(method, method)
    if level not in {*LEVELS, AS_SAID}:
        raise UnreadableError(f"{where}: a level is one of {', '.join(sorted(LEVELS))}")
    if method == "exception" or "exc_info" in fields:
        fields = fields - {"exc_info"} | {"exception"}
    return Event(name, level, frozenset(fields))


def past_the_log(path: str, tree: ast.Module) -> list[str]:
    """What writes to standard error by another way, or logs through the standard library."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            if module in ("logging", "warnings", "traceback", "faulthandler") and path not in ROUTES:
                found.append(f"line {node.lineno}: imports {module}")
        speaks = path.startswith(SPEAKS)
        if isinstance(node, ast.Call) and not speaks and ast.unparse(node.func) in ("print", "sys.stderr.write"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def gaps(text: str, seen: set[Event]) -> list[str]:
    """Where the page and the source differ."""
    told = {Event(name, level, fields) for name, (level, _, fields) in table(text).items()}
    return sorted(
        [f"not on the page: {event}" for event in seen - told] + [f"no such line: {e}" for e in told - seen]
    )


def all_events() -> set[Event]:
    return {event for tree in sources().values() for event in events(tree)}


def test_every_event_is_on_the_page_with_its_level_and_fields_and_no_other() -> None:
    seen = all_events()
    assert len(seen) > 40
    assert len({event.name for event in seen}) == len(seen), "one event, one level, the same fields wherever it is"
    assert gaps(PAGE.read_text(), seen) == []


def test_every_event_names_the_processes_that_show_it() -> None:
    assert {name for _, processes, _ in table().values() for name in processes.split(", ")} <= PROCESSES


def test_nothing_of_ours_writes_past_the_log() -> None:
    wrong = {path: found for path, tree in sources().items() if (found := past_the_log(path, tree))}
    assert wrong == {}


HEAD = "import structlog\n_log = structlog.get_logger('x')\n"


def test_an_event_that_is_not_on_the_page_is_seen() -> None:
    (seen,) = events(ast.parse(HEAD + "_log.error('disk_full', path='/')"))
    assert seen == Event("disk_full", "error", frozenset({"path"}))
    row = "| `disk_full` | error | worker | `path` | the disk is full | make room |\n"
    assert gaps(row, {seen}) == []
    for other in (
        "",
        row.replace("disk_full", "disk_ful"),
        row.replace("`path`", "`file`"),
        row.replace("error", "info"),
    ):
        assert gaps(other, {seen}), other
    assert gaps(row, set()) == [f"no such line: {seen}"]


@pytest.mark.parametrize(
    "call",
    [
        "_log.error('the disk is full')",
        "_log.error(f'disk_{name}')",
        "_log.error(name)",
        "_log.error('disk_full', *fields)",
        "_log.error('disk_full', **fields)",
        "_log.error('disk_full', process='mine')",
        "_log.msg('disk_full')",
        "structlog.get_logger().warning('Disk full')",
        "def f(log): pass\nf(structlog.get_logger())",
    ],
)
def test_a_line_that_cannot_be_told_from_the_source_is_seen(call: str) -> None:
    with pytest.raises(UnreadableError):
        list(events(ast.parse(HEAD + call)))


@pytest.mark.parametrize(
    "source",
    [
        "import logging",
        "from logging import getLogger",
        "def f():\n    import warnings",
        "import sys\nprint('x', file=sys.stderr)",
        "import sys\nsys.stderr.write('x')",
    ],
)
def test_a_way_past_the_log_is_seen(source: str) -> None:
    assert past_the_log("backends/a.py", ast.parse(source))
    assert past_the_log("proxy/process/worker.py", ast.parse(source))
