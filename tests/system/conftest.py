"""The real emulator, one for all tests; each test has a project, which is a database, of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from backends.firestore.channel import EMULATOR
from backends.firestore.emulator import Emulator


@pytest.fixture(scope="session")
def emulator_address() -> Iterator[str]:
    """Where an emulator listens that no test may stop: the one the environment names, or one of ours."""
    named = os.environ.get(EMULATOR)
    if named:
        yield named
        return
    with Emulator() as emulator:
        yield emulator.address


@pytest.fixture
def emulated(emulator_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point this process at the shared emulator; an empty project's name."""
    monkeypatch.setenv(EMULATOR, emulator_address)
    return f"demo-{secrets.token_hex(6)}"


@pytest.fixture
def own_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator that the test may stop and kill."""
    with Emulator() as emulator:
        monkeypatch.setenv(EMULATOR, emulator.address)
        yield emulator
