"""The coordinator in trouble: leases, stores that fail or hang, restarts, gates, health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from backends.arm import SOURCE, TARGET
from backends.errors import FaultKind, Trouble
from control.checks.check import Check
from control.checks.indexed import Unanswered
from control.figures.metrics import exposition
from control.judge.rules import VerdictOutcome
from control.judge.verdict import PhaseVerdict
from control.lead import splitkey
from control.lead.commands import Command
from control.lead.coordinator import CheckpointDocument, Coordinator
from control.lead.execution import CommandRefused
from control.lead.judging import HEALTH_AGAIN_S, TELL_AGAIN_S
from control.lead.news import ApprovalNeeded, Held, LeaseLost, Told
from control.plan.phases import Phase
from control.plan.times import Now, rfc3339
from control.report.nextstep import next_line
from control.rollout.machine import step
from control.rollout.model import (
    EnteredPhase,
    Entry,
    On,
    PhaseChange,
    Rollback,
    RollbackBegun,
    Rollout,
    RolloutEvent,
    RunSplit,
    State,
)
from control.store.entry import AuditLine
from control.store.port import Checkpoint, StoreError
from control.store.sqlite import StoreThread
from proxy.board import layout as layouts
from proxy.board.board import Board
from proxy.board.layout import SplitKey
from proxy.migration import buckets
from tests.shell.conftest import NAMES
from tests.support.patience import WITHIN_S

Make = Callable[..., Any]
INITIAL, EARLY = EnteredPhase("initial", 500), EnteredPhase("early", 2500)
LONG = {"migrations": {"phase6": {"validate_every": "60s", "max_soak": "600s", "min_samples": 10**6}}}


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.mono = 1000.0
        self.unix = 1_700_000_000.0

    def now(self) -> Now:
        return Now(self.mono, self.unix)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0.001)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        await asyncio.sleep(0.001)


class Memory:
    """A store that is as good or as bad as the test says."""

    def __init__(self) -> None:
        self.saved: Checkpoint | None = None
        self.entries: list[str] = []
        self.details: list[dict[str, Any]] = []
        self.saves = 0
        self.waiting = 0
        self.failing: str | None = None
        self.unreadable: str | None = None
        self.readable = asyncio.Event()  # until then a read does not answer
        self.readable.set()
        self.open = asyncio.Event()
        self.open.set()

    def when_new(self, tell: Callable[[], None]) -> None:
        """It never is."""

    async def save(self, migration: str, document: str, entries: Sequence[tuple[float, Entry]]) -> list[AuditLine]:
        # As the store's thread does, it goes on with what it was asked, whatever becomes of who asked.
        return await asyncio.shield(asyncio.ensure_future(self._save(document, entries)))

    async def _save(self, document: str, entries: Sequence[tuple[float, Entry]]) -> list[AuditLine]:
        self.waiting += 1
        await self.open.wait()
        self.waiting -= 1
        if self.failing is not None:
            raise StoreError(self.failing)
        self.saved = Checkpoint(document, 1.0)
        self.saves += 1
        self.entries += [entry.kind for _, entry in entries]
        self.details += [entry.detail for _, entry in entries]
        return [AuditLine(i, at, e.kind, e.actor, e.detail, "", "") for i, (at, e) in enumerate(entries)]

    async def checkpoint(self, migration: str) -> Checkpoint | None:
        await self.readable.wait()
        if self.unreadable is not None:
            raise StoreError(self.unreadable)
        return self.saved


async def until(condition: Callable[[], object]) -> None:
    """Let others run until it holds."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.001)


class Scene:
    """A coordinator whose passes, clock, store and workers are in the test's hands."""

    def __init__(self, board: Board, settings: Any) -> None:
        self.board, self.settings = board, settings
        self.clock, self.store = HandClock(), Memory()
        self.health: list[Check] = []
        self.answers = True  # the target, to a probe
        self.unanswered: list[Unanswered] = []  # by the target, to a diagnosis
        self.diagnoses = 0
        self.told: list[type] = []
        self.news: list[Told] = []
        self.split: RunSplit | None = None  # of a new run
        self.coordinator = self.make()

    def make(self) -> Coordinator:
        async def health() -> list[Check]:
            return self.health

        async def probe() -> bool:
            return self.answers

        async def diagnose() -> list[Unanswered]:
            self.diagnoses += 1
            return self.unanswered

        return Coordinator(
            "phase6",
            0,
            self.settings.migrations["phase6"],
            self.board,
            self.store,
            self.clock,
            health,
            probe,
            diagnose=diagnose,
            notify=self.tell,
            split=self.split,
        )

    def tell(self, name: str, news: Told, revision: int) -> None:
        self.told.append(type(news))
        self.news.append(news)

    async def consider(self, verdict: PhaseVerdict) -> None:
        """Hand a verdict to the judging, and let its health check answer."""
        self.coordinator.judging.consider(verdict, self.clock.now())
        await self.settle()

    def workers_see(self) -> None:
        """One worker shows the generation, and has nothing open."""
        cells, layout = self.board.cells, self.board.layout
        cells[layout.worker(0) + layouts.W_PID] = 1
        cells[layout.worker(0) + layouts.W_HEARTBEAT] = int(self.clock.mono * 1e9)
        cells[layout.share(0, 0) + layouts.S_GENERATION] = self.board.word(0).generation

    async def settle(self) -> None:
        """Let everything that can happen without time happen."""
        for _ in range(30):
            self.workers_see()
            self.coordinator.tick()
            await asyncio.sleep(0)

    async def act(self, action: str, **fields: Any) -> None:
        task = asyncio.create_task(self.coordinator.act(Command(action, "test", **fields)))
        while not task.done():
            await self.settle()
        task.result()

    @property
    def weight(self) -> int:
        return self.board.word(0).weight_bp

    @property
    def leased_s(self) -> float:
        return self.board.lease_until(0) / 1e9 - self.clock.mono


@pytest.fixture
async def scene(make_board: Callable[..., Board], settings_of: Make) -> Any:
    made = Scene(make_board(), settings_of(LONG))
    await made.coordinator.recover()
    saver = asyncio.create_task(made.coordinator.outbox.run())
    yield made
    saver.cancel()


