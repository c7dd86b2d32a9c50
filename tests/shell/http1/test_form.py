"""These tests run on the sources, and once more on what is compiled from them; each time on what is meant."""

from __future__ import annotations

import importlib
import os
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path

from hatch_build import HOT
from proxy.process.form import form

WANTED = os.environ.get("PHASEGATE_FORM", "plain Python")  # `make test-compiled` asks for the other one


def test_every_hot_module_runs_in_the_form_that_is_tested(repository: Path) -> None:
    suffixes = tuple(EXTENSION_SUFFIXES if WANTED == "compiled" else SOURCE_SUFFIXES)
    for path in HOT:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert (module.__file__ or "").endswith(suffixes), module.__file__
    assert form() == WANTED


def test_what_was_compiled_is_these_sources(repository: Path) -> None:
    for path in HOT:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        beside = Path(module.__file__ or "").with_name(Path(path).name)
        assert beside.read_bytes() == (repository / path).read_bytes(), "run `make compiled`"
