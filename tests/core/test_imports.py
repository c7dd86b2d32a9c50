"""The rules of the code map, read from the source: which way imports run, and what pure modules leave alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from control.reference import is_pure

ROOT = Path(__file__).parents[2]
PACKAGES = ("backends", "proxy", "control", "loadtest")
MAY_IMPORT = {
    "backends": {"backends"},
    "proxy": {"backends", "proxy"},
    "control": {"backends", "proxy", "control"},
    "loadtest": {"loadtest"},
}
# What reaches outside: the loop, the network, files, processes, the clock, chance, logs.
IMPURE = {
    *("asyncio", "concurrent", "gevent", "queue", "threading", "uvloop"),
    *("aiocache", "aiohttp", "google.api_core", "google.auth", "google.cloud", "grpc", "httptools"),
    *("http.client", "http.server", "select", "selectors", "socket", "ssl", "urllib.request"),
    *("ctypes", "fcntl", "io", "locust", "mmap", "multiprocessing", "os", "pathlib", "psutil"),
    *("shutil", "signal", "sqlite3", "subprocess", "sys", "tempfile", "time", "secrets", "uuid"),
    *("logging", "structlog"),
}
VALUES = ("backends.kinds.firestore.messages", "grpc.StatusCode")  # messages and names, that do nothing by themselves
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "breakpoint"}
CLOCK_READS = {"now", "utcnow", "today"}
# Whatever a docstring says, these decide and do not act.
MUST_BE_PURE = {
    *(
        "backends/operations.py",
        "backends/documents/port.py",
        "backends/errors.py",
        "backends/kinds/firestore/codec.py",
    ),
    *("backends/resilience/breaker.py", "proxy/http1/head.py", "proxy/http1/body.py", "proxy/migration/routes.py"),
    *("proxy/http1/states.py", "proxy/http1/headreader.py", "proxy/http1/nexthop.py", "proxy/board/layout.py"),
    *("proxy/migration/buckets.py", "proxy/board/histogram.py", "proxy/process/supervision.py"),
    *(
        "control/plan/phases.py",
        "control/rollout/model.py",
        "control/rollout/machine.py",
        "control/rollout/transitions.py",
    ),
    *(f"control/judge/{name}.py" for name in ("evidence", "rules", "verdict", "document")),
    *("control/lead/commands.py", "control/data/state.py", "control/data/messages.py", "control/data/documents.py"),
}


@cache
def modules() -> dict[str, ast.Module]:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(), str(path)) for path in paths}


@cache
def pure_modules() -> set[str]:
    """Those whose docstring says that they are pure."""
    return {path for path, tree in modules().items() if is_pure(ast.get_docstring(tree))}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name imported, wherever in the module; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_ways(path: str, tree: ast.AST) -> list[str]:
    """Imports of this project's packages that run against control → proxy → backends."""
    allowed = MAY_IMPORT[path.split("/")[0]]
    tops = {name.split(".")[0] for name in imported(tree)}
    return sorted(tops & set(PACKAGES) - allowed)


def reaches_outside(name: str) -> bool:
    if name.startswith(VALUES):
        return False
    parts = name.split(".")
    return any(".".join(parts[:length]) in IMPURE for length in range(1, len(parts) + 1))


def ours_that_acts(tree: ast.AST, pure: set[str]) -> Iterator[str]:
    """Modules and functions of ours that are not pure. Their types and constants do nothing by themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if file_of(alias.name) not in {None, *pure})
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(VALUES):
            for alias in node.names:
                whole = file_of(f"{node.module}.{alias.name}")
                holder = whole or file_of(node.module or "")
                if holder not in {None, *pure} and (whole or not alias.name[0].isupper()):
                    yield f"{node.module}.{alias.name}"


def file_of(module: str) -> str | None:
    """The file of one of our modules; None for what is none."""
    path = module.replace(".", "/") + ".py"
    return path if module.split(".")[0] in PACKAGES and (ROOT / path).exists() else None


def impurities(tree: ast.AST, pure: set[str]) -> list[str]:
    """What a pure module does that it must not."""
    found = [f"imports {name}" for name in imported(tree) if reaches_outside(name)]
    found += [f"imports {name}, which is not pure" for name in ours_that_acts(tree, pure)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id=name) if name in IMPURE_CALLS:
                found.append(f"line {node.lineno}: calls {name}()")
            case ast.Attribute(value=ast.Name(id="datetime" | "date"), attr=name) if name in CLOCK_READS:
                found.append(f"line {node.lineno}: reads the clock")
            case ast.Attribute(value=ast.Name(id="random"), attr=name) if name != "Random" or not node.args:
                found.append(f"line {node.lineno}: unseeded chance")
    return found


def test_imports_run_from_control_to_proxy_to_backends_and_loadtest_stands_alone() -> None:
    wrong = {path: ways for path, tree in modules().items() if (ways := wrong_ways(path, tree))}
    assert wrong == {}


def test_pure_modules_touch_no_loop_socket_file_clock_or_chance() -> None:
    trees, pure = modules(), pure_modules()
    wrong = {path: found for path in sorted(pure) if (found := impurities(trees[path], pure))}
    assert wrong == {}


def test_what_decides_says_that_it_is_pure() -> None:
    assert MUST_BE_PURE - pure_modules() == set()


def test_every_package_says_what_it_must_never_do() -> None:
    for package in PACKAGES:
        docstring = ast.get_docstring(modules()[f"{package}/__init__.py"]) or ""
        assert "Must never" in docstring, package


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("backends/a.py", "from proxy import board"),
        ("backends/a.py", "def f():\n    import control.api.app"),
        ("proxy/a.py", "import control"),
        ("loadtest/a.py", "from backends.operations import OPERATIONS"),
    ],
)
def test_an_import_the_wrong_way_is_seen(path: str, source: str) -> None:
    assert wrong_ways(path, ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import path",
        "from urllib.request import urlopen",
        "open('x')",
        "from datetime import datetime\ndatetime.now()",
        "import random\nrandom.random()",
        "import random\nrandom.Random()",
        "from control.api import client",
        "from proxy.process.logs import configure",
        "def f():\n    import socket",
    ],
)
def test_an_impurity_is_seen(source: str) -> None:
    assert impurities(ast.parse(source), {"proxy/migration/buckets.py"})


def test_seeded_chance_and_given_times_are_pure() -> None:
    source = "import random, datetime\nfrom proxy import buckets\nrandom.Random(7)\ndatetime.date.fromtimestamp(0)"
    assert impurities(ast.parse(source), {"proxy/migration/buckets.py"}) == []
