"""The rollout's state machine: ``step(plan, state, event, now) → (state, effects)``. Pure.

What may happen when is one table, ``TRANSITIONS``. A pair that has no row is refused and changes nothing.

    idle          nothing on the target; nothing was begun, or it was reset
    running       in a phase: its weight is on the target, soaking, judged; moves on by itself
    paused        in a phase, weight held (after a reboot: at 0); judged, but does not move on
    rolling_back  the lower weight is published; older requests are still open on the target
    rolled_back   holds the weight it was taken back to, judged, until an operator goes on
    completed     the last phase was earned: its weight is pinned and needs no lease
    aborted       nothing on the target, by an operator's word

Two rules hold in every row. *An increase is asked for, not made*: it becomes ``state.pending`` and the effect
``Persist``; only when the store has it (event ``PERSISTED``) is it published. A crash in between finds the board at
the lower weight. *A decrease is made first*: ``Publish`` comes before every other effect and clears what was pending,
so no slow disk and no waiting step delays it; when a late ``PERSISTED`` comes for what was cleared, nothing happens.

``generation`` counts publications and equals the board's. That is how ``recovery.recover`` knows, after a crash,
whether the board lags behind the checkpoint (an increase that was not published: forget it) or is ahead of it (a
decrease that was not persisted: keep it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from control.phases import phase_at_or_below
from control.states import (
    Act,
    Descent,
    Entry,
    Event,
    Notify,
    Now,
    On,
    Persist,
    Plan,
    Publish,
    Raise,
    Refuse,
    Rollback,
    Rollout,
    State,
    Step,
)

ABORT_WITHIN_S: Final = 10.0  # where no phase says how long a rollback may take
_PHASE_FAILED: Final = ("breach", "command")  # triggers that say the phase was not good: go on from the one before


class Row(NamedTuple):
    """One line of the table: in ``state``, on ``on``, if ``guard`` holds, ``act`` is done and leads to ``to``."""

    state: State
    on: On
    to: State
    act: Act
    guard: str = ""


def step(plan: Plan, state: Rollout, event: Event, now: Now) -> Step:
    """What an event does to a rollout: the new state, and the effects in the order they must be carried out."""
    if event.revision is not None and event.kind not in ANSWERS and event.revision != state.revision:
        message = f"revision {event.revision} was expected, and it is {state.revision}"
        return state, (Refuse(message, "Something changed in between: look at the status and decide anew."),)
    if event.kind in RAISING and state.mode == "mock":
        return state, (Refuse("the mode is mock", 'Everything stays on the source until the config says "hybrid".'),)
    if event.kind in RAISING and state.pending is not None:
        message = f"{state.pending.kind} is under way"
        return state, (Refuse(message, "It waits for the store; rollback and abort are possible."),)
    for row in _ROWS.get((state.state, event.kind), ()):
        if GUARDS[row.guard](plan, state, event):
            return row.act(plan, state, event, now)
    return state, (Refuse(*_refusal(state, event)),)


# Raising: asked for, persisted, published.


def _ask(
    plan: Plan,
    s: Rollout,
    e: Event,
    now: Now,
    kind: str,
    to: State,
    phase: int,
    *,
    soaked_s: float = 0.0,
    new_phase: bool = True,
) -> Step:
    revision = s.revision + 1
    weight_bp = plan.phases[phase].weight_bp
    pinned = to is State.COMPLETED
    wanted = Raise(kind, to, phase, weight_bp, pinned, soaked_s, revision, kind == "start", new_phase)
    detail = {
        "from_weight": s.weight_bp / 100,
        "to_weight": weight_bp / 100,
        "phase": plan.phases[phase].name,
        "revision": revision,
        "reason": e.reason,
    }
    left = (_phase_left(plan, s, now),) if s.state is State.RUNNING else ()
    entries = (*left, Entry(kind, e.actor, detail | ({"forced": True} if e.forced else {})))
    if weight_bp < s.weight_bp:  # a start below what is held: a decrease after all
        lowered = raised(replace(s, revision=revision), wanted, now)
        return lowered, (Publish(weight_bp, pinned), Persist(entries), _told(plan, lowered))
    return replace(s, revision=revision, pending=wanted), (Persist(entries),)


def raised(s: Rollout, wanted: Raise, now: Now) -> Rollout:
    """The state once the increase is published."""
    completed = wanted.to is State.COMPLETED
    return replace(
        s,
        state=wanted.to,
        phase=wanted.phase,
        weight_bp=wanted.weight_bp,
        pinned=wanted.pinned,
        generation=s.generation + 1,
        started_at=now.unix if wanted.new_run else s.started_at,
        entered_at=now.unix if wanted.new_phase else s.entered_at,
        ended_at=now.unix if completed else None,
        soaked_s=wanted.soaked_s,
        soaking_since=None,
        verified=False,
        resume_phase=wanted.phase,
        pending=None,
    )


def _start(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    if e.resume:
        return _resume_start(plan, s, e, now)
    return _ask(plan, s, e, now, "start", State.RUNNING, 0)


def _resume_start(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    assert s.resume_phase is not None
    phase = min(s.resume_phase, len(plan.phases) - 1) if s.phase is None else s.phase
    return _ask(plan, s, e, now, "resume", State.RUNNING, phase)


def _next(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    assert s.phase is not None
    return _ask(plan, s, e, now, "advance", State.RUNNING, s.phase + 1)


def _complete(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    assert s.phase is not None
    soaked_s = s.soaked(now.mono)
    return _ask(plan, s, e, now, "complete", State.COMPLETED, s.phase, soaked_s=soaked_s, new_phase=False)


def _persisted(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    assert s.pending is not None
    up = raised(s, s.pending, now)
    # Written once more as done: after a reboot the board cannot say so.
    return up, (Publish(up.weight_bp, up.pinned), Persist(), _told(plan, up))


def _unpersisted(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    assert s.pending is not None
    called_off = Entry("called_off", e.actor, {"what": s.pending.kind, "reason": e.reason})
    return replace(s, revision=s.revision + 1, pending=None), (Persist((called_off,)),)


# Holding.


def _pause(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    paused = replace(
        s,
        state=State.PAUSED,
        revision=s.revision + 1,
        soaked_s=s.soaked(now.mono),
        soaking_since=None,
        pending=None,
    )
    return paused, (Persist((_entry(e, paused),)),)


def _resume(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    running = replace(s, state=State.RUNNING, revision=s.revision + 1, soaking_since=now.mono if s.verified else None)
    return running, (Persist((_entry(e, running),)),)


def _resume_weight(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    assert s.phase is not None
    return _ask(plan, s, e, now, "resume", State.RUNNING, s.phase, soaked_s=s.soaked_s, new_phase=False)


def _seen(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    soaking = s.state is State.RUNNING
    return replace(s, verified=True, soaking_since=now.mono if soaking else s.soaking_since), ()


# Lowering: published first.


def _down_to(plan: Plan, s: Rollout, to: Literal["previous", "start"]) -> int | None:
    """The phase below: the last with less weight than there is now, or none."""
    if to == "start":
        return None
    return phase_at_or_below(plan.phases, s.weight_bp - 1)


def _descend(
    plan: Plan,
    s: Rollout,
    e: Event,
    now: Now,
    trigger: str,
    phase: int | None,
    final: State,
    *,
    at_once: bool = False,
) -> Step:
    """Publish the lower weight, then write and tell.

    Open target reads are handed to the source at half the time allowed (``at_once``: now) and what is then still
    open is cancelled just before its end, so that the end is kept.
    """
    weight_bp = 0 if phase is None else min(plan.phases[phase].weight_bp, s.weight_bp)
    within = ABORT_WITHIN_S if s.phase is None else float(plan.phases[s.phase].rollback_within_s)
    if s.descent is not None:
        within = max(0.5, s.descent.decided + s.descent.within_s - now.mono)
    from_bp = s.descent.from_bp if s.descent is not None else s.weight_bp
    failed = s.phase if s.descent is None else None
    lowered = replace(
        s,
        state=State.ROLLING_BACK,
        phase=phase,
        weight_bp=weight_bp,
        pinned=False,
        revision=s.revision + 1,
        generation=s.generation + 1,
        entered_at=now.unix,
        soaked_s=0.0,
        soaking_since=None,
        verified=False,
        pending=None,
        resume_phase=s.resume_phase if failed is None else max(0, failed - (trigger in _PHASE_FAILED)),
        descent=Descent(
            trigger=trigger,
            reason=e.reason,
            from_bp=from_bp,
            detected=min(now.mono, now.mono if e.detected is None else e.detected),
            decided=now.mono,
            within_s=within,
            final=final,
        ),
    )
    detail = {
        "trigger": trigger,
        "from_weight": s.weight_bp / 100,
        "to_weight": weight_bp / 100,
        "reason": e.reason,
        "revision": lowered.revision,
    }
    publish = Publish(
        weight_bp,
        False,
        cut_over_at=now.mono if at_once else now.mono + within / 2,
        cancel_at=now.mono + within * (0.5 if at_once else 0.9),
    )
    left = (_phase_left(plan, s, now),) if s.phase is not None and s.state in (State.RUNNING, State.PAUSED) else ()
    entries = (*left, Entry("rollback" if final is State.ROLLED_BACK else trigger, e.actor, detail))
    return lowered, (publish, Persist(entries), Notify("rollback", detail))


def _rollback(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    return _descend(plan, s, e, now, "command", _down_to(plan, s, e.to), State.ROLLED_BACK)


def _breach(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    return _descend(plan, s, e, now, "breach", _down_to(plan, s, plan.on_breach), State.ROLLED_BACK)


def _lease_lost(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    return _descend(plan, s, e, now, "lease_lost", None, State.ROLLED_BACK)


def _abort(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    return _descend(plan, s, e, now, "abort", None, State.ABORTED, at_once=True)


def _reset(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    return _descend(plan, s, e, now, "reset", None, State.IDLE, at_once=True)


def _join(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    """A rollback to the phase below while one is going on: it is the same wish, and is answered by the same end."""
    return s, ()


def _at_zero(final: State) -> Act:
    """There is nothing to take back: say 0 again, for whoever doubts it, and take the state asked for."""

    def act(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
        to = s.state if e.kind is On.ROLLBACK and s.state is not State.PAUSED else final
        down = replace(
            s,
            state=to,
            phase=None,
            weight_bp=0,
            pinned=False,
            revision=s.revision + 1,
            generation=s.generation + 1,
            soaked_s=0.0,
            soaking_since=None,
            verified=False,
            pending=None,
            resume_phase=None if final is State.IDLE else s.resume_phase,
            ended_at=s.ended_at if to is s.state else now.unix,
        )
        return down, (Publish(0, False, cut_over_at=now.mono), Persist((_entry(e, down),)))

    return act


def _drained(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    d = s.descent
    assert d is not None
    seen = now.mono if d.seen is None else d.seen
    total = now.mono - d.detected
    done = Rollback(
        trigger=d.trigger,
        reason=d.reason,
        from_weight=d.from_bp / 100,
        to_weight=s.weight_bp / 100,
        decided_ms=_ms(d.decided - d.detected),
        seen_ms=_ms(seen - d.decided),
        drained_ms=_ms(now.mono - seen),
        total_ms=_ms(total),
        within_deadline=total <= d.within_s,
    )
    final = replace(
        s,
        state=d.final,
        revision=s.revision + 1,
        verified=True,
        descent=None,
        last_rollback=done,
        ended_at=now.unix,
        phase=None if d.final is State.IDLE else s.phase,
        resume_phase=None if d.final is State.IDLE else s.resume_phase,
    )
    detail = {name: getattr(done, name) for name in done.__struct_fields__}
    unheard = {"unheard_workers": list(e.unheard)} if e.unheard else {}
    entry = Entry("rollback_complete", e.actor, detail | unheard)
    return final, (Persist((entry,)), Notify("rollback_complete", detail))


def _descent_seen(plan: Plan, s: Rollout, e: Event, now: Now) -> Step:
    assert s.descent is not None
    return replace(s, descent=replace(s.descent, seen=now.mono)), ()


# The table.

GUARDS: Final[Mapping[str, Callable[[Plan, Rollout, Event], bool]]] = {
    "": lambda p, s, e: True,
    "anew, or a phase to go on from": lambda p, s, e: not e.resume or s.resume_phase is not None,
    "a phase to go on from": lambda p, s, e: s.resume_phase is not None,
    "weight is 0": lambda p, s, e: s.weight_bp == 0,
    "weight above 0": lambda p, s, e: s.weight_bp > 0,
    "a further phase": lambda p, s, e: s.phase is not None and s.phase + 1 < len(p.phases),
    "the last phase": lambda p, s, e: s.phase is not None and s.phase + 1 == len(p.phases),
    "at its phase's weight": lambda p, s, e: s.phase is not None and s.weight_bp == p.phases[s.phase].weight_bp,
    "below its phase's weight": lambda p, s, e: s.phase is not None and s.weight_bp < p.phases[s.phase].weight_bp,
    "it is pending": lambda p, s, e: s.pending is not None and (e.revision or 0) >= s.pending.revision,
    "down from the weight now going to": lambda p, s, e: s.weight_bp > 0 and e.to == "start",
    "not seen yet": lambda p, s, e: s.descent is not None and s.descent.seen is None,
    "not verified yet": lambda p, s, e: not s.verified,
    "it was a rollback": lambda p, s, e: s.descent is not None and s.descent.final is State.ROLLED_BACK,
    "it was an abort": lambda p, s, e: s.descent is not None and s.descent.final is State.ABORTED,
    "it was a reset": lambda p, s, e: s.descent is not None and s.descent.final is State.IDLE,
}

RAISING: Final = frozenset({On.START, On.ADVANCE, On.RESUME, On.PROMOTE})
ANSWERS: Final = frozenset({On.PERSISTED, On.UNPERSISTED})  # their revision is the one they answer
_S: Final = State


def _ended_rows(state: State) -> tuple[Row, ...]:
    """What holds wherever nothing is on the target."""
    return (
        Row(state, On.START, _S.RUNNING, _start, "anew, or a phase to go on from"),
        Row(state, On.ROLLBACK, state, _at_zero(state), "weight is 0"),
        Row(state, On.ABORT, _S.ABORTED, _at_zero(_S.ABORTED), "weight is 0"),
        Row(state, On.RESET, _S.IDLE, _at_zero(_S.IDLE), "weight is 0"),
    )


def _held_rows(state: State) -> tuple[Row, ...]:
    """What holds wherever some weight may be on the target."""
    return (
        Row(state, On.ROLLBACK, _S.ROLLING_BACK, _rollback, "weight above 0"),
        Row(state, On.ABORT, _S.ROLLING_BACK, _abort, "weight above 0"),
        Row(state, On.RESET, _S.ROLLING_BACK, _reset, "weight above 0"),
    )


def _judged_rows(state: State) -> tuple[Row, ...]:
    """What holds wherever leased weight is on the target."""
    return (
        Row(state, On.BREACH, _S.ROLLING_BACK, _breach, "weight above 0"),
        Row(state, On.LEASE_LOST, _S.ROLLING_BACK, _lease_lost, "weight above 0"),
    )


def _pending_rows(state: State) -> tuple[Row, ...]:
    """The store's answer to an increase that was asked for in ``state``."""
    return (
        Row(state, On.PERSISTED, state, _persisted, "it is pending"),
        Row(state, On.UNPERSISTED, state, _unpersisted, "it is pending"),
    )