async def test_the_lease_is_renewed_by_passes_and_by_nothing_else(scene: Scene) -> None:
    await scene.act("start")
    assert 2.9 < scene.leased_s <= 3.0
    scene.clock.mono += 0.5
    scene.coordinator.tick()
    assert scene.leased_s == pytest.approx(2.5)
    scene.clock.mono += 0.6
    scene.coordinator.tick()
    assert scene.leased_s == pytest.approx(3.0)
    await asyncio.sleep(0.05)
    assert scene.leased_s == pytest.approx(3.0)


async def test_a_lease_that_ran_out_is_never_silently_renewed(scene: Scene) -> None:
    await scene.act("start")
    scene.clock.mono += 3.0
    scene.coordinator.tick()
    assert scene.weight == 0
    await scene.settle()
    assert scene.coordinator.state.state is State.ROLLED_BACK
    assert scene.coordinator.state.last_rollback is not None
    assert scene.coordinator.state.last_rollback.trigger == "lease_lost"
    (lost,) = [news for news in scene.news if isinstance(news, LeaseLost)]
    assert (lost.from_weight, scene.coordinator.leases_lost) == (5.0, 1)
    assert scene.coordinator.lease_lost_at == scene.clock.unix
    assert "ran out" in lost.reason


async def test_a_lease_that_ran_out_while_nobody_led_is_told_by_the_next_process(scene: Scene) -> None:
    await scene.act("start")
    scene.clock.mono += 5.0
    scene.news.clear()
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert scene.news == [LeaseLost(5.0, "the lease ran out while control was not running")]
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert len(scene.news) == 1, "it is at 0 now, and nothing was lost again"


async def test_a_process_that_goes_on_within_the_lease_has_lost_none(scene: Scene) -> None:
    await scene.act("start")
    scene.clock.mono += 1.0
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    await scene.act("rollback")
    assert LeaseLost not in scene.told
    assert scene.coordinator.leases_lost == 0


def remember(scene: Scene, rollout: Rollout) -> None:
    """Put the store back to a checkpoint that was written before."""
    scene.store.saved = Checkpoint(msgspec.json.encode(CheckpointDocument(rollout)).decode(), 1.0)


async def test_an_increase_that_nobody_was_told_of_is_told_by_the_next_process(scene: Scene) -> None:
    await scene.act("start")
    before = scene.coordinator.state
    await scene.act("advance")
    asked, _ = step(scene.coordinator.plan, before, RolloutEvent(On.ADVANCE), scene.clock.now())
    remember(scene, asked)
    scene.news.clear()
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert scene.news == [PhaseChange(State.RUNNING, "early", 25.0)]


async def test_an_increase_that_was_called_off_is_not_told(scene: Scene) -> None:
    await scene.act("start")
    asked, _ = step(scene.coordinator.plan, scene.coordinator.state, RolloutEvent(On.ADVANCE), scene.clock.now())
    remember(scene, asked)
    scene.news.clear()
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert scene.news == []


async def test_a_decrease_that_nobody_was_told_of_is_told_by_the_next_process(scene: Scene) -> None:
    await scene.act("start")
    await scene.act("advance")
    before = scene.coordinator.state
    await scene.act("rollback")
    remember(scene, before)
    scene.news.clear()
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    (told,) = scene.news
    assert isinstance(told, RollbackBegun)
    assert (told.trigger, told.from_weight, told.to_weight) == ("recovered", 25.0, 5.0)
    assert told.revision == scene.coordinator.state.revision
    assert "decrease" in told.reason


async def test_a_command_after_a_lost_lease_does_not_raise_either(scene: Scene) -> None:
    await scene.act("start")
    await scene.act("advance")
    scene.clock.mono += 30.0
    await scene.act("rollback", to="previous")
    assert scene.weight == 0


async def test_what_is_pinned_needs_no_lease(scene: Scene) -> None:
    await scene.act("start")
    for _ in range(5):
        await scene.act("advance")
    assert scene.coordinator.state.state is State.COMPLETED
    scene.clock.mono += 1000.0
    await scene.settle()
    assert (scene.coordinator.state.state, scene.weight) == (State.COMPLETED, 10_000)
    assert scene.board.word(0).flags & layouts.PINNED


async def test_an_increase_waits_for_the_store_and_a_decrease_does_not(scene: Scene) -> None:
    await scene.act("start")
    scene.store.open.clear()
    task = asyncio.create_task(scene.coordinator.act(Command("advance", "test")))
    await scene.settle()
    assert scene.weight == 500
    aborting = asyncio.create_task(scene.coordinator.act(Command("abort", "test")))
    await scene.settle()
    assert scene.weight == 0
    assert scene.coordinator.state.state is State.ABORTED
    scene.store.open.set()
    while not (task.done() and aborting.done()):
        await scene.settle()
    with pytest.raises(CommandRefused):
        task.result()
    # What the store was at is old news.
    assert (scene.weight, scene.coordinator.state.state) == (0, State.ABORTED)
    assert scene.store.entries[-1] == "rollback_complete"


async def test_a_store_that_fails_calls_an_increase_off_and_no_decrease(scene: Scene) -> None:
    await scene.act("start")
    scene.store.failing = "database or disk is full"
    with pytest.raises(CommandRefused, match="full") as caught:
        await scene.act("advance")
    assert caught.value.code == "store_failed"
    assert scene.weight == 500
    status = scene.coordinator.status()
    assert (status.checkpoint.ok, status.state) == (False, "running")
    assert "full" in str(status.checkpoint.error)
    await scene.act("abort")
    assert scene.weight == 0
    assert scene.coordinator.status().checkpoint.unsaved_entries > 0
    scene.store.failing = None
    for _ in range(5):
        await asyncio.sleep(0.002)
    checkpoint = scene.coordinator.status().checkpoint
    assert (checkpoint.ok, checkpoint.unsaved_entries) == (True, 0)
    assert scene.store.entries[-1] == "rollback_complete"


async def test_an_unhealthy_backend_refuses_an_advance_unless_it_is_forced_with_a_reason(scene: Scene) -> None:
    await scene.act("start")
    scene.health = [Check("backend firestore", False, "does not answer", "start it")]
    with pytest.raises(CommandRefused, match="does not answer") as caught:
        await scene.act("advance")
    assert caught.value.code == "check_failed"
    await scene.act("advance", force=True, reason="known and harmless")
    assert scene.weight == 2500


