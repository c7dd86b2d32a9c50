"""A migration led with what is known of its data: the gate, tasks, what is told, and a control that was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from backends.errors import Fault, FaultKind
from control.data.messages import TaskCost, TaskKind, TaskProgress
from control.data.state import AskedTask
from control.judge.rules import VerdictOutcome
from control.judge.verdict import PhaseVerdict
from control.lead.commands import Command
from control.lead.coordinator import Coordinator
from control.lead.datakeeper import ENDED_MAX, SEED_EVERY_S, TELL_AGAIN_S, DataKeeper, NotBegunError
from control.lead.execution import CommandRefused
from control.lead.news import DataDiffers, Held
from control.rollout.model import State
from proxy.board.board import Board
from tests.shell.test_coordinator import LONG, Scene
from tests.support.played_task import PlayedData, kinds

COPY = AskedTask(TaskKind.COPY)
COMPARE = AskedTask(TaskKind.COMPARE)
REPAIR = AskedTask(TaskKind.REPAIR, from_="source")


class Kept(Scene):
    """A scene whose migration is between document stores."""

    def __init__(self, board: Board, settings: Any, data: PlayedData) -> None:
        self.data = data
        super().__init__(board, settings)

    def make(self) -> Coordinator:
        made = super().make()
        return Coordinator(
            "phase6",
            0,
            self.settings.migrations["phase6"],
            self.board,
            self.store,
            self.clock,
            made.readiness._health,
            made.judging._probe,
            notify=self.tell,
            data=self.data.setup(),
        )

    @property
    def keeper(self) -> DataKeeper:
        assert self.coordinator.data is not None
        return self.coordinator.data

    async def pass_by(self, seconds: float) -> None:
        """Time passes in which control leads."""
        for _ in range(max(1, int(seconds))):
            self.clock.mono += min(1.0, seconds)
            self.clock.unix += min(1.0, seconds)
            self.coordinator.tick()
            await asyncio.sleep(0)
        await self.settle()

    async def refusal(self, action: str, **fields: Any) -> CommandRefused:
        with pytest.raises(CommandRefused) as refused:
            await self.act(action, **fields)
        return refused.value

    async def written(self) -> None:
        """Wait until the store has everything."""
        outbox = self.coordinator.outbox
        async with asyncio.timeout(60):
            while outbox.entries or outbox.dirty.is_set() or self.store.waiting:
                await self.settle()
        await self.settle()

    async def begin_anew(self, *, killed: bool = False) -> None:
        """Another control process takes the place of this one."""
        await self.written()
        self.saver.cancel()
        if not killed:
            await self.coordinator.close()
        self.coordinator = self.make()
        await self.coordinator.recover()
        self.saver = asyncio.create_task(self.coordinator.outbox.run())
        await self.written()

    saver: asyncio.Task[None]


Opened = Callable[..., Any]


@pytest.fixture
async def kept(make_board: Callable[..., Board], settings_of: Callable[..., Any]) -> AsyncIterator[Opened]:
    made: list[Kept] = []

    async def make(**data: Any) -> Kept:
        scene = Kept(make_board(), settings_of(LONG), PlayedData(**data))
        await scene.coordinator.recover()
        scene.saver = asyncio.create_task(scene.coordinator.outbox.run())
        made.append(scene)
        return scene

    yield make
    for scene in made:
        scene.saver.cancel()


async def copy(scene: Kept) -> None:
    await scene.keeper.begin(COPY, "ci")
    scene.data.copied()


def promote() -> PhaseVerdict:
    return PhaseVerdict(VerdictOutcome.PROMOTE, ("all rules proven",), 1.0, ())


async def test_nothing_begins_before_the_source_was_copied(kept: Opened) -> None:
    scene = await kept()
    refused = await scene.refusal("start")
    assert refused.code == "data_incomplete"
    assert "0 of its documents" in refused.message
    assert "`phasegate copy --migration phase6`" in refused.message
    assert scene.weight == 0
    await scene.keeper.begin(COPY, "ci")
    assert (await scene.refusal("start")).code == "data_incomplete", "it is under way"
    scene.data.copied()
    await scene.act("start")
    assert scene.weight == 500


async def test_force_passes_and_the_trail_says_what_the_target_lacked(kept: Opened) -> None:
    scene = await kept()
    await scene.act("start", force=True, reason="a test")
    await scene.written()
    assert scene.weight == 500
    (detail,) = [d for kind, d in zip(scene.store.entries, scene.store.details, strict=True) if kind == "start"]
    assert (detail["forced"], detail["reason"]) == (True, "a test")
    assert "phasegate copy" in detail["lacking"]


async def test_a_gate_that_is_switched_off_holds_nothing_and_what_is_known_is_shown(kept: Opened) -> None:
    scene = await kept(gate=False)
    await scene.act("start")
    document = scene.coordinator.status().data
    assert document is not None
    assert (document.complete, document.copied_at) == (False, None)


async def test_losses_hold_a_promotion_like_hours_do_and_lower_nothing(kept: Opened) -> None:
    scene = await kept()
    await copy(scene)
    await scene.act("start")
    scene.data.lose(3)
    await scene.consider(promote())
    assert scene.weight == 500
    assert "3 changes reached one side alone" in scene.coordinator.holds[0].reason
    (wait,) = scene.coordinator.status().waits
    assert (wait.kind, wait.reason) == ("data", scene.coordinator.holds[0].reason)
    (held,) = [news for news in scene.news if isinstance(news, Held)]
    assert (held.reason_kind, held.phase) == ("data", "early")
    assert scene.coordinator.state.state is State.RUNNING
    assert (await scene.refusal("advance")).code == "data_incomplete"
    await scene.keeper.begin(REPAIR, "ci")
    scene.data.compared(repaired=3)
    await scene.consider(promote())
    assert scene.weight == 2500


async def test_what_leads_down_or_stays_is_never_held(kept: Opened) -> None:
    scene = await kept()
    await copy(scene)
    await scene.act("start")
    await scene.act("advance")
    scene.data.lose(1)
    await scene.act("pause")
    await scene.act("resume")
    await scene.act("rollback")
    assert scene.weight == 500
    await scene.act("resume")
    assert scene.coordinator.state.state is State.RUNNING
    await scene.act("rollback", to="start")
    assert (await scene.refusal("start", resume=True)).code == "data_incomplete"
    await scene.act("abort")


async def test_an_increase_that_waits_for_the_store_is_called_off_by_a_loss(kept: Opened) -> None:
    scene = await kept()
    await copy(scene)
    await scene.act("start")
    await scene.written()
    scene.store.open.clear()
    advancing = asyncio.create_task(scene.coordinator.act(Command("advance", "test")))
    await scene.settle()
    assert scene.coordinator.state.pending is not None
    scene.data.lose(1)
    scene.store.open.set()
    while not advancing.done():
        await scene.settle()
    with pytest.raises(CommandRefused) as refused:
        advancing.result()
    assert refused.value.code == "data_incomplete"
    assert scene.weight == 500
    await scene.written()
    assert "called_off" in scene.store.entries


async def test_losses_are_told_at_once_and_further_ones_some_minutes_later(kept: Opened) -> None:
    scene = await kept(every_s=0)
    scene.data.lose(9)
    await scene.pass_by(2)
    assert scene.news == [], "the target lacks everything: a copy will have them"
    await copy(scene)
    scene.data.lose(1)
    await scene.pass_by(2)
    (told,) = scene.news
    assert isinstance(told, DataDiffers)
    assert (told.lost, told.differences) == (1, 0)
    scene.data.lose(2)
    await scene.pass_by(TELL_AGAIN_S - 10)
    assert len(scene.news) == 1
    await scene.pass_by(20)
    assert [news.lost for news in scene.news if isinstance(news, DataDiffers)] == [1, 3]
    await scene.written()
    details = [d for kind, d in zip(scene.store.entries, scene.store.details, strict=True) if kind == "changes_lost"]
    assert [detail["lost"] for detail in details] == [1, 2]


async def test_everything_is_compared_again_by_itself_while_it_runs_and_never_before_a_copy(kept: Opened) -> None:
    scene = await kept(every_s=60.0)
    await scene.act("start", force=True, reason="a test")
    await scene.pass_by(200)
    assert kinds(scene.data) == []
    await copy(scene)
    await scene.pass_by(58)
    assert kinds(scene.data) == [TaskKind.COPY]
    await scene.pass_by(4)
    assert kinds(scene.data) == [TaskKind.COPY, TaskKind.COMPARE]
    scene.data.compared()
    await scene.pass_by(58)
    assert len(scene.data.runner.begun) == 2
    await scene.pass_by(4)
    assert len(scene.data.runner.begun) == 3
    scene.data.failed()
    await scene.pass_by(30)
    assert len(scene.data.runner.begun) == 3, "one that failed waits as long as the next"
    await scene.act("abort")
    await scene.pass_by(200)
    assert len(scene.data.runner.begun) == 3


async def test_never_is_never(kept: Opened) -> None:
    scene = await kept(every_s=0.0)
    await copy(scene)
    await scene.act("start")
    await scene.pass_by(2000)
    assert kinds(scene.data) == [TaskKind.COPY]


async def test_what_a_compare_of_its_own_finds_is_told_once_and_what_is_as_before_is_not(kept: Opened) -> None:
    scene = await kept(every_s=60.0)
    await copy(scene)
    await scene.act("start")
    scene.news.clear()
    for different in (0, 4, 4, 5, 0):
        await scene.pass_by(62)
        scene.data.compared(different)
    assert [news.differences for news in scene.news if isinstance(news, DataDiffers)] == [4, 5]
    await scene.written()
    assert scene.store.entries.count("compared") == 3, "4, 5, and equal again"
    assert "compare" not in scene.store.entries, "who began it is phasegate itself"


async def test_a_task_is_in_the_trail_with_who_began_and_who_stopped_it(kept: Opened) -> None:
    scene = await kept()
    task = await scene.keeper.begin(REPAIR, "ann")
    scene.data.compared(2, repaired=7)
    await scene.keeper.begin(COMPARE, "bob")
    assert scene.keeper.stop("eve") is not None
    assert scene.data.runner.stopped
    scene.data.failed("stopped")
    await scene.written()
    trail = dict(zip(scene.store.entries, scene.store.details, strict=True))
    assert trail["repair"] == {"task": task, "kind": "repair", "from": "source"}
    assert trail["repaired"] == {"task": task, "kind": "repair", "documents": 12, "differences": 2, "repaired": 7}
    assert trail["data_task_failed"]["failure"] == "stopped"
    assert "data_task_stopped" in trail
    assert scene.keeper.stop("eve") is None


async def test_a_second_task_is_refused_with_what_is_under_way(kept: Opened) -> None:
    scene = await kept()
    await scene.keeper.begin(COPY, "ann")
    with pytest.raises(NotBegunError, match="copy is under way, begun by ann") as refused:
        await scene.keeper.begin(COMPARE, "bob")
    assert refused.value.code == "busy"


async def test_a_copy_goes_on_with_the_next_control_process_and_a_compare_does_not(kept: Opened) -> None:
    for killed in (False, True):
        scene = await kept()
        task = await scene.keeper.begin(AskedTask(TaskKind.COPY, ("scans",)), "ann")
        await scene.begin_anew(killed=killed)
        (orders,) = scene.data.runner.begun
        assert (orders.kind, orders.collections) == (TaskKind.COPY, ("scans",))
        found = scene.keeper.task(task)
        assert found is not None
        assert (found.actor, found.ended_at) == ("ann", None)
        scene.data.copied()
        await scene.begin_anew(killed=killed)
        assert scene.data.runner.begun == []
        await scene.keeper.begin(COMPARE, "ann")
        await scene.begin_anew(killed=killed)
        assert scene.data.runner.begun == []
        assert ("data_task_failed" in scene.store.entries) is not killed
        scene.saver.cancel()


async def test_what_is_known_outlives_the_process_and_losses_meanwhile_are_told(kept: Opened) -> None:
    scene = await kept(every_s=0)
    await copy(scene)
    await scene.act("start")
    scene.data.lose(1)
    await scene.pass_by(2)
    scene.news.clear()
    await scene.begin_anew()
    await scene.pass_by(2)
    assert not [news for news in scene.news if isinstance(news, DataDiffers)], "that one was told"
    scene.data.lose(2)
    await scene.begin_anew(killed=True)
    assert "3 changes" in (await scene.refusal("advance")).message
    await scene.pass_by(2)
    assert [news.lost for news in scene.news if isinstance(news, DataDiffers)] == [3]


async def test_other_stores_in_the_configuration_are_sides_of_which_nothing_is_known(kept: Opened) -> None:
    scene = await kept()
    await copy(scene)
    await scene.act("start")
    scene.data.pair = scene.data.pair._replace(identity="mock → firestore (project live)")
    await scene.begin_anew()
    assert scene.weight == 500, "it lowers nothing"
    assert "phasegate copy" in (await scene.refusal("advance")).message


async def test_nothing_is_begun_before_the_checkpoint_is_known(kept: Opened) -> None:
    scene = await kept()
    await copy(scene)
    await scene.written()
    scene.saver.cancel()
    scene.store.unreadable = "locked"
    scene.coordinator = scene.make()
    await scene.coordinator.recover()
    with pytest.raises(NotBegunError) as refused:
        await scene.keeper.begin(COMPARE, "ann")
    assert refused.value.code == "store_failed"
    scene.store.unreadable = None
    scene.saver = asyncio.create_task(scene.coordinator.outbox.run())
    await scene.written()
    await scene.act("start")


async def test_a_seed_of_the_sources_own_fixtures_opens_the_gate_when_a_start_asks_for_it(kept: Opened) -> None:
    scene = await kept(fixtures="abc")
    assert (await scene.refusal("start")).code == "data_incomplete"
    scene.data.seed = "of others"
    assert (await scene.refusal("start")).code == "data_incomplete"
    scene.data.seed = Fault(FaultKind.UNAVAILABLE, "away")
    assert (await scene.refusal("start")).code == "data_incomplete"
    scene.data.seed = "abc"
    await scene.act("start")
    await scene.written()
    assert "seed_found" in scene.store.entries


async def test_a_running_migration_that_lacks_everything_looks_for_a_seed_now_and_then(kept: Opened) -> None:
    scene = await kept(fixtures="abc")
    await scene.act("start", force=True, reason="a test")
    await scene.pass_by(SEED_EVERY_S + 2)
    assert 1 <= scene.data.sought <= 3
    scene.data.seed = "abc"
    await scene.pass_by(SEED_EVERY_S + 2)
    assert scene.keeper.hold() is None


async def test_the_document_says_how_far_a_task_is_and_what_is_known(kept: Opened) -> None:
    scene = await kept()
    scene.data.gauges = scene.data.gauges._replace(pending=7, oldest_s=1.25)
    await scene.keeper.begin(COPY, "ann")
    document = scene.keeper.document()
    assert (document.behind.changes, document.behind.oldest_s) == (7, 1.25)
    assert document.task is not None
    assert (document.task.kind, document.task.done, document.task.of) == (TaskKind.COPY, 0, None)
    scene.data.runner.progress = TaskProgress(4, 12, 500.0, 0.016, "scans")
    document = scene.keeper.document()
    assert document.task is not None
    assert (document.task.done, document.task.of, document.task.rate) == (4, 12, 500.0)
    scene.data.copied()
    document = scene.keeper.document()
    assert (document.complete, document.task, document.compare) == (True, None, None)
    assert document.copied_at is not None


async def test_a_dry_run_is_another_kind_of_task_and_leaves_nothing_behind(kept: Opened) -> None:
    scene = await kept()
    task = await scene.keeper.begin(AskedTask(TaskKind.COPY, dry_run=True), "ann")
    assert kinds(scene.data) == ["cost"]
    scene.data.runner.cost = TaskCost(24, 12, 0.5)
    scene.data.copied(0)
    await scene.written()
    found = scene.keeper.task(task)
    assert found is not None
    assert found.cost is not None
    assert (found.cost.reads, found.cost.writes) == (24, 12)
    assert (await scene.refusal("start")).code == "data_incomplete"
    assert not {"copy", "copied"} & set(scene.store.entries)


async def test_so_many_ended_tasks_are_remembered(kept: Opened) -> None:
    scene = await kept()
    tasks = []
    for _ in range(ENDED_MAX + 1):
        tasks.append(await scene.keeper.begin(COPY, "ann"))
        scene.data.copied()
    assert scene.keeper.task(tasks[0]) is None
    last = scene.keeper.task(tasks[-1])
    assert last is not None
    assert last.result is not None
    assert (last.result.copied, last.failure, last.documents) == (12, None, 12)


async def test_a_compare_of_its_own_gives_way_to_an_operators_task(kept: Opened) -> None:
    scene = await kept(every_s=60.0)
    await copy(scene)
    await scene.act("start")
    await scene.pass_by(62)
    assert kinds(scene.data)[-1] == TaskKind.COMPARE
    await scene.keeper.begin(REPAIR, "ann")
    assert kinds(scene.data)[-1] == TaskKind.REPAIR
    scene.data.compared()
    document = scene.keeper.document()
    assert document.task is None
    with pytest.raises(AssertionError, match="no task"):
        scene.data.compared()


async def test_what_a_copy_left_different_is_compared_at_once_whatever_the_state(kept: Opened) -> None:
    scene = await kept()
    await scene.keeper.begin(COPY, "ci")
    scene.data.copied(left=3)
    assert scene.keeper.hold() is None
    await scene.pass_by(2)
    assert kinds(scene.data) == [TaskKind.COPY, TaskKind.COMPARE]
    scene.data.compared(3)
    assert "3 documents differ" in (await scene.refusal("start")).message
    await scene.pass_by(2000)
    assert len(scene.data.runner.begun) == 2, "it is idle"


async def test_what_is_found_before_a_first_copy_is_told_to_nobody(kept: Opened) -> None:
    scene = await kept()
    await scene.keeper.begin(COMPARE, "ci")
    scene.data.compared(9)
    assert scene.news == []
    assert "phasegate copy" in (await scene.refusal("start")).message
