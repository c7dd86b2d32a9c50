"""Helpers of the shell tests: a board with workers that are played, and a control plane on it."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from backends.adapters.registry import operations
from backends.arm import SOURCE, TARGET
from backends.errors import FaultKind
from control.api.app import Api
from control.api.auth import Gatekeeper
from control.checks.check import Check
from control.lead.clock import SystemClock
from control.lead.coordinator import Coordinator
from control.lead.datakeeper import DataSetup
from control.plan.settings import Settings, parse
from control.store.sqlite import StoreThread
from proxy.board import histogram
from proxy.board import layout as layouts
from proxy.board.board import Board
from proxy.board.layout import Layout
from tests.support.patience import WITHIN_S

NAMES = tuple(operation.name for operation in operations())


class Workers:
    """Plays the workers of a board: shows generations, counts requests by the weight it reads, keeps some open."""

    def __init__(self, board: Board, slots: int = 2) -> None:
        self.board = board
        self.slots = slots
        self.rate = 0.0  # requests a second, of all slots and for each migration
        self.target_faults = 0.0  # the share of target requests that fail
        self.source_faults = 0.0
        self.target_us = 1000
        self.held = 0  # target requests that never end, of the generation seen
        self.deaf: set[int] = set()  # slots that do nothing
        self._random = random.Random(1)
        self._due = 0.0
        self._seen: dict[tuple[int, int], int] = {}
        self._at = time.monotonic()

    def weight(self, m: int) -> float:
        """The share of requests that go to the target now."""
        word = self.board.word(m)
        leased = word.flags & layouts.PINNED or time.monotonic_ns() < self.board.lease_until(m)
        return word.weight_bp / 10_000 if leased else 0.0

    def tick(self) -> None:
        now = time.monotonic()
        requests = self.rate * (now - self._at) + self._due
        self._at, self._due = now, requests % 1
        cells, layout = self.board.cells, self.board.layout
        for slot in range(self.slots):
            if slot in self.deaf:
                continue
            row = layout.worker(slot)
            cells[row + layouts.W_PID] = os.getpid()
            cells[row + layouts.W_HEARTBEAT] = time.monotonic_ns()
            cells[row + layouts.W_RSS_KB] = 50_000
            for m in range(len(layout.migrations)):
                self._share(slot, m)
        for m in range(len(layout.migrations)):
            for _ in range(int(requests)):
                self._request(m)

    def _share(self, slot: int, m: int) -> None:
        cells, share = self.board.cells, self.board.layout.share(slot, m)
        generation = self.board.word(m).generation
        if self._seen.get((slot, m)) != generation:
            cells[share + layouts.S_INFLIGHT_OLD] += cells[share + layouts.S_INFLIGHT_TARGET]
            cells[share + layouts.S_INFLIGHT_TARGET] = self.held if self.board.word(m).weight_bp else 0
            cells[share + layouts.S_GENERATION] = generation
            self._seen[slot, m] = generation
        base, now = self.board.layout.migration(m), time.monotonic_ns()
        for at in (layouts.M_CUT_OVER_AT, layouts.M_CANCEL_AT):
            if cells[base + at] and now >= cells[base + at]:
                cells[share + layouts.S_INFLIGHT_OLD] = 0

    def _request(self, m: int) -> None:
        arm = TARGET if self._random.random() < self.weight(m) else SOURCE
        operation = self._random.randrange(len(self.board.layout.migrations[m][1]))
        series = self.board.layout.series(self._random.randrange(self.slots), m, operation, arm)
        us = self.target_us if arm == TARGET else 500
        self.board.cells[series + layouts.C_BUCKETS + histogram.index(us)] += 1
        self.board.cells[series + layouts.C_SUM_US] += us
        if self._random.random() < (self.target_faults if arm == TARGET else self.source_faults):
            self.board.cells[series + layouts.C_FAULTS + FaultKind.UNAVAILABLE] += 1

    async def run(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(0.005)


DOCUMENT: dict[str, Any] = {
    "app": {"origin": "http://127.0.0.1:1"},
    "backends": {"mock": {"kind": "mock"}, "firestore": {"kind": "firestore", "project": "demo"}},
    "migrations": {
        "phase6": {
            "source": "mock",
            "target": "firestore",
            "routes": ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"],
            "validate_every": "200ms",
            "lease": "3s",
            "min_samples": 5,
            "max_soak": "300ms",
            "phases": [
                {"name": name, "weight": weight, "min_soak": "300ms", "rollback_within": within}
                for name, weight, within in (
                    ("initial", 5, "1s"),
                    ("early", 25, "1s"),
                    ("half", 50, "1s"),
                    ("majority", 75, "1s"),
                    ("complete", 100, "2s"),
                )
            ],
        }
    },
}


def merged(base: Any, change: Any) -> Any:
    """``base`` with the tables of ``change`` laid over it."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return base | {key: merged(base.get(key), value) for key, value in change.items()}


