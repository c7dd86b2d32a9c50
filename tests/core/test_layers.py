"""Imports run one way inside each package too: packages in one order, no circle of files, one class a name.

The order is ``control.reference.LAYERS``, by which docs/architecture.md's code map is written too. An import inside a
function, or for types only, counts like any other: two files that need each other are one file in two places.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from control.reference import LAYERS

ROOT = Path(__file__).parents[2]
Files = Mapping[str, ast.Module]


def files() -> dict[str, ast.Module]:
    paths = (path for package in LAYERS for path in sorted((ROOT / package).rglob("*.py")))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(), str(path)) for path in paths}


def imports(path: str, trees: Files) -> Iterator[str]:
    """The files of ours that a file imports, wherever in it; a package is its ``__init__.py``."""
    for node in ast.walk(trees[path]):
        names: Iterable[str] = ()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name:
                stem = name.replace(".", "/")
                found = next((file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in trees), None)
                if found is not None:
                    if found != path:
                        yield found
                    break
                name = name.rpartition(".")[0]


def place(path: str) -> tuple[int, str]:
    """Where a file stands: the height and the package (or file) that LAYERS names. Raises KeyError."""
    rows = enumerate(LAYERS[path.split("/")[0]])
    places = [(height, name) for height, row in rows for name in row if f"{path}/".startswith(f"{name}/")]
    if not places:
        raise KeyError(path)
    return max(places, key=lambda found: len(found[1]))  # a file that is named itself, before its package


def upward(trees: Files) -> list[str]:
    """Imports of a higher package, or of one beside."""
    wrong = []
    for path in trees:
        if not is_top(path):
            height, package = place(path)
            for other in imports(path, trees):
                if other.split("/")[0] == path.split("/")[0] and not is_top(other):
                    above, stands = place(other)
                    if stands != package and above >= height:
                        wrong.append(f"{path} imports {other}: {package} stands below {stands}")
    return wrong


def is_top(path: str) -> bool:
    """Whether it is the docstring of one of the four packages, which stands nowhere."""
    return path in {f"{package}/__init__.py" for package in LAYERS}


def circles(trees: Files) -> list[list[str]]:
    """Groups of files that reach each other by imports (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(path: str) -> None:
        order[path] = low[path] = len(order)
        stack.append(path)
        for other in imports(path, trees):
            if other not in order:
                visit(other)
                low[path] = min(low[path], low[other])
            elif other in stack:
                low[path] = min(low[path], order[other])
        if low[path] == order[path]:
            group = [stack.pop()]
            while group[-1] != path:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for path in trees:
        if path not in order:
            visit(path)
    return found


def names_taken_twice(trees: Files) -> dict[str, list[str]]:
    """Public classes that more than one file defines, in the product or in its load."""
    where: defaultdict[tuple[bool, str], list[str]] = defaultdict(list)
    for path, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[path.startswith("loadtest/"), node.name].append(path)
    return {name: sorted(paths) for (_, name), paths in where.items() if len(paths) > 1}


def test_packages_import_one_way() -> None:
    assert upward(files()) == []


def test_every_file_has_a_place() -> None:
    for path in files():
        if not is_top(path):
            place(path)


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(files()) == []


def test_a_class_has_a_name_of_its_own() -> None:
    assert names_taken_twice(files()) == {}


def test_a_package_says_its_purpose() -> None:
    for path, tree in files().items():
        if path.endswith("__init__.py"):
            assert ast.get_docstring(tree), f"{path} says no purpose"


def parsed(**sources: str) -> dict[str, ast.Module]:
    return {name.replace("__", "/") + ".py": ast.parse(source) for name, source in sources.items()}


@pytest.mark.parametrize(
    "source",
    [
        "from control.lead import coordinator",
        "from control.lead.coordinator import Coordinator",
        "import control.lead.coordinator",
        "def f():\n    from control.lead.coordinator import Coordinator",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from control.lead import coordinator",
    ],
)
def test_an_import_of_a_higher_package_is_seen(source: str) -> None:
    trees = parsed(control__judge__verdict=source, control__lead__coordinator="")
    assert len(upward(trees)) == 1


def test_an_import_of_a_package_beside_is_seen() -> None:
    trees = parsed(loadtest__bench__table="from loadtest.rehearse import report", loadtest__rehearse__report="")
    assert len(upward(trees)) == 1


def test_an_import_of_a_lower_package_is_in_order() -> None:
    trees = parsed(control__lead__coordinator="from control.judge import verdict", control__judge__verdict="")
    assert upward(trees) == []


def test_a_circle_is_seen() -> None:
    trees = parsed(
        proxy__http1__a="from proxy.http1 import b",
        proxy__http1__b="def f():\n    from proxy.http1.c import g",
        proxy__http1__c="import proxy.http1.a",
        proxy__http1__d="from proxy.http1 import a",
    )
    assert circles(trees) == [["proxy/http1/a.py", "proxy/http1/b.py", "proxy/http1/c.py"]]


def test_a_file_without_a_place_is_seen() -> None:
    with pytest.raises(KeyError):
        place("control/elsewhere.py")


def test_a_name_taken_twice_is_seen() -> None:
    trees = parsed(
        control__a="class Plan: ...", proxy__b="class Plan: ...\nclass _Own: ...", backends__c="class _Own: ..."
    )
    assert names_taken_twice(trees) == {"Plan": ["control/a.py", "proxy/b.py"]}
