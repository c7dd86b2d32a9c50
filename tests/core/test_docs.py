"""The documentation holds: what is written from the source is current, and every configuration in it is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from control.plan.settings import parse
from control.reference import configuration, documents

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_a_key_without_a_meaning_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.reference._MEANINGS", {})
    with pytest.raises(ValueError, match="has no meaning"):
        list(configuration())
