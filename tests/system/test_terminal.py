"""``phasegate start`` at a terminal: the picture, and the keys p, d, r and a."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

REPOSITORY = Path(__file__).parents[2]
WITHIN_S = 60


@pytest.fixture
def at_terminal() -> Iterator[Callable[..., pexpect.spawn]]:
    """Run a command of a running phasegate at a terminal of its own."""
    opened: list[pexpect.spawn] = []

    def run(running: Any, *args: str) -> pexpect.spawn:
        program, *rest = running.command(*args)
        environment = running.environment | {"TERM": "xterm-256color"}
        terminal = pexpect.spawn(
            program,
            rest,
            env=environment,
            cwd=str(REPOSITORY),
            encoding="utf-8",
            dimensions=(50, 140),
            timeout=WITHIN_S,
        )
        opened.append(terminal)
        return terminal

    yield run
    for terminal in opened:
        terminal.close(force=True)


def code(terminal: pexpect.spawn) -> int | None:
    """The exit code, once everything was read."""
    terminal.expect(pexpect.EOF)
    terminal.close()
    return None if terminal.exitstatus is None else int(terminal.exitstatus)


def test_the_keys_pause_detach_roll_back_and_abort(
    serving: Callable[..., Any], emulated: str, at_terminal: Callable[..., pexpect.spawn]
) -> None:
    running = serving(emulated, [("half", 50, "10m"), ("complete", 100, "10m")])

    first = at_terminal(running, "start", "--reason", "the evening's window")
    first.expect("half 50 %")
    first.expect("Soak")
    first.expect("roll back")
    first.send("p")
    first.expect("paused")
    first.send("p")
    first.expect("running")
    first.send("d")
    first.expect("Detached. phase6 goes on")
    assert code(first) == 0
    assert running.client.status().state == "running"

    watching = at_terminal(running, "watch")
    watching.expect("half 50 %")
    watching.send("r")  # watching changes nothing
    watching.sendintr()
    watching.expect("Detached")
    assert code(watching) == 0
    assert running.client.status().state == "running"

    assert running.phasegate("rollback", "--to", "start").returncode == 0
    second = at_terminal(running, "start")
    second.expect("Soak")
    second.send("r")
    second.expect("Rolled back 50 % → 0 %")
    assert code(second) == 4
    assert running.client.status().weight == 0

    third = at_terminal(running, "start")
    third.expect("Soak")
    third.send("a")
    third.expect("aborted")
    assert code(third) == 4
    assert running.client.status().state == "aborted"


def test_without_a_terminal_there_are_plain_lines_and_the_exit_code_tells(
    serving: Callable[..., Any], emulated: str
) -> None:
    running = serving(
        emulated,
        [("half", 50, "1s"), ("complete", 100, "1s")],
        max_soak="1s",
        min_samples=1,
        on_low_traffic="promote",
    )
    traffic = running.traffic()
    done = running.phasegate("start")
    traffic.end()
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert any("phase 1 of 2, half, 50 % on the target" in line for line in lines)
    assert any("phase 2 of 2, complete, 100 % on the target" in line for line in lines)
    assert "completed" in done.stdout
