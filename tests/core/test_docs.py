"""The documentation holds: what is written from the source is current, and every configuration in it is one.

Every file that it names exists, and in docs/architecture.md every class, function and constant is in a file that is
named beside it.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from control.plan.settings import parse
from control.reference import LAYERS, configuration, documents

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("backends", "bin", "control", "deploy", "docs", "loadtest", "proxy", "tests")
FILE = re.compile(rf"(?<![\w/.:-])(?:{'|'.join(FOLDERS)})/[\w./*-]*\w/?")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"\n(?=\n| *\d+\. |- |\|)")  # where a paragraph, an item of a list or a row of a table ends
# A class or what it has, a constant, a function: `Board`, `Board.publish`, `RULES`, `judge()`.
NAME = re.compile(r"`([A-Z]\w*[a-z]\w*(?:\.\w+)?|[A-Z][A-Z_]{3,}|\w+(?=\(\)))(?:\(\))?`")


def configurations() -> list[tuple[str, str]]:
    """Every whole configuration that a page or a deployment file shows."""
    found = [
        (f"{page.name}:{number}", block)
        for page in PAGES
        for number, block in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL))
    ]
    manifest = (ROOT / "deploy/kubernetes.yaml").read_text()
    block = manifest.split("phasegate.toml: |\n")[1].split("---\n")[0]
    return [*found, ("kubernetes.yaml", re.sub(r"^ {4}", "", block, flags=re.MULTILINE))]


def test_what_is_written_from_the_source_is_current() -> None:
    for path, text in documents().items():
        assert path.read_text() == text, f"{path.name} is out of date: run `make docs`"


@pytest.mark.parametrize(("name", "text"), configurations())
def test_every_configuration_shown_is_one(name: str, text: str) -> None:
    found = tomllib.loads(text)
    whole = "app" in found and "migrations" in found
    base = {
        "app": {"origin": "http://127.0.0.1:3000"},
        "backends": {"mock": {"kind": "mock"}, "firestore": {"kind": "firestore", "project": "p"}},
        "migrations": {"phase6": {"source": "mock", "target": "firestore", "routes": ["/api/*"]}},
    }
    parse(found if whole else merged(base, found))


def merged(base: dict[str, object], more: dict[str, object]) -> dict[str, object]:
    """``more`` over ``base``, table by table."""
    result = dict(base)
    for key, value in more.items():
        under = result.get(key)
        result[key] = merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result


def lost(page: Path, text: str) -> list[str]:
    """The links in a page's text that lead to no file, or to no heading of it."""
    wrong = []
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", text)):
        path = page.parent / target if target else page
        if "://" not in target and not (path.exists() and (not anchor or anchor in anchors(path.read_text()))):
            wrong.append(f"{target}#{anchor}")
    return wrong


def anchors(text: str) -> set[str]:
    """What the headings of a page are linked to by."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    assert lost(page, page.read_text()) == []


def test_a_link_that_leads_nowhere_is_seen() -> None:
    text = "[a](docs/judge.md#the-rules) [b](docs/tea.md) [c](docs/judge.md#tea) [d](#tea) [e](https://tea.test/#x)"
    assert lost(ROOT / "README.md", text) == ["docs/tea.md#", "docs/judge.md#tea", "#tea"]


def test_a_key_without_a_meaning_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.reference._MEANINGS", {})
    with pytest.raises(ValueError, match="has no meaning"):
        list(configuration())


def missing(text: str) -> list[str]:
    """The files and folders that a text names and that are not there."""
    return sorted({name for name in FILE.findall(text) if not list(ROOT.glob(name.rstrip("/")))})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_is_there(page: Path) -> None:
    assert missing(page.read_text()) == []


def test_a_file_that_is_not_there_is_seen() -> None:
    text = (
        "As `control/judge/rules.py` and proxy/board/tea.py say, and `control/tea`; `tests/core/*.py`, `deploy/tea/`."
    )
    assert missing(text) == ["control/tea", "deploy/tea/", "proxy/board/tea.py"]


@cache
def defined(path: Path) -> frozenset[str]:
    """What a module defines: functions, classes, constants, and of a class its members, as ``Class.member``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        found.update(names_of(node))
        if isinstance(node, ast.ClassDef):
            found.update(f"{node.name}.{name}" for inner in ast.walk(node) for name in names_of(inner))
    return frozenset(found)


