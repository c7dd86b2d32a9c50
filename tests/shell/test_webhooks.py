"""Webhooks: signed, tried again, and never in the way."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from control.lead.webhooks import QUEUE_MAX, Receiver, Webhooks, signature
from control.plan.settings import Webhook


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
    async with asyncio.timeout(10):
        while len(inbox.got) < count:
            await asyncio.sleep(0.01)


async def test_a_message_is_signed_so_that_its_receiver_can_tell(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_KEY", "a key")
    hooks = Webhooks({"phase6": [Webhook(inbox.url, "HOOK_KEY")]})
    hooks.start()
    hooks.notify("phase6", "rollback", {"to_weight": 5.0})
    hooks.notify("other", "rollback", {})
    await got(inbox, 1)
    await hooks.close()
    headers, body = inbox.got[0]
    assert json.loads(body)["event"] == headers["X-Phasegate-Event"] == "rollback"
    assert json.loads(body)["migration"] == "phase6"
    unix, mac = headers["X-Phasegate-Signature"].removeprefix("t=").split(",v1=")
    assert hmac.new(b"a key", f"{unix}.".encode() + body, hashlib.sha256).hexdigest() == mac
    assert signature(b"a key", int(unix), body) == headers["X-Phasegate-Signature"]
    assert len(inbox.got) == 1


async def test_a_message_is_tried_again_as_the_same_delivery(inbox: Inbox) -> None:
    inbox.answers = [500, 302, 429]
    receiver = Receiver(Webhook(inbox.url), backoff_s=0.01)
    task = asyncio.create_task(receiver.run())
    receiver.put({"event": "phase_change"})
    await got(inbox, 4)
    task.cancel()
    assert len({headers["X-Phasegate-Delivery"] for headers, _ in inbox.got}) == 1


async def test_a_receiver_that_is_away_holds_nothing_up(free_port: Callable[[], int]) -> None:
    receiver = Receiver(Webhook(f"http://127.0.0.1:{free_port()}/"), backoff_s=10.0)
    task = asyncio.create_task(receiver.run())
    for i in range(QUEUE_MAX + 50):
        receiver.put({"event": "phase_change", "i": i})
    assert receiver.dropped >= 49
    task.cancel()


async def test_without_its_key_nothing_is_sent_unsigned(inbox: Inbox, capsys: Any) -> None:
    receiver = Receiver(Webhook(inbox.url, "NOT_SET_ANYWHERE"))
    task = asyncio.create_task(receiver.run())
    receiver.put({"event": "rollback"})
    await asyncio.sleep(0.05)
    task.cancel()
    assert inbox.got == []


async def test_a_webhooks_path_is_never_logged(inbox: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    inbox.answers = [500] * 2
    receiver = Receiver(Webhook(inbox.url), backoff_s=0.01)
    task = asyncio.create_task(receiver.run())
    receiver.put({"event": "rollback"})
    await got(inbox, 3)
    task.cancel()
    told = capsys.readouterr()
    assert "webhook_failed" in told.out + told.err
    assert "secret-path" not in told.out + told.err
