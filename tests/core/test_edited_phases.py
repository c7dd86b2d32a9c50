"""Thirty edits of a configuration's phases under a rollout: what happens at the restart, what is said, what is next.

The phases before are the default ones: initial 5, early 25, half 50, majority 75, complete 100. An edit never moves
a weight; ``onward`` is where going on leads (``resume``, or ``advance`` where it goes on by itself or is completed).
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from msgspec.structs import replace

from control.plan.phases import DEFAULT_PHASES, FULL_BP, Phase
from control.plan.times import Now
from control.rollout.machine import step
from control.rollout.model import (
    Descent,
    EnteredPhase,
    Notify,
    On,
    Persist,
    PublishWeight,
    Refuse,
    RollbackBegun,
    Rollout,
    RolloutEvent,
    RolloutPlan,
    State,
)
from control.rollout.recovery import BoardWord, recover
from proxy.settings import Mode

NOW = Now(1000.0, 1_790_000_000.0)
INITIAL, EARLY, HALF, MAJORITY, COMPLETE = (EnteredPhase(p.name, p.weight_bp) for p in DEFAULT_PHASES)
REBOOT = True
LISTS = "no phase has at most the "


def at(state: State, phase: EnteredPhase, **more: object) -> Rollout:
    s = Rollout(state, phase=phase, weight_bp=phase.weight_bp, resume_phase=phase, revision=9, generation=5)
    return replace(s, pinned=state is State.COMPLETED, soaked_s=7.0, **more)


def at_0(state: State, resume: EnteredPhase | None) -> Rollout:
    return Rollout(state, resume_phase=resume, revision=9, generation=5)


IDLE = at_0(State.IDLE, None)
RUNNING, PAUSED = at(State.RUNNING, EARLY), at(State.PAUSED, EARLY)
ROLLED_BACK, DOWN = at(State.ROLLED_BACK, EARLY), at_0(State.ROLLED_BACK, EARLY)
ABORTED, DONE = at_0(State.ABORTED, HALF), at(State.COMPLETED, COMPLETE)
DONE_HALF = at(State.COMPLETED, HALF)
DESCENT = Descent("command", "", 5000, 999.0, 999.0, 20.0, State.ROLLED_BACK)
GOING_DOWN = at(State.ROLLING_BACK, EARLY, descent=DESCENT)


class Edit(NamedTuple):
    before: Rollout
    phases: str  # name weight, …
    state: State
    weight: float
    onward: str  # the phase that going on leads to, "completion", or how the refusal begins
    said: str = "as the checkpoint says"  # in the trail's entry
    reboot: bool = False


SAME = "initial 5, early 25, half 50, majority 75, complete 100"
GONE = 'no phase of 25 % ("early") any more: held at 25 %'
EDITS = [
    # Running at early, 25 %.
    Edit(RUNNING, SAME, State.RUNNING, 25, "half"),
    Edit(RUNNING, "initial 5, early 25, third 35, half 50, complete 100", State.RUNNING, 25, "third"),
    Edit(RUNNING, "pilot 1, initial 5, early 25, half 50", State.RUNNING, 25, "half"),
    Edit(RUNNING, "early 25, complete 100", State.RUNNING, 25, "complete"),
    Edit(RUNNING, "initial 5, early 25", State.RUNNING, 25, "completion"),
    Edit(RUNNING, "initial 5, quarter 25, half 50", State.RUNNING, 25, "half", '"early" is called "quarter" now'),
    Edit(RUNNING, "early 5, initial 25, half 50", State.RUNNING, 25, "half", '"early" is called "initial" now'),
    Edit(RUNNING, "half 50, complete 100", State.ROLLED_BACK, 25, LISTS + "25 %", GONE),
    Edit(RUNNING, "initial 5, half 50, complete 100", State.ROLLED_BACK, 25, "initial", GONE),
    Edit(RUNNING, "initial 5, early 30, half 50", State.ROLLED_BACK, 25, "initial", GONE),
    Edit(RUNNING, "initial 5, early 20, half 50", State.ROLLED_BACK, 25, "early", GONE),
    Edit(RUNNING, "complete 100", State.ROLLED_BACK, 25, LISTS + "25 %", GONE),
    Edit(RUNNING, SAME, State.PAUSED, 0, "early", "a new board", REBOOT),
    Edit(RUNNING, "initial 5, half 50", State.ROLLED_BACK, 0, "initial", "no phase of 25 %", REBOOT),
    Edit(RUNNING, "half 50, complete 100", State.ROLLED_BACK, 0, LISTS + "25 %", "no phase of 25 %", REBOOT),
    # Paused there.
    Edit(PAUSED, "initial 5, quarter 25, complete 100", State.PAUSED, 25, "goes on", "is called"),
    Edit(PAUSED, "initial 5, half 50", State.ROLLED_BACK, 25, "initial", GONE),
    Edit(PAUSED, "half 50, complete 100", State.ROLLED_BACK, 25, LISTS + "25 %", GONE),
    # Rolling back to it, rolled back to it, and rolled back to 0 with early to go on from.
    Edit(GOING_DOWN, "half 50, complete 100", State.ROLLING_BACK, 25, "resume is not possible", "no phase of 25 %"),
    Edit(ROLLED_BACK, "initial 5, early 25, complete 100", State.ROLLED_BACK, 25, "early"),
    Edit(ROLLED_BACK, "tenth 10, half 50", State.ROLLED_BACK, 25, "tenth", 'no phase of 25 % ("early") any more'),
    Edit(ROLLED_BACK, "half 50, complete 100", State.ROLLED_BACK, 25, LISTS + "25 %", "any more"),
    Edit(DOWN, "half 50, complete 100", State.ROLLED_BACK, 0, LISTS + "25 %"),
    Edit(DOWN, "a 10, b 20, c 30", State.ROLLED_BACK, 0, "b"),
    # Nothing on the target.
    Edit(IDLE, "half 50, complete 100", State.IDLE, 0, "resume is not possible"),
    Edit(ABORTED, "a 40, b 60", State.ABORTED, 0, "a"),
    # Completed.
    Edit(DONE, "half 50, complete 80", State.COMPLETED, 100, "advance is not possible", "no phase of 100 %"),
    Edit(DONE, "half 50, everything 100", State.COMPLETED, 100, "advance is not possible", "is called"),
    Edit(DONE_HALF, SAME, State.COMPLETED, 50, "majority"),
    Edit(DONE_HALF, "a 10, b 90", State.COMPLETED, 50, "b", "a new board", REBOOT),
]


def plan_of(text: str) -> RolloutPlan:
    named = [part.rsplit(" ", 1) for part in text.split(", ")]
    return RolloutPlan(tuple(Phase(name, float(weight)) for name, weight in named))


def restarted(edit: Edit) -> tuple[Rollout, str]:
    """The rollout after the restart with the edited phases, and what the trail says."""
    before = edit.before
    word = BoardWord(0, 0, False) if edit.reboot else BoardWord(5, before.weight_bp, before.pinned)
    after, effects = recover(plan_of(edit.phases), before, word, Mode.HYBRID, NOW)
    persist = next(effect for effect in effects if isinstance(effect, Persist))
    for effect in effects:
        assert not isinstance(effect, PublishWeight) or effect.weight_bp == after.weight_bp
    return after, persist.entries[0].detail["why"]


def led(plan: RolloutPlan, s: Rollout) -> str:
    """Where going on leads: a phase's name, or the refusal."""
    kind = On.ADVANCE if s.state in (State.RUNNING, State.COMPLETED) else On.RESUME
    event = RolloutEvent(On.START, resume=True) if s.state is State.ABORTED else RolloutEvent(kind)
    after, effects = step(plan, s, event, NOW)
    if isinstance(effects[0], Refuse):
        if effects[0].message.startswith(LISTS):
            assert all(f'"{phase.name}"' in effects[0].hint for phase in plan.phases)
        return effects[0].message
    if after.pending is None:
        assert after.weight_bp <= s.weight_bp
        return "goes on" if after.weight_bp == s.weight_bp else str(after.phase and after.phase.name)
    return "completion" if after.pending.pinned else after.pending.phase.name


