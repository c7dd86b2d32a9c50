"""A run keeps the split that it began with; only a start from nothing takes another."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from control.lead import splitkey
from control.plan.phases import DEFAULT_PHASES
from control.plan.times import Now
from control.rollout.machine import step
from control.rollout.model import On, Persist, Rollout, RolloutEvent, RolloutPlan, RunSplit, State
from control.rollout.recovery import BoardWord, recover, rejoin
from proxy.board.layout import SplitKey
from proxy.migration import buckets
from proxy.settings import Mode

SECRET = bytes(32)
NEW = splitkey.new_run(SECRET, "phase6")
OLD = splitkey.known(RunSplit(), "phase6")
PLAN = RolloutPlan(DEFAULT_PHASES, split=NEW)
NOW = Now(1000.0, 1_700_000_000.0)
NOTHING = SplitKey(0, 0)


def after(s: Rollout, kind: On, plan: RolloutPlan = PLAN, **fields: bool) -> Rollout:
    """Where an event leads once the store has taken it and every worker has seen and drained it."""
    s, effects = step(plan, s, RolloutEvent(kind, **fields), NOW)  # type: ignore[arg-type] # which are flags
    assert any(isinstance(effect, Persist) for effect in effects), effects
    if s.pending is not None:
        s, _ = step(plan, s, RolloutEvent(On.PERSISTED, revision=s.pending.revision), NOW)
    s, _ = step(plan, s, RolloutEvent(On.SEEN), NOW)
    if s.state is State.ROLLING_BACK:
        s, _ = step(plan, s, RolloutEvent(On.DRAINED), NOW)
    return s


def test_a_run_begun_by_version_0_1_keeps_its_split_until_the_next_start() -> None:
    s = after(Rollout(split=OLD), On.START, RolloutPlan(DEFAULT_PHASES))
    assert s.split == OLD
    for kind in (On.ADVANCE, On.PAUSE, On.RESUME, On.ADVANCE, On.ROLLBACK):
        s = after(s, kind)
        assert s.split == OLD, kind
    s = after(s, On.START, resume=True)
    assert (s.state, s.split) == (State.RUNNING, OLD)
    s = after(s, On.ABORT)
    assert (s.weight_bp, s.split) == (0, OLD)
    s = after(s, On.START, resume=True)
    assert (s.state, s.split) == (State.RUNNING, OLD), "also from nothing"
    s = after(s, On.ABORT)
    s = after(s, On.START)
    assert s.split == NEW


def test_a_start_asks_for_the_split_and_takes_it_when_it_is_published() -> None:
    asked, _ = step(PLAN, Rollout(split=OLD), RolloutEvent(On.START), NOW)
    assert asked.split == OLD
    assert asked.pending is not None
    assert asked.pending.split == NEW
    called_off, _ = step(PLAN, asked, RolloutEvent(On.UNPERSISTED, revision=asked.revision), NOW)
    assert called_off.split == OLD
    crashed, _ = recover(PLAN, asked, BoardWord(1, 500, False), Mode.HYBRID, NOW)
    assert (crashed.weight_bp, crashed.split) == (500, NEW), "it had been published"


def test_a_start_with_visitors_on_the_target_moves_none_of_them_by_another_split() -> None:
    s = after(after(Rollout(split=OLD), On.START, RolloutPlan(DEFAULT_PHASES)), On.ADVANCE)
    s = after(s, On.ROLLBACK)
    assert (s.state, s.weight_bp > 0) == (State.ROLLED_BACK, True)
    assert after(s, On.START).split == OLD


def test_what_version_0_1_wrote_is_version_1_with_the_migrations_name() -> None:
    rollout = msgspec.json.decode(b'{"state":"paused","weight_bp":500}', type=Rollout)
    split = splitkey.known(rollout.split, "phase6")
    assert (split.version, split.salt) == (1, "phase6")
    assert splitkey.for_board(split) == buckets.plain("phase6")
    state = buckets.begin(splitkey.for_board(split))
    assert buckets.bucket(state, b"alice") == buckets.bucket(buckets.salt("phase6"), b"alice")


def test_under_another_name_a_run_keeps_its_split() -> None:
    for old in (splitkey.known(RunSplit(), "was"), splitkey.new_run(SECRET, "was")):
        assert splitkey.known(old, "is") == old
        assert splitkey.settled(old, "is", NOTHING, 500) == old
    assert splitkey.new_run(SECRET, "is").key != splitkey.new_run(SECRET, "was").key


def test_the_board_is_believed_while_visitors_are_on_the_target_by_it() -> None:
    on_board = splitkey.for_board(NEW)
    assert splitkey.settled(OLD, "phase6", on_board, 0) == OLD
    found = splitkey.settled(OLD, "phase6", on_board, 500)
    assert splitkey.for_board(found) == on_board
    assert splitkey.settled(NEW, "phase6", on_board, 500) == NEW, "with its salt"
    assert splitkey.settled(OLD, "phase6", NOTHING, 500) == OLD, "a board that says nothing of it"


def test_what_was_decided_without_the_checkpoint_keeps_the_checkpoints_split() -> None:
    joined, _ = rejoin(Rollout(split=NEW), Rollout(State.ROLLED_BACK, revision=2, split=OLD))
    assert joined.split == NEW


@pytest.mark.parametrize("split", [OLD, NEW])
def test_a_split_comes_back_from_its_checkpoint(split: RunSplit) -> None:
    s = replace(Rollout(), split=split)
    assert msgspec.json.decode(msgspec.json.encode(s), type=Rollout) == s


@pytest.mark.parametrize("broken", [b'{"key":"xyz"}', b'{"version":3}'])
def test_a_split_that_nobody_understands_is_no_checkpoint(broken: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"split":' + broken + b"}", type=Rollout)
