"""Changes that wait survive a frozen Firestore, a killed worker, a restart and another number of workers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from backends.documents.port import NAME, Context, DocumentStore, Fields, Query
from backends.kinds.firestore.emulator import Emulator
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.store import FirestoreStore
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from control.api.client import ControlClient
from control.demo.children import Children
from tests.system.conftest import TOKEN

PROJECT = "demo-survives"
PHASES = [("half", 50.0, "1h"), ("all", 100.0, "1h")]
WITHIN_S = 120.0
PAGE = 300
# A collection's own documents; those below a scan are asked for scan by scan.
TOP = (
    "dashboard_snapshots",
    "scans",
    "analytics_events",
    "analytics_totals",
    "analytics_minutes",
    "analytics_hours",
    "analytics_days",
)
Wait = Callable[..., None]


def ask(listen: str, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"http://{listen}{path}", json.dumps(body).encode(), method=method)
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status, json.load(answer)


class Writes:
    """Writes of every kind, and what was acknowledged: the paths of documents that must be on both sides."""

    def __init__(self, listen: str) -> None:
        self.listen = listen
        self.snapshots: list[str] = []
        self.scans: dict[str, int] = {}  # and how many files each has
        self.events = 0

    def some(self, count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._one, range(count)))

    def _one(self, nth: int) -> None:
        status, snapshot = ask(self.listen, "PUT", "/api/dashboard/metrics", {"metrics": {"n": nth}})
        assert status == 200
        self.snapshots.append(snapshot["id"])
        events = [{"user": f"u{nth % 3}", "type": "view", "item": f"i{nth % 5}"}] * 2
        assert ask(self.listen, "POST", "/api/analytics/events", events)[0] == 202
        self.events += 2
        if nth % 4 == 0:
            scan = ask(self.listen, "POST", "/api/scans", {"name": str(nth)})[1]["id"]
            ask(self.listen, "PATCH", f"/api/scans/{scan}", {"status": "running", "progress": 5})
            files = {"files": [{"path": f"/{nth}/{n}", "size": n, "hash": f"h{n % 3}"} for n in range(9)]}
            assert ask(self.listen, "POST", f"/api/scans/{scan}/results", files)[0] == 201
            assert ask(self.listen, "PATCH", f"/api/scans/{scan}", {"status": "completed"})[0] == 200
            self.scans[scan] = 9


async def walk(store: DocumentStore) -> dict[str, Fields]:
    """Every document of the app's, by path."""

    async def collection(name: str) -> Iterator[tuple[str, Fields]]:
        found, after = [], None
        while True:
            ctx = Context(asyncio.get_running_loop().time() + 60)
            page = await store.query(Query(name, order=NAME, limit=PAGE, start_after=after), ctx)
            found += [(document.path, document.fields) for document in page]
            if len(page) < PAGE:
                return iter(found)
            after = (None, page[-1].id)

    documents: dict[str, Fields] = {}
    for name in TOP:
        documents.update(await collection(name))
    for scan in [path for path in documents if path.startswith("scans/")]:
        for below in ("results", "groups"):
            documents.update(await collection(f"{scan}/{below}"))
    return documents


async def both(run: Path, project: str = PROJECT) -> tuple[dict[str, Fields], dict[str, Fields]]:
    """What the mock and Firestore hold."""
    source = MemoryStore(log=Journal(run / "phase6.mock.journal"))
    target = FirestoreStore(Firestore(project))
    found = []
    for store in (source, target):
        await store.start()
        found.append(await walk(store))
        await store.close()
    return found[0], found[1]


def gauges(client: ControlClient) -> dict[str, int]:
    return {name: sum(values) for name, values in client.metrics().gauges.items()}


def serve_again(children: Children, config: Path, until: Wait, name: str, workers: int) -> tuple[str, ControlClient]:
    """Serve the same configuration, with another number of workers; where the proxy listens."""
    config.write_text(re.sub(r"workers = \d+", f"workers = {workers}", config.read_text()))
    ready = config.parent / "run" / "ready.json"
    process = children.python(name, "control.cli", "serve", "--config", str(config))

    def started() -> bool:
        assert process.poll() is None, children.log(name, 20)
        return ready.exists()

    until(started, WITHIN_S, "the start")
    told = json.loads(ready.read_text())
    client = ControlClient(f"http://{told['control']}", TOKEN)
    until(client.ready, WITHIN_S, "the control plane")
    until(lambda: len(client.status().workers) == workers, WITHIN_S, "all workers")
    return told["proxy"][0], client


def test_what_was_acknowledged_is_on_both_sides_after_a_kill_and_a_restart_with_firestore_frozen(
    own_emulator: Emulator, serving: Callable[..., Any], children: Children, until: Wait
) -> None:
    running = serving(PROJECT, PHASES)
    run = running.folder / "run"
    writes = Writes(running.listen)
    writes.some(8)
    until(lambda: gauges(running.client)["mirror_pending"] == 0, WITHIN_S, "Firestore's taking the first writes")

    own_emulator.signal(signal.SIGSTOP)
    frozen = True
    try:
        writes.some(24)
        until(lambda: gauges(running.client)["mirror_pending"] > 50, WITHIN_S, "changes that wait")
        before = gauges(running.client)["mirror_pending"]

        killed = running.client.status().workers[0].pid
        os.kill(killed, signal.SIGKILL)

        def taken_over() -> bool:
            pids = [worker.pid for worker in running.client.status().workers]
            return len(pids) == 2 and killed not in pids and gauges(running.client)["mirror_pending"] >= before

        until(taken_over, WITHIN_S, "another worker's taking over what waits")
        assert gauges(running.client)["mirror_lost"] == 0
        writes.some(8)

        os.kill(running.pid, signal.SIGTERM)
        until(lambda: not (run / "ready.json").exists(), WITHIN_S, "the end")
        assert list((run / "phase6.changes").glob("to_target.*")), "what waits is in the change log"

        writes.listen, client = serve_again(children, running.config, until, "again", 3)
        until(lambda: gauges(client)["mirror_pending"] >= before, WITHIN_S, "the new workers' taking over")
        writes.some(4)
        own_emulator.signal(signal.SIGCONT)
        frozen = False
        until(lambda: gauges(client)["mirror_pending"] == 0, WITHIN_S, "Firestore's taking all that waited")
        assert gauges(client)["mirror_lost"] == 0
    finally:
        if frozen:
            own_emulator.signal(signal.SIGCONT)

    deadline = time.monotonic() + WITHIN_S
    source, target = asyncio.run(both(run))
    while source != target and time.monotonic() < deadline:
        time.sleep(0.5)
        source, target = asyncio.run(both(run))
    different = {path for path in {*source, *target} if source.get(path) != target.get(path)}
    assert different == set()
    assert {f"dashboard_snapshots/{each}" for each in writes.snapshots} <= set(target)
    for scan, files in writes.scans.items():
        assert target[f"scans/{scan}"]["status"] == "completed"
        assert target[f"scans/{scan}"]["files"] == files
    seeded = 500  # events of the made-up data
    totals = [fields["events"] for path, fields in target.items() if path.startswith("analytics_totals/")]
    assert sum(int(str(events)) for events in totals) == writes.events + seeded
    with suppress(ProcessLookupError):
        os.kill(json.loads((run / "ready.json").read_text())["pid"], signal.SIGTERM)