TRANSITIONS: Final[tuple[Row, ...]] = (
    *_ended_rows(_S.IDLE),
    *_pending_rows(_S.IDLE),
    # Running.
    Row(_S.RUNNING, On.SEEN, _S.RUNNING, _seen, "not verified yet"),
    Row(_S.RUNNING, On.PROMOTE, _S.RUNNING, _next, "a further phase"),
    Row(_S.RUNNING, On.PROMOTE, _S.COMPLETED, _complete, "the last phase"),
    Row(_S.RUNNING, On.ADVANCE, _S.RUNNING, _next, "a further phase"),
    Row(_S.RUNNING, On.ADVANCE, _S.COMPLETED, _complete, "the last phase"),
    Row(_S.RUNNING, On.PAUSE, _S.PAUSED, _pause),
    *_held_rows(_S.RUNNING),
    *_judged_rows(_S.RUNNING),
    *_pending_rows(_S.RUNNING),
    # Paused.
    Row(_S.PAUSED, On.SEEN, _S.PAUSED, _seen, "not verified yet"),
    Row(_S.PAUSED, On.RESUME, _S.RUNNING, _resume, "at its phase's weight"),
    Row(_S.PAUSED, On.RESUME, _S.RUNNING, _resume_weight, "below its phase's weight"),
    *_held_rows(_S.PAUSED),
    Row(_S.PAUSED, On.ROLLBACK, _S.ROLLED_BACK, _at_zero(_S.ROLLED_BACK), "weight is 0"),
    Row(_S.PAUSED, On.ABORT, _S.ABORTED, _at_zero(_S.ABORTED), "weight is 0"),
    Row(_S.PAUSED, On.RESET, _S.IDLE, _at_zero(_S.IDLE), "weight is 0"),
    *_judged_rows(_S.PAUSED),
    *_pending_rows(_S.PAUSED),
    # Rolling back.
    Row(_S.ROLLING_BACK, On.SEEN, _S.ROLLING_BACK, _descent_seen, "not seen yet"),
    Row(_S.ROLLING_BACK, On.DRAINED, _S.ROLLED_BACK, _drained, "it was a rollback"),
    Row(_S.ROLLING_BACK, On.DRAINED, _S.ABORTED, _drained, "it was an abort"),
    Row(_S.ROLLING_BACK, On.DRAINED, _S.IDLE, _drained, "it was a reset"),
    Row(_S.ROLLING_BACK, On.ROLLBACK, _S.ROLLING_BACK, _rollback, "down from the weight now going to"),
    Row(_S.ROLLING_BACK, On.ROLLBACK, _S.ROLLING_BACK, _join),
    Row(_S.ROLLING_BACK, On.ABORT, _S.ROLLING_BACK, _abort),
    Row(_S.ROLLING_BACK, On.RESET, _S.ROLLING_BACK, _reset),
    Row(_S.ROLLING_BACK, On.LEASE_LOST, _S.ROLLING_BACK, _lease_lost, "weight above 0"),
    # Rolled back.
    *_ended_rows(_S.ROLLED_BACK),
    *_held_rows(_S.ROLLED_BACK),
    *_judged_rows(_S.ROLLED_BACK),
    Row(_S.ROLLED_BACK, On.SEEN, _S.ROLLED_BACK, _seen, "not verified yet"),
    Row(_S.ROLLED_BACK, On.RESUME, _S.RUNNING, _resume_start, "a phase to go on from"),
    *_pending_rows(_S.ROLLED_BACK),
    # Completed.
    Row(_S.COMPLETED, On.SEEN, _S.COMPLETED, _seen, "not verified yet"),
    *_held_rows(_S.COMPLETED),
    # Aborted.
    *_ended_rows(_S.ABORTED),
    *_pending_rows(_S.ABORTED),
)

