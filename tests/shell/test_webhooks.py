"""Webhooks: signed, tried again, and never in the way."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from control.lead.webhooks import QUEUE_MAX, Receiver, Webhooks, message_of, signature
from control.plan.settings import Webhook
from control.rollout.model import News, PhaseChange, Rollback, RollbackBegun, State
from tests.support.patience import WITHIN_S

BEGUN = RollbackBegun("breach", 25.0, 5.0, "errors", 7)
MESSAGE = message_of("phase6", 1_700_000_000.0, BEGUN, 7)


class Inbox:
    """A receiver of webhooks that answers what the test says, in order, and then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=self.answers.pop(0) if self.answers else 200)


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    made = Inbox()
    app = web.Application()
    app.router.add_post("/hook/secret-path", made.handle)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/hook/secret-path"))
        yield made


async def got(inbox: Inbox, count: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while len(inbox.got) < count:
            await asyncio.sleep(0.01)


async def test_a_message_is_signed_so_that_its_receiver_can_tell(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_KEY", "a key")
    hooks = Webhooks({"phase6": [Webhook(inbox.url, "HOOK_KEY")]})
    hooks.start()
    hooks.notify("phase6", BEGUN, 7)
    hooks.notify("other", BEGUN, 7)
    await got(inbox, 1)
    await hooks.close()
    headers, body = inbox.got[0]
    assert json.loads(body)["event"] == headers["X-Phasegate-Event"] == "rollback"
    assert json.loads(body)["migration"] == "phase6"
    unix, mac = headers["X-Phasegate-Signature"].removeprefix("t=").split(",v1=")
    assert hmac.new(b"a key", f"{unix}.".encode() + body, hashlib.sha256).hexdigest() == mac
    assert signature(b"a key", int(unix), body) == headers["X-Phasegate-Signature"]
    assert len(inbox.got) == 1


@pytest.mark.parametrize(
    ("news", "event", "detail"),
    [
        (
            PhaseChange(State.RUNNING, "half", 50.0),
            "phase_change",
            {"state": "running", "phase": "half", "weight": 50.0},
        ),
        (BEGUN, "rollback", {"trigger": "breach", "from_weight": 25.0, "to_weight": 5.0, "reason": "errors"}),
        (
            Rollback("breach", "errors", 25.0, 5.0, 1.0, 2.0, 3.0, 6.0, True),
            "rollback_complete",
            {
                "trigger": "breach",
                "reason": "errors",
                "from_weight": 25.0,
                "to_weight": 5.0,
                "decided_ms": 1.0,
                "seen_ms": 2.0,
                "drained_ms": 3.0,
                "total_ms": 6.0,
                "within_deadline": True,
            },
        ),
    ],
)
def test_a_message_says_what_happened_when_to_whom_and_at_which_revision(
    news: News, event: str, detail: dict[str, Any]
) -> None:
    said = {"event": event, "migration": "phase6", "at": "2023-11-14T22:13:20.000Z", **detail, "revision": 7}
    assert json.loads(msgspec.json.encode(message_of("phase6", 1_700_000_000.0, news, 7))) == said


async def test_a_message_is_tried_again_as_the_same_delivery(inbox: Inbox) -> None:
    inbox.answers = [500, 302, 429]
    receiver = Receiver(Webhook(inbox.url), backoff_s=0.01)
    task = asyncio.create_task(receiver.run())
    receiver.put(MESSAGE)
    await got(inbox, 4)
    task.cancel()
    assert len({headers["X-Phasegate-Delivery"] for headers, _ in inbox.got}) == 1


async def test_a_receiver_that_is_away_holds_nothing_up(free_port: Callable[[], int]) -> None:
    receiver = Receiver(Webhook(f"http://127.0.0.1:{free_port()}/"), backoff_s=10.0)
    task = asyncio.create_task(receiver.run())
    for _ in range(QUEUE_MAX + 50):
        receiver.put(MESSAGE)
    assert receiver.dropped >= 49
    task.cancel()


async def test_without_its_key_nothing_is_sent_unsigned(inbox: Inbox, capsys: Any) -> None:
    receiver = Receiver(Webhook(inbox.url, "NOT_SET_ANYWHERE"))
    task = asyncio.create_task(receiver.run())
    receiver.put(MESSAGE)
    await asyncio.sleep(0.05)
    task.cancel()
    assert inbox.got == []


async def test_a_webhooks_path_is_never_logged(inbox: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    inbox.answers = [500] * 2
    receiver = Receiver(Webhook(inbox.url), backoff_s=0.01)
    task = asyncio.create_task(receiver.run())
    receiver.put(MESSAGE)
    await got(inbox, 3)
    task.cancel()
    told = capsys.readouterr()
    assert "webhook_failed" in told.out + told.err
    assert "secret-path" not in told.out + told.err