async def test_a_target_that_lags_behind_the_sources_changes_takes_no_more_weight(scene: Scene) -> None:
    await scene.act("start")
    share = scene.board.layout.share(0, 0)
    scene.board.cells[share + layouts.S_BEHIND_SINCE] = int((scene.clock.mono - 6.0) * 1e9)
    scene.workers_see()
    with pytest.raises(CommandRefused, match="lacks the source's changes of the last 6 s"):
        await scene.act("advance")
    await scene.act("pause")
    with pytest.raises(CommandRefused, match="lacks"):
        await scene.act("resume")
    scene.board.cells[share + layouts.S_BEHIND_SINCE] = 0
    await scene.act("resume")
    await scene.act("advance")
    assert scene.board.word(0).weight_bp == 2500


async def test_an_abort_during_the_health_check_of_a_start_wins(scene: Scene) -> None:
    gate = asyncio.Event()

    async def slow() -> list[Check]:
        await gate.wait()
        return []

    scene.coordinator.readiness._health = slow
    task = asyncio.create_task(scene.coordinator.act(Command("start", "test")))
    await scene.settle()
    await scene.act("abort")
    gate.set()
    while not task.done():
        await scene.settle()
    with pytest.raises(CommandRefused):
        task.result()
    assert (scene.weight, scene.coordinator.state.state) == (0, State.ABORTED)


async def test_a_new_process_goes_on_within_the_lease(scene: Scene) -> None:
    await scene.act("start")
    await scene.act("advance")
    scene.clock.mono += 2.0
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    await scene.settle()
    s = scene.coordinator.state
    assert (s.state, s.phase, scene.weight) == (State.RUNNING, EARLY, 2500)
    assert scene.leased_s == pytest.approx(3.0)


async def test_a_new_process_after_the_lease_holds_at_0_and_resumes_where_it_was(scene: Scene) -> None:
    await scene.act("start")
    await scene.act("advance")
    scene.clock.mono += 3.5
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert (scene.coordinator.state.state, scene.weight) == (State.ROLLED_BACK, 0)
    saver = asyncio.create_task(scene.coordinator.outbox.run())
    await scene.act("resume")
    assert (scene.coordinator.state.phase, scene.weight) == (EARLY, 2500)
    saver.cancel()


async def test_a_reboot_holds_at_0_until_an_operator_resumes(scene: Scene, make_board: Callable[..., Board]) -> None:
    await scene.act("start")
    scene.board = make_board(name="after")
    scene.clock.mono = 5.0
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert (scene.coordinator.state.state, scene.weight) == (State.PAUSED, 0)
    saver = asyncio.create_task(scene.coordinator.outbox.run())
    await scene.act("resume")
    assert (scene.coordinator.state.state, scene.weight) == (State.RUNNING, 500)
    saver.cancel()


async def test_a_completed_migration_is_where_it_was_after_a_reboot(
    scene: Scene, make_board: Callable[..., Board]
) -> None:
    await scene.act("start")
    for _ in range(5):
        await scene.act("advance")
    scene.board = make_board(name="after")
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert (scene.coordinator.state.state, scene.weight) == (State.COMPLETED, 10_000)


def with_phases(scene: Scene, *phases: Phase) -> None:
    """The configuration as it is after an edit of the phases."""
    migrations = {"phase6": replace(scene.settings.migrations["phase6"], phases=phases)}
    scene.settings = replace(scene.settings, migrations=migrations)


async def test_a_completed_migration_goes_on_to_a_phase_that_was_added_above_it(
    scene: Scene, begin_anew: Callable[..., Awaitable[None]]
) -> None:
    half = Phase("half", 50.0)
    with_phases(scene, half)
    await begin_anew()
    await scene.act("start")
    await scene.act("advance")
    assert scene.coordinator.state.state is State.COMPLETED
    with pytest.raises(CommandRefused, match="not possible in state completed"):
        await scene.act("advance")
    with_phases(scene, half, Phase("most", 80.0), Phase("all", 100.0))
    scene.clock.mono += 1000.0
    await begin_anew()
    assert (scene.coordinator.state.state, scene.weight) == (State.COMPLETED, 5000)
    assert "`phasegate advance` goes on to most, 80 %" in next_line(scene.coordinator.status())
    await scene.act("advance", to="most")
    assert (scene.coordinator.state.state, scene.weight) == (State.RUNNING, 8000)
    assert scene.leased_s == pytest.approx(3.0)
    assert not scene.board.word(0).flags & layouts.PINNED
    await scene.act("rollback")
    assert (scene.coordinator.state.state, scene.weight) == (State.ROLLED_BACK, 5000)


async def test_a_weight_whose_phase_is_gone_is_held_and_going_on_leads_below_it(
    scene: Scene, begin_anew: Callable[..., Awaitable[None]]
) -> None:
    await scene.act("start")
    await scene.act("advance")
    with_phases(scene, Phase("half", 50.0), Phase("all", 100.0))
    await begin_anew()
    status = scene.coordinator.status()
    assert (status.state, status.weight, status.phase) == (State.ROLLED_BACK, 25.0, None)
    with pytest.raises(CommandRefused, match="no phase has at most the 25 %") as caught:
        await scene.act("resume")
    assert '"half" (50 %), "all" (100 %)' in caught.value.hint
    with_phases(scene, Phase("tenth", 10.0), Phase("half", 50.0), Phase("all", 100.0))
    await begin_anew()
    assert scene.weight == 2500
    assert scene.coordinator.status().checkpoint.resume_phase == "tenth"
    await scene.act("resume")
    assert (scene.coordinator.state.state, scene.weight) == (State.RUNNING, 1000)


async def test_a_renamed_phase_goes_on_with_its_soak(
    scene: Scene, begin_anew: Callable[..., Awaitable[None]]
) -> None:
    await scene.act("start")
    scene.clock.mono += 2.0
    saves = scene.store.saves
    scene.coordinator.save_soon()
    await until(lambda: scene.store.saves > saves)
    with_phases(scene, Phase("first", 5.0), Phase("all", 100.0))
    await begin_anew()
    status = scene.coordinator.status()
    assert status.phase is not None
    assert (status.state, status.phase.name, status.phase.soaked_s) == (State.RUNNING, "first", pytest.approx(2.0))
    assert 'phase "initial" is called "first" now' in scene.store.details[-1]["why"]


async def test_without_a_checkpoint_what_is_in_flight_goes_to_0(scene: Scene) -> None:
    await scene.act("start")
    scene.store.saved = None
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert (scene.coordinator.state.state, scene.weight) == (State.ROLLED_BACK, 0)
    assert [entry.kind for _, entry in scene.coordinator.outbox.entries] == ["recovered"]