_ROWS: Final[dict[tuple[State, On], tuple[Row, ...]]] = {
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
    (_S.COMPLETED, On.START): "It is complete. To begin anew, reset first.",
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


def _refusal(s: Rollout, e: Event) -> tuple[str, str]:
    hint = _HINTS.get((s.state, e.kind), _STATE_HINTS[s.state])
    return f"{e.kind.value} is not possible in state {s.state.value}", hint


def _entry(e: Event, s: Rollout) -> Entry:
    return Entry(e.kind.value, e.actor, {"reason": e.reason, "weight": s.weight_bp / 100, "revision": s.revision})


def _phase_left(plan: Plan, s: Rollout, now: Now) -> Entry:
    """The facts of the phase that ends; whoever persists it adds what the arms did in it."""
    assert s.phase is not None
    phase = plan.phases[s.phase]
    detail = {
        "name": phase.name,
        "weight": phase.weight,
        "entered_at": s.entered_at,
        "left_at": now.unix,
        "soaked_s": round(s.soaked(now.mono), 3),
    }
    return Entry("phase_left", "phasegate", detail)


def _told(plan: Plan, s: Rollout) -> Notify:
    name = plan.phases[s.phase].name if s.phase is not None else None
    return Notify("phase_change", {"state": s.state.value, "phase": name, "weight": s.weight_bp / 100})


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
