"""What each row of the rollout's table does: ``act(plan, state, event, now) → (state, effects)``. Pure.

There are three kinds: a higher weight is asked for and published once it is written; a weight is held; a lower
weight is published before anything else. When an act is allowed is decided by the table, in ``machine``.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import asdict, replace

from control.plan.phases import Phase, percent_of, phase_at_or_below
from control.plan.times import Now
from control.rollout.model import (
    Act,
    Descent,
    EnteredPhase,
    Entry,
    Notify,
    On,
    Persist,
    PhaseChange,
    PublishWeight,
    Raise,
    Rollback,
    RollbackBegun,
    Rollout,
    RolloutEvent,
    RolloutPlan,
    State,
    Step,
)

ABORT_WITHIN_S: Final = 10.0  # where no phase says how long a rollback may take
LEFT_AT_LEAST_S: Final = 0.5  # for a rollback that takes the place of one whose time is all but over

# As shares of the time that a rollback has. At half of it open target reads are handed to the source, which has the
# other half to answer them; an abort or a reset hands them over at once. What is then still open is cancelled, early
# enough for workers to do so, and to show it, before the time is over.
CUT_OVER_AT: Final = 0.5
CANCEL_AT: Final = 0.9
AT_ONCE_CANCEL_AT: Final = 0.5
_PHASE_FAILED: Final = ("breach", "command")  # triggers that say the phase was not good: go on from the one before


# Raising: asked for, persisted, published.


def _ask(
    plan: RolloutPlan,
    s: Rollout,
    e: RolloutEvent,
    now: Now,
    kind: str,
    to: State,
    phase: Phase | EnteredPhase | None,
    *,
    soaked_s: float = 0.0,
    new_phase: bool = True,
) -> Step:
    assert phase is not None
    revision, weight_bp, pinned = s.revision + 1, phase.weight_bp, to is State.COMPLETED
    new_run = kind == "start"
    # With another split visitors change sides: that harms nobody only while all of them are on the source.
    split = plan.split if new_run and s.weight_bp == 0 else None
    entered = EnteredPhase(phase.name, weight_bp)
    wanted = Raise(kind, to, entered, weight_bp, pinned, soaked_s, revision, new_run, new_phase, split, e.forced)
    detail = {
        "from_weight": percent_of(s.weight_bp),
        "to_weight": percent_of(weight_bp),
        "phase": phase.name,
        "revision": revision,
        **_why(e),
    }
    left = (_phase_left(s, now),) if s.state is State.RUNNING else ()
    past = {"lacking": e.lacking} if e.lacking else {}
    entries = (*left, Entry(kind, e.actor, detail | ({"forced": True} | past if e.forced else {})))
    if weight_bp < s.weight_bp:  # a start or resume below what is held: a decrease after all, and told as one
        lowered = raised(replace(s, revision=revision), wanted, now)
        begun = _begun(kind, s, weight_bp, e, revision)
        entries = (*left, Entry("rollback", e.actor, asdict(begun)), *entries[len(left) :])
        return lowered, (PublishWeight(weight_bp, pinned), Persist(entries), Notify(begun))
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
        split=wanted.split or s.split,
    )


def start(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Ask for the first phase, or for the one that the checkpoint says to go on from."""
    if e.resume:
        return resume_start(plan, s, e, now)
    return _ask(plan, s, e, now, "start", State.RUNNING, plan.phases[0])


