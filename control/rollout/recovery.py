"""Where a rollout goes on after its control process was away: min(checkpoint, board), and why. Pure.

Where the checkpoint cannot be read for now, ``wait`` says what holds until it can: the board's weight, which is never
above the checkpoint's, leased and judged as always, and never raised. Once the checkpoint has been read, ``recover``
goes on as if it had been readable from the start; but where something was decided in between, ``rejoin`` keeps it: it
can only have been a decrease. Treating an unreadable checkpoint as missing would reset a completed migration to idle.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from control.plan.phases import FULL_BP, percent_of, phase_at
from control.plan.times import Now
from control.rollout.model import EnteredPhase, Entry, Persist, PublishWeight, Rollout, RolloutPlan, State, Step
from control.rollout.transitions import phase_before, raised
from proxy.settings import Mode


class BoardWord(NamedTuple):
    """What the board's word says when the control process starts."""

    generation: int
    weight_bp: int
    pinned: bool


def recover(
    plan: RolloutPlan,
    saved: Rollout | None,
    found: BoardWord,
    mode: Mode,
    now: Now,
    lapsed: bool = False,
    here: BoardWord | None = None,
) -> Step:
    """Go on from what is known: never with more weight than the checkpoint says, nor than the board says.

    ``saved`` is None where there is no checkpoint (the first start, or a store that was set aside). Generation 0
    means that the board knows nothing of it: the first start, a reboot, or a board that was lost. A board of another
    layout has the words of the one before. Then a migration in flight is held at 0 until an
    operator resumes; a completed one stays, because the data written since is on the target. ``lapsed``: the lease
    had run out, so the workers are at 0 already and stay there. ``here`` is what the board says now, where ``wait``
    has changed it since.
    """
    here = here or found
    if saved is None:
        settled, why = _without_checkpoint(plan, found)
    elif found.generation == 0:
        settled, why = _on_a_new_board(saved)
    else:
        settled, why = _on_the_same_board(plan, saved, found, now)
    settled, why = _fitted(plan, *_in_mode(settled, why, saved, mode))
    if lapsed and settled.weight_bp and not settled.pinned:
        settled, why = _lapsed(settled), f"{why}; but the lease had run out: held at 0"
    settled = replace(
        settled,
        revision=settled.revision + 1,
        generation=here.generation,
        soaking_since=None,
        verified=False,
    )
    persist = Persist((_recovered(settled, why),))
    if (settled.weight_bp, settled.pinned) == (here.weight_bp, here.pinned) and here.generation:
        return settled, (persist,)
    published = replace(settled, generation=here.generation + 1)
    return published, (PublishWeight(published.weight_bp, published.pinned), persist)


def wait(plan: RolloutPlan, found: BoardWord, mode: Mode, lapsed: bool) -> Step:
    """What holds until the checkpoint can be read. Its revision is 0, so that any decision made meanwhile is seen."""
    if mode is Mode.SOURCE:
        held = Rollout(mode=mode, pinned=True)
    elif found.weight_bp and (found.pinned or not lapsed):
        state = State.COMPLETED if found.pinned else State.ROLLED_BACK
        held = Rollout(state, mode, _entered(plan, found.weight_bp), found.weight_bp, found.pinned)
    else:
        held = Rollout(State.ROLLED_BACK, mode)
    if (held.weight_bp, held.pinned) == (found.weight_bp, found.pinned):
        return replace(held, generation=found.generation), ()
    return replace(held, generation=found.generation + 1), (PublishWeight(held.weight_bp, held.pinned),)


def rejoin(saved: Rollout | None, here: Rollout) -> Step:
    """Go on from what was decided before the checkpoint could be read; its history comes from the checkpoint."""
    before = saved if saved is not None else Rollout()
    joined = replace(
        here,
        revision=max(before.revision, here.revision) + 1,
        started_at=before.started_at,
        last_rollback=here.last_rollback or before.last_rollback,
        split=before.split,
        resume_phase=here.resume_phase or _resume_phase(before),
    )
    if joined.state is State.IDLE:
        joined = replace(joined, resume_phase=None)
    return joined, (Persist((_recovered(joined, "decided before the checkpoint could be read: kept"),)),)


def _resume_phase(saved: Rollout) -> EnteredPhase | None:
    """Where to go on by a checkpoint that was left.

    A start that it has as asked for may have been published and lowered since, also on the board of an earlier boot.
    Then the run is a new one, and going on leads no further than that start.
    """
    resume, asked = saved.resume_phase, saved.pending
    if resume is None or asked is None:
        return resume
    return asked.phase if asked.weight_bp < resume.weight_bp else resume


def _recovered(s: Rollout, why: str) -> Entry:
    detail = {"why": why, "state": s.state.value, "weight": percent_of(s.weight_bp), "revision": s.revision}
    return Entry("recovered", "phasegate", detail)


def _lapsed(s: Rollout) -> Rollout:
    state = s.descent.final if s.descent is not None else State.ROLLED_BACK
    resume_phase = s.resume_phase if s.phase is None else s.phase
    return replace(
        s, state=state, phase=None, weight_bp=0, pending=None, descent=None, soaked_s=0.0, resume_phase=resume_phase
    )


