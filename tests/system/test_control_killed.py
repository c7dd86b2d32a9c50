"""The control process killed, stopped and out of disk, as a real process on a real board; its workers are played.

Every named point once; ``PHASEGATE_KILLS=100`` goes round until that many have died:
``PHASEGATE_KILLS=100 python -m pytest tests/system/test_control_killed.py -k killed_at``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import msgspec
import pytest

from backends.durations import encode_hook
from control.api.client import ControlClient
from control.api.unanswered import ApiError
from control.lead import crashpoints as faults
from control.lead.checkpoint import CheckpointDocument
from control.lead.commands import Action
from control.plan.settings import Settings, parse
from control.rollout.model import EnteredPhase, Entry, Rollout, State
from control.store.sqlite import Store
from proxy.board import layout as layouts
from proxy.board.board import Board, boot_id
from proxy.migration.routes import layout

REPOSITORY = Path(__file__).parents[2]
LEASE_S = 30.0  # longer than a process needs to start on a busy machine
ROWS = 2
KILLS = int(os.environ.get("PHASEGATE_KILLS", len(faults.POINTS)))


def settings_in(folder: Path, lease_s: float) -> Settings:
    return parse(
        {
            "app": {"origin": "http://127.0.0.1:1"},
            "proxy": {"run_dir": str(folder)},
            "backends": {"mock": {"kind": "mock"}, "other": {"kind": "mock", "seed": 2}},
            "migrations": {
                "phase6": {
                    "source": "mock",
                    "target": "other",
                    "routes": ["/api/dashboard/*"],
                    "lease": lease_s,
                    "min_samples": 10**6,
                    # The workers are played, so no store of theirs has data. A copy would write checkpoints of its
                    # own, and control would die at one of these instead of at the action that a test is about.
                    "data": {"gate": False},
                    "thresholds": {"cpu": 100.0},
                    "phases": [
                        {"name": "first", "weight": 5, "rollback_within": "2s"},
                        {"name": "second", "weight": 50, "rollback_within": "2s"},
                        {"name": "all", "weight": 100, "rollback_within": "2s"},
                    ],
                }
            },
        }
    )


class Scene:
    """A board in a folder, workers that show what they see, and control processes started on it."""

    def __init__(self, folder: Path, lease_s: float = LEASE_S) -> None:
        self.folder = folder
        self.settings = settings_in(folder, lease_s)
        self.board = Board.create(folder / "board", layout(self.settings.plan(), ROWS), boot_id())
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen()
        self.client = ControlClient(f"http://127.0.0.1:{self.socket.getsockname()[1]}")
        self.process: subprocess.Popen[bytes] | None = None
        self.highest = 0  # weight that workers would have taken since it was set to 0
        self._stop = threading.Event()
        self._player = threading.Thread(target=self._play, daemon=True)
        self._player.start()

    def _play(self) -> None:
        cells, shape = self.board.cells, self.board.layout
        while not self._stop.wait(0.003):
            self.highest = max(self.highest, self.effective)
            for slot in range(ROWS):
                cells[shape.worker(slot) + layouts.W_PID] = os.getpid()
                cells[shape.worker(slot) + layouts.W_HEARTBEAT] = time.monotonic_ns()
                cells[shape.share(slot, 0) + layouts.S_GENERATION] = self.board.word(0).generation

    @property
    def effective(self) -> int:
        """The weight that workers take from the board now."""
        word = self.board.word(0)
        leased = word.flags & layouts.PINNED or time.monotonic_ns() < self.board.lease_until(0)
        return word.weight_bp if leased else 0

    def start(self, point: str = "", limit: Callable[[], None] | None = None) -> None:
        orders = {
            "fd": self.socket.fileno(),
            "rows": ROWS,
            "board": str(self.board.path),
            "boot": boot_id(),
            "orders": msgspec.json.encode(self.settings, enc_hook=encode_hook).decode(),
        }
        log = (self.folder / "control.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "control.serve"],
            stdin=subprocess.PIPE,
            stderr=log,
            cwd=REPOSITORY,
            env={**os.environ, faults.VARIABLE: point},
            pass_fds=(self.socket.fileno(),),
            preexec_fn=limit,
        )
        log.close()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(orders).encode())
        self.process.stdin.close()

    def until(self, condition: Callable[[], object], what: str, within: float = 60.0) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {(self.folder / 'control.log').read_text()[-2000:]}"
            time.sleep(0.01)

    def ready(self) -> None:
        self.until(self.client.ready, "the control process is ready")

    def died(self) -> int:
        assert self.process is not None
        code = self.process.wait(60)
        self.process = None
        return code

    def put_in_first_phase(self) -> None:
        """Leave board and store as a control process does that has begun."""
        until_ns = time.monotonic_ns() + int(LEASE_S * 1e9)
        self.board.renew_lease(0, until_ns)
        generation = self.board.publish(0, 500, pinned=False, now_ns=time.monotonic_ns())
        initial = EnteredPhase("initial", 500)
        running = Rollout(
            state=State.RUNNING,
            phase=initial,
            weight_bp=500,
            revision=2,
            generation=generation,
            started_at=1.0,
            entered_at=1.0,
            resume_phase=initial,
        )
        store = Store(self.folder / "control.db")
        document = msgspec.json.encode(CheckpointDocument(running)).decode()
        store.save("phase6", document, [(1.0, Entry("start", "somebody", {"reason": ""}))], 1.0)
        store.close()

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def saved(self) -> tuple[Rollout | None, list[str]]:
        """What the store has: the checkpoint's rollout, and the audit trail's hashes."""
        store = Store(self.folder / "control.db")
        found = store.checkpoint("phase6")
        hashes = [line.hash for line in reversed(store.audit("phase6", 1000))]
        assert not store.verify("phase6").problems
        store.close()
        rollout = msgspec.convert(json.loads(found.document)["rollout"], Rollout) if found else None
        return rollout, hashes

    def close(self) -> None:
        self.kill()
        self._stop.set()
        self._player.join()
        self.socket.close()
        self.board.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.fixture
def short_lease(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, 2.0)
    yield made
    made.close()


def allowed_bp(saved: Rollout | None) -> int:
    """The most that a checkpoint allows: its weight, or that of the increase it had written."""
    if saved is None:
        return 0
    return max(saved.weight_bp, saved.pending.weight_bp if saved.pending is not None else 0)


@pytest.mark.parametrize(
    ("number", "point"), list(enumerate(islice(cycle(faults.POINTS), KILLS))), ids=lambda value: str(value)
)
def test_killed_at_any_point_it_comes_back_with_no_more_weight_and_no_entry_lost(
    scene: Scene, number: int, point: str
) -> None:
    descends = point.startswith("descent.")
    begun = descends or bool(number % 2)
    if begun:
        scene.put_in_first_phase()
    scene.start(point)
    scene.ready()
    before_bp = scene.board.word(0).weight_bp
    assert scene.client.status().state == ("running" if begun else "idle")
    acknowledged = [entry.hash for entry in reversed(scene.client.audit(1000).entries)]
    action: Action = "rollback" if descends else "advance" if begun else "start"
    with suppress(ApiError):
        scene.client.act(action, reason="a rehearsal")
    assert scene.died() == -signal.SIGKILL, f"it was to die at {point}"

    saved, hashes = scene.saved()
    assert hashes[: len(acknowledged)] == acknowledged
    at_death_bp = scene.board.word(0).weight_bp
    assert at_death_bp <= max(before_bp, allowed_bp(saved))
    scene.highest = 0
    scene.start()
    scene.ready()
    scene.until(lambda: scene.client.status().checkpoint.unsaved_entries == 0, "all is written")
    status = scene.client.status()
    assert scene.highest <= max(at_death_bp, 0)
    assert status.weight * 100 <= min(at_death_bp, allowed_bp(saved))
    if descends and point not in ("descent.decided", "descent.publishing"):
        assert status.weight == 0
    assert scene.client.audit(1000).entries[-1].hash == hashes[0]
    scene.kill()
    assert scene.saved()[1][: len(hashes)] == hashes


def test_a_stopped_control_process_loses_its_lease_and_does_not_take_it_back(short_lease: Scene) -> None:
    scene = short_lease
    scene.start()
    scene.ready()
    scene.client.act("start")
    scene.client.act("advance", reason="a rehearsal")
    assert scene.effective == 5000
    assert scene.process is not None
    scene.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    scene.until(lambda: scene.effective == 0, "the lease runs out")
    assert time.monotonic() - stopped <= 2.5
    scene.highest = 0
    scene.process.send_signal(signal.SIGCONT)
    scene.until(lambda: scene.client.status().state == "rolled_back", "it notices")
    assert scene.highest == 0
    last = scene.client.status().last_rollback
    assert last is not None
    assert last.trigger == "lease_lost"


def test_a_killed_control_process_leaves_a_completed_migration_where_it_is(short_lease: Scene) -> None:
    scene = short_lease
    scene.start()
    scene.ready()
    scene.client.act("start")
    for _ in range(3):
        scene.client.act("advance", reason="a rehearsal")
    assert scene.client.status().state == "completed"
    scene.kill()
    scene.until(lambda: time.monotonic_ns() > scene.board.lease_until(0), "the last lease is over")
    assert scene.effective == 10_000
    scene.start()
    scene.ready()
    assert (scene.client.status().state, scene.effective) == ("completed", 10_000)


def test_a_full_disk_stops_an_advance_and_no_abort(scene: Scene) -> None:
    def small_files() -> None:
        # Python ignores SIGXFSZ, so a write beyond the limit is an error, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))

    scene.start(limit=small_files)
    scene.ready()
    scene.client.act("start")
    assert scene.process is not None
    (scene.folder / "control.log").write_bytes(b"")
    used = max((scene.folder / name).stat().st_size for name in ("control.db", "control.db-wal"))
    resource.prlimit(scene.process.pid, resource.RLIMIT_FSIZE, (used, resource.RLIM_INFINITY))
    with pytest.raises(ApiError) as refused:
        scene.client.act("advance", reason="a rehearsal")
    assert "checkpoint could not be written" in str(refused.value)
    status = scene.client.status()
    assert (status.weight, status.checkpoint.ok) == (5.0, False)
    aborted = scene.client.act("abort", reason="enough")
    assert (aborted.state, aborted.weight, scene.effective) == ("aborted", 0.0, 0)
    # Room again: everything that was to be written is.
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(scene.process.pid, resource.RLIMIT_FSIZE, unlimited)
    scene.until(lambda: scene.client.status().checkpoint.ok, "the store is written again")
    kinds = [entry.kind for entry in scene.client.audit(100).entries]
    assert "abort" in kinds
    assert scene.client.verify().whole


def test_a_broken_store_is_set_aside_and_the_migration_held_at_0(scene: Scene) -> None:
    scene.start()
    scene.ready()
    scene.client.act("start")
    scene.kill()
    for part in scene.folder.glob("control.db*"):
        part.write_bytes(b"not a database " * 500)
    scene.start()
    scene.ready()
    status = scene.client.status()
    assert (status.state, status.weight, scene.effective) == ("rolled_back", 0.0, 0)
    scene.until(lambda: scene.client.audit(100).entries, "the new trail has entries")
    assert "the store was broken" in str(scene.client.audit(100).entries)
    assert list(scene.folder.glob("control.db.broken-*"))


def test_it_ends_at_once_when_told_to_and_says_nothing_secret(scene: Scene) -> None:
    scene.start()
    scene.ready()
    scene.client.act("start")
    assert scene.process is not None
    scene.process.terminate()
    assert scene.died() == 0
    assert scene.saved()[0] is not None