class ControlPlane:
    """A control plane in this process, on a board that ``workers`` play on."""

    def __init__(self, folder: Path, settings: Settings, board: Board, workers: Workers) -> None:
        self.folder = folder
        self.settings = settings
        self.board = board
        self.workers = workers
        self.health: list[Check] = [Check("backend firestore", True, "answers")]
        self.data: DataSetup | None = None  # of the migration it names; others are not between document stores
        self.store = StoreThread(folder / "control.db")
        self.coordinators: dict[str, Coordinator] = {}
        self.url = ""
        self.http: aiohttp.ClientSession
        self._tasks: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        async def health() -> list[Check]:
            return self.health

        async def probe() -> bool:
            return self.health[0].ok is not False

        self.coordinators = {
            name: Coordinator(
                name, i, migration, self.board, self.store, SystemClock(), health, probe, data=self._data(name)
            )
            for i, (name, migration) in enumerate(self.settings.migrations.items())
        }
        for coordinator in self.coordinators.values():
            await coordinator.recover()
        gatekeeper = Gatekeeper(self.settings.control, time.monotonic, None)
        api = Api(self.settings, self.coordinators, self.store, gatekeeper, self.board, health)
        self.application = api.application()
        self._runner = web.AppRunner(self.application, shutdown_timeout=0.1)
        await self._runner.setup()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        await web.SockSite(self._runner, sock).start()
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self.http = aiohttp.ClientSession(self.url)
        self._tasks = [asyncio.create_task(c.run()) for c in self.coordinators.values()]
        self._tasks.append(asyncio.create_task(self.workers.run()))

    def _data(self, migration: str) -> DataSetup | None:
        return self.data if self.data is not None and self.data.pair.migration == migration else None

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.http.close()
        await self._runner.cleanup()
        await self.store.close()

    @property
    def coordinator(self) -> Coordinator:
        return self.coordinators["phase6"]

    async def call(
        self, method: str, path: str = "", body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """A call of the API: status and document. A path without a slash is the default migration's."""
        whole = path if path.startswith("/") else f"/api/migration/phase6{'/' if path else ''}{path}"
        data = None if body is None else msgspec.json.encode(body)
        async with self.http.request(method, whole, data=data, headers=headers) as response:
            found = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, msgspec.json.decode(found) if is_json else found.decode()

    async def act(self, action: str, **fields: object) -> Any:
        """An action that must be carried out; the status after it."""
        return await self.act_as(None, action, **fields)

    async def act_as(self, headers: dict[str, str] | None, action: str, **fields: object) -> Any:
        """Likewise, by whoever has these headers."""
        status, found = await self.call("POST", "", {"action": action, **fields}, headers)
        assert status == 200, found
        return found

    async def status(self) -> Any:
        return (await self.call("GET"))[1]

    async def until(self, condition: Callable[[Any], object], within: float = WITHIN_S) -> Any:
        """The first status for which ``condition`` holds."""
        deadline = time.monotonic() + within
        while True:
            found = await self.status()
            if condition(found):
                return found
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within} s; the status is {found}")
            await asyncio.sleep(0.02)


@pytest.fixture
def make_board(tmp_path: Path) -> Iterator[Callable[..., Board]]:
    """Boards in a folder of the test's own."""
    made: list[Board] = []

    def make(migrations: tuple[str, ...] = ("phase6",), slots: int = 2, name: str = "board") -> Board:
        layout = Layout(slots, tuple((migration, NAMES) for migration in migrations))
        made.append(Board.create(tmp_path / name, layout, 1))
        return made[-1]

    yield make
    for board in made:
        board.close()


@pytest.fixture
def settings_of() -> Callable[..., Settings]:
    """The tests' settings with changes laid over them."""

    def make(change: dict[str, Any] | None = None) -> Settings:
        return parse(merged(DOCUMENT, change or {}))

    return make


@pytest.fixture
async def control_plane(
    tmp_path: Path, make_board: Callable[..., Board], settings_of: Callable[..., Settings]
) -> AsyncIterator[Callable[..., Awaitable[ControlPlane]]]:
    """Control planes, started; ended with the test."""
    made: list[ControlPlane] = []

    async def make(
        change: dict[str, Any] | None = None, board: Board | None = None, data: DataSetup | None = None
    ) -> ControlPlane:
        settings = settings_of(change)
        board = board or make_board(tuple(settings.migrations))
        plane = ControlPlane(tmp_path, settings, board, Workers(board))
        plane.data = data
        await plane.start()
        made.append(plane)
        return plane

    yield make
    for plane in made:
        await plane.stop()
