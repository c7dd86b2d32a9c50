"""The rollout's table: every state against every event, and the order of what follows."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest
from msgspec.structs import replace

from control.plan.phases import DEFAULT_PHASES
from control.plan.times import Now
from control.rollout.machine import TRANSITIONS, step
from control.rollout.model import (
    Descent,
    EnteredPhase,
    On,
    Persist,
    PublishWeight,
    Refuse,
    Rollout,
    RolloutEvent,
    RolloutPlan,
    State,
)
from proxy.settings import Mode

PLAN = RolloutPlan(DEFAULT_PHASES)
NOW = Now(1000.0, 1_700_000_000.0)


ENTERED = tuple(EnteredPhase(phase.name, phase.weight_bp) for phase in DEFAULT_PHASES)


def held(state: State, place: int | None, **more: object) -> Rollout:
    phase = None if place is None else ENTERED[place]
    s = Rollout(
        state=state,
        phase=phase,
        weight_bp=0 if phase is None else phase.weight_bp,
        revision=7,
        generation=3,
        verified=True,
    )
    return replace(s, soaking_since=900.0 if state is State.RUNNING else None, entered_at=1.0, **more)


def descending(phase: int | None, final: State) -> Rollout:
    descent = Descent("command", "", 5000, 999.0, 999.0, 20.0, final)
    return replace(held(State.ROLLING_BACK, phase, resume_phase=ENTERED[1], descent=descent), verified=False)


STARTS = {
    "idle": held(State.IDLE, None),
    "running": held(State.RUNNING, 1, resume_phase=ENTERED[1]),
    "running last": held(State.RUNNING, 4, resume_phase=ENTERED[4]),
    "paused": held(State.PAUSED, 2, resume_phase=ENTERED[2]),
    "paused at 0": replace(held(State.PAUSED, 2, resume_phase=ENTERED[2]), weight_bp=0),
    "rolling back": descending(0, State.ROLLED_BACK),
    "aborting": descending(None, State.ABORTED),
    "resetting": descending(None, State.IDLE),
    "rolled back": held(State.ROLLED_BACK, 1, resume_phase=ENTERED[1]),
    "rolled back to 0": held(State.ROLLED_BACK, None, resume_phase=ENTERED[0]),
    "completed": replace(held(State.COMPLETED, 4), pinned=True),
    "completed below": replace(held(State.COMPLETED, 2), pinned=True),
    "aborted": held(State.ABORTED, None, resume_phase=ENTERED[2]),
    "aborted, nothing to resume": held(State.ABORTED, None),
}

EVENTS = {
    "start": RolloutEvent(On.START),
    "resume start": RolloutEvent(On.START, resume=True),
    "advance": RolloutEvent(On.ADVANCE),
    "pause": RolloutEvent(On.PAUSE),
    "resume": RolloutEvent(On.RESUME),
    "back": RolloutEvent(On.ROLLBACK),
    "back to 0": RolloutEvent(On.ROLLBACK, to="start"),
    "back to early": RolloutEvent(On.ROLLBACK, to="early"),
    "back to initial": RolloutEvent(On.ROLLBACK, to="initial"),
    "advance to half": RolloutEvent(On.ADVANCE, to="half"),
    "abort": RolloutEvent(On.ABORT),
    "reset": RolloutEvent(On.RESET),
    "promote": RolloutEvent(On.PROMOTE),
    "breach": RolloutEvent(On.BREACH),
    "lease lost": RolloutEvent(On.LEASE_LOST),
    "seen": RolloutEvent(On.SEEN),
    "drained": RolloutEvent(On.DRAINED),
    "persisted": RolloutEvent(On.PERSISTED, revision=8),
    "unpersisted": RolloutEvent(On.UNPERSISTED, revision=8),
}

# What each event leads to: "state weight", with ">" where it first waits for the store. Not listed: refused.
LEADS: dict[str, dict[str, str]] = {
    "idle": {
        "start": "> running 5",
        "back": "idle 0",
        "back to 0": "idle 0",
        "abort": "aborted 0",
        "reset": "idle 0",
    },
    "running": {
        "advance": "> running 50",
        "advance to half": "> running 50",
        "back to initial": "rolling_back 5",
        "promote": "> running 50",
        "pause": "paused 25",
        "back": "rolling_back 5",
        "back to 0": "rolling_back 0",
        "abort": "rolling_back 0",
        "reset": "rolling_back 0",
        "breach": "rolling_back 5",
        "lease lost": "rolling_back 0",
    },
    "running last": {
        "advance": "> completed 100",
        "back to early": "rolling_back 25",
        "back to initial": "rolling_back 5",
        "promote": "> completed 100",
        "pause": "paused 100",
        "back": "rolling_back 75",
        "back to 0": "rolling_back 0",
        "abort": "rolling_back 0",
        "reset": "rolling_back 0",
        "breach": "rolling_back 75",
        "lease lost": "rolling_back 0",
    },
    "paused": {
        "back to early": "rolling_back 25",
        "back to initial": "rolling_back 5",
        "resume": "running 50",
        "back": "rolling_back 25",
        "back to 0": "rolling_back 0",
        "abort": "rolling_back 0",
        "reset": "rolling_back 0",
        "breach": "rolling_back 25",
        "lease lost": "rolling_back 0",
    },
    "paused at 0": {
        "resume": "> running 50",
        "back": "rolled_back 0",
        "back to 0": "rolled_back 0",
        "abort": "aborted 0",
        "reset": "idle 0",
    },
    "rolling back": {
        "back to initial": "rolling_back 5",
        "back": "rolling_back 5",
        "back to 0": "rolling_back 0",
        "abort": "rolling_back 0",
        "reset": "rolling_back 0",
        "lease lost": "rolling_back 0",
        "seen": "rolling_back 5",
        "drained": "rolled_back 5",
    },
    "aborting": {
        "back": "rolling_back 0",
        "back to 0": "rolling_back 0",
        "abort": "rolling_back 0",
        "reset": "rolling_back 0",
        "seen": "rolling_back 0",
        "drained": "aborted 0",
    },
    "resetting": {
        "back": "rolling_back 0",
        "back to 0": "rolling_back 0",
        "abort": "rolling_back 0",
        "reset": "rolling_back 0",
        "seen": "rolling_back 0",
        "drained": "idle 0",
    },
    "rolled back": {
        "back to initial": "rolling_back 5",
        "start": "running 5",
        "resume start": "> running 25",
        "resume": "> running 25",
        "back": "rolling_back 5",
        "back to 0": "rolling_back 0",
        "abort": "rolling_back 0",
        "reset": "rolling_back 0",
        "breach": "rolling_back 5",
        "lease lost": "rolling_back 0",
    },
    "rolled back to 0": {
        "start": "> running 5",
        "resume start": "> running 5",
        "resume": "> running 5",
        "back": "rolled_back 0",
        "back to 0": "rolled_back 0",
        "abort": "aborted 0",
        "reset": "idle 0",
    },
    "completed": {
        "back to early": "rolling_back 25",
        "back to initial": "rolling_back 5",
        "back": "rolling_back 75",
        "back to 0": "rolling_back 0",
        "abort": "rolling_back 0",
        "reset": "rolling_back 0",
    },
    "completed below": {
        "advance": "> running 75",
        "resume start": "> running 75",
        "back": "rolling_back 25",
        "back to 0": "rolling_back 0",
        "back to early": "rolling_back 25",
        "back to initial": "rolling_back 5",
        "abort": "rolling_back 0",
        "reset": "rolling_back 0",
    },
    "aborted": {
        "start": "> running 5",
        "resume start": "> running 50",
        "back": "aborted 0",
        "back to 0": "aborted 0",
        "abort": "aborted 0",
        "reset": "idle 0",
    },
    "aborted, nothing to resume": {
        "start": "> running 5",
        "back": "aborted 0",
        "back to 0": "aborted 0",
        "abort": "aborted 0",
        "reset": "idle 0",
    },
}


def outcome(before: Rollout, event: RolloutEvent) -> str:
    """What an event leads to, in the words of ``LEADS``."""
    after, effects = step(PLAN, before, event, NOW)
    if any(isinstance(effect, Refuse) for effect in effects):
        assert after == before
        assert len(effects) == 1
        return "refused"
    waits = ""
    if after.pending is not None:
        assert (after.state, after.weight_bp, after.generation) == (before.state, before.weight_bp, before.generation)
        assert not any(isinstance(effect, PublishWeight) for effect in effects)
        after, effects = step(PLAN, after, RolloutEvent(On.PERSISTED, revision=after.revision), NOW)
        assert isinstance(effects[0], PublishWeight)
        waits = "> "
    return f"{waits}{after.state.value} {after.weight_bp / 100:g}"


@pytest.mark.parametrize(("start", "event"), list(product(STARTS, EVENTS)))
def test_every_state_answers_every_event_as_the_table_says(start: str, event: str) -> None:
    assert outcome(STARTS[start], EVENTS[event]) == LEADS[start].get(event, "refused")


def test_every_row_of_the_table_is_met_by_a_pair() -> None:
    met = set()
    for start, event in product(STARTS.values(), EVENTS.values()):
        fresh = replace(start, verified=False)
        for s in (start, fresh, *_pending(start)):
            _, effects = step(PLAN, s, event, NOW)
            if not any(isinstance(effect, Refuse) for effect in effects):
                met.add((s.state, event.kind))
    assert {(row.state, row.on) for row in TRANSITIONS} == met


def _pending(s: Rollout) -> list[Rollout]:
    """``s`` with each increase it takes waiting for the store."""
    asked = [step(PLAN, s, event, NOW)[0] for event in EVENTS.values()]
    return [replace(a, pending=replace(a.pending, revision=8)) for a in asked if a.pending is not None]


@pytest.mark.parametrize(
    ("start", "event", "message", "hint"),
    [
        ("running", RolloutEvent(On.ADVANCE, to="complete"), "not the next phase", '"half" (50 %)'),
        ("running", RolloutEvent(On.ADVANCE, to="early"), "not the next phase", '"half" (50 %)'),
        ("running", RolloutEvent(On.ADVANCE, to="start"), 'no phase is called "start"', 'Next is "half" (50 %)'),
        ("running", RolloutEvent(On.ADVANCE, to="hlaf"), 'did you mean "half"?', 'The phases are "initial" (5 %), '),
        (
            "running",
            RolloutEvent(On.ADVANCE, to="nope"),
            'no phase is called "nope"',
            'The phases are "initial" (5 %)',
        ),
        ("running", RolloutEvent(On.ROLLBACK, to="strat"), 'did you mean "start"?', "possible are start (0 %)"),
        (
            "running",
            RolloutEvent(On.ROLLBACK, to="nope"),
            'no phase is called "nope"',
            'The phases are "initial" (5 %)',
        ),
        ("running last", RolloutEvent(On.ADVANCE, to="complete"), "not next", "without a name completes it"),
        ("running", RolloutEvent(On.ROLLBACK, to="half"), 'from 25 % to "half"', 'start (0 %), "initial" (5 %)'),
        ("running", RolloutEvent(On.ROLLBACK, to="early"), 'from 25 % to "early"', 'start (0 %), "initial" (5 %)'),
        ("running", RolloutEvent(On.ROLLBACK, to="erly"), 'did you mean "early"?', 'start (0 %), "initial" (5 %)'),
        (
            "rolling back",
            RolloutEvent(On.ROLLBACK, to="early"),
            'from 5 % to "early"',
            'start (0 %), "initial" (5 %)',
        ),
        ("idle", RolloutEvent(On.ROLLBACK, to="early"), 'from 0 % to "early"', "start (0 %)"),
        ("paused", RolloutEvent(On.ADVANCE, to="majority"), "not possible in state paused", "Resume first"),
    ],
)
def test_a_phase_that_is_not_where_the_command_leads_is_refused_with_those_that_are(
    start: str, event: RolloutEvent, message: str, hint: str
) -> None:
    after, effects = step(PLAN, STARTS[start], event, NOW)
    (refused,) = effects
    assert isinstance(refused, Refuse)
    assert after == STARTS[start]
    assert message in refused.message
    assert hint in refused.hint


def test_a_rollback_that_is_under_way_goes_further_down_to_a_phase_by_its_name() -> None:
    going = replace(STARTS["rolling back"], phase=ENTERED[2], weight_bp=5000)
    for to, weight_bp in (("half", 5000), ("early", 2500), ("start", 0), ("previous", 5000)):
        after, effects = step(PLAN, going, RolloutEvent(On.ROLLBACK, to=to), NOW)
        assert (after.state, after.weight_bp) == (State.ROLLING_BACK, weight_bp)
        assert bool(effects) is (weight_bp < 5000)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("event", [On.ROLLBACK, On.ABORT, On.RESET])
def test_a_decrease_is_published_before_anything_else_even_with_an_increase_waiting(start: str, event: On) -> None:
    for s in (STARTS[start], *_pending(STARTS[start])):
        after, effects = step(PLAN, s, RolloutEvent(event), NOW)
        if not effects:  # it joins the rollback that is going on
            assert s.state is State.ROLLING_BACK
            continue
        assert isinstance(effects[0], PublishWeight)
        assert effects[0].weight_bp == after.weight_bp <= s.weight_bp
        assert after.pending is None
        late, answered = step(PLAN, after, RolloutEvent(On.PERSISTED, revision=100), NOW)
        assert late == after
        assert isinstance(answered[0], Refuse)


def test_an_abort_ends_at_0_from_everywhere() -> None:
    for s in STARTS.values():
        after, _ = step(PLAN, s, RolloutEvent(On.ABORT), NOW)
        assert after.weight_bp == 0
        if after.state is State.ROLLING_BACK:
            after, _ = step(PLAN, after, RolloutEvent(On.DRAINED), NOW)
        assert after.state is State.ABORTED


def test_pause_keeps_the_soak_that_was_earned() -> None:
    running = STARTS["running"]
    paused, _ = step(PLAN, running, RolloutEvent(On.PAUSE), NOW)
    assert paused.soaked(5000.0) == 100.0
    resumed, _ = step(PLAN, paused, RolloutEvent(On.RESUME), Now(5000.0, NOW.unix))
    assert resumed.soaked(5010.0) == 110.0


def test_the_soak_begins_when_every_worker_has_seen_the_weight() -> None:
    asked, _ = step(PLAN, STARTS["running"], RolloutEvent(On.ADVANCE), NOW)
    raised, _ = step(PLAN, asked, RolloutEvent(On.PERSISTED, revision=8), NOW)
    assert raised.soaked(2000.0) == 0.0
    seen, _ = step(PLAN, raised, RolloutEvent(On.SEEN), Now(2000.0, NOW.unix))
    assert seen.soaked(2030.0) == 30.0


def test_a_stale_revision_is_refused_in_every_state() -> None:
    for s, event in product(STARTS.values(), (On.START, On.ADVANCE, On.ROLLBACK, On.ABORT, On.RESET, On.PROMOTE)):
        after, effects = step(PLAN, s, RolloutEvent(event, revision=6), NOW)
        assert after == s
        assert isinstance(effects[0], Refuse)


def test_nothing_is_raised_while_the_mode_is_mock() -> None:
    mock = Rollout(mode=Mode.SOURCE, pinned=True)
    for event in (On.START, On.ADVANCE, On.RESUME, On.PROMOTE):
        after, effects = step(PLAN, mock, RolloutEvent(event), NOW)
        assert after == mock
        assert isinstance(effects[0], Refuse)


def test_a_second_increase_waits_for_the_first() -> None:
    asked, _ = step(PLAN, STARTS["running"], RolloutEvent(On.ADVANCE), NOW)
    again, effects = step(PLAN, asked, RolloutEvent(On.ADVANCE), NOW)
    assert again == asked
    assert isinstance(effects[0], Refuse)


def test_a_failed_store_calls_an_increase_off_and_changes_no_weight() -> None:
    asked, _ = step(PLAN, STARTS["running"], RolloutEvent(On.ADVANCE), NOW)
    off, effects = step(PLAN, asked, RolloutEvent(On.UNPERSISTED, revision=8, reason="disk full"), NOW)
    assert (off.state, off.phase, off.weight_bp, off.pending) == (State.RUNNING, ENTERED[1], 2500, None)
    assert [type(effect) for effect in effects] == [Persist]


def test_a_rollback_record_adds_up_and_says_whether_it_was_in_time() -> None:
    down, effects = step(PLAN, STARTS["running"], RolloutEvent(On.ROLLBACK, detected=999.5, reason="slow"), NOW)
    publish = effects[0]
    assert isinstance(publish, PublishWeight)
    assert (publish.cut_over_at, publish.cancel_at) == (1007.5, 1013.5)
    down, _ = step(PLAN, down, RolloutEvent(On.SEEN), Now(1000.02, 0.0))
    done, _ = step(PLAN, down, RolloutEvent(On.DRAINED), Now(1000.1, 0.0))
    record = done.last_rollback
    assert record is not None
    assert (record.decided_ms, record.seen_ms, record.drained_ms) == (500.0, 20.0, 80.0)
    assert (record.total_ms, record.within_deadline, record.from_weight, record.to_weight) == (600.0, True, 25.0, 5.0)
    late, _ = step(PLAN, down, RolloutEvent(On.DRAINED), Now(1020.0, 0.0))
    assert late.last_rollback is not None
    assert not late.last_rollback.within_deadline


@pytest.mark.parametrize(
    ("written", "mode"), [("mock", Mode.SOURCE), ("firestore", Mode.TARGET), ("target", Mode.TARGET)]
)
def test_a_checkpoint_of_an_earlier_version_keeps_its_mode(written: str, mode: Mode) -> None:
    assert msgspec.convert({"mode": written}, Rollout).mode is mode
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"mode": "moon"}, Rollout)


LACKING = "3 changes were lost; `phasegate compare --migration phase6 --repair` mends it"


@pytest.mark.parametrize(
    ("start", "event"),
    [
        ("idle", RolloutEvent(On.START)),
        ("running", RolloutEvent(On.ADVANCE)),
        ("running", RolloutEvent(On.PROMOTE)),
        ("running last", RolloutEvent(On.PROMOTE)),
        ("paused at 0", RolloutEvent(On.RESUME)),
        ("aborted", RolloutEvent(On.START, resume=True)),
        ("completed below", RolloutEvent(On.ADVANCE)),
    ],
)
def test_an_increase_is_refused_while_the_target_lacks_something_unless_it_is_forced(
    start: str, event: RolloutEvent
) -> None:
    state, effects = step(PLAN, STARTS[start], replace(event, lacking=LACKING), NOW)
    assert state is STARTS[start]
    (refused,) = effects
    assert isinstance(refused, Refuse)
    assert refused.code == "data_incomplete"
    assert LACKING in refused.message
    asked, effects = step(PLAN, STARTS[start], replace(event, lacking=LACKING, forced=True), NOW)
    assert asked.pending is not None
    entry = next(effect for effect in effects if isinstance(effect, Persist)).entries[-1]
    assert (entry.detail["forced"], entry.detail["lacking"]) == (True, LACKING)


@pytest.mark.parametrize(
    ("start", "event"),
    [
        *((start, RolloutEvent(on)) for start in ("running", "paused") for on in (On.ROLLBACK, On.ABORT, On.RESET)),
        ("running", RolloutEvent(On.BREACH)),
        ("running", RolloutEvent(On.PAUSE)),
        ("paused", RolloutEvent(On.RESUME)),
        ("rolled back", RolloutEvent(On.RESUME)),
    ],
)
def test_what_the_target_lacks_holds_no_decrease_and_nothing_that_stays_where_it_is(
    start: str, event: RolloutEvent
) -> None:
    lacking, _ = step(PLAN, STARTS[start], replace(event, lacking=LACKING), NOW)
    complete, _ = step(PLAN, STARTS[start], event, NOW)
    assert lacking == complete != STARTS[start]


def test_an_increase_that_waits_for_the_store_is_called_off_when_the_target_comes_to_lack_something() -> None:
    asked, _ = step(PLAN, STARTS["running"], RolloutEvent(On.ADVANCE), NOW)
    written = RolloutEvent(On.PERSISTED, revision=asked.revision, lacking=LACKING)
    called_off, effects = step(PLAN, asked, written, NOW)
    assert (called_off.weight_bp, called_off.pending) == (STARTS["running"].weight_bp, None)
    (persist,) = effects
    assert isinstance(persist, Persist)
    assert (persist.entries[0].kind, persist.entries[0].detail["reason"]) == ("called_off", LACKING)
    forced, _ = step(PLAN, STARTS["running"], RolloutEvent(On.ADVANCE, forced=True), NOW)
    up, _ = step(PLAN, forced, replace(written, revision=forced.revision), NOW)
    assert up.weight_bp > STARTS["running"].weight_bp