def names_of(node: ast.AST) -> Iterator[str]:
    """The names that one statement defines; of an assignment to ``self.name``, the name."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (name for target in targets for name in assigned(target))
        case ast.AnnAssign(target=target):
            yield from assigned(target)


def assigned(target: ast.expr) -> Iterator[str]:
    match target:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self"), attr=name):
            yield name


def astray(text: str) -> list[str]:
    """The names in a text that no file named in the same paragraph, item or row defines."""
    wrong = []
    for block in BLOCK.split(FENCED.sub("", text)):
        paths = [ROOT / file for file in FILE.findall(block) if file.endswith(".py")]
        here = {name for path in paths if path.is_file() for name in defined(path)}
        wrong += [name for name in NAME.findall(block) if name not in here]
    return wrong


def test_every_name_is_in_a_file_that_is_named_beside_it() -> None:
    text, _, _ = (ROOT / "docs/architecture.md").read_text().partition("## Code map")
    assert astray(text) == []
    assert len(NAME.findall(FENCED.sub("", text))) > 100  # so many are looked at


@pytest.mark.parametrize(
    "name", ["`Tea`", "`Board.tea`", "`TEA_TIME`", "`tea()`", "`judge()`", "`Split.choose`", "`Word`\n\n`Layout`"]
)
def test_a_name_that_is_elsewhere_is_seen(name: str) -> None:
    assert len(astray(f"1. In `proxy/board/layout.py` and `proxy/board/board.py`: {name}.\n2. `proxy/board`")) == 1


@pytest.mark.parametrize("name", ["`Word`", "`Board.publish`", "`Board.cells`", "`PINNED`", "`boot_id()`", "`tea`"])
def test_a_name_that_is_there_is_left_alone(name: str) -> None:
    assert astray(f"1. In `proxy/board/layout.py` and `proxy/board/board.py`: {name}.\n2. More.") == []


def quoted(page: str, heading: str, column: int) -> list[str]:
    """The messages that a table under a heading quotes, in pieces: what is between `…` and `: `."""
    rows = re.findall(r"^\|(.*)\|$", page.split(f"\n## {heading}\n")[1].split("\n## ")[0], re.MULTILINE)
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row.split("|")[column])]
    return [
        piece.strip("; ") for span in spans for piece in re.split("…|: ", span) if not piece.strip("; ").isdigit()
    ]


@cache
def said() -> str:
    """Every text in the product and its load; where a value is filled in, `…`."""
    texts = []
    for path in (path for package in LAYERS for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Constant(value=str(text)):
                    texts.append(text)
                case ast.Constant(value=bytes(data)):
                    texts.append(data.decode("latin-1"))
                case ast.JoinedStr(values=values):
                    texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in values))
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("heading", "column"), [("What the verdicts mean", 0), ("After a rollback", 1), ("When something says", 0)]
)
def test_every_message_quoted_is_one(heading: str, column: int) -> None:
    pieces = quoted((ROOT / "docs/operations.md").read_text(), heading, column)
    assert len(pieces) > 4
    assert [piece for piece in pieces if piece not in said()] == []


def test_a_message_that_nobody_gives_is_seen() -> None:
    rows = "| `no tea answers at …`, `401` | |\n| `… was not tried: there is no tea` | |"
    page = f"\n## Tea\n\n{rows}\n\n## More\n\n| `there is more` | |\n"
    pieces = quoted(page, "Tea", 0)
    assert [piece for piece in pieces if piece not in said()] == ["no tea answers at", "there is no tea"]
