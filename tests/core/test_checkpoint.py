"""Checkpoints of version 0.1, which name a phase by its place in the list: ``golden/checkpoints-0.1.json``.

They were written by version 0.1 itself, in a walk through the default phases.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import msgspec
import pytest

from control.lead.checkpoint import CheckpointDocument, decoded
from control.plan.phases import DEFAULT_PHASES, Phase
from control.plan.times import Now
from control.rollout.machine import step
from control.rollout.model import EnteredPhase, On, Rollout, RolloutEvent, RolloutPlan, State
from control.rollout.recovery import BoardWord, recover
from proxy.settings import Mode

GOLDEN = json.loads((Path(__file__).parent / "golden" / "checkpoints-0.1.json").read_text(encoding="utf-8"))
NOW = Now(9000.0, 1_790_000_000.0)
INITIAL, EARLY, HALF, COMPLETE = (EnteredPhase(p.name, p.weight_bp) for p in DEFAULT_PHASES if p.name != "majority")

# By name of the document: the phase and weight that it is read as, the phase to go on from.
READ = {
    "running at 25 %": (EARLY, 2500, EARLY),
    "asked to go on to 50 %": (EARLY, 2500, EARLY),
    "paused at 50 %": (HALF, 5000, HALF),
    "rolling back from 50 % to 25 %": (EARLY, 2500, EARLY),
    "rolled back to 25 %": (EARLY, 2500, EARLY),
    "rolled back to 0 from 50 %": (None, 0, EARLY),
    "aborted at 50 %": (None, 0, HALF),
    "held at 0 after a reboot at 50 %": (HALF, 0, HALF),
    "completed": (COMPLETE, 10_000, COMPLETE),
}


def read(name: str, phases: tuple[Phase, ...] = DEFAULT_PHASES) -> Rollout:
    return decoded(phases, json.dumps(GOLDEN[name])).rollout


@pytest.mark.parametrize("name", GOLDEN)
def test_a_place_in_the_list_is_read_as_the_phase_that_it_was(name: str) -> None:
    rollout = read(name)
    assert (rollout.phase, rollout.weight_bp, rollout.resume_phase) == READ[name]
    assert rollout.revision == GOLDEN[name]["rollout"]["revision"]
    if rollout.pending is not None:
        assert (rollout.pending.phase, rollout.pending.weight_bp) == (HALF, 5000)


def test_what_was_asked_for_and_the_baseline_are_read_too() -> None:
    document = decoded(DEFAULT_PHASES, json.dumps(GOLDEN["running at 25 %"]))
    assert document.baseline is not None
    assert document.baseline.validations == (2, 0)
    assert read("asked to go on to 50 %").pending is not None


def phases_of(*weights: float) -> tuple[Phase, ...]:
    return tuple(Phase(f"new {weight:g}", weight) for weight in weights)


EDITED = [
    phases_of(*weights) for weights in ((50, 100), (100,), (30, 60, 90), (1, 2, 3), (5, 25, 50, 75, 100), (10,))
]


def after_a_restart(rollout: Rollout, plan: RolloutPlan, *, same_boot: bool) -> Rollout:
    word = BoardWord(rollout.generation, rollout.weight_bp, rollout.pinned) if same_boot else BoardWord(0, 0, False)
    return recover(plan, rollout, word, Mode.HYBRID, NOW)[0]


# Of a rollout that was held at 0 after a reboot nothing says at which weight it had been: it is not here.
WEIGHED = sorted(GOLDEN.keys() - {"held at 0 after a reboot at 50 %"})


@pytest.mark.parametrize(("name", "phases", "same_boot"), list(product(WEIGHED, EDITED, (True, False))))
def test_no_edit_of_the_phases_leads_it_above_the_weight_that_was_saved(
    name: str, phases: tuple[Phase, ...], same_boot: bool
) -> None:
    saved, plan = read(name, phases), RolloutPlan(phases)
    held = {"rolled back to 0 from 50 %": 5000, "aborted at 50 %": 5000}.get(name, saved.weight_bp)
    here = after_a_restart(saved, plan, same_boot=same_boot)
    assert here.weight_bp <= saved.weight_bp
    for event in (RolloutEvent(On.RESUME), RolloutEvent(On.START, resume=True)):
        after, _ = step(plan, here, event, NOW)
        if after.pending is not None and here.state is not State.COMPLETED:
            assert after.pending.weight_bp <= held
        assert after.weight_bp <= saved.weight_bp


def test_a_place_that_the_plan_does_not_have_is_nothing_to_go_on_from() -> None:
    plan = RolloutPlan(phases_of(50, 100))
    held = after_a_restart(read("held at 0 after a reboot at 50 %", plan.phases), plan, same_boot=False)
    assert plan.resumed(held) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", '{"rollout": 7}', '{"rollout": {"state": "flying"}}', '{"rollout": {"phase": "first"}}'],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decoded(DEFAULT_PHASES, text)


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    rollout = Rollout(State.RUNNING, phase=EARLY, weight_bp=2500, resume_phase=EARLY, revision=3, generation=2)
    text = msgspec.json.encode(CheckpointDocument(rollout)).decode()
    assert decoded(phases_of(50, 100), text).rollout == rollout
