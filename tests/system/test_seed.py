"""``phasegate seed`` against the emulator: it fills an empty database, and says of another one what is to be done."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from backends.copy.marker import Marker, read_marker
from backends.documents.port import Context, Fields, Mutation, Query, put
from backends.kinds.firestore.settings import EMULATOR, Firestore
from backends.kinds.firestore.store import FirestoreStore
from control.cli.check import known_data
from control.plan.settings import load
from tests.support.fault_proxy import FaultProxy
from tests.support.patience import WITHIN_S
from tests.system.conftest import REPOSITORY, Running


def ask(project: str, work: Callable[[FirestoreStore], Awaitable[Any]]) -> Any:
    """What ``work`` returns for a store of the project."""

    async def run() -> Any:
        store = FirestoreStore(Firestore(project=project))
        await store.start()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def context() -> Context:
    return Context(asyncio.get_running_loop().time() + WITHIN_S)


def write(project: str, *mutations: Mutation) -> None:
    ask(project, lambda store: store.commit(mutations, context()))


def held(project: str, collection: str) -> dict[str, Fields]:
    documents = ask(project, lambda store: store.query(Query(collection), context()))
    return {document.id: document.fields for document in documents}


def marker(project: str) -> Marker | None:
    found: Marker | None = ask(project, read_marker)
    return found


def configuration(folder: Path, project: str, mock: str = "", run_dir: str = "run") -> Path:
    """A migration from a mock to Firestore that no phasegate serves."""
    path = folder / "phasegate.toml"
    path.write_text(
        f'[app]\norigin = "http://127.0.0.1:1"\n[proxy]\nlisten = ["127.0.0.1:0"]\nrun_dir = "{run_dir}"\n'
        f'[backends.mock]\nkind = "mock"\n{mock}\n[backends.firestore]\nkind = "firestore"\nproject = "{project}"\n'
        '[migrations.phase6]\nsource = "mock"\ntarget = "firestore"\nroutes = ["/api/scans/*"]\n'
    )
    return path


def things(folder: Path, documents: dict[str, Any]) -> str:
    """The mock's setting of a folder with these fixtures."""
    (folder / "fixtures").mkdir(exist_ok=True)
    (folder / "fixtures" / "things.json").write_text(json.dumps(documents))
    return 'fixtures = "fixtures"'


def command(config: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "control.cli", "seed", "--config", str(config), "--yes", *more]


def seed(config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(config, *more), cwd=REPOSITORY, capture_output=True, text=True, timeout=2 * WITHIN_S, env=os.environ
    )
    assert "Traceback" not in done.stderr
    return done


def test_thirty_documents_of_600_kb_are_written(emulated: str, tmp_path: Path) -> None:
    documents = {str(n): {"n": n, "text": "x" * 600_000} for n in range(30)}
    config = configuration(tmp_path, emulated, things(tmp_path, documents))
    done = seed(config)
    assert done.returncode == 0, done.stderr
    assert "phase6: 30 documents written (the emulator at " in done.stdout
    assert held(emulated, "things") == documents
    found = marker(emulated)
    assert found is not None
    assert found.whole
    assert found.documents == 30
    again = seed(config)
    assert (again.returncode, "seeded before, left unchanged" in again.stdout) == (0, True)
    known = known_data(load(config), "phase6", set())
    assert known is not None
    assert (known.check.ok, known.mend) == (True, ""), "the next serve's gate is open"
    other = known_data(load(configuration(tmp_path, emulated)), "phase6", set())
    assert other is not None
    assert other.mend == "phasegate copy --migration phase6", "that source begins with other documents"


def test_a_document_that_is_too_large_is_told_before_anything_is_written(emulated: str, tmp_path: Path) -> None:
    documents = {"a": {"n": 1}, "b": {"parts": ["x" * 600_000] * 2}}
    done = seed(configuration(tmp_path, emulated, things(tmp_path, documents)))
    assert done.returncode == 2
    assert "things.json: things/b is 1200" in done.stderr
    assert held(emulated, "things") == {}
    assert marker(emulated) is None