async def test_a_checkpoint_that_cannot_be_understood_is_as_none_and_kept_in_the_trail(scene: Scene) -> None:
    await scene.act("start")
    scene.store.saved = Checkpoint('{"rollout": {"state": "flying"}}', 1.0)
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert (scene.coordinator.state.state, scene.weight) == (State.ROLLED_BACK, 0)
    (_, note), (_, recovered) = scene.coordinator.outbox.entries
    assert (note.kind, recovered.kind) == ("note", "recovered")
    assert "cannot be understood" in note.detail["note"]
    assert note.detail["checkpoint"] == '{"rollout": {"state": "flying"}}'


@pytest.fixture
async def begin_anew(scene: Scene) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """The next control process of a scene, whose store does not have to be readable; saving as ever."""
    savers: list[asyncio.Task[None]] = []

    async def begin(board: Board | None = None) -> None:
        scene.board = board or scene.board
        scene.coordinator = scene.make()
        await scene.coordinator.recover()
        savers.append(asyncio.create_task(scene.coordinator.outbox.run()))
        await scene.settle()

    yield begin
    for saver in savers:
        saver.cancel()


async def test_a_completed_migration_outlives_a_reboot_with_a_store_that_cannot_be_read(
    scene: Scene, make_board: Callable[..., Board], begin_anew: Callable[..., Awaitable[None]]
) -> None:
    await scene.act("start")
    for _ in range(5):
        await scene.act("advance")
    good = scene.store.saved
    scene.store.unreadable = "disk I/O error"
    await begin_anew(make_board(name="after"))
    assert scene.weight == 0
    assert scene.store.saved is good
    checkpoint = scene.coordinator.status().checkpoint
    assert (checkpoint.ok, checkpoint.error) == (False, "the checkpoint cannot be read: disk I/O error")
    for action in ("start", "resume", "advance"):
        with pytest.raises(CommandRefused, match="was not tried: the checkpoint cannot be read") as caught:
            await scene.act(action, force=True, reason="go")
        assert (caught.value.code, scene.weight) == ("store_failed", 0)
    scene.store.unreadable = None
    await until(lambda: scene.coordinator.outbox.known and not scene.coordinator.outbox.entries)
    assert (scene.coordinator.state.state, scene.weight) == (State.COMPLETED, 10_000)
    assert scene.board.word(0).flags & layouts.PINNED
    assert scene.store.entries[-1] == "recovered"


