"""A rollout in a world that goes wrong: random commands, verdicts, crashes, reboots, slow and failing stores, clocks.

A crash may come after any effect. Here 4,000 steps are walked; ``PHASEGATE_MODEL_STEPS=200000`` walks more:
``PHASEGATE_MODEL_STEPS=200000 python -m pytest tests/core/test_rollout_model.py``.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from control.phases import DEFAULT_PHASES
from control.recovery import Found, recover
from control.rollout import (
    Event,
    Now,
    On,
    Persist,
    Plan,
    Publish,
    Refuse,
    Rollout,
    State,
    step,
)

STEPS = int(os.environ.get("PHASEGATE_MODEL_STEPS", "4000"))
STEPS_A_WALK = 50
PLAN = Plan(DEFAULT_PHASES)
WEIGHTS = {0, *(phase.weight_bp for phase in DEFAULT_PHASES)}
LEASE_S = 10.0
COMMANDS = (On.START, On.ADVANCE, On.PAUSE, On.RESUME, On.ROLLBACK, On.ABORT, On.RESET)
LOWERING = (On.ROLLBACK, On.ABORT, On.RESET, On.BREACH, On.LEASE_LOST)


class CrashedError(Exception):
    """The control process died between two effects."""


class Word(NamedTuple):
    generation: int = 0
    weight_bp: int = 0
    pinned: bool = False


class World(RuleBasedStateMachine):
    """The board and the store, which survive, and a control process, which may not."""

    def __init__(self) -> None:
        super().__init__()
        self.mono, self.unix = 100.0, 1_700_000_000.0
        self.word = Word()
        self.lease_until = 0.0
        self.saved: Rollout | None = None
        self.saving: Rollout | None = None  # what the store is at
        self.dirty = False
        self.state = Rollout()
        self.fuse = -1  # effects until a crash
        self.lowered_last = False  # the last publication was a decrease
        self.begin()

    # What the coordinator does.

    def now(self) -> Now:
        return Now(self.mono, self.unix)

    def leased(self) -> bool:
        return self.word.weight_bp > 0 and not self.word.pinned

    def effective(self) -> int:
        """What the workers make of the board."""
        return self.word.weight_bp if self.word.pinned or self.mono < self.lease_until else 0

    def begin(self) -> None:
        """The control process starts."""
        before, effective = self.word, self.effective()
        lapsed = self.mono >= self.lease_until
        self.state, effects = recover(PLAN, self.saved, Found(*self.word), "hybrid", self.now(), lapsed)
        self.carry_out(effects, recovering=True)
        if before.generation:
            assert self.word.weight_bp <= before.weight_bp
            if self.lowered_last and before.weight_bp == 0:
                assert self.state.state is not State.RUNNING
        else:
            completed = self.saved is not None and self.saved.state is State.COMPLETED
            assert self.word.weight_bp == (self.saved.weight_bp if completed and self.saved else 0)
        assert completed_or(self.effective() <= effective, self.state)

    def apply(self, event: Event) -> tuple[Rollout, bool]:
        """A step with its effects; the state before, and whether it was taken."""
        if event.kind is not On.LEASE_LOST and self.leased() and self.mono >= self.lease_until:
            self.apply(Event(On.LEASE_LOST))
        before = self.state
        self.state, effects = step(PLAN, before, event, self.now())
        self.carry_out(effects)
        return before, not any(isinstance(effect, Refuse) for effect in effects)

    def carry_out(self, effects: tuple[object, ...], recovering: bool = False) -> None:
        for effect in effects:
            self.burn()
            if isinstance(effect, Publish):
                self.publish(effect, recovering)
            elif isinstance(effect, Persist):
                self.dirty = True
        self.burn()

    def burn(self) -> None:
        if self.fuse == 0:
            self.fuse = -1
            raise CrashedError
        self.fuse -= self.fuse > 0

    def publish(self, effect: Publish, recovering: bool) -> None:
        if effect.weight_bp > self.word.weight_bp and not recovering:
            # An increase is on the disk before it is on the board, and goes one phase up at most.
            assert self.saved is not None
            assert self.saved.pending is not None
            assert self.saved.pending.weight_bp == effect.weight_bp
            allowed = {0, *(p for p in (self.saved.resume_phase, self.saved.phase) if p is not None)}
            allowed |= {self.saved.phase + 1} if self.saved.phase is not None else set()
            assert self.saved.pending.phase in allowed
        self.lowered_last = effect.weight_bp < self.word.weight_bp or effect.weight_bp == 0
        if effect.weight_bp and not effect.pinned:
            self.lease_until = self.mono + LEASE_S
        self.word = Word(self.word.generation + 1, effect.weight_bp, effect.pinned)
        assert self.word.generation == self.state.generation

    def happen(self, event: Event, fuse: int) -> None:
        """An event during which the process may die."""
        self.fuse = fuse
        try:
            self.apply(event)
        except CrashedError:
            self.crash()
        self.fuse = -1

    # What may happen.

    @rule(
        kind=st.sampled_from(COMMANDS),
        resume=st.booleans(),
        to=st.sampled_from(["previous", "start"]),
        fuse=st.sampled_from([-1, -1, -1, 0, 1, 2, 3]),
    )
    def command(self, kind: On, resume: bool, to: str, fuse: int) -> None:
        before = self.word.weight_bp
        self.happen(Event(kind, resume=resume, to=to, detected=self.mono), fuse)  # type: ignore[arg-type]
        if kind in (On.ABORT, On.RESET) and fuse == -1:
            assert self.word.weight_bp == 0
        if kind in LOWERING:
            assert self.word.weight_bp <= before

    @rule(verdict=st.sampled_from([On.PROMOTE, On.PROMOTE, On.BREACH]), fuse=st.sampled_from([-1, -1, -1, 0, 1, 2]))
    def judged(self, verdict: On, fuse: int) -> None:
        self.happen(Event(verdict, detected=self.mono), fuse)

    @rule(fuse=st.sampled_from([-1, -1, -1, 0, 1]))
    def workers_have_seen(self, fuse: int) -> None:
        self.happen(Event(On.SEEN), fuse)

    @rule(fuse=st.sampled_from([-1, -1, -1, 0, 1]))
    def workers_have_drained(self, fuse: int) -> None:
        aborting = self.state.descent is not None and self.state.descent.final is State.ABORTED
        self.happen(Event(On.DRAINED), fuse)
        if aborting and fuse == -1:
            assert (self.state.state, self.word.weight_bp) == (State.ABORTED, 0)

    @precondition(lambda self: self.dirty and self.saving is None)
    @rule()
    def store_begins(self) -> None:
        self.dirty, self.saving = False, self.state

    @precondition(lambda self: self.saving is not None)
    @rule(fuse=st.sampled_from([-1, -1, -1, 0, 1, 2]))
    def store_has_written(self, fuse: int) -> None:
        assert self.saving is not None
        self.saved, self.saving = self.saving, None
        self.happen(Event(On.PERSISTED, revision=self.saved.revision), fuse)

    @precondition(lambda self: self.saving is not None)
    @rule()
    def store_fails(self) -> None:
        self.saving, self.dirty = None, True
        if self.state.pending is not None:
            self.happen(Event(On.UNPERSISTED, revision=self.state.pending.revision), -1)

    @rule()
    def loop_goes_round(self) -> None:
        """A pass of the coordinator: the lease is renewed, or found to have run out."""
        self.mono += 0.25
        if self.leased() and self.mono >= self.lease_until:
            self.apply(Event(On.LEASE_LOST))
            assert self.word.weight_bp == 0
        elif self.leased():
            self.lease_until = self.mono + LEASE_S

    @rule(mono=st.sampled_from([0.1, 3.0, 9.9, 10.0, 400.0]), unix=st.integers(-(10**6), 10**6))
    def clocks_jump(self, mono: float, unix: int) -> None:
        self.mono += mono
        self.unix += unix

    @rule()
    def crash(self) -> None:
        # A write that the store was at may have come through.
        self.fuse, self.dirty, self.saving = -1, False, None
        self.begin()

    @precondition(lambda self: self.saving is not None)
    @rule()
    def crash_after_writing(self) -> None:
        self.saved = self.saving
        self.crash()

    @rule()
    def reboot(self) -> None:
        self.word, self.lease_until, self.mono = Word(), 0.0, 5.0
        self.crash()

    # What always holds.

    @invariant()
    def the_board_shows_the_state(self) -> None:
        assert self.word == (self.state.generation, self.state.weight_bp, self.state.pinned)
        assert self.word.weight_bp in WEIGHTS

    @invariant()
    def the_state_is_a_legal_one(self) -> None:
        s = self.state
        assert (s.state is State.ROLLING_BACK) == (s.descent is not None)
        assert s.pinned == (s.state is State.COMPLETED)
        if s.state in (State.RUNNING, State.COMPLETED):
            assert s.phase is not None
            assert s.weight_bp == DEFAULT_PHASES[s.phase].weight_bp
        if s.state in (State.IDLE, State.ABORTED):
            assert s.weight_bp == 0
        if s.pending is not None:
            assert s.state not in (State.ROLLING_BACK, State.COMPLETED)
        if s.soaking_since is not None:
            assert s.verified
            assert s.state is State.RUNNING


def completed_or(condition: bool, s: Rollout) -> bool:
    """After a reboot a completed migration is where it was; anything else is no higher than the workers had it."""
    return condition or s.state is State.COMPLETED


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=max(1, STEPS // STEPS_A_WALK), stateful_step_count=STEPS_A_WALK)
