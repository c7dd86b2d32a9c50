"""The rollout's state machine: ``step(plan, state, event, now) → (state, effects)``. Pure.

What may happen when is one table, ``TRANSITIONS``. A pair that has no row is refused and changes nothing.

    idle          nothing on the target; nothing was begun, or it was reset
    running       in a phase: its weight is on the target, soaking, judged; moves on by itself
    paused        in a phase, weight held (after a reboot: at 0); judged, but does not move on
    rolling_back  the lower weight is published; older requests are still open on the target
    rolled_back   holds the weight it was taken back to, or one that the configuration has no phase for any more;
                  judged, until an operator goes on
    completed     the last phase was earned: its weight is pinned and needs no lease; phases that are added above it
                  are gone on to by an operator's word
    aborted       nothing on the target, by an operator's word

Two rules hold in every row. *An increase is asked for, not made*: it becomes ``state.pending`` and the effect
``Persist``; only when the store has it (event ``PERSISTED``) is it published. A crash in between finds the board at
the lower weight. *A decrease is made first*: ``PublishWeight`` comes before every other effect, so that no slow disk
and no waiting step delays it. It clears what was pending: where the store answers that later, nothing happens.

Phases are known by name and weight as they were entered, never by their place in the list: an edited configuration
moves nothing. The next phase is the first with more weight than is held; going on leads to the phase with the largest
weight that is not above what was held last, and is refused where every phase is above it.

The target is held complete: while it is known to lack something of the source's data (``event.lacking``), no increase
is asked for and none that was is published, unless it is forced.

``generation`` counts publications and equals the board's. That is how ``recovery.recover`` knows, after a crash,
whether the board lags behind the checkpoint (an increase that was not published: forget it) or is ahead of it (a
decrease that was not persisted: keep it).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from control.plan.phases import PREVIOUS, RESERVED, START, named, percent_of
from control.plan.times import Now
from control.rollout import transitions as acts
from control.rollout.model import INCOMPLETE, Act, On, Refuse, Rollout, RolloutEvent, RolloutPlan, State, Step
from proxy.settings import Mode


class Transition(NamedTuple):
    """One line of the table: in ``state``, on ``on``, if ``guard`` holds, ``act`` is done and leads to ``to``."""

    state: State
    on: On
    to: State
    act: Act
    guard: str = ""


def step(plan: RolloutPlan, state: Rollout, event: RolloutEvent, now: Now) -> Step:
    """What an event does to a rollout: the new state, and the effects in the order they must be carried out."""
    if event.revision is not None and event.kind not in ANSWERS and event.revision != state.revision:
        message = f"revision {event.revision} was expected, and it is {state.revision}"
        return state, (Refuse(message, "Something changed in between: look at the status and decide anew."),)
    if event.kind in RAISING and state.mode is Mode.SOURCE:
        return state, (
            Refuse("the mode is source", 'Everything stays on the source until the config says "hybrid".'),
        )
    if event.kind in RAISING and state.pending is not None:
        message = f"{state.pending.kind} is under way"
        return state, (Refuse(message, "It waits for the store; rollback and abort are possible."),)
    for row in _ROWS.get((state.state, event.kind), ()):
        if GUARDS[row.guard](plan, state, event):
            elsewhere = _elsewhere(plan, state, event)
            if elsewhere is not None:
                return state, (elsewhere,)
            if _called_off(state, event):
                return acts.unpersisted(plan, state, event, now)
            done = row.act(plan, state, event, now)
            held = _held(state, event, done[0])
            return done if held is None else (state, (held,))
    return state, (Refuse(*_refusal(plan, state, event)),)


GUARDS: Final[Mapping[str, Callable[[RolloutPlan, Rollout, RolloutEvent], bool]]] = {
    "": lambda p, s, e: True,
    "anew, or a phase to go on from": lambda p, s, e: not e.resume or p.resumed(s) is not None,
    "a phase to go on from": lambda p, s, e: p.resumed(s) is not None,
    "weight is 0": lambda p, s, e: s.weight_bp == 0,
    "weight above 0": lambda p, s, e: s.weight_bp > 0,
    "a further phase": lambda p, s, e: p.following(s) is not None,
    "going on, and a further phase": lambda p, s, e: e.resume and p.following(s) is not None,
    "the last phase": lambda p, s, e: s.phase is not None and p.following(s) is None,
    "at its phase's weight": lambda p, s, e: (phase := p.current(s)) is not None and s.weight_bp == phase.weight_bp,
    "it is pending": lambda p, s, e: s.pending is not None and (e.revision or 0) >= s.pending.revision,
    "down from the weight now going to": lambda p, s, e: s.weight_bp > 0 and _further_down(p, s, e.to),
    "not seen yet": lambda p, s, e: s.descent is not None and s.descent.seen is None,
    "not verified yet": lambda p, s, e: not s.verified,
    "it was a rollback": lambda p, s, e: s.descent is not None and s.descent.final is State.ROLLED_BACK,
    "it was an abort": lambda p, s, e: s.descent is not None and s.descent.final is State.ABORTED,
    "it was a reset": lambda p, s, e: s.descent is not None and s.descent.final is State.IDLE,
}

RAISING: Final = frozenset({On.START, On.ADVANCE, On.RESUME, On.PROMOTE})
ANSWERS: Final = frozenset({On.PERSISTED, On.UNPERSISTED})  # their revision is the one they answer
_S: Final = State


def _ended_rows(state: State) -> tuple[Transition, ...]:
    """What holds wherever nothing is on the target."""
    return (
        Transition(state, On.START, _S.RUNNING, acts.start, "anew, or a phase to go on from"),
        Transition(state, On.ROLLBACK, state, acts.at_zero(state), "weight is 0"),
        Transition(state, On.ABORT, _S.ABORTED, acts.at_zero(_S.ABORTED), "weight is 0"),
        Transition(state, On.RESET, _S.IDLE, acts.at_zero(_S.IDLE), "weight is 0"),
    )


def _held_rows(state: State) -> tuple[Transition, ...]:
    """What holds wherever some weight may be on the target."""
    return (
        Transition(state, On.ROLLBACK, _S.ROLLING_BACK, acts.rollback, "weight above 0"),
        Transition(state, On.ABORT, _S.ROLLING_BACK, acts.abort, "weight above 0"),
        Transition(state, On.RESET, _S.ROLLING_BACK, acts.reset, "weight above 0"),
    )


def _judged_rows(state: State) -> tuple[Transition, ...]:
    """What holds wherever leased weight is on the target."""
    return (
        Transition(state, On.BREACH, _S.ROLLING_BACK, acts.breach, "weight above 0"),
        Transition(state, On.LEASE_LOST, _S.ROLLING_BACK, acts.lease_lost, "weight above 0"),
    )


def _pending_rows(state: State) -> tuple[Transition, ...]:
    """The store's answer to an increase that was asked for in ``state``."""
    return (
        Transition(state, On.PERSISTED, state, acts.persisted, "it is pending"),
        Transition(state, On.UNPERSISTED, state, acts.unpersisted, "it is pending"),
    )


