"""Kinds of backend: one that a package adds works like those of the house, and nobody else tells kinds apart."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends import extensions
from backends.adapters.openapi import document
from backends.adapters.registry import operations
from backends.arm import SOURCE, TARGET
from backends.backend import Backend
from backends.kinds.mock.kind import mend
from backends.kinds.mock.settings import Mock
from backends.kinds.registry import BUILT_IN, KINDS, Kind, KindError, install, opener
from backends.operations import Call
from backends.pair.manager import build_source
from control.checks.check import Check
from control.checks.health import Arms
from control.checks.preflight import run_checks
from control.plan.settings import ConfigError, Settings, decode, encode
from control.reference import configuration
from proxy.settings import App, reach_of
from tests.support.patience import WITHIN_S
from tests.support.shelf import KIND, Shelf

BY_NAME = {operation.name: operation for operation in operations()}
SHELF = "tests.support.shelf:KIND"
PACKAGES = ("backends", "proxy", "control", "loadtest")


@pytest.fixture(autouse=True)
def shelves() -> Iterator[None]:
    """The kind is known for one test."""
    extensions.use([SHELF])
    yield
    extensions.use(())


@pytest.fixture
def to_a_shelf(settings_of: Callable[..., Settings], tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a migration from the mock to a shelf."""

    def make(**shelf: Any) -> Settings:
        return settings_of(
            {
                "proxy": {"run_dir": str(tmp_path)},
                "backends": {"mock": {"kind": "mock"}, "shelf": {"kind": "shelf", "boards": 3} | shelf},
                "migrations": {"phase6": {"source": "mock", "target": "shelf"}},
            }
        )

    return make


def test_its_settings_are_read_and_travel_to_the_other_processes(to_a_shelf: Callable[..., Settings]) -> None:
    settings = to_a_shelf(deadline="3s")
    assert settings.backends["shelf"] == Shelf(3, deadline_s=settings.backends["shelf"].deadline_s)
    assert settings.backends["shelf"].deadline_s == 3.0
    assert settings.backends["shelf"].kind == "shelf"
    assert decode(encode(settings)) == settings


@pytest.mark.parametrize(
    ("shelf", "said"),
    [
        ({"bords": 3}, "backends.shelf.bords: unknown key; did you mean 'boards'?"),
        ({"boards": "three"}, 'backends.shelf.boards: expected a whole number, found "three"'),
        ({"boards": 0}, "backends.shelf.boards: expected at least one, found 0"),
        ({"deadline": "soon"}, "backends.shelf.deadline: expected a duration"),
        ({"kind": "shelve"}, 'backends.shelf.kind: found "shelve"; expected "mock", "firestore", "http" or "shelf"'),
        ({"kind": 3}, "backends.shelf.kind: found 3; expected"),
    ],
)
def test_mistakes_in_its_settings_are_told(
    to_a_shelf: Callable[..., Settings], shelf: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        to_a_shelf(**shelf)
    assert any(problem.startswith(said) for problem in caught.value.problems), caught.value.problems


def test_its_keys_are_in_the_reference() -> None:
    page = "\n".join(configuration())
    assert '## `[backends.NAME], kind = "shelf"`' in page
    assert "| `boards` | whole number | **required** | how many boards it has |" in page


async def checks_of(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in await run_checks(settings, lambda _: iter(()))}


async def test_check_asks_it_and_says_how_to_mend_it(to_a_shelf: Callable[..., Settings]) -> None:
    well = await checks_of(to_a_shelf())
    assert well["backend shelf"].ok
    assert well["backend shelf"].found.startswith("shelf: 3 boards, within 2 s (")
    assert well["backend shelf, permissions"].ok
    ill = (await checks_of(to_a_shelf(ill=True)))["backend shelf"]
    assert (ill.ok, ill.mend) == (False, "Screw its 3 boards on.")
    assert "it leans" in ill.found
    glued = (await checks_of(to_a_shelf(read_only=True)))["backend shelf, permissions"]
    assert (glued.ok, glued.mend) == (False, "Take the glue off.")


@pytest.mark.parametrize("ill", [False, True])
async def test_it_is_asked_before_a_raise_and_by_probes(to_a_shelf: Callable[..., Settings], ill: bool) -> None:
    settings = to_a_shelf(ill=ill)
    arms = Arms(settings)
    opened = asyncio.create_task(arms.run())
    migration = settings.migrations["phase6"]
    assert [check.ok for check in await arms.health_of(migration)()] == [True, not ill]
    assert await arms.probe_of(migration)() is not ill
    opened.cancel()
    await arms.close()


async def test_it_answers_as_an_arm_and_is_told_of_the_sources_changes(
    to_a_shelf: Callable[..., Settings], tmp_path: Path
) -> None:
    backends = to_a_shelf().backends
    built = build_source(backends["mock"], backends["shelf"], run_dir=tmp_path, name="m", mode="hybrid")
    await built.start()
    publish = Call(BY_NAME["dashboard.publish"], b"/", {}, {}, b'{"metrics": {"n": 7}}', 1e9, "a" * 20)
    assert (await built.answer(SOURCE, publish)).answer.status == 200
    current = Call(BY_NAME["dashboard.current"], b"/", {}, {}, b"", 1e9, "b" * 20)
    async with asyncio.timeout(WITHIN_S):
        while (outcome := await built.answer(TARGET, current)).answer.status != 200:
            await asyncio.sleep(0.01)
    assert outcome.arm == TARGET
    assert json.loads(outcome.answer.body)["metrics"] == {"n": 7}
    assert built.arms[TARGET].kind == "shelf"
    await built.close()


def test_a_name_is_given_once_and_the_table_stays() -> None:
    twice = Kind(settings=Mock, mend=mend, reach=lambda backend: backend)
    before = dict(KINDS)
    with pytest.raises(KindError, match="called 'shelf' already"):
        install((*BUILT_IN, KIND, KIND))
    with pytest.raises(KindError, match="called 'mock' already"):
        install((*BUILT_IN, twice))
    assert before == KINDS


def test_a_kind_must_be_something_that_can_be_asked() -> None:
    for parts in ({}, {"open_store": KIND.open_store, "reach": lambda backend: backend}):
        with pytest.raises(KindError, match=r"shelf: kind 'shelf': expected either open_store or reach"):
            Kind(settings=Shelf, mend=mend, **parts)


class Untagged(Backend, msgspec.Struct, frozen=True):
    """A backend's settings that do not say their kind."""


class Strange(msgspec.Struct, frozen=True, tag_field="kind", tag="strange"):
    """Settings that are no backend's."""


@pytest.mark.parametrize("settings", [Untagged, Strange, dict])
def test_a_kinds_settings_must_say_its_name(settings: Any) -> None:
    with pytest.raises(KindError, match=f"{settings.__name__} cannot be used; expected a Backend and msgspec.Struct"):
        Kind(settings=settings, mend=mend, open_store=KIND.open_store)


def test_the_plan_carries_its_name_and_without_it_nothing_of_it_can_be_read(
    to_a_shelf: Callable[..., Settings],
) -> None:
    settings = to_a_shelf()
    assert settings.plan().extensions == (SHELF,)
    extensions.use(())
    with pytest.raises(ConfigError, match='found "shelf"; expected "mock", "firestore" or "http"'):
        to_a_shelf()
    with pytest.raises(KeyError, match="shelf"):
        decode(encode(settings))


def test_the_document_of_the_data_requests_names_the_kinds_that_keep_documents() -> None:
    def named() -> list[str]:
        responses = document("1")["paths"]["/api/scans"]["get"]["responses"]
        (kinds,) = {tuple(each["headers"]["x-data-source"]["schema"]["enum"]) for each in responses.values()}
        return list(kinds)

    assert named() == ["mock", "firestore", "shelf"]
    extensions.use(())
    assert named() == ["mock", "firestore"]


def test_every_backend_is_either_a_store_or_an_origin(to_a_shelf: Callable[..., Settings]) -> None:
    app = App("http://127.0.0.1:1")
    for kind in KINDS.values():
        required = {"project": "p", "origin": "http://127.0.0.1:2", "boards": 1}
        names = {field: required[field] for field in kind.settings.__struct_fields__ if field in required}
        backend = kind.settings(**names)
        if reach_of(backend, app) is None:
            assert opener(backend)
        else:
            with pytest.raises(ValueError, match="it has no store"):
                opener(backend)


# Nothing but the kinds' own folders tells one kind from another.


def told_apart(tree: ast.AST) -> list[str]:
    """Where the source asks which kind a backend is: by the type of its settings, or by the name of its kind."""
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in ast.walk(tree) if _asks_for_a_kind(node)]