def resume_start(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Ask for the phase it was taken back to, or for the checkpoint's where it was taken back to none."""
    return _ask(plan, s, e, now, "resume", State.RUNNING, plan.resumed(s))


def advance(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Ask for the next phase."""
    return _ask(plan, s, e, now, "advance", State.RUNNING, plan.following(s))


def go_on(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Ask for the phase above a completed one: the run goes on, under a lease again."""
    return _ask(plan, s, e, now, "resume", State.RUNNING, plan.following(s))


def complete(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Ask for the last phase's weight to be pinned: it needs no lease from then on."""
    soaked_s = s.soaked(now.mono)
    return _ask(plan, s, e, now, "complete", State.COMPLETED, s.phase, soaked_s=soaked_s, new_phase=False)


def persisted(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """The store has what was asked for: publish it."""
    assert s.pending is not None
    up = raised(s, s.pending, now)
    # Written again, as done: after a reboot the board is new and cannot say that it was published.
    return up, (PublishWeight(up.weight_bp, up.pinned), Persist(), _told(up))


def unpersisted(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """The store has failed, or the target has come to lack something: call off what was asked for."""
    assert s.pending is not None
    called_off = Entry("called_off", e.actor, {"what": s.pending.kind, "reason": e.reason or e.lacking})
    return replace(s, revision=s.revision + 1, pending=None), (Persist((called_off,)),)


# Holding.


def pause(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Hold the weight, keep the soak earned so far, and call off what was asked for."""
    paused = replace(
        s,
        state=State.PAUSED,
        revision=s.revision + 1,
        soaked_s=s.soaked(now.mono),
        soaking_since=None,
        pending=None,
    )
    return paused, (Persist((_entry(e, paused),)),)


def resume(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Go on soaking from what was earned."""
    running = replace(s, state=State.RUNNING, revision=s.revision + 1, soaking_since=now.mono if s.verified else None)
    return running, (Persist((_entry(e, running),)),)


def resume_weight(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Ask again for the phase's weight, which a reboot set to 0, or for the phase below it where it is gone."""
    phase = plan.resumed(s)
    same = phase is not None and s.phase is not None and phase.weight_bp == s.phase.weight_bp
    soaked_s = s.soaked_s if same else 0.0
    return _ask(plan, s, e, now, "resume", State.RUNNING, phase, soaked_s=soaked_s, new_phase=not same)


def seen(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Every live worker shows the weight: its soak begins."""
    soaking = s.state is State.RUNNING
    return replace(s, verified=True, soaking_since=now.mono if soaking else s.soaking_since), ()


# Lowering: published first.


def _descend(
    plan: RolloutPlan,
    s: Rollout,
    e: RolloutEvent,
    now: Now,
    trigger: str,
    phase: Phase | None,
    final: State,
    *,
    at_once: bool = False,
) -> Step:
    """Publish the lower weight, then write it down and notify. ``at_once``: hand open reads over without waiting."""
    weight_bp = 0 if phase is None else phase.weight_bp
    current = plan.current(s)
    within = ABORT_WITHIN_S if current is None else float(current.rollback_within_s)
    if s.descent is not None:
        within = max(LEFT_AT_LEAST_S, s.descent.decided + s.descent.within_s - now.mono)
    from_bp = s.descent.from_bp if s.descent is not None else s.weight_bp
    resume_phase = s.resume_phase
    if s.descent is None and s.phase is not None:
        resume_phase = phase_before(plan, s.phase) if trigger in _PHASE_FAILED else s.phase
    lowered = replace(
        s,
        state=State.ROLLING_BACK,
        phase=None if phase is None else EnteredPhase(phase.name, weight_bp),
        weight_bp=weight_bp,
        pinned=False,
        revision=s.revision + 1,
        generation=s.generation + 1,
        entered_at=now.unix,
        soaked_s=0.0,
        soaking_since=None,
        verified=False,
        pending=None,
        resume_phase=resume_phase,
        descent=Descent(
            trigger=trigger,
            reason=e.reason,
            from_bp=from_bp,
            detected=min(now.mono, now.mono if e.detected is None else e.detected),
            decided=now.mono,
            within_s=within,
            final=final,
            reasons=e.reasons,
        ),
    )
    begun = _begun(trigger, s, weight_bp, e, lowered.revision)
    publish = PublishWeight(
        weight_bp,
        False,
        cut_over_at=now.mono if at_once else now.mono + within * CUT_OVER_AT,
        cancel_at=now.mono + within * (AT_ONCE_CANCEL_AT if at_once else CANCEL_AT),
    )
    left = (_phase_left(s, now),) if s.phase is not None and s.state in (State.RUNNING, State.PAUSED) else ()
    entries = (*left, Entry("rollback" if final is State.ROLLED_BACK else trigger, e.actor, asdict(begun)))
    return lowered, (publish, Persist(entries), Notify(begun))


def phase_before(plan: RolloutPlan, failed: EnteredPhase) -> EnteredPhase:
    """The phase to go on from after one that failed: the next with less weight, or itself where there is none."""
    below = phase_at_or_below(plan.phases, failed.weight_bp - 1)
    return failed if below is None else EnteredPhase(below.name, below.weight_bp)


def rollback(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Go down by command."""
    return _descend(plan, s, e, now, "command", plan.below(s, e.to), State.ROLLED_BACK)


def breach(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Go down because the target has failed: as far as the judge says, or else as far as the configuration does."""
    return _descend(plan, s, e, now, "breach", plan.below(s, e.to or plan.on_breach), State.ROLLED_BACK)


def lease_lost(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Go down to 0, where the workers went by themselves when the lease ran out."""
    return _descend(plan, s, e, now, "lease_lost", None, State.ROLLED_BACK)


def abort(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Go down to 0, and end."""
    return _descend(plan, s, e, now, "abort", None, State.ABORTED, at_once=True)


def reset(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Go down to 0, and forget the checkpoint."""
    return _descend(plan, s, e, now, "reset", None, State.IDLE, at_once=True)


def join(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """A rollback to the phase below while one is going on: nothing to do, and it is answered when that one ends."""
    return s, ()


def at_zero(final: State) -> Act:
    """Nothing is on the target: publish 0 once more, in case a worker missed it, and take the state asked for."""

    def act(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
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
        return down, (PublishWeight(0, False, cut_over_at=now.mono), Persist((_entry(e, down),)))

    return act


def drained(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """No older request is open on the target any more: take the final state, and say how long each step took."""
    d = s.descent
    assert d is not None
    seen = now.mono if d.seen is None else d.seen
    total = now.mono - d.detected
    done = Rollback(
        trigger=d.trigger,
        reason=d.reason,
        from_weight=percent_of(d.from_bp),
        to_weight=percent_of(s.weight_bp),
        decided_ms=_ms(d.decided - d.detected),
        seen_ms=_ms(seen - d.decided),
        drained_ms=_ms(now.mono - seen),
        total_ms=_ms(total),
        within_deadline=total <= d.within_s,
        reasons=d.reasons,
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
    unheard = {"unheard_workers": list(e.unheard)} if e.unheard else {}
    entry = Entry("rollback_complete", e.actor, asdict(done) | unheard)
    return final, (Persist((entry,)), Notify(done))


def descent_seen(plan: RolloutPlan, s: Rollout, e: RolloutEvent, now: Now) -> Step:
    """Every live worker shows the lower weight."""
    assert s.descent is not None
    return replace(s, descent=replace(s.descent, seen=now.mono)), ()


def _entry(e: RolloutEvent, s: Rollout) -> Entry:
    return Entry(
        e.kind.value, e.actor, {"reason": e.reason, "weight": percent_of(s.weight_bp), "revision": s.revision}
    )


def _phase_left(s: Rollout, now: Now) -> Entry:
    """The facts of the phase that ends; whoever persists it adds what the arms did in it."""
    assert s.phase is not None
    detail = {
        "name": s.phase.name,
        "weight": percent_of(s.phase.weight_bp),
        "entered_at": s.entered_at,
        "left_at": now.unix,
        "soaked_s": round(s.soaked(now.mono), 3),
    }
    return Entry("phase_left", "phasegate", detail)


def _begun(trigger: str, s: Rollout, weight_bp: int, e: RolloutEvent, revision: int) -> RollbackBegun:
    return RollbackBegun(trigger, percent_of(s.weight_bp), percent_of(weight_bp), e.reason, revision, e.reasons)


def _why(e: RolloutEvent) -> dict[str, Any]:
    """The reason in an entry's detail, and its parts where it has several."""
    return {"reason": e.reason, **({"reasons": list(e.reasons)} if e.reasons else {})}


def _told(s: Rollout) -> Notify:
    name = s.phase.name if s.phase is not None else None
    return Notify(PhaseChange(s.state, name, percent_of(s.weight_bp)))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
