"""Helpers for every test: one profile for Hypothesis, and addresses and waits that depend on no luck."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from structlog.testing import capture_logs

from tests.support.patience import WITHIN_S

# The same examples every time, whatever the machine's load: a failure is the change's and not the day's.
settings.register_profile("phasegate", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("phasegate")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return Path(__file__).parents[1]


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Ports on loopback that nothing listened on a moment ago, never the same twice in a test."""
    given: set[int] = set()

    def find() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port not in given:
                given.add(port)
                return port

    return find


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What this process logs during the test: one dict a line, with ``event``, ``log_level`` and the fields."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition, looking every 20 ms, at most ``within`` seconds; fails with what was waited for."""

    def wait(condition: Callable[[], object], within: float = WITHIN_S, what: str = "the condition") -> None:
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not come within {within} s")
            time.sleep(0.02)

    return wait