def _asks_for_a_kind(node: Any) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, asked]):
            return _names_a_shape(asked)
        case ast.MatchClass(cls=asked):
            return _names_a_shape(asked)
        case ast.Match(subject=ast.Attribute(attr="kind"), cases=cases):
            return any(_says_a_name(case.pattern) for case in cases)
        case ast.Compare(left=ast.Attribute(attr="kind")) | ast.Compare(comparators=[ast.Attribute(attr="kind")]):
            return _says_a_name(node)
        case ast.Compare(left=ast.Call(func=ast.Name(id="type")), comparators=[asked]):
            return _names_a_shape(asked)
    return False


def _names_a_shape(node: ast.AST) -> bool:
    shapes = {kind.settings.__name__ for kind in KINDS.values()}
    return any(getattr(part, "id", getattr(part, "attr", None)) in shapes for part in ast.walk(node))


def _says_a_name(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Constant) and part.value in KINDS for part in ast.walk(node))


def test_nothing_but_the_kinds_own_folders_tells_one_kind_from_another(repository: Path) -> None:
    wrong = {}
    for package in PACKAGES:
        for path in (repository / package).rglob("*.py"):
            name = str(path.relative_to(repository))
            if not name.startswith("backends/kinds/") and (found := told_apart(ast.parse(path.read_text()))):
                wrong[name] = found
    assert wrong == {}


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(backend, Mock)",
        "isinstance(backend, (int, settings.Firestore))",
        "isinstance(backend, Mock | Http)",
        "match backend:\n    case Http():\n        pass",
        "match backend:\n    case settings.Mock(seed=3):\n        pass",
        "match backend.kind:\n    case 'mock' | 'firestore':\n        pass",
        "type(backend) is Http",
        "backend.kind == 'firestore'",
        "'mock' != store.kind",
        "backend.kind in ('mock', 'http')",
    ],
)
def test_what_tells_kinds_apart_is_seen(source: str) -> None:
    assert told_apart(ast.parse(source))


@pytest.mark.parametrize("source", ["isinstance(x, Mocking)", "Mock(seed=2)", "mode == 'mock'", "a.kind == b.kind"])
def test_what_does_not_is_left_alone(source: str) -> None:
    assert told_apart(ast.parse(source)) == []