TRANSITIONS: Final[tuple[Transition, ...]] = (
    *_ended_rows(_S.IDLE),
    *_pending_rows(_S.IDLE),
    # Running.
    Transition(_S.RUNNING, On.SEEN, _S.RUNNING, acts.seen, "not verified yet"),
    Transition(_S.RUNNING, On.PROMOTE, _S.RUNNING, acts.advance, "a further phase"),
    Transition(_S.RUNNING, On.PROMOTE, _S.COMPLETED, acts.complete, "the last phase"),
    Transition(_S.RUNNING, On.ADVANCE, _S.RUNNING, acts.advance, "a further phase"),
    Transition(_S.RUNNING, On.ADVANCE, _S.COMPLETED, acts.complete, "the last phase"),
    Transition(_S.RUNNING, On.PAUSE, _S.PAUSED, acts.pause),
    *_held_rows(_S.RUNNING),
    *_judged_rows(_S.RUNNING),
    *_pending_rows(_S.RUNNING),
    # Paused.
    Transition(_S.PAUSED, On.SEEN, _S.PAUSED, acts.seen, "not verified yet"),
    Transition(_S.PAUSED, On.RESUME, _S.RUNNING, acts.resume, "at its phase's weight"),
    Transition(_S.PAUSED, On.RESUME, _S.RUNNING, acts.resume_weight, "a phase to go on from"),
    *_held_rows(_S.PAUSED),
    Transition(_S.PAUSED, On.ROLLBACK, _S.ROLLED_BACK, acts.at_zero(_S.ROLLED_BACK), "weight is 0"),
    Transition(_S.PAUSED, On.ABORT, _S.ABORTED, acts.at_zero(_S.ABORTED), "weight is 0"),
    Transition(_S.PAUSED, On.RESET, _S.IDLE, acts.at_zero(_S.IDLE), "weight is 0"),
    *_judged_rows(_S.PAUSED),
    *_pending_rows(_S.PAUSED),
    # Rolling back.
    Transition(_S.ROLLING_BACK, On.SEEN, _S.ROLLING_BACK, acts.descent_seen, "not seen yet"),
    Transition(_S.ROLLING_BACK, On.DRAINED, _S.ROLLED_BACK, acts.drained, "it was a rollback"),
    Transition(_S.ROLLING_BACK, On.DRAINED, _S.ABORTED, acts.drained, "it was an abort"),
    Transition(_S.ROLLING_BACK, On.DRAINED, _S.IDLE, acts.drained, "it was a reset"),
    Transition(_S.ROLLING_BACK, On.ROLLBACK, _S.ROLLING_BACK, acts.rollback, "down from the weight now going to"),
    Transition(_S.ROLLING_BACK, On.ROLLBACK, _S.ROLLING_BACK, acts.join),
    Transition(_S.ROLLING_BACK, On.ABORT, _S.ROLLING_BACK, acts.abort),
    Transition(_S.ROLLING_BACK, On.RESET, _S.ROLLING_BACK, acts.reset),
    Transition(_S.ROLLING_BACK, On.LEASE_LOST, _S.ROLLING_BACK, acts.lease_lost, "weight above 0"),
    # Rolled back.
    *_ended_rows(_S.ROLLED_BACK),
    *_held_rows(_S.ROLLED_BACK),
    *_judged_rows(_S.ROLLED_BACK),
    Transition(_S.ROLLED_BACK, On.SEEN, _S.ROLLED_BACK, acts.seen, "not verified yet"),
    Transition(_S.ROLLED_BACK, On.RESUME, _S.RUNNING, acts.resume_start, "a phase to go on from"),
    *_pending_rows(_S.ROLLED_BACK),
    # Completed.
    Transition(_S.COMPLETED, On.SEEN, _S.COMPLETED, acts.seen, "not verified yet"),
    Transition(_S.COMPLETED, On.ADVANCE, _S.RUNNING, acts.advance, "a further phase"),
    Transition(_S.COMPLETED, On.START, _S.RUNNING, acts.go_on, "going on, and a further phase"),
    *_pending_rows(_S.COMPLETED),
    *_held_rows(_S.COMPLETED),
    # Aborted.
    *_ended_rows(_S.ABORTED),
    *_pending_rows(_S.ABORTED),
)

