"""What is known of a migration's data: what each event makes of it, and when the gate holds."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from control.data.messages import ComparedCollection, TaskDone, TaskKind, TaskResult
from control.data.state import (
    AskedTask,
    BegunTask,
    DataGauges,
    DataPair,
    DataState,
    begun,
    compare_due_at,
    counted,
    done,
    failed,
    holding,
    lacking,
    of_pair,
    seeded,
)
from control.plan.gates import HoldKind

PAIR = DataPair("phase6", "mock → firestore (project demo)", fixtures="f" * 8)
FRESH = of_pair(DataState(), PAIR)
QUIET = DataGauges("board-1", 0, 0.0, 0)
WHOLE_COPY = AskedTask(TaskKind.COPY)
WHOLE_COMPARE = AskedTask(TaskKind.COMPARE)
AT = 1_700_000_000.0


def lost(count: int, board: str = "board-1") -> DataGauges:
    return QUIET._replace(board=board, lost=count)


def task(state: DataState, asked: AskedTask) -> BegunTask:
    return BegunTask("task-1", "ci", AT, state.missed, asked)


def ended(state: DataState, asked: AskedTask, differences: int = 0, missing: int = 0) -> DataState:
    """After a task that began now and ended now."""
    return over(state, task(state, asked), differences, missing)


def over(state: DataState, begun_task: BegunTask, differences: int = 0, missing: int = 0) -> DataState:
    row = ComparedCollection("scans", 9, 9 - missing, 9 - differences, missing, 0, differences - missing, 0)
    result = TaskResult(equal=not differences, collections=(row,))
    return done(state, begun_task, TaskDone(result, differences, 9), AT + 60)


COPIED = ended(FRESH, WHOLE_COPY)


def holds(state: DataState, gauges: DataGauges = QUIET, pair: DataPair = PAIR) -> str:
    hold = holding(state, gauges, pair)
    assert hold is None or (hold.kind, hold.name) == (HoldKind.DATA, "data")
    return "" if hold is None else hold.reason


def test_a_target_to_which_nothing_was_ever_copied_holds_and_the_command_is_named() -> None:
    said = holds(FRESH)
    assert "0 of its documents" in said
    assert "`phasegate copy --migration phase6`" in said
    assert not holds(FRESH, pair=PAIR._replace(gate=False))
    assert lacking(FRESH, QUIET, PAIR._replace(gate=False)), "what is known is known with the gate off, too"


@pytest.mark.parametrize("asked", [WHOLE_COPY, WHOLE_COMPARE, AskedTask(TaskKind.REPAIR)])
def test_a_finished_copy_and_an_equal_compare_of_everything_open_it(asked: AskedTask) -> None:
    assert not holds(ended(FRESH, asked))


@pytest.mark.parametrize(
    "asked",
    [
        AskedTask(TaskKind.COPY, collections=("scans",)),
        AskedTask(TaskKind.COPY, dry_run=True),
        AskedTask(TaskKind.COMPARE, collections=("scans",)),
        AskedTask(TaskKind.COMPARE, sample=100),
    ],
)
def test_a_part_of_the_documents_opens_nothing(asked: AskedTask) -> None:
    assert holds(ended(FRESH, asked))


def test_lost_changes_hold_by_their_number_until_a_compare_that_began_after_them_is_equal() -> None:
    said = holds(COPIED, lost(3))
    assert said.startswith("3 changes reached one side alone")
    assert "`phasegate compare --migration phase6 --repair`" in said
    state = counted(COPIED, lost(3))
    assert not holds(ended(state, WHOLE_COMPARE), lost(3))
    assert not holds(ended(state, WHOLE_COPY), lost(3))
    before = task(COPIED, WHOLE_COMPARE)  # it may have passed the document already
    assert holds(over(state, before), lost(3)) == said
    assert "1 change reached" in holds(ended(state, WHOLE_COMPARE), lost(4))


def test_the_count_of_losses_outlives_the_board_that_counted_them() -> None:
    state = counted(COPIED, lost(3))
    assert counted(state, lost(3)) is state
    again = counted(state, lost(5, "board-2"))
    assert (again.lost, again.board) == (5, "board-2"), "it goes on with the count"
    anew = counted(state, lost(1, "board-2"))
    assert (anew.lost, anew.board) == (4, "board-2"), "or begins at 0"
    assert counted(anew, lost(0, "board-3")).lost == 4, "what was lost stays lost"


def test_what_the_source_took_while_no_mirror_ran_is_missed_and_is_counted_by_board() -> None:
    state = counted(COPIED, QUIET._replace(alone=5))
    assert "5 changes reached one side alone" in holds(state, QUIET._replace(alone=5))
    assert counted(state, QUIET._replace(alone=7)).lost == 7
    assert counted(state, QUIET._replace(board="board-2", alone=7)).lost == 12
    hybrid = counted(state, QUIET)  # the next configuration has a mirror
    assert hybrid.lost == 5


def test_differences_hold_by_their_number_until_they_are_mended() -> None:
    differing = ended(COPIED, WHOLE_COMPARE, differences=5)
    assert "5 documents differ between source and target" in holds(differing)
    assert "1 document differs" in holds(ended(differing, AskedTask(TaskKind.REPAIR), differences=1))
    assert not holds(ended(differing, AskedTask(TaskKind.REPAIR)))
    both = holds(differing, lost(2))
    assert "2 changes" in both
    assert "5 documents" in both


def test_a_copy_mends_documents_that_are_missing_and_no_others() -> None:
    differing = ended(COPIED, WHOLE_COMPARE, differences=5, missing=3)
    assert "2 documents differ" in holds(ended(differing, WHOLE_COPY))
    assert not holds(ended(ended(COPIED, WHOLE_COMPARE, differences=3, missing=3), WHOLE_COPY))


def test_what_a_part_shows_adds_to_what_is_known_and_takes_nothing_away() -> None:
    part = AskedTask(TaskKind.COMPARE, collections=("scans",))
    assert "2 documents differ" in holds(ended(COPIED, part, differences=2))
    differing = ended(COPIED, WHOLE_COMPARE, differences=5)
    assert "5 documents differ" in holds(ended(differing, part, differences=1))
    assert ended(differing, part) == differing
    assert differing.compare is not None
    assert (differing.compare.equal, differing.compare.differences, differing.compare.documents) == (False, 5, 9)


def test_a_seed_opens_it_that_bears_the_sources_own_fixtures_while_no_change_was_missed() -> None:
    assert not holds(seeded(FRESH, "f" * 8))
    assert holds(seeded(FRESH, "0" * 8)), "other fixtures"
    assert holds(seeded(FRESH, "f" * 8), lost(1))
    assert holds(seeded(FRESH, "f" * 8), pair=PAIR._replace(fixtures=None)), "the source's own are not known"
    mirrored = QUIET._replace(pending=4, oldest_s=0.1)
    assert not holds(seeded(FRESH, "f" * 8), mirrored), "what is on its way is not missed"


def test_of_other_stores_nothing_is_known() -> None:
    assert of_pair(COPIED, PAIR) == COPIED
    other = PAIR._replace(identity="mock → firestore (project live)")
    assert of_pair(COPIED, other) == DataState(identity=other.identity)
    assert holds(of_pair(COPIED, other), pair=other)


def test_a_copy_is_remembered_until_it_ends_and_nothing_else_is() -> None:
    copying = begun(FRESH, task(FRESH, WHOLE_COPY))
    assert copying.copying is not None
    assert over(copying, copying.copying).copying is None
    assert failed(copying, copying.copying).copying is None
    assert failed(copying, replace(copying.copying, id="another")) == copying
    for asked in (WHOLE_COMPARE, AskedTask(TaskKind.COPY, dry_run=True)):
        assert begun(FRESH, task(FRESH, asked)) == FRESH


def test_everything_is_compared_again_some_time_after_the_last_copy_or_compare() -> None:
    assert compare_due_at(FRESH, PAIR, 600.0) is None
    assert compare_due_at(COPIED, PAIR, 0.0) is None
    assert compare_due_at(COPIED, PAIR, 600.0) == AT + 660
    later = replace(ended(COPIED, WHOLE_COMPARE), copied_at=AT - 1e6)
    assert compare_due_at(later, PAIR, 600.0) == AT + 660
    assert compare_due_at(seeded(FRESH, "f" * 8), PAIR, 600.0) == 600.0, "a seed is looked at as soon as may be"


def test_the_state_comes_back_from_a_checkpoint_as_it_was() -> None:
    differing = ended(counted(COPIED, lost(3)), WHOLE_COMPARE, differences=5)
    copying = begun(differing, task(differing, AskedTask(TaskKind.COPY, collections=("scans", "scans/*/results"))))
    for state in (FRESH, COPIED, differing, copying):
        assert msgspec.json.decode(msgspec.json.encode(state), type=DataState) == state


def test_a_compare_that_found_documents_on_their_way_is_not_equal_and_settles_nothing() -> None:
    state = counted(COPIED, lost(3))
    row = ComparedCollection("scans", 9, 9, 8, 0, 0, 0, 1)
    unsettled = done(state, task(state, WHOLE_COMPARE), TaskDone(TaskResult(False, (row,)), 0, 9), AT)
    assert "3 changes" in holds(unsettled, lost(3))
    assert unsettled.compare is not None
    assert (unsettled.compare.equal, unsettled.compare.differences) == (False, 0)
    assert "document" not in holds(unsettled, lost(3))
