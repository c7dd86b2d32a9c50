"""The rules of the code map, read from the source: which way imports run, and what pure modules leave alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    *("aiocache", "aiohttp", "google", "grpc", "http", "httptools", "select", "selectors", "socket", "ssl"),
    *("urllib.request", "ctypes", "fcntl", "io", "locust", "mmap", "multiprocessing", "os", "pathlib", "psutil"),
    *("shutil", "signal", "sqlite3", "subprocess", "sys", "tempfile", "time", "secrets", "uuid"),
    *("logging", "structlog"),
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "breakpoint"}
CLOCK_READS = {"now", "utcnow", "today"}


def modules() -> dict[str, ast.Module]:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(), str(path)) for path in paths}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name imported, wherever in the module; ``from a import b`` gives both ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


CODE_MAP = ROOT / "docs/architecture.md"


def pure_modules() -> set[str]:
    """The modules that the code map marks with ◆."""
    return set(re.findall(r"`([\w/]+\.py)` ◆", CODE_MAP.read_text()))


def mapped_modules() -> set[str]:
    return set(re.findall(r"`((?:backends|proxy|control|loadtest)/[\w/]+\.py)`", CODE_MAP.read_text()))


def wrong_ways(path: str, tree: ast.AST) -> list[str]:
    """Imports of this project's packages that run against control → proxy → backends."""
    allowed = MAY_IMPORT[path.split("/")[0]]
    tops = {name.split(".")[0] for name in imported(tree)}
    return sorted(tops & set(PACKAGES) - allowed)


def impurities(tree: ast.AST, pure: set[str]) -> list[str]:
    """What a pure module does that it must not."""
    found = []
    for name in imported(tree):
        top = name.split(".")[0]
        if top in IMPURE or name in IMPURE:
            found.append(f"imports {name}")
        elif top in PACKAGES:
            file = name.replace(".", "/") + ".py"
            if (ROOT / file).exists() and file not in pure:
                found.append(f"imports {name}, which is not pure")
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            found.append(f"line {node.lineno}: is asynchronous")
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
    assert len(pure) > 10, "the code map marks the pure modules with ◆"
    assert pure <= trees.keys(), "the code map marks a module that is not there"
    wrong = {path: found for path in sorted(pure) if (found := impurities(trees[path], pure))}
    assert wrong == {}


def test_every_module_is_on_the_code_map() -> None:
    present = {path for path in modules() if not path.endswith("__init__.py")}
    assert present - mapped_modules() == set()
    assert mapped_modules() - present == set()


def test_every_package_says_what_it_must_never_do() -> None:
    for package in PACKAGES:
        docstring = ast.get_docstring(modules()[f"{package}/__init__.py"]) or ""
        assert "Must never" in docstring, package


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("backends/a.py", "from proxy import board"),
        ("backends/a.py", "def f():\n    import control.api"),
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
        "async def f(): ...",
        "open('x')",
        "from datetime import datetime\ndatetime.now()",
        "import random\nrandom.random()",
        "import random\nrandom.Random()",
        "from control import client",
        "def f():\n    import socket",
    ],
)
def test_an_impurity_is_seen(source: str) -> None:
    assert impurities(ast.parse(source), {"proxy/splitter.py"})


def test_seeded_chance_and_given_times_are_pure() -> None:
    source = (
        "import random, datetime\nfrom proxy import splitter\nrandom.Random(7)\ndatetime.datetime.fromtimestamp(0)"
    )
    assert impurities(ast.parse(source), {"proxy/splitter.py"}) == []