_ROWS: Final[dict[tuple[State, On], tuple[Transition, ...]]] = {
    (state, on): tuple(row for row in TRANSITIONS if (row.state, row.on) == (state, on))
    for state in State
    for on in On
}

_HINTS: Final[Mapping[tuple[State, On], str]] = {
    (_S.IDLE, On.START): "There is no checkpoint to go on from: start without `resume`.",
    (_S.ABORTED, On.START): "There is no checkpoint to go on from: start without `resume`.",
    (_S.ROLLED_BACK, On.RESUME): "There is no checkpoint to go on from: use start.",
    (_S.ABORTED, On.RESUME): "Start with `resume` goes on from the checkpoint.",
    (_S.PAUSED, On.ADVANCE): "Resume first, then advance.",
    (_S.PAUSED, On.START): "Use resume to go on, or reset to begin anew.",
    (_S.ROLLED_BACK, On.ADVANCE): "Use resume to go on from the phase it was taken back to.",
    (_S.ROLLED_BACK, On.PAUSE): "It holds its weight already; resume goes on.",
    (_S.COMPLETED, On.START): "It is complete, and no phase is above it. To begin anew, reset first.",
    (_S.COMPLETED, On.ADVANCE): "It is complete, and no phase is above it; rollback, abort and reset are possible.",
}
_STATE_HINTS: Final[Mapping[State, str]] = {
    _S.IDLE: "Start it first.",
    _S.RUNNING: "It is going on already; pause, advance, rollback and abort are possible.",
    _S.PAUSED: "It is paused; resume, rollback and abort are possible.",
    _S.ROLLING_BACK: "Wait for the rollback to be complete; abort is possible.",
    _S.ROLLED_BACK: "Start, resume, rollback and abort are possible.",
    _S.COMPLETED: "It is complete; rollback, abort and reset are possible.",
    _S.ABORTED: "Start it anew.",
}