def test_there_are_thirty_edits_and_each_is_another() -> None:
    assert len({(id(edit.before), edit.phases, edit.reboot) for edit in EDITS}) == len(EDITS) == 30


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_the_phases_moves_no_weight_and_is_told(edit: Edit) -> None:
    after, why = restarted(edit)
    assert (after.state, after.weight_bp / 100) == (edit.state, edit.weight)
    assert edit.said in why
    assert led(plan_of(edit.phases), after).startswith(edit.onward)


@pytest.mark.parametrize("edit", EDITS)
def test_going_on_after_an_edit_leads_to_no_more_than_was_held(edit: Edit) -> None:
    after, _ = restarted(edit)
    plan = plan_of(edit.phases)
    held = max(edit.before.weight_bp, edit.before.resumable_bp or 0)
    for event in (RolloutEvent(On.RESUME), RolloutEvent(On.START, resume=True)):
        raised, _ = step(plan, after, event, NOW)
        if raised.pending is not None and after.state is not State.COMPLETED:
            assert raised.pending.weight_bp <= held


@pytest.mark.parametrize("edit", EDITS)
def test_what_was_edited_and_is_put_back_goes_on_where_it_was(edit: Edit) -> None:
    if edit.reboot or edit.before.state is State.ROLLING_BACK:
        return
    held, _ = restarted(edit)
    word = BoardWord(held.generation, held.weight_bp, held.pinned)
    back, _ = recover(RolloutPlan(DEFAULT_PHASES), held, word, Mode.HYBRID, NOW)
    assert back.weight_bp == edit.before.weight_bp
    resumed = RolloutPlan(DEFAULT_PHASES).resumed(back)
    assert (resumed and resumed.weight_bp) == edit.before.resumable_bp