@pytest.mark.parametrize("unreadable", [None, "locked"], ids=["that does not answer", "that cannot be read"])
async def test_what_is_in_flight_goes_on_once_a_store_is_read(
    scene: Scene, begin_anew: Callable[..., Awaitable[None]], unreadable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.lead.coordinator.READ_WITHIN_S", 0.01)
    await scene.act("start")
    await scene.act("advance")
    scene.clock.mono += 2.0
    scene.store.unreadable = unreadable
    if unreadable is None:
        scene.store.readable.clear()
    await begin_anew()
    assert (scene.coordinator.state.state, scene.weight) == (State.ROLLED_BACK, 2500)
    assert scene.leased_s == pytest.approx(3.0)
    scene.clock.mono += 1.5
    await scene.settle()
    assert scene.leased_s == pytest.approx(3.0)
    scene.store.unreadable = None
    scene.store.readable.set()
    await until(lambda: scene.coordinator.outbox.known and not scene.coordinator.outbox.entries)
    s = scene.coordinator.state
    assert (s.state, s.phase, scene.weight) == (State.RUNNING, EARLY, 2500)
    await scene.act("advance")
    assert scene.weight == 5000


@pytest.mark.parametrize("action", ["abort", "reset", "rollback"])
async def test_a_way_down_needs_no_store_and_holds_when_it_is_read(
    scene: Scene, begin_anew: Callable[..., Awaitable[None]], action: str
) -> None:
    await scene.act("start")
    await scene.act("advance")
    before = scene.coordinator.state
    scene.store.unreadable = "disk I/O error"
    await begin_anew()
    await scene.act(action)
    weight, state = scene.weight, scene.coordinator.state.state
    assert weight < 2500
    scene.store.unreadable = None
    await until(lambda: scene.coordinator.outbox.known and not scene.coordinator.outbox.entries)
    after = scene.coordinator.state
    assert (scene.weight, after.state) == (weight, state)
    assert after.revision > before.revision
    assert after.started_at == before.started_at
    assert after.resume_phase == (None if action == "reset" else before.phase if action == "abort" else INITIAL)
    assert scene.store.entries[-3:] == [action, "rollback_complete", "recovered"]


async def test_a_lease_that_runs_out_before_a_store_is_read_stays_lost(
    scene: Scene, begin_anew: Callable[..., Awaitable[None]]
) -> None:
    await scene.act("start")
    scene.clock.mono += 3.5
    scene.store.unreadable = "disk I/O error"
    await begin_anew()
    assert scene.weight == 0
    scene.store.unreadable = None
    await until(lambda: scene.coordinator.outbox.known and not scene.coordinator.outbox.entries)
    assert (scene.coordinator.state.state, scene.weight) == (State.ROLLED_BACK, 0)
    assert scene.coordinator.state.resume_phase == INITIAL


@pytest.mark.parametrize(("mode", "weight"), [("mock", 0), ("firestore", 10_000), ("source", 0), ("target", 10_000)])
async def test_a_mode_with_one_arm_is_pinned_there(
    make_board: Callable[..., Board], settings_of: Make, mode: str, weight: int
) -> None:
    scene = Scene(make_board(), settings_of({"migrations": {"phase6": {"mode": mode}}}))
    await scene.coordinator.recover()
    word = scene.board.word(0)
    assert (word.weight_bp, bool(word.flags & layouts.PINNED)) == (weight, True)
    with pytest.raises(CommandRefused):
        await scene.act("start")


async def test_a_completed_migration_whose_target_fails_is_saved_as_seldom_as_any(scene: Scene) -> None:
    await scene.act("start")
    for _ in range(5):
        await scene.act("advance")
    series = scene.board.layout.series(0, 0, 0, TARGET)
    saves = scene.store.saves
    verdicts = set()
    for _ in range(40):  # ten seconds; it is validated once a minute
        scene.board.cells[series + layouts.C_BUCKETS] += 100
        scene.board.cells[series + layouts.C_FAULTS + FaultKind.UNAVAILABLE] += 100
        scene.clock.mono += 0.25
        await scene.settle()
        verdicts.add(scene.coordinator.status().verdict.outcome)
    assert "roll_back" in verdicts
    assert scene.coordinator.state.state is State.COMPLETED
    assert scene.store.saves == saves + 1  # the breach, for the record


def missing(link: str, asked: str = "scans where status ==") -> Unanswered:
    return Unanswered(asked, "a composite index is missing", Trouble("missing_index", "the operator", link, False))


async def test_a_target_that_is_not_right_is_written_down_once_a_run(scene: Scene) -> None:
    await scene.act("start")
    series = scene.board.layout.series(0, 0, 0, TARGET)
    scene.unanswered = [
        missing("https://a"),
        missing("https://b", "events where user =="),
        Unanswered("x", "slow", None),
    ]

    async def pass_by(kind: FaultKind, seconds: int) -> None:
        for _ in range(4 * seconds):
            scene.board.cells[series + layouts.C_BUCKETS] += 100
            scene.board.cells[series + layouts.C_FAULTS + kind] += 1
            scene.clock.mono += 0.25
            await scene.settle()

    await pass_by(FaultKind.UNAVAILABLE, 5)
    assert scene.diagnoses == 0  # an outage asks nobody to do anything
    await pass_by(FaultKind.SETUP, 5)
    assert scene.diagnoses == 1
    await pass_by(FaultKind.SETUP, 240)
    assert 3 <= scene.diagnoses <= 5  # one a minute
    assert scene.store.entries.count("target_not_right") == 1
    detail = scene.store.details[scene.store.entries.index("target_not_right")]
    assert (detail["backend"], detail["trouble"]) == ("firestore", "missing_index")
    assert detail["mend"] == ["https://a", "https://b"]
    assert detail["asked"] == ["scans where status ==", "events where user =="]
    scene.unanswered.append(Unanswered("health", "no", Trouble("no_permission", "the owner", "give it")))
    await pass_by(FaultKind.PERMISSION, 65)
    assert scene.store.entries.count("target_not_right") == 2
    await scene.act("abort")
    scene.clock.unix += 100
    await scene.act("start")
    await pass_by(FaultKind.SETUP, 65)
    assert scene.store.entries.count("target_not_right") == 4  # both, of the new run


async def test_faults_from_before_the_process_began_ask_for_no_diagnosis(scene: Scene, begin_anew: Any) -> None:
    await scene.act("start")
    series = scene.board.layout.series(0, 0, 0, TARGET)
    scene.board.cells[series + layouts.C_FAULTS + FaultKind.SETUP] += 50
    await begin_anew()
    for _ in range(8):
        scene.clock.mono += 0.25
        await scene.settle()
    assert scene.weight > 0
    assert scene.diagnoses == 0


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_end_during_a_save_writes_every_entry_once(
    make_board: Callable[..., Board], settings_of: Make, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr("control.lead.coordinator.CLOSE_WITHIN_S", 0.05 if hangs else 10.0)
    scene = Scene(make_board(), settings_of(LONG))
    await scene.coordinator.recover()
    running = asyncio.create_task(scene.coordinator.run())
    await until(lambda: scene.store.entries == ["recovered"])
    scene.store.open.clear()
    scene.coordinator.apply(RolloutEvent(On.ABORT, actor="ann"))
    await until(lambda: scene.store.waiting)
    scene.coordinator.apply(RolloutEvent(On.RESET, actor="ann"))
    running.cancel()
    closing = asyncio.create_task(scene.coordinator.close())
    if hangs:  # it takes what it was at, after all, and nothing else
        await closing
    scene.store.open.set()
    await closing
    await until(lambda: not scene.store.waiting)
    assert scene.store.entries == ["recovered", "abort", *([] if hangs else ["reset"])]
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_who_asked_to_be_told_is_told(scene: Scene) -> None:
    await scene.act("start")
    await scene.act("rollback")
    assert scene.told == [PhaseChange, RollbackBegun, Rollback]


async def test_a_phase_with_approval_is_entered_by_an_advance_only(control_plane: Make) -> None:
    phases = [
        {"name": "first", "weight": 50, "min_soak": "100ms"},
        {"name": "second", "weight": 100, "min_soak": "100ms", "approval": True},
    ]
    plane = await control_plane({"migrations": {"phase6": {"phases": phases, "max_soak": "100ms"}}})
    plane.workers.rate = 2000
    await plane.act("start")
    status = await plane.until(lambda s: "waits for approval" in " ".join(s["verdict"]["reasons"]))
    assert (status["verdict"]["outcome"], status["weight"]) == ("hold", 50.0)
    assert [(wait["kind"], wait["name"]) for wait in status["waits"]] == [("approval", "second")]
    assert 'phasegate_approval_waiting{migration="phase6"} 1.0' in (await plane.call("GET", "/metrics"))[1]
    await plane.act("advance", reason="looks good")
    await plane.until(lambda s: s["state"] == "completed")


HOLDS = PhaseVerdict(VerdictOutcome.HOLD, ("held by error_rate",), 0.0)
EARNED = PhaseVerdict(VerdictOutcome.PROMOTE, ("all is proven",), 0.0)


def hold(scene: Scene) -> None:
    scene.coordinator.judging.consider(HOLDS, scene.clock.now())


def close_the_hours(scene: Scene) -> None:
    scene.clock.unix += 3600.0


def ask_for_approval(scene: Scene) -> None:
    first, second, *rest = scene.coordinator.plan.phases
    phases = (first, replace(second, approval=True), *rest)
    scene.coordinator.plan = replace(scene.coordinator.plan, phases=phases)


@pytest.mark.parametrize(
    ("change", "weight"),
    [(None, 2500), (hold, 500), (close_the_hours, 500), (ask_for_approval, 500)],
    ids=["nothing", "the verdict", "the hours", "the approval"],
)
async def test_an_earned_phase_is_left_only_if_it_still_may_be_after_the_health_check(
    make_board: Callable[..., Board], settings_of: Make, change: Callable[[Scene], None] | None, weight: int
) -> None:
    clock = HandClock()
    freeze = {
        "from": datetime.fromtimestamp(clock.unix + 1800.0, UTC),
        "to": datetime.fromtimestamp(clock.unix + 7200.0, UTC),
    }
    scene = Scene(
        make_board(), settings_of({"migrations": {"phase6": LONG["migrations"]["phase6"] | {"freezes": [freeze]}}})
    )
    await scene.coordinator.recover()
    saver = asyncio.create_task(scene.coordinator.outbox.run())
    await scene.act("start")
    answered = asyncio.Event()

    async def slow() -> list[Check]:
        await answered.wait()
        return []

    scene.coordinator.readiness._health = slow
    scene.coordinator.judging.consider(EARNED, scene.clock.now())
    await scene.settle()
    if change is not None:
        change(scene)
    answered.set()
    await scene.settle()
    assert scene.weight == weight
    saver.cancel()


async def test_an_approval_is_asked_for_once(scene: Scene) -> None:
    await scene.act("start")
    scene.news.clear()
    ask_for_approval(scene)
    for _ in range(5):
        await scene.consider(EARNED)
        await scene.consider(HOLDS)  # the evidence wavers
        scene.clock.mono += 0.5
    (asked,) = scene.news
    assert isinstance(asked, ApprovalNeeded)
    assert (asked.phase, asked.weight) == ("early", 25.0)
    assert "waits for approval" in asked.reason
    await scene.act("pause")
    await scene.act("resume")
    await scene.consider(EARNED)
    assert len(scene.news) == 2, "an operator has acted since: it is asked for anew"


async def test_what_holds_a_phase_is_told_once_for_each_new_reason(scene: Scene) -> None:
    await scene.act("start")
    scene.news.clear()
    firestore, app = (Check(f"backend {name}", False, "no answer") for name in ("firestore", "app"))

    async def health(*checks: Check) -> list[Any]:
        scene.health = [*checks]
        for number in range(4):
            scene.health = [replace(check, found=f"no answer for {number} s") for check in checks]
            await scene.consider(EARNED)
            scene.clock.mono += HEALTH_AGAIN_S / 2
            scene.coordinator.tick()
        return [(news.reason_kind, news.reason.partition(":")[0]) for news in scene.news if isinstance(news, Held)]

    assert await health(firestore) == [("health", "backend firestore")]
    assert await health(firestore, app) == [("health", "backend firestore"), ("health", "backend app")]
    assert len(await health(app)) == 2
    assert len(await health(firestore)) == 2, "it comes and goes, and was told a moment ago"
    await health(app)
    scene.clock.unix += TELL_AGAIN_S
    for _ in range(int(TELL_AGAIN_S)):
        scene.clock.mono += 1.0
        scene.coordinator.tick()
    assert (await health(firestore))[2:] == [("health", "backend firestore")]
    assert scene.news[0] == replace(scene.news[0], phase="early", weight=25.0)
    assert scene.weight == 500


async def test_what_holds_a_phase_is_over_when_it_is_no_longer_earned(scene: Scene) -> None:
    await scene.act("start")
    scene.health = [Check("backend firestore", False, "no answer")]
    await scene.consider(EARNED)
    await scene.consider(EARNED)
    assert scene.coordinator.holds
    await scene.consider(HOLDS)
    assert scene.coordinator.holds == ()
    await scene.consider(EARNED)
    assert scene.coordinator.holds
    await scene.act("pause")
    assert scene.coordinator.holds == ()


async def test_a_target_that_lags_is_told_as_such(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.act("start")
    scene.news.clear()
    monkeypatch.setattr("control.lead.readiness.lag", lambda *which: (60.0, 7, 0))
    await scene.consider(EARNED)
    await scene.consider(EARNED)
    (held,) = scene.news
    assert isinstance(held, Held)
    assert held.reason_kind == "lag"
    assert "lacks" in held.reason


async def test_a_freeze_holds_an_earned_phase(control_plane: Make) -> None:
    now = datetime.now(UTC)
    freeze: dict[str, Any] = {"from": now - timedelta(hours=1), "to": now + timedelta(hours=1), "reason": "sale"}
    plane = await control_plane({"migrations": {"phase6": {"freezes": [freeze]}}})
    plane.workers.rate = 2000
    status, found = await plane.call("POST", "", {"action": "start"})
    assert (status, found["error"]["code"]) == (409, "check_failed")
    await plane.act("start", force=True, reason="agreed")
    status = await plane.until(lambda s: "sale" in " ".join(s["verdict"]["reasons"]))
    assert status["weight"] == 5.0
    assert [wait["kind"] for wait in status["waits"]] == ["freeze"]
    assert status["opens"] == {"at": rfc3339(freeze["to"].timestamp()), "tz": "UTC"}
    text = (await plane.call("GET", "/metrics"))[1]
    assert 'phasegate_held{migration="phase6",reason_kind="freeze"} 1.0' in text
    assert 'phasegate_held{migration="phase6",reason_kind="window"} 0.0' in text
    assert 'phasegate_approval_waiting{migration="phase6"} 0.0' in text
    assert 'phasegate_lease_lost_total{migration="phase6"} 0.0' in text


async def test_a_phase_says_what_it_lacks_once_its_soak_is_over(control_plane: Make) -> None:
    plane = await control_plane({"migrations": {"phase6": {"min_samples": 10**6}}})
    plane.workers.rate = 500
    await plane.act("start")
    status = await plane.until(lambda s: s["waits"])
    assert [(wait["kind"], wait["name"]) for wait in status["waits"]] == [("samples", "samples")]
    assert status["phase"]["soaked_s"] >= status["phase"]["min_soak_s"]
    assert "target requests" in status["waits"][0]["reason"]
    assert (await plane.act("pause"))["waits"] == []


async def test_several_migrations_go_their_own_ways(control_plane: Make) -> None:
    other = {
        "source": "mock",
        "target": "firestore",
        "routes": ["/api/scans/*"],
        "phases": [{"name": "all", "weight": 100, "rollback_within": "1s"}],
    }
    first = {"routes": ["/api/dashboard/*"], "validate_every": "60s", "min_samples": 10**6}
    plane = await control_plane({"migrations": {"phase6": first, "scans": other}})
    await plane.act("start")
    status, found = await plane.call("POST", "/api/migration/scans", {"action": "start"})
    assert (status, found["weight"]) == (200, 100.0)
    await plane.act("abort")
    assert (await plane.call("GET", "/api/migration/scans"))[1]["weight"] == 100.0
    listed = (await plane.call("GET", "/api/migration"))[1]["migrations"]
    assert [(m["name"], m["state"]) for m in listed] == [("phase6", "aborted"), ("scans", "running")]
    assert (await plane.call("GET", "/api/migration/scans/audit/verify"))[1]["whole"]


async def test_a_target_that_fails_is_asked_beside_the_requests(control_plane: Make) -> None:
    plane = await control_plane(LONG)
    plane.workers.rate = 100  # five target requests a second
    plane.health = [Check("backend firestore", True, "answers")]
    await plane.act("start")
    plane.workers.target_faults = 1.0
    plane.health = [Check("backend firestore", False, "does not answer")]
    began = time.monotonic()
    status = await plane.until(lambda s: s["state"] == "rolled_back")
    assert status["last_rollback"]["trigger"] == "breach"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("failed", "answers", "weight", "said"),
    [
        (3, True, 0, "the target fails whole: 12 of 12 requests since it began to fail"),
        (2, False, 0, "the target fails whole: it answers no health check either"),
        (1, True, 2500, "error_rate: "),
    ],
    ids=["everything fails", "the probes fail too", "a third fails"],
)
async def test_what_surely_fails_whole_goes_to_the_start_at_once(
    scene: Scene, failed: int, answers: bool, weight: int, said: str
) -> None:
    scene.answers = answers
    await scene.act("start")
    for _ in range(2):
        await scene.act("advance")
    assert (scene.weight, scene.coordinator.plan.on_breach) == (5000, "previous")
    series = scene.board.layout.series(0, 0, 0, TARGET)
    if failed == 3:  # they come in one look, so that the first breach has them all
        scene.board.cells[series + layouts.C_BUCKETS] += 12
        scene.board.cells[series + layouts.C_FAULTS + FaultKind.UNAVAILABLE] += 12
    for _ in range(200):
        scene.clock.mono += 0.25
        await scene.settle()
        if scene.weight != 5000:
            break
        if failed < 3:
            scene.board.cells[series + layouts.C_BUCKETS] += 3 if failed == 1 else 2
            scene.board.cells[series + layouts.C_FAULTS + FaultKind.UNAVAILABLE] += failed
    assert (scene.weight, scene.coordinator.state.state) == (weight, State.ROLLED_BACK)
    assert scene.coordinator.state.last_rollback is not None
    assert scene.coordinator.state.last_rollback.reason.startswith(said)


async def test_the_status_survives_a_store_that_cannot_be_opened(
    make_board: Callable[..., Board], settings_of: Make, tmp_path: Path
) -> None:
    scene = Scene(make_board(), settings_of(LONG))
    scene.store = StoreThread(tmp_path / "nowhere" / "control.db")  # type: ignore[assignment]
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert "unable to open" in str(scene.coordinator.status().checkpoint.error)
    await scene.store.close()  # type: ignore[attr-defined]


PLAIN = buckets.plain("phase6")
NEW = splitkey.new_run(bytes(32), "phase6")
KEYED = splitkey.for_board(NEW)


async def test_a_run_of_version_0_1_keeps_its_split_over_a_restart_and_a_resume(scene: Scene) -> None:
    """Its checkpoint says nothing of a split, and neither does its board."""
    await scene.act("start")
    assert scene.board.split(0) == PLAIN
    await scene.act("pause")
    await scene.settle()
    assert scene.store.saved is not None
    document = msgspec.json.decode(scene.store.saved.document)
    del document["rollout"]["split"]
    scene.store.saved = Checkpoint(msgspec.json.encode(document).decode(), 1.0)
    scene.board.set_split(0, SplitKey(0, 0))
    scene.split = NEW
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    saver = asyncio.create_task(scene.coordinator.outbox.run())
    assert scene.board.split(0) == PLAIN
    for action in ("resume", "advance", "abort"):
        await scene.act(action)
        assert scene.board.split(0) == PLAIN, action
    await scene.act("start")
    assert scene.board.split(0) == KEYED
    saver.cancel()


async def test_the_split_is_on_the_board_before_the_word_that_begins_its_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.split = NEW
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    saver = asyncio.create_task(scene.coordinator.outbox.run())
    order: list[object] = []
    publish, set_split = scene.board.publish, scene.board.set_split

    def published(m: int, weight_bp: int, **more: Any) -> int:
        order.append(weight_bp)
        return publish(m, weight_bp, **more)

    def split(m: int, key: SplitKey) -> None:
        assert scene.weight == 0
        order.append(key)
        set_split(m, key)

    monkeypatch.setattr(scene.board, "publish", published)
    monkeypatch.setattr(scene.board, "set_split", split)
    await scene.act("start")
    assert order == [KEYED, scene.weight]
    saver.cancel()


@pytest.mark.parametrize("readable", [True, False])
async def test_without_its_checkpoint_a_run_keeps_the_boards_split(scene: Scene, readable: bool) -> None:
    scene.split = NEW
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    saver = asyncio.create_task(scene.coordinator.outbox.run())
    await scene.act("start")
    await scene.settle()
    saver.cancel()
    scene.store.saved, scene.store.unreadable = None, None if readable else "a broken disk"
    scene.split = splitkey.new_run(b"another secret", "phase6")
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    assert scene.board.split(0) == KEYED
    assert splitkey.for_board(scene.coordinator.state.split) == KEYED


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("nothing", {}),
        ("freeze", {}),
        ("window", {}),
        ("freeze, forced", {"force": True, "reason": "agreed"}),
        ("nothing to resume", {"resume": True}),
        ("running", {}),
        ("lag", {}),
        ("ill", {}),
        ("store", {}),
        ("stale", {"expected_revision": 99}),
    ],
)
async def test_a_dry_run_is_answered_as_the_start_is_and_changes_nothing(
    control_plane: Make, monkeypatch: pytest.MonkeyPatch, what: str, fields: dict[str, Any]
) -> None:
    now = datetime.now(UTC)
    freezes = [{"from": now - timedelta(hours=1), "to": now + timedelta(hours=1), "reason": "sale"}]
    hours = [{"from": f"{(now.hour + 2) % 24:02}:00", "to": f"{(now.hour + 3) % 24:02}:00"}]
    closed: dict[str, Any] = (
        {"freezes": freezes} if "freeze" in what else {"windows": hours} if what == "window" else {}
    )
    plane = await control_plane({"migrations": {"phase6": closed}})
    if what == "running":
        await plane.act("start")
        await plane.act("pause")
    if what == "lag":
        monkeypatch.setattr("control.lead.readiness.lag", lambda *which: (60.0, 7, 0))
    if what == "ill":
        plane.health = [Check("backend firestore", False, "no answer")]
    if what == "store":

        async def unreadable(migration: str) -> Checkpoint | None:
            raise StoreError("the disk is gone")

        monkeypatch.setattr(plane.store, "checkpoint", unreadable)
        plane.coordinator.outbox.known, plane.coordinator.outbox.error = False, "the disk is gone"
    before = await plane.status()
    status, rehearsed = await plane.call("POST", "", {"action": "start", "dry_run": True, **fields})
    after = await plane.status()
    assert (status, after["revision"], after["state"]) == (200, before["revision"], before["state"])
    real, answer = await plane.call("POST", "", {"action": "start", **fields})
    assert rehearsed["refused"] == (None if real == 200 else answer["error"])
    failed = [check["name"] for check in rehearsed["checks"] if check["ok"] is False]
    assert bool(failed) == (real != 200), failed
    assert (real == 200) == (what in ("nothing", "freeze, forced"))


