"""Following a migration at a terminal: the keys' actions are carried out one after another, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from control.api.client import Unreachable
from control.terminal.follow import KeyActions

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
