"""The control process as a whole, in this process: what it waits for before it leads, and what not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from backends.kinds.mock.memory import MemoryStore
from control.serve import lead
from proxy.board.board import Board
from tests.support.patience import WITHIN_S


class SlowArm(MemoryStore):
    """An arm whose credentials take their time, and its own store."""

    kind = "firestore"
    deadline_s = WITHIN_S

    def __init__(self) -> None:
        super().__init__()
        self.store = self
        self.opened = asyncio.Event()
        self.asked_while_closed = False

    async def start(self) -> None:
        await self.opened.wait()

    async def health(self, deadline_s: float) -> str:
        self.asked_while_closed |= not self.opened.is_set()
        return "answers"

    async def close(self) -> None:
        """Nothing was taken."""


class Leading:
    """A control process that leads, and the way to ask it."""

    def __init__(self, http: aiohttp.ClientSession, arm: SlowArm, task: asyncio.Task[None]) -> None:
        self.http, self.arm, self.task = http, arm, task

    async def status(self) -> Any:
        async with self.http.get("/api/migration/phase6") as response:
            return await response.json()

    async def act(self, action: str) -> int:
        async with self.http.post("/api/migration/phase6", json={"action": action}) as response:
            return response.status


@pytest.fixture
async def leading(
    tmp_path: Path,
    make_board: Callable[..., Board],
    settings_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Leading]:
    arm, stop, listening = SlowArm(), asyncio.Event(), socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    monkeypatch.setattr("control.checks.health.store_arm", lambda backend, shared, live: arm)
    hook = {"url": "http://somebody:secret@127.0.0.1:1/secret-path"}
    data = {"gate": False}  # the backends that are checked here hold no documents that could be copied
    settings = settings_of(
        {"proxy": {"run_dir": str(tmp_path)}, "migrations": {"phase6": {"webhooks": [hook], "data": data}}}
    )
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(WITHIN_S)) as http:
        task = asyncio.create_task(lead(settings, make_board(), listening, stop))
        yield Leading(http, arm, task)
        stop.set()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(task, return_exceptions=True)


async def test_it_leads_while_backends_are_opened_and_asks_none_before(leading: Leading) -> None:
    assert (await leading.status())["state"] == "idle"
    assert await leading.act("abort") == 200
    starting = asyncio.create_task(leading.act("start"))
    await asyncio.wait({starting}, timeout=0.2)
    assert not starting.done()  # its health check waits for the backends
    leading.arm.opened.set()
    assert await starting == 200
    assert not leading.arm.asked_while_closed


async def test_a_backend_that_cannot_be_opened_ends_the_process(leading: Leading) -> None:
    async def broken() -> None:
        raise RuntimeError("no such thing")

    leading.arm.start = broken  # type: ignore[method-assign]
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(RuntimeError, match="no such thing"):
            await leading.task


async def test_metrics_say_how_far_a_webhook_is_behind_and_never_its_path(leading: Leading) -> None:
    leading.arm.opened.set()

    async def metrics() -> str:
        async with leading.http.get("/metrics") as response:
            return await response.text()

    assert 'phasegate_webhook_waiting{host="127.0.0.1:1"} 0.0' in await metrics()
    assert await leading.act("start") == 200
    text = await metrics()
    assert 'phasegate_webhook_waiting{host="127.0.0.1:1"} 1.0' in text
    assert 'phasegate_webhook_dropped_total{host="127.0.0.1:1"} 0.0' in text
    assert "secret" not in text