# ------------------------------------------------------------------------------------------------- writes on one side

ONE_WRITER = {"migrations": {"phase6": {"writes": "source", "validate_every": "60s", "on_breach": "previous"}}}
READ_AT, WRITE_AT = NAMES.index("scans.get"), NAMES.index("scans.create")


def count(scene: Scene, operation: int, arm: int, **cells: int) -> None:
    """Let a worker count so many requests of an operation; or copies and failures of them."""
    at = scene.board.layout.series(0, 0, operation, arm)
    for name, more in cells.items():
        scene.board.cells[at + getattr(layouts, f"C_{name.upper()}")] += more


@pytest.fixture
async def one_writer(make_board: Callable[..., Board], settings_of: Make) -> AsyncIterator[Scene]:
    made = Scene(make_board(), settings_of(ONE_WRITER))
    await made.coordinator.recover()
    saver = asyncio.create_task(made.coordinator.outbox.run())
    yield made
    saver.cancel()


async def test_a_target_that_takes_no_write_is_rolled_back_though_all_its_reads_are_well(one_writer: Scene) -> None:
    scene = one_writer
    await scene.act("start")
    for _ in range(3):
        await scene.act("advance")
    weights = [scene.weight]
    for _ in range(60):
        count(scene, READ_AT, TARGET, buckets=50)
        count(scene, WRITE_AT, SOURCE, buckets=2)
        count(scene, WRITE_AT, TARGET, copies=1, copy_faults=1)
        scene.clock.mono += 0.25
        await scene.settle()
        if scene.weight != weights[-1]:
            weights.append(scene.weight)
        if not scene.weight:
            break
    # A phase down at first. By then it surely takes none at all, and they do not become fewer with the weight.
    assert weights == [7500, 5000, 0]
    assert scene.coordinator.state.last_rollback is not None
    reason = scene.coordinator.state.last_rollback.reason
    assert reason.startswith("the target fails whole: ")
    assert "copies of writes since they began to fail" in reason