def test_soak_is_kept_by_a_phase_that_goes_on_and_lost_with_one_that_is_gone() -> None:
    assert restarted(EDITS[0])[0].soaked_s == restarted(EDITS[5])[0].soaked_s == 7.0
    assert restarted(EDITS[7])[0].soaked_s == 0.0


@pytest.mark.parametrize(
    ("event", "trigger"), [(RolloutEvent(On.RESUME), "resume"), (RolloutEvent(On.START, resume=True), "resume")]
)
def test_going_on_with_less_weight_is_told_as_a_lowering_and_never_as_an_advance(
    event: RolloutEvent, trigger: str
) -> None:
    held = replace(ROLLED_BACK, phase=None)  # 25 %, of a phase that the plan no longer has
    after, effects = step(plan_of("initial 5, half 50"), held, event, NOW)
    assert (after.state, after.weight_bp, after.pending) == (State.RUNNING, 500, None)
    publish, persist, notify = effects
    assert isinstance(publish, PublishWeight)
    assert isinstance(persist, Persist)
    assert notify == Notify(RollbackBegun(trigger, 25.0, 5.0, "", after.revision))
    assert [entry.kind for entry in persist.entries] == ["rollback", "resume"]
    assert persist.entries[0].detail["to_weight"] == 5.0
    up, effects = step(plan_of("initial 5, half 50"), replace(held, weight_bp=0, resume_phase=INITIAL), event, NOW)
    assert up.pending is not None, "a raise is asked for and not told before it is published"
    assert not any(isinstance(effect, Notify) for effect in effects)


def test_an_edit_changes_nothing_of_what_one_backend_answers_alone() -> None:
    target = Rollout(State.COMPLETED, Mode.TARGET, None, FULL_BP, pinned=True, revision=3, generation=2)
    after, _ = recover(plan_of("a 1, b 2"), target, BoardWord(2, FULL_BP, True), Mode.TARGET, NOW)
    assert (after.state, after.weight_bp, after.pinned) == (State.COMPLETED, FULL_BP, True)