def _without_checkpoint(plan: RolloutPlan, found: BoardWord) -> tuple[Rollout, str]:
    if found.weight_bp == 0:
        return Rollout(), "no checkpoint; nothing on the target"
    if found.pinned:
        here = _entered(plan, found.weight_bp)
        completed = Rollout(state=State.COMPLETED, phase=here, weight_bp=found.weight_bp, pinned=True)
        return completed, "no checkpoint; the board says completed"
    # Going on leads to the first phase at most, and to no more than the board had.
    first = plan.phases[0]
    resume_phase = EnteredPhase(first.name, min(first.weight_bp, found.weight_bp))
    return Rollout(state=State.ROLLED_BACK, resume_phase=resume_phase), "no checkpoint: taken back to 0"


def _on_a_new_board(saved: Rollout) -> tuple[Rollout, str]:
    none = replace(saved, pending=None, descent=None, resume_phase=_resume_phase(saved))
    match saved.state:
        case State.COMPLETED:
            return none, "a new board; completed stays"
        case State.RUNNING | State.PAUSED:
            held = replace(none, state=State.PAUSED, weight_bp=0, soaked_s=0.0)
            return held, "a new board, as after a reboot: held at 0 until an operator resumes"
        case State.ROLLING_BACK:
            final = saved.descent.final if saved.descent is not None else State.ROLLED_BACK
            return replace(none, state=final, phase=None, weight_bp=0), "a new board: the rollback is complete"
        case _:
            return replace(none, phase=None, weight_bp=0), "a new board"


def _on_the_same_board(plan: RolloutPlan, saved: Rollout, found: BoardWord, now: Now) -> tuple[Rollout, str]:
    settled = replace(saved, pending=None, resume_phase=_resume_phase(saved))
    if (found.generation, found.weight_bp, found.pinned) == (saved.generation, saved.weight_bp, saved.pinned):
        return settled, "as the checkpoint says" if saved.pending is None else "an increase was asked for: called off"
    wanted = saved.pending
    if wanted is not None and found == (saved.generation + 1, wanted.weight_bp, wanted.pinned):
        return raised(saved, wanted, now), "the increase had been published"
    weight_bp = min(saved.weight_bp, found.weight_bp)
    if saved.weight_bp == 0 or (weight_bp == saved.weight_bp and found.generation <= saved.generation):
        return settled, "the checkpoint has no more weight than the board, which differs"
    resume_phase = settled.resume_phase if saved.phase is None else phase_before(plan, saved.phase)
    if weight_bp and resume_phase is not None:  # going on leads to no more than is held
        resume_phase = replace(resume_phase, weight_bp=min(resume_phase.weight_bp, weight_bp))
    held = replace(
        settled,
        state=State.ROLLED_BACK,
        phase=_entered(plan, weight_bp),
        weight_bp=weight_bp,
        pinned=False,
        soaked_s=0.0,
        descent=None,
        resume_phase=resume_phase,
    )
    return held, "a decrease was published that had not been written: kept"


def _in_mode(settled: Rollout, why: str, saved: Rollout | None, mode: Mode) -> tuple[Rollout, str]:
    """A mode of one arm sets the state once, when it is first configured; after that operators' actions hold."""
    before = saved.mode if saved is not None else Mode.HYBRID
    if mode is Mode.SOURCE:
        return Rollout(mode=mode, pinned=True, revision=settled.revision, last_rollback=settled.last_rollback), why
    if mode is before:
        return settled, why
    if mode is Mode.TARGET:
        completed = replace(
            settled,
            state=State.COMPLETED,
            mode=mode,
            phase=None,
            weight_bp=FULL_BP,
            pinned=True,
            pending=None,
            descent=None,
        )
        return completed, f"{why}; the mode is {mode}"
    pinned = settled.pinned and settled.state is State.COMPLETED
    return replace(settled, mode=mode, pinned=pinned), f"{why}; the mode is {mode}"


def _fitted(plan: RolloutPlan, s: Rollout, why: str) -> tuple[Rollout, str]:
    """Hold the phase against the configuration's, by its weight. One that is gone is held for an operator."""
    if s.phase is None:
        return s, why
    here = _entered(plan, s.phase.weight_bp)
    if here is not None:
        if here != s.phase:
            why = f'{why}; phase "{s.phase.name}" is called "{here.name}" now'
        return replace(s, phase=here), why
    gone = f'the configuration has no phase of {percent_of(s.phase.weight_bp):g} % ("{s.phase.name}") any more'
    if s.state not in (State.RUNNING, State.PAUSED):
        return s, f"{why}; {gone}"
    held = replace(
        s,
        state=State.ROLLED_BACK,
        phase=s.phase if s.weight_bp else None,
        soaked_s=0.0,
        resume_phase=s.phase,
    )
    return held, f"{why}; {gone}: held at {percent_of(s.weight_bp):g} % until an operator goes on"


def _entered(plan: RolloutPlan, weight_bp: int) -> EnteredPhase | None:
    """The phase of exactly this weight; None where the configuration has none."""
    phase = phase_at(plan.phases, weight_bp)
    return None if phase is None else EnteredPhase(phase.name, weight_bp)