@pytest.mark.parametrize(("failed", "weight"), [(0, 2500), (1, 0)])
async def test_a_phase_is_earned_by_reads_and_copies_that_are_well(
    make_board: Callable[..., Board], settings_of: Make, failed: int, weight: int
) -> None:
    scene = Scene(make_board(), settings_of(ONE_WRITER))
    await scene.coordinator.recover()
    saver = asyncio.create_task(scene.coordinator.outbox.run())
    try:
        await scene.act("start")
        for _ in range(200):
            count(scene, READ_AT, TARGET, buckets=50)
            count(scene, WRITE_AT, SOURCE, buckets=2)
            count(scene, WRITE_AT, TARGET, copies=2, copy_faults=failed)
            scene.clock.mono += 0.25
            await scene.settle()
            if scene.weight != 500:
                break
    finally:
        saver.cancel()
    assert scene.weight == weight


async def test_requests_that_are_not_split_are_in_no_share_and_shown_beside_it(one_writer: Scene) -> None:
    scene = one_writer
    await scene.act("start")
    count(scene, READ_AT, SOURCE, buckets=30)
    count(scene, READ_AT, TARGET, buckets=10)
    count(scene, WRITE_AT, SOURCE, buckets=7)
    count(scene, WRITE_AT, TARGET, copies=6, copy_faults=2)
    status = scene.coordinator.status()
    assert (status.arms.source.requests, status.arms.target.requests, status.unsplit) == (30, 10, 7)
    assert [(each.operation, each.copies, each.faults) for each in status.copies] == [("scans.create", 6, 2)]
    by_name = {each.operation: each for each in scene.coordinator.publisher.figures().operations}
    assert (by_name["scans.create"].copies, by_name["scans.create"].copy_faults) == (6, 2)
    assert by_name["scans.create"].arms.source.requests == 7
    await scene.act("advance")  # the phase that ends has them in the audit trail
    left = next(detail for detail in scene.store.details if "target_share" in detail)
    assert (left["target_share"], left["unsplit"]) == (0.25, 7)
    assert (left["copies"], left["copy_faults"]) == (6, 2)
    assert scene.coordinator.status().unsplit == 0