def test_a_database_with_another_apps_documents_is_refused_and_forced_keeps_them(
    emulated: str, tmp_path: Path
) -> None:
    theirs: Fields = {"patient": 7, "organ": "knee"}
    write(emulated, put("scans/a", theirs))
    (tmp_path / "fixtures").mkdir()
    request = {"method": "POST", "path": "/api/scans", "body": {"root": "/"}}
    lines = [request | {"id": "a"}, request | {"id": "b"}]
    (tmp_path / "fixtures" / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = configuration(tmp_path, emulated, 'fixtures = "fixtures"')
    done = seed(config)
    assert done.returncode == 3
    for words in (
        "its collection scans holds scans/a",
        "phasegate copy",
        "another database",
        "phasegate seed --force",
    ):
        assert words in done.stderr
    assert held(emulated, "scans") == {"a": theirs}
    assert marker(emulated) is None
    forced = seed(config, "--force")
    assert forced.returncode == 0, forced.stderr
    assert "1 documents written; 1 hold something else and were left as they are: 1 in scans, as scans/a" in (
        forced.stdout
    )
    scans = held(emulated, "scans")
    assert scans["a"] == theirs
    assert scans["b"]["status"] == "queued"
    found = marker(emulated)
    assert found is not None
    assert not found.whole


async def test_a_seed_that_is_killed_goes_on(
    emulated: str, emulator_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = {str(n): {"n": n, "text": "x" * 300_000} for n in range(150)}
    config = configuration(tmp_path, emulated, things(tmp_path, documents))
    store = FirestoreStore(Firestore(project=emulated))
    await store.start()
    slow = FaultProxy(emulator_address)
    slow.delay_s = 0.2  # of each of the seed's commits, so that there is time to kill it between two of them
    monkeypatch.setenv(EMULATOR, await slow.start())
    process = await asyncio.create_subprocess_exec(*command(config), cwd=REPOSITORY)
    try:
        async with asyncio.timeout(WITHIN_S):
            while await store.get("things/0", context()) is None:
                await asyncio.sleep(0.02)
    finally:
        process.kill()
        await process.wait()
        await slow.stop()
    monkeypatch.setenv(EMULATOR, emulator_address)
    there = len(await store.query(Query("things"), context()))
    assert 0 < there < 150
    found = await read_marker(store)
    assert found is not None
    assert not found.finished
    done = await asyncio.to_thread(seed, config)
    assert done.returncode == 0, done.stderr
    assert f"{150 - there} documents written; {there} were there already" in done.stdout
    stored = await store.query(Query("things"), context())
    assert {document.id: document.fields for document in stored} == documents
    found = await read_marker(store)
    assert found is not None
    assert found.whole
    await store.close()


def post(running: Running, path: str, body: object, method: str = "POST") -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://{running.listen}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
        document: dict[str, Any] = json.loads(answer.read())
        return document


def test_after_the_app_has_written_nothing_is_set_back(
    emulated: str,
    configured: Callable[..., Path],
    serving: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., None],
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Running, "phasegate", uncopied(Running.phasegate))
        running = serving(emulated, [("half", 50, "10m"), ("complete", 100, "10m")])
    scan = post(running, "/api/scans", {"root": "/home"})["id"]
    post(running, f"/api/scans/{scan}", {"status": "running"}, "PATCH")
    post(running, f"/api/scans/{scan}", {"status": "completed"}, "PATCH")
    events = [{"user": "u", "type": "view", "id": str(n)} for n in range(40)]
    post(running, "/api/analytics/events", events)

    def mirrored() -> bool:
        scans = held(emulated, "scans")
        totals = held(emulated, "analytics_totals").values()
        return scans.get(scan, {}).get("status") == "completed" and [each["events"] for each in totals] == [40]

    until(mirrored, WITHIN_S, "the writes on the target")
    before = {name: held(emulated, name) for name in ("scans", "analytics_totals", "analytics_events")}
    done = seed(running.config)
    assert done.returncode == 3, done.stdout
    assert "it is not empty: its collection scans holds scans/" in done.stderr
    assert {name: held(emulated, name) for name in before} == before
    assert marker(emulated) is None
    forced = seed(running.config, "--force")
    assert forced.returncode == 0, forced.stderr
    assert "hold something else and were left as they are" in forced.stdout
    assert held(emulated, "scans")[scan]["status"] == "completed"
    assert min(int(str(each["events"])) for each in held(emulated, "analytics_totals").values()) == 40


def uncopied(command: Callable[..., Any], instead: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Leaves out the copy with which the tests' phasegates begin, or runs another command in its place."""

    def run(self: Running, *args: str) -> Any:
        if args[0] != "copy":
            return command(self, *args)
        config = ("--config", str(self.config))
        return command(self, *instead, *config) if instead else subprocess.CompletedProcess([], 0)

    return run


def test_a_target_that_answers_visitors_is_refused_while_served_and_afterwards(
    emulated: str,
    serving: Callable[..., Running],
    until: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Running, "phasegate", uncopied(Running.phasegate, ("seed", "--yes")))
        running = serving(emulated, [("half", 50, "10m"), ("complete", 100, "10m")])
    other = Path(str(running.config).replace("phasegate.toml", "other.toml"))
    other.write_text(running.config.read_text().replace('kind = "mock"', 'kind = "mock"\nseed = 7', 1))
    started = running.phasegate("start", "--detach")  # a seed of the source's own fixtures opens the data's gate
    assert started.returncode == 0, started.stderr
    until(lambda: running.client.status().weight == 50, WITHIN_S, "the first phase")
    done = seed(other)
    assert done.returncode == 3
    assert "it answers 50 % of the visitors by now" in done.stderr
    same = seed(running.config)
    assert (same.returncode, "seeded before, left unchanged" in same.stdout) == (0, True)
    running.children.end("phasegate")
    done = seed(other)
    assert done.returncode == 3
    assert "it answers 50 % of the visitors by now" in done.stderr


def test_a_database_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    done = seed(configuration(tmp_path, "demo-nobody"))
    assert done.returncode == 5
    assert "could not be read or written" in done.stderr
    assert "run `phasegate seed` again" in done.stderr
