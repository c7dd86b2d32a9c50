"""Every document of the control API, field by field, against what was promised: ``golden/documents.json``.

A run is played by hand (clock, counts and workers are the test's) and every call is asked at its states. Wording may
change: prose is compared as prose, a hash as a hash. Names, numbers, what is null and what is left out may
not. ``PHASEGATE_GOLDEN=write`` writes the file anew, for a reviewer to read.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from backends.arm import SOURCE, TARGET
from backends.errors import FaultKind
from control.api.app import Api
from control.api.auth import Gatekeeper
from control.checks.check import Check
from control.data import differences
from control.data.messages import TaskCost, TaskProgress
from control.figures.counts import Machine
from control.lead.coordinator import Coordinator
from control.lead.webhooks import Webhooks
from control.plan.settings import Settings, Webhook
from control.plan.times import Now
from control.store.sqlite import StoreThread
from proxy.board import histogram
from proxy.board import layout as cells_of
from proxy.board.board import Board
from tests.support.patience import WITHIN_S
from tests.support.played_task import PlayedData

Json = dict[str, Any]
GOLDEN: Final = Path(__file__).parent / "golden" / "documents.json"
CHANGE: Final = {
    "migrations": {"phase6": {"validate_every": "1s", "max_soak": "600s", "min_samples": 10**6}},
    "control": {
        "tokens": [
            {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "role": role}
            for name, role in (("ci", "operator"), ("wall", "viewer"))
        ]
    },
}
# What is another at each run.
SHAPES: Final = {
    "[0-9a-f]{64}": "a hash",
    "(copy|compare|repair)-[0-9a-f]{12}": "a task",
    "[0-9]+-[0-9]+-[0-9]+": "a cursor",
}
READS: Final = ("/audit", "/audit/verify", "/metrics", "/history", "/report", "/api/migration")


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.mono = 1000.0
        self.unix = 1_700_000_000.0

    def now(self) -> Now:
        return Now(self.mono, self.unix)

    def pass_by(self, seconds: float) -> None:
        self.mono += seconds
        self.unix += seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0.001)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        await asyncio.sleep(0.001)


class Played:
    """A control plane whose time passes when the test says so."""

    def __init__(self, board: Board, settings: Settings, folder: Path, hook: str) -> None:
        async def health() -> list[Check]:
            return [Check("backend mock", True, "answers"), Check("backend firestore", None, "not asked", "Ask it.")]

        async def probe() -> bool:
            return True

        self.board, self.folder = board, folder
        self.clock = HandClock()
        self.held = 0  # requests of an older generation that the target has open
        self.store = StoreThread(folder / "control.db")
        self.hooks = Webhooks({"phase6": [Webhook(hook)]}, folder)
        migration = settings.migrations["phase6"]
        self.data = PlayedData(every_s=0.0)
        self.coordinator = Coordinator(
            "phase6",
            0,
            migration,
            board,
            self.store,
            self.clock,
            health,
            probe,
            notify=self.hooks.notify,
            data=self.data.setup(),
        )
        gatekeeper = Gatekeeper(settings.control, lambda: self.clock.mono, None)
        self.api = Api(settings, {"phase6": self.coordinator}, self.store, gatekeeper, board, health)
        self.http: aiohttp.ClientSession

    def work(self) -> None:
        """The workers show what they have read."""
        cells, layout, word = self.board.cells, self.board.layout, self.board.word(0)
        for slot in (0, 1):
            row, share = layout.worker(slot), layout.share(slot, 0)
            cells[row + cells_of.W_PID] = 4000 + slot
            cells[row + cells_of.W_HEARTBEAT] = int((self.clock.mono - 0.012) * 1e9)
            cells[share + cells_of.S_GENERATION] = word.generation
        cells[layout.share(0, 0) + cells_of.S_INFLIGHT_OLD] = self.held

    def serve(self, source: int, target: int, failed: int) -> None:
        """Requests are answered, a third of them by each of three operations; of the target's some fail."""
        cells, layout = self.board.cells, self.board.layout
        for arm, count, us in ((SOURCE, source, 500), (TARGET, target, 2000)):
            for i in range(count):
                series = layout.series(i % 2, 0, i % 3, arm)
                cells[series + cells_of.C_BUCKETS + histogram.index(us * (1 + i % 7))] += 1
                cells[series + cells_of.C_SUM_US] += us
        series = layout.series(0, 0, 0, TARGET)
        cells[series + cells_of.C_FAULTS + FaultKind.UNAVAILABLE] += failed

    async def settle(self, passes: int = 10) -> None:
        """Let everything happen that can without time."""
        for _ in range(passes):
            self.work()
            self.coordinator.tick()
            await asyncio.sleep(0.001)

    async def saved(self) -> None:
        """Wait until the store has everything."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                await self.settle()
                outbox = self.coordinator.outbox
                saving = outbox._saving is not None and not outbox._saving.done()
                if not outbox.entries and not outbox.dirty.is_set() and not saving:
                    return

    async def soak(self, seconds: int, source: int, target: int, failed: int = 0) -> None:
        """Seconds pass, a second at a time, each with so many requests."""
        for _ in range(seconds):
            self.clock.pass_by(1.0)
            self.serve(source, target, failed)
            await self.settle(3)

    async def ask(self, method: str, path: str, body: object = None, who: str = "ci", **headers: str) -> Json:
        """One call: its status, and its document as it was written."""
        whole = (
            path
            if path.startswith(("/api/session", "/api/migration", "/healthz", "/readyz", "/openapi"))
            else (f"/api/migration/phase6{path}")
        )
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {who}"} | headers
        asking = asyncio.ensure_future(self._exchange(method, whole, data, sent))
        while not asking.done():
            await self.settle(1)
        return asking.result()

    async def _exchange(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> Json:
        async with self.http.request(method, path, data=data, headers=headers) as response:
            assert response.content_type == "application/json"
            return {"status": response.status, "document": json.loads(await response.read())}


@pytest.fixture
async def played(
    make_board: Callable[..., Board],
    settings_of: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Played, list[Json]]]:
    """A control plane that is played, and what its webhook was sent."""
    monkeypatch.setattr(Machine, "sample", lambda self, mono: {"memory_mb": 50.0, "cpu": 0.125})
    posted: list[Json] = []

    async def receive(request: web.Request) -> web.Response:
        posted.append(json.loads(await request.read()))
        return web.Response()

    inbox = web.Application()
    inbox.router.add_post("/", receive)
    async with TestServer(inbox) as receiving:
        settings = settings_of(CHANGE | {"proxy": {"run_dir": str(tmp_path)}})
        made = Played(make_board(), settings, tmp_path, str(receiving.make_url("/")))
        made.work()
        await made.coordinator.recover()
        saver = asyncio.create_task(made.coordinator.outbox.run())
        made.hooks.start()
        async with TestServer(made.api.application()) as server:
            made.http = aiohttp.ClientSession(str(server.make_url("/")).rstrip("/"))
            yield made, posted
            await made.http.close()
        saver.cancel()
        await made.hooks.close()
        await made.store.close()


async def documents(played: Played, posted: list[Json]) -> Json:
    """The run, and every document on its way."""
    seen: Json = {}

    async def look(name: str, *paths: str) -> None:
        await played.saved()
        for path in ("", *paths):
            seen[f"{name} {path}".strip()] = await played.ask("GET", path)

    async def act(name: str, **body: object) -> None:
        await played.saved()
        seen[name] = await played.ask("POST", "", {"action": name, **body})

    await played.saved()
    stream = await played.http.get("/api/migration/phase6/events", headers={"Authorization": "Bearer ci"})
    await look("idle", "/report", "/history")
    seen["dry run"] = await played.ask("POST", "", {"action": "start", "dry_run": True})
    seen |= await copied(played)
    await act("start", reason="a test")
    await played.soak(4, source=95, target=5)
    await look("running", "/report")
    await act("pause")
    await look("paused")
    await act("resume")
    await act("advance", force=True, reason="a test")
    await played.soak(3, source=75, target=25, failed=1)
    played.held = 1
    rolling = asyncio.ensure_future(played.ask("POST", "", {"action": "rollback", "reason": "a test"}))
    async with asyncio.timeout(WITHIN_S):
        while played.coordinator.state.state.value != "rolling_back":
            await played.settle(1)
    await look("rolling back")
    played.clock.pass_by(0.04)
    played.held = 0
    seen["rollback"] = await rolling
    await look("rolled back", *READS)
    await act("resume")
    for _ in range(5):
        await played.ask("POST", "", {"action": "advance", "force": True, "reason": "a test"})
        await played.soak(2, source=3, target=30)
    seen |= await differing(played)
    await look("completed", "/report")
    await act("abort", reason="a test")
    await look("aborted")
    seen["reset"] = await played.ask("DELETE", "?reason=over")
    await look("reset to idle")
    seen["history by ten seconds"] = await played.ask("GET", "/history?step=10")
    seen["a page of the trail"] = await played.ask("GET", "/audit?limit=2&cursor=3")
    seen["sessions"] = await sessions(played)
    seen["process"] = [await played.ask("GET", path) for path in ("/healthz", "/readyz")]
    seen["refusals"] = await refusals(played)
    async with asyncio.timeout(WITHIN_S):
        while len(posted) < 13:
            await asyncio.sleep(0.01)
    seen["webhooks"] = posted
    seen["events"] = await events(stream)
    return seen


async def copied(played: Played) -> Json:
    """What holds before the source was copied, and the copy."""
    seen = {"held by the data": await played.ask("POST", "", {"action": "start"})}
    seen["copy"] = await played.ask("POST", "/data", {"action": "copy", "collections": ["scans"]})
    played.data.runner.cost = TaskCost(24, 12, 0.5)
    played.data.runner.progress = TaskProgress(4, 12, 500.0, 0.016, "scans")
    seen["busy"] = await played.ask("POST", "/data", {"action": "compare"})
    seen["copying /data"] = await played.ask("GET", "/data")
    task = f"/data/tasks/{seen['copy']['document']['task']}"
    seen["copying /data/tasks"] = await played.ask("GET", task)
    seen["stop"] = await played.ask("POST", "/data", {"action": "stop"})
    played.data.failed("stopped")
    seen["stopped /data/tasks"] = await played.ask("GET", task)
    again = await played.ask("POST", "/data", {"action": "copy"})
    played.data.copied()
    seen["copied /data"] = await played.ask("GET", "/data")
    seen["copied /data/tasks"] = await played.ask("GET", f"/data/tasks/{again['document']['task']}")
    return seen


async def differing(played: Played) -> Json:
    """Changes are lost, and a compare finds differences."""
    played.data.lose(3)
    played.data.gauges = played.data.gauges._replace(pending=7, oldest_s=1.5)
    begun = await played.ask("POST", "/data", {"action": "compare", "values": True})
    played.data.compared(2)
    entries: list[Json] = [
        {"path": "scans/a/results/b", "kind": "missing_on_target", "fields": []},
        {"path": "scans/b", "kind": "different", "fields": ["n"], "source": {"n": 1}, "target": {"n": 2.5}},
    ]
    listed = differences.path_of(played.folder, "phase6")
    listed.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return {
        "differing /data": await played.ask("GET", "/data"),
        "differing /data/tasks": await played.ask("GET", f"/data/tasks/{begun['document']['task']}"),
        "differences": await played.ask("GET", "/data/differences?limit=1"),
        "all differences": await played.ask("GET", "/data/differences"),
    }


async def sessions(played: Played) -> list[Json]:
    """Who I am, with a token, and as the session it was traded for."""
    found = [await played.ask("GET", "/api/session"), await played.ask("POST", "/api/session", who="wall")]
    found[1]["document"]["csrf"] = type(found[1]["document"]["csrf"]).__name__
    return [*found, await played.ask("DELETE", "/api/session")]


async def refusals(played: Played) -> Json:
    """Each way in which a call is refused."""
    return {
        "no JSON": await played.ask("POST", "", b"{"),
        "no object": await played.ask("POST", "", []),
        "mistakes": await played.ask("POST", "", {"action": "start", "to": "start", "odd": 1, "reason": "x" * 501}),
        "force without a reason": await played.ask("POST", "", {"action": "start", "force": True}),
        "not now": await played.ask("POST", "", {"action": "advance"}),
        "stale": await played.ask("POST", "", {"action": "pause", "expected_revision": 1}),
        "too large": await played.ask("POST", "", {"action": "start", "reason": "x" * 70_000}),
        "no such migration": await played.ask("GET", "/api/migration/other"),
        "no such path": await played.ask("GET", "/api/migration/phase6/other"),
        "no such method": await played.ask("PUT", ""),
        "limit": await played.ask("GET", "/audit?limit=0"),
        "cursor": await played.ask("GET", "/audit?cursor=-1"),
        "data": await played.ask("POST", "/data", {"action": "repair", "delete": True, "sample": 5}),
        "task": await played.ask("GET", "/data/tasks/copy-1"),
        "differences": await played.ask("GET", "/data/differences?cursor=1"),
        "replaced differences": await played.ask("GET", "/data/differences?cursor=1-1-1"),
        "step": await played.ask("GET", "/history?step=2"),
        "step that is no number": await played.ask("GET", "/history?step=x"),
        "reason": await played.ask("DELETE", f"?reason={'x' * 501}"),
        "number of an event": await played.ask("GET", "/events", **{"Last-Event-ID": "x"}),
        "credentials": await played.ask("GET", "", who="nobody"),
        "role": await played.ask("POST", "", {"action": "start"}, who="wall"),
        "page": await played.ask("POST", "", {"action": "start"}, Origin="https://evil.example"),
    }


async def events(stream: aiohttp.ClientResponse) -> Json:
    """The first status, the first sample and every audit entry of a stream, as they were written."""
    found: Json = {"audit": []}
    async with asyncio.timeout(WITHIN_S):
        while not any(event["data"]["kind"] == "reset" for event in found["audit"]) or "sample" not in found:
            event: Json = {}
            while line := (await stream.content.readline()).decode().rstrip("\n"):
                name, _, value = line.partition(": ")
                event[name] = json.loads(value) if name == "data" else value
            if event["event"] == "audit":
                found["audit"].append(event)
            else:
                found.setdefault(event["event"], event)
    stream.close()
    return found


def held(value: Any) -> Any:
    """What of a value is held: all of it, but of prose and hashes only that they are there."""
    if isinstance(value, dict):
        return {name: "a time" if name == "at" and "event" in value else held(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [held(inner) for inner in value]
    for shape, name in SHAPES.items():
        if isinstance(value, str) and re.fullmatch(shape, value):
            return name
    return "some prose" if isinstance(value, str) and " " in value else value


def text(document: Any) -> str:
    """A document as text, in which 5 is not 5.0."""
    return json.dumps(document, indent=1, sort_keys=True)


async def test_every_document_is_as_it_was_promised_field_by_field(played: tuple[Played, list[Json]]) -> None:
    found = held(await documents(*played))
    if os.environ.get("PHASEGATE_GOLDEN") == "write":
        lines = [f"{json.dumps(name)}: {json.dumps(document)}" for name, document in found.items()]
        GOLDEN.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
    promised = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert list(found) == list(promised)
    for name, document in promised.items():
        assert text(found[name]) == text(document), name


def test_what_is_held_of_a_document_can_differ() -> None:
    document = {"at": 1.0, "reason": "so it is", "checks": None, "hash": "0" * 64}
    for other in ({"at": 1}, {"reason": "odd"}, {"checks": []}, {"hash": None}):
        assert text(held(document)) != text(held(document | other))
    assert held(document) == held(document | {"reason": "worded otherwise", "hash": "1" * 64})