async def test_without_one_writer_every_request_is_split(scene: Scene) -> None:
    await scene.act("start")
    count(scene, WRITE_AT, SOURCE, buckets=7)
    status = scene.coordinator.status()
    assert (status.arms.source.requests, status.unsplit, status.copies) == (7, 0, ())


async def test_what_is_not_split_and_what_was_copied_is_counted_on_over_a_restart(one_writer: Scene) -> None:
    scene = one_writer
    await scene.act("start")
    for action in ("pause", "resume"):  # each writes a checkpoint
        count(scene, READ_AT, TARGET, buckets=5)
        count(scene, WRITE_AT, SOURCE, buckets=5)
        count(scene, WRITE_AT, TARGET, copies=5, copy_faults=1)
        await scene.act(action)
    before = scene.coordinator.status()
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    after = scene.coordinator.status()
    assert (after.unsplit, after.copies) == (before.unsplit, before.copies) == (10, before.copies)
    assert before.copies[0].copies == 10


async def test_the_exposition_has_what_was_not_split_and_the_copies_by_operation(one_writer: Scene) -> None:
    count(one_writer, WRITE_AT, SOURCE, buckets=7)
    count(one_writer, WRITE_AT, TARGET, copies=6, copy_faults=2)
    text = exposition(one_writer.board, [one_writer.coordinator], []).decode()
    assert 'phasegate_unsplit_requests_total{migration="phase6"} 7.0\n' in text
    assert 'phasegate_copies_total{migration="phase6",operation="scans.create"} 6.0\n' in text
    assert 'phasegate_copy_faults_total{migration="phase6",operation="scans.create"} 2.0\n' in text