_GOING_ON: Final = frozenset((row.state, row.on) for row in TRANSITIONS if row.on in (On.START, On.RESUME))


def _further_down(plan: RolloutPlan, s: Rollout, to: str | None) -> bool:
    """Whether a rollback that is going on is asked to go further than it does; "previous" joins it."""
    if to is None or to == PREVIOUS:
        return False
    return to == START or any(phase.name == to and phase.weight_bp < s.weight_bp for phase in plan.phases)


def _held(before: Rollout, e: RolloutEvent, after: Rollout) -> Refuse | None:
    """Why the increase that is asked for may not be, as the target lacks something; None where it may.

    Going on at the weight that is held, or with less, is no increase, and no start of a phase.
    """
    asked = after.pending
    if not e.lacking or e.forced or e.kind not in RAISING or asked is None:
        return None
    if e.kind is On.RESUME and asked.weight_bp <= before.weight_bp:
        return None
    return Refuse(
        f"{e.kind.value} was not tried: {e.lacking}",
        "Run that command, or repeat with force and a reason.",
        INCOMPLETE,
    )


def _called_off(s: Rollout, e: RolloutEvent) -> bool:
    """Whether an increase is not published although the store has it: the target lacks something since."""
    asked = s.pending
    return (
        e.kind is On.PERSISTED
        and bool(e.lacking)
        and asked is not None
        and not asked.forced
        and asked.weight_bp > s.weight_bp
    )


def _elsewhere(plan: RolloutPlan, s: Rollout, e: RolloutEvent) -> Refuse | None:
    """Why the phase that is asked for by its name is not where the command leads; None where it is."""
    refused = None
    if e.kind is On.ADVANCE and e.to is not None:
        refused = _not_next(plan, s, e.to)
    elif e.kind is On.ROLLBACK and e.to is not None and e.to not in RESERVED:
        refused = _not_below(plan, s, e.to)
    if refused is None or e.to is None or e.to in (phase.name for phase in plan.phases):
        return refused
    words = RESERVED if e.kind is On.ROLLBACK else ()
    near = difflib.get_close_matches(e.to, [*(phase.name for phase in plan.phases), *words], 1)
    meant = f'; did you mean "{near[0]}"?' if near else ""
    return Refuse(f'no phase is called "{e.to}"{meant}', f"The phases are {named(plan.phases)}. {refused.hint}")


def _not_next(plan: RolloutPlan, s: Rollout, to: str) -> Refuse | None:
    following = plan.following(s)
    if following is None:
        return Refuse(f'"{to}" is not next', "No phase has more weight: advance without a name completes it.")
    if following.name != to:
        return Refuse(f'"{to}" is not the next phase', f"Next is {named((following,))}; none is passed over.")
    return None


def _not_below(plan: RolloutPlan, s: Rollout, to: str) -> Refuse | None:
    most_bp = s.weight_bp if s.state is State.ROLLING_BACK else s.weight_bp - 1  # there it joins what is under way
    lower = [phase for phase in plan.phases if phase.weight_bp <= most_bp]
    if to in (phase.name for phase in lower):
        return None
    possible = f"{START} (0 %), {named(lower)}" if lower else f"{START} (0 %)"
    message = f'a rollback from {percent_of(s.weight_bp):g} % to "{to}" is not possible'
    return Refuse(message, f"It goes to less weight: possible are {possible}.")


def _refusal(plan: RolloutPlan, s: Rollout, e: RolloutEvent) -> tuple[str, str]:
    going_on = (e.kind is On.RESUME or e.resume) and (s.state, e.kind) in _GOING_ON
    if going_on and s.resumable_bp is not None and plan.resumed(s) is None:
        held = percent_of(s.resumable_bp)
        return f"no phase has at most the {held:g} % that were held last", _beyond(plan, s)
    hint = _HINTS.get((s.state, e.kind), _STATE_HINTS[s.state])
    return f"{e.kind.value} is not possible in state {s.state.value}", hint


def _beyond(plan: RolloutPlan, s: Rollout) -> str:
    """What to do where every phase has more weight than was held last."""
    anew = "start begins anew with the first" if s.state is not State.PAUSED else "reset, and start anew"
    return (
        f"The phases are {named(plan.phases)}: {anew}, or put a phase of at most that weight into the configuration."
    )
