"""``writes = "source"``, with real processes over the emulator: a target that takes no write, and the switch."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pytest

from backends.kinds.firestore.settings import EMULATOR
from control.api.client import ControlClient
from control.api.unanswered import ApiError
from tests.support.fault_proxy import FaultProxy
from tests.system.test_changes_survive import both

WITHIN_S = 120.0
SOURCE, TARGET = "mock", "firestore"
Wait = Callable[..., None]


class Answered(NamedTuple):
    """A write that was acknowledged: by which side, and when it was sent (monotonic seconds)."""

    arm: str
    began: float


class Writers:
    """Visitors that each make a scan, work on it step by step, and go; and readers of what is there."""

    def __init__(self, listen: str, threads: int = 4) -> None:
        self.listen = listen
        self.answered: list[Answered] = []
        self.scans: list[str] = []  # completed, with three files each
        self.snapshots: list[str] = []
        self.events = 0
        self.read: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(WITHIN_S)

    def arms_since(self, began: float) -> Counter[str]:
        """Who answered the writes that were sent after this moment."""
        return Counter(each.arm for each in tuple(self.answered) if each.began > began)

    def _run(self, thread: int) -> None:
        nth = 0
        while not self._stop.is_set():
            nth += 1
            try:
                self._visit(f"v{thread}-{nth}", nth)
            except Exception as error:
                self.failures.append(f"{error}: {error.read()!r}" if hasattr(error, "read") else repr(error))

    def _visit(self, user: str, nth: int) -> None:
        scan = self._write(user, "POST", "/api/scans", {"name": user})["id"]
        self._write(user, "PATCH", f"/api/scans/{scan}", {"status": "running", "progress": 5})
        files = {"files": [{"path": f"/{user}/{n}", "size": n, "hash": f"h{n % 2}"} for n in range(3)]}
        self._write(user, "POST", f"/api/scans/{scan}/results", files)
        self._write(user, "PATCH", f"/api/scans/{scan}", {"status": "completed"})
        snapshot = self._write(user, "PUT", "/api/dashboard/metrics", {"metrics": {"n": nth}})["id"]
        self._write(user, "POST", "/api/analytics/events", [{"user": user, "type": "view", "item": f"i{nth % 3}"}])
        with self._lock:
            self.scans.append(scan)
            self.snapshots.append(snapshot)
            self.events += 1
        for _ in range(8):
            self.read[self._ask(f"reader-{user}", "GET", "/api/scans", None)[0]] += 1

    def _write(self, user: str, method: str, path: str, body: Any) -> Any:
        began = time.monotonic()
        arm, answer = self._ask(user, method, path, body)
        self.answered.append(Answered(arm, began))
        return answer

    def _ask(self, user: str, method: str, path: str, body: Any) -> tuple[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-user-id": user}
        request = urllib.request.Request(f"http://{self.listen}{path}", content, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers["x-data-source"], json.load(answer)


@pytest.fixture
def faults(emulator_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of the emulator; what is started after it goes through it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        proxy = asyncio.run_coroutine_threadsafe(_started(emulator_address), loop).result(WITHIN_S)
        monkeypatch.setenv(EMULATOR, proxy[1])
        yield proxy[0]
        asyncio.run_coroutine_threadsafe(proxy[0].stop(), loop).result(WITHIN_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WITHIN_S)
        loop.close()


async def _started(upstream: str) -> tuple[FaultProxy, str]:
    proxy = FaultProxy(upstream)
    return proxy, await proxy.start()


def pending(client: ControlClient) -> int:
    return sum(client.metrics().gauges["mirror_pending"])


def copies(client: ControlClient) -> dict[str, tuple[int, int]]:
    """By operation: the copies since boot, and those of them that failed."""
    operations = client.metrics().operations
    return {each.operation: (each.copies, each.copy_faults) for each in operations if each.copies}


@pytest.mark.parametrize("trouble", ["refuses", "says nothing"])
def test_a_target_that_takes_no_write_is_rolled_back_though_it_answers_every_read(
    trouble: str, faults: FaultProxy, serving: Callable[..., Any], until: Wait
) -> None:
    running = serving(f"demo-one-writer-{len(trouble)}", [("half", 50.0, "1h")], writes="source")
    client = running.client
    client.act("start")
    writers = Writers(running.listen)
    with writers.at_work():
        until(lambda: writers.read[TARGET] > 20, WITHIN_S, "reads from Firestore")
        until(lambda: sum(made for made, _ in copies(client).values()) > 20, WITHIN_S, "copies")
        assert client.status().state == "running"
        assert client.status().unsplit > 0
        assert {each.faults for each in client.status().copies} == {0}
        faults.only = "/Commit"
        if trouble == "refuses":
            faults.fail = 1.0
        else:
            faults.delay_s = 2 * WITHIN_S
        began = time.monotonic()
        until(lambda: client.status().weight == 0, WITHIN_S, "the rollback")
        print(f"{trouble}: taken back after {time.monotonic() - began:.1f} s")
    status = client.status()
    assert status.weight == 0
    assert status.last_rollback is not None
    assert "copies of writes" in status.last_rollback.reason
    assert any(failed for _, failed in copies(client).values())
    assert writers.failures == []
    assert writers.arms_since(0.0).keys() == {SOURCE}

    faults.fail = faults.delay_s = 0.0
    until(lambda: pending(client) == 0, WITHIN_S, "Firestore's taking what waited")
    assert sum(client.metrics().gauges["mirror_lost"]) == 0


def test_nothing_acknowledged_is_lost_where_the_writes_change_sides(
    emulated: str, serving: Callable[..., Any], until: Wait
) -> None:
    """To the target by completion, back to the source by a rollback, and to the target again, under steady writes."""
    running = serving(emulated, [("all", 100.0, "1h")], writes="source")
    client = running.client
    writers = Writers(running.listen)
    with writers.at_work():
        client.act("start")
        until(lambda: writers.read[TARGET] > 20, WITHIN_S, "reads from Firestore")
        assert writers.arms_since(0.0).keys() == {SOURCE}, "all reads are the target's, no write is"
        for _ in range(2):
            client.act("advance")
            assert client.status().state == "completed"
            completed = time.monotonic()
            until(lambda since=completed: writers.arms_since(since)[TARGET] > 50, WITHIN_S, "writes to Firestore")
            client.act("rollback", to="start")
            back = time.monotonic()
            until(lambda since=back: writers.arms_since(since)[SOURCE] > 50, WITHIN_S, "writes to the mock")
            assert writers.arms_since(back).keys() == {SOURCE}
            client.act("resume")
            until(lambda: client.status().weight == 100, WITHIN_S, "all reads on the target")
    assert writers.failures == []
    until(lambda: pending(client) == 0, WITHIN_S, "both sides' taking what waited")
    assert sum(client.metrics().gauges["mirror_lost"]) == 0

    deadline = time.monotonic() + WITHIN_S
    source, target = asyncio.run(both(running.folder / "run", emulated))
    while source != target and time.monotonic() < deadline:
        time.sleep(0.5)
        source, target = asyncio.run(both(running.folder / "run", emulated))
    assert {path for path in {*source, *target} if source.get(path) != target.get(path)} == set()
    assert {f"dashboard_snapshots/{each}" for each in writers.snapshots} <= set(target)
    for scan in writers.scans:
        assert (target[f"scans/{scan}"]["status"], target[f"scans/{scan}"]["files"]) == ("completed", 3)
    seeded = 500  # events of the made-up data
    totals = [int(str(fields["events"])) for path, fields in target.items() if path.startswith("analytics_totals/")]
    assert sum(totals) == writers.events + seeded


def test_a_reload_changes_who_takes_the_writes_and_keeps_the_weight(
    emulated: str, serving: Callable[..., Any], until: Wait
) -> None:
    running = serving(emulated, [("all", 100.0, "1h")], writes="arm")
    running.client.act("start")
    writers = Writers(running.listen, threads=2)
    with writers.at_work():
        until(lambda: writers.arms_since(0.0)[TARGET] > 20, WITHIN_S, "writes to Firestore")
        before = {worker.pid for worker in running.client.status().workers}
        running.config.write_text(running.config.read_text().replace('writes = "arm"', 'writes = "source"'))
        os.kill(running.pid, signal.SIGHUP)

        def replaced() -> bool:
            with suppress(ApiError):
                pids = {worker.pid for worker in running.client.status().workers}
                return len(pids) == 2 and not pids & before
            return False

        until(replaced, WITHIN_S, "new workers")
        until(lambda: writers.read[TARGET] > 0, WITHIN_S, "reads from Firestore")

        def only_the_source() -> bool:
            since = time.monotonic()
            until(lambda: sum(writers.arms_since(since).values()) > 20, WITHIN_S, "writes")
            return writers.arms_since(since).keys() == {SOURCE}

        until(only_the_source, WITHIN_S, "the source's answering every write")
        assert running.client.status().weight == 100
    assert writers.failures == []
