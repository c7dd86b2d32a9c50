"""Following a migration: nothing that happened is left out, and no key that was pressed is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec import convert
from msgspec.structs import replace

from control.api.unanswered import Unreachable
from control.lead.documents import Status, Wait
from control.terminal.follow import KeyActions, follow
from tests.support import documents

Until = Callable[..., None]


class SlowClient:
    """Takes each action down, and answers it when it is let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go: dict[str, threading.Event] = {}

    def act(self, action: str, reason: str) -> dict[str, Any]:
        self.asked.append(action)
        self.go.setdefault(action, threading.Event()).wait(30)
        return {}


def actions() -> tuple[KeyActions, SlowClient]:
    client = SlowClient()
    return KeyActions(client), client  # type: ignore[arg-type]


def test_a_key_pressed_while_an_action_is_under_way_is_not_lost(until: Until) -> None:
    keys, client = actions()
    keys.ask("pause")
    until(lambda: client.asked == ["pause"])
    keys.ask("pause")  # pressed twice: it is under way already
    keys.ask("resume")
    assert keys.busy
    client.go["pause"].set()
    until(lambda: client.asked == ["pause", "resume"])
    client.go["resume"].set()
    until(lambda: not keys.busy)
    assert (client.asked, keys.message) == (["pause", "resume"], "")


def test_what_takes_traffic_back_waits_for_nothing_and_nothing_follows_it(until: Until) -> None:
    keys, client = actions()
    keys.ask("pause")
    until(lambda: client.asked == ["pause"])
    keys.ask("resume")
    keys.ask("rollback")
    until(lambda: client.asked == ["pause", "rollback"])
    for event in client.go.values():
        event.set()
    until(lambda: not keys.busy)
    assert client.asked == ["pause", "rollback"], "resuming would have undone it"


def test_why_an_action_failed_is_said(until: Until) -> None:
    class Gone(SlowClient):
        def act(self, action: str, reason: str) -> dict[str, Any]:
            raise Unreachable("nobody [there]", "look")

    keys = KeyActions(Gone())  # type: ignore[arg-type]
    keys.ask("pause")
    until(lambda: not keys.busy)
    assert "pause: nobody \\[there]" in keys.message


def status(state: str, revision: int, index: int | None) -> Status:
    names = (("half", 50.0), ("all", 100.0))
    phase = None if index is None else documents.current(index, *names[index])
    return documents.status(
        state=state,
        revision=revision,
        weight=0.0 if index is None else names[index][1],
        phase=phase,
        phases=[documents.planned(*name) for name in names],
    )


class Stream:
    """A client whose event stream has these statuses."""

    migration = "phase6"

    def __init__(self, *statuses: Status) -> None:
        self._statuses = statuses

    def events(self) -> Iterator[Status]:
        yield from self._statuses


def test_a_phase_that_was_over_before_the_stream_was_open_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream(status("completed", 5, 1))
    state = follow(stream, may_act=False, known=status("running", 3, 0))  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert state == "completed"
    assert ["phase 1 of 2, half, 50 %" in line for line in lines] == [True, False]
    assert "completed" in lines[1]


def test_a_status_from_before_what_is_known_does_not_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream(status("idle", 2, None), status("running", 4, 1), status("completed", 5, 1))
    assert follow(stream, may_act=False, known=status("running", 3, 0)) == "completed"  # type: ignore[arg-type]
    assert "idle" not in capsys.readouterr().out


def test_a_wait_is_told_once_in_a_step_and_again_in_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    few = {"kind": "samples", "name": "samples", "reason": "3 target requests of the 100"}
    asked = {"kind": "approval", "name": "all", "reason": "waits for approval"}

    def waiting(revision: int, index: int, *what: dict[str, str]) -> Status:
        return replace(status("running", revision, index), waits=convert(what, tuple[Wait, ...]))

    steps = [(3, 0), (3, 0, few), (3, 0), (3, 0, asked), (3, 0, few), (3, 0, asked), (4, 1), (4, 1, few)]
    stream = Stream(*(waiting(*step) for step in steps), status("completed", 5, 1))
    assert follow(stream, may_act=False) == "completed"  # type: ignore[arg-type]
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "phase6: running, phase 1 of 2, half, 50 % on the target",
        "all, 100 % waits for more requests: 3 target requests of the 100",
        "all, 100 % is earned, and waits for an operator: `phasegate advance` begins it",
        "phase6: running, phase 2 of 2, all, 100 % on the target",
        "completion waits for more requests: 3 target requests of the 100",
        "phase6: completed, phase 2 of 2, all, 100 % on the target",
    ]
