"""A rollout in a world that goes wrong: random commands, verdicts, crashes, reboots, slow and failing stores, clocks.

A crash may come after any effect. 20,000 steps are walked, in walks of 100 with a seed each; more of them by
``PHASEGATE_MODEL_STEPS=1000000 python -m pytest tests/core/test_rollout_model.py``. A walk that fails tells its seed
and its last steps.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from control.plan.phases import DEFAULT_PHASES
from control.plan.times import Now
from control.rollout.machine import RAISING as RAISES
from control.rollout.machine import step
from control.rollout.model import On, Persist, PublishWeight, Refuse, Rollout, RolloutEvent, RolloutPlan, State
from control.rollout.recovery import BoardWord, recover, rejoin, wait
from proxy.settings import Mode

STEPS = int(os.environ.get("PHASEGATE_MODEL_STEPS", "20000"))
STEPS_A_WALK = 100
PLAN = RolloutPlan(DEFAULT_PHASES)
WEIGHTS = {0, *(phase.weight_bp for phase in DEFAULT_PHASES)}
LEASE_S = 10.0
COMMANDS = (On.START, On.ADVANCE, On.PAUSE, On.RESUME, On.ROLLBACK, On.ABORT, On.RESET)
RAISING = (On.START, On.ADVANCE, On.ADVANCE)
LOWERING = (On.ROLLBACK, On.ABORT, On.RESET, On.BREACH, On.LEASE_LOST)


class CrashedError(Exception):
    """The control process died between two effects."""


class Word(NamedTuple):
    generation: int = 0
    weight_bp: int = 0
    pinned: bool = False


class World:
    """The board and the store, which survive, and a control process, which may not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.trail: list[str] = []
        self.mono, self.unix = 100.0, 1_700_000_000.0
        self.word = Word()
        self.lease_until = 0.0
        self.saved: Rollout | None = None
        self.saving: Rollout | None = None  # what the store is at
        self.dirty = False
        self.state = Rollout()
        self.fuse = -1  # effects until a crash
        self.lowered_last = False  # the last publication was a decrease
        self.waiting = False  # for a checkpoint that cannot be read
        self.left, self.lapsed = self.word, False  # what the last process left
        self.read_late: list[bool] = []  # for each checkpoint that was: whether something was decided before it
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
        """The control process starts; the store cannot always be read."""
        self.left, self.lapsed = self.word, self.mono >= self.lease_until
        self.state = Rollout()
        self.waiting = self.random.random() < 0.3
        if not self.waiting:
            self.go_on()
            return
        effective = self.effective()
        self.state, effects = wait(PLAN, BoardWord(*self.word), Mode.HYBRID, self.lapsed)
        self.carry_out(effects)  # and not as recovering: a way up would be found
        assert self.effective() == effective

    def checkpoint_is_read(self) -> None:
        if not self.waiting:
            return
        self.waiting = False
        self.read_late.append(bool(self.state.revision))
        if not self.state.revision:
            self.go_on()
            return
        before, decided = self.word, self.state
        self.state, effects = rejoin(self.saved, self.state)
        self.carry_out(effects)
        assert (self.word, self.state.state) == (before, decided.state)
        assert self.saved is None or self.state.revision > self.saved.revision

    def go_on(self) -> None:
        """From the checkpoint, if nothing was decided without it."""
        before, effective, left = self.left, self.effective(), BoardWord(*self.left)
        at_once, _ = recover(PLAN, self.saved, left, Mode.HYBRID, self.now(), self.lapsed)
        self.state, effects = recover(
            PLAN, self.saved, left, Mode.HYBRID, self.now(), self.lapsed, BoardWord(*self.word)
        )
        assert replace(self.state, generation=0) == replace(at_once, generation=0)
        self.carry_out(effects, recovering=True)
        if before.generation:
            assert self.word.weight_bp <= before.weight_bp
            if self.lowered_last and before.weight_bp == 0:
                assert self.state.state is not State.RUNNING
        else:
            completed = self.saved is not None and self.saved.state is State.COMPLETED
            assert self.word.weight_bp == (self.saved.weight_bp if completed and self.saved else 0)
        assert completed_or(self.effective() <= effective, self.state)

    def apply(self, event: RolloutEvent) -> tuple[Rollout, bool]:
        """A step with its effects; the state before, and whether it was taken."""
        if event.kind is not On.LEASE_LOST and self.leased() and self.mono >= self.lease_until:
            self.apply(RolloutEvent(On.LEASE_LOST))
        before = self.state
        self.state, effects = step(PLAN, before, event, self.now())
        self.carry_out(effects)
        return before, not any(isinstance(effect, Refuse) for effect in effects)

    def carry_out(self, effects: tuple[object, ...], recovering: bool = False) -> None:
        for effect in effects:
            self.burn()
            if isinstance(effect, PublishWeight):
                self.publish(effect, recovering)
            elif isinstance(effect, Persist):
                self.dirty = True
        self.burn()

    def burn(self) -> None:
        if self.fuse == 0:
            self.fuse = -1
            raise CrashedError
        self.fuse -= self.fuse > 0

    def publish(self, effect: PublishWeight, recovering: bool) -> None:
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

    # What may happen.

    def all_goes_well(self) -> None:
        """The next step up, with a store and workers that answer: what takes walks to where it is interesting."""
        self.checkpoint_is_read()
        self.loop_goes_round()
        onward = {
            State.RUNNING: On.PROMOTE,
            State.PAUSED: On.RESUME,
            State.ROLLED_BACK: On.RESUME,
            State.ROLLING_BACK: On.DRAINED,
        }
        self.apply(RolloutEvent(onward.get(self.state.state, On.START)))
        self.saved, self.saving, self.dirty = self.state, None, False
        if self.state.pending is not None:
            self.apply(RolloutEvent(On.PERSISTED, revision=self.state.revision))
        self.apply(RolloutEvent(On.SEEN))

    def command(self) -> None:
        kind, before = self.random.choice((*COMMANDS, *RAISING)), self.word.weight_bp
        if self.waiting and kind in RAISES:
            return
        to = self.random.choice(("previous", "start"))
        self.apply(RolloutEvent(kind, resume=self.random.random() < 0.5, to=to, detected=self.mono))  # type: ignore[arg-type]
        if kind in (On.ABORT, On.RESET):
            assert self.word.weight_bp == 0
        if kind in LOWERING:
            assert self.word.weight_bp <= before

    def judged(self) -> None:
        kind = On.BREACH if self.waiting else self.random.choice((On.PROMOTE, On.BREACH))
        self.apply(RolloutEvent(kind, detected=self.mono))

    def workers_have_seen(self) -> None:
        self.apply(RolloutEvent(On.SEEN))

    def workers_have_drained(self) -> None:
        aborting = self.state.descent is not None and self.state.descent.final is State.ABORTED
        self.apply(RolloutEvent(On.DRAINED))
        if aborting:
            assert (self.state.state, self.word.weight_bp) == (State.ABORTED, 0)

    def the_process_dies_after_some_effects(self) -> None:
        kind = self.random.choice([on for on in On if not (self.waiting and on in RAISES)])
        self.fuse = self.random.randint(0, 3)
        try:
            self.apply(
                RolloutEvent(kind, revision=self.saved.revision if self.saved and kind is On.PERSISTED else None)
            )
        except CrashedError:
            self.crash()
        self.fuse = -1

    def store_begins(self) -> None:
        if self.dirty and self.saving is None and not self.waiting:
            self.dirty, self.saving = False, self.state

    def store_has_written(self) -> None:
        if self.saving is not None:
            self.saved, self.saving = self.saving, None
            self.apply(RolloutEvent(On.PERSISTED, revision=self.saved.revision))

    def store_fails(self) -> None:
        if self.saving is None:
            return
        self.saving, self.dirty = None, True
        if self.state.pending is not None:
            self.apply(RolloutEvent(On.UNPERSISTED, revision=self.state.pending.revision))

    def loop_goes_round(self) -> None:
        """A pass of the coordinator: the lease is renewed, or found to have run out."""
        self.mono += 0.25
        if self.leased() and self.mono >= self.lease_until:
            self.apply(RolloutEvent(On.LEASE_LOST))
            assert self.word.weight_bp == 0
        elif self.leased():
            self.lease_until = self.mono + LEASE_S

    def clocks_jump(self) -> None:
        self.mono += self.random.choice((0.1, 3.0, 9.9, 10.0, 400.0))
        self.unix += self.random.randint(-(10**6), 10**6)

    def crash(self) -> None:
        self.fuse, self.dirty, self.saving = -1, False, None
        self.begin()

    def crash_after_writing(self) -> None:
        """What the store was at has come through, and nobody heard of it."""
        self.saved = self.saving or self.saved
        self.crash()

    def reboot(self) -> None:
        self.word, self.lease_until, self.mono = Word(), 0.0, 5.0
        self.crash()

    # What always holds.

    def the_board_shows_the_state(self) -> None:
        assert self.word == (self.state.generation, self.state.weight_bp, self.state.pinned)
        assert self.word.weight_bp in WEIGHTS

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


LIKELY: dict[Callable[[World], None], int] = {
    World.all_goes_well: 5,
    World.command: 4,
    World.judged: 2,
    World.workers_have_seen: 2,
    World.workers_have_drained: 2,
    World.the_process_dies_after_some_effects: 2,
    World.store_begins: 3,
    World.store_has_written: 3,
    World.store_fails: 1,
    World.checkpoint_is_read: 4,
    World.loop_goes_round: 3,
    World.clocks_jump: 1,
    World.crash: 1,
    World.crash_after_writing: 1,
    World.reboot: 1,
}


def walk(seed: int, met: Counter[tuple[State, bool]]) -> list[bool]:
    """One walk; fails with what led there."""
    world = World(seed)
    for what in world.random.choices(list(LIKELY), list(LIKELY.values()), k=STEPS_A_WALK):
        world.trail.append(f"{world.state.state.value} {world.state.weight_bp}: {what.__name__}")
        try:
            what(world)
            world.the_board_shows_the_state()
            world.the_state_is_a_legal_one()
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error}\n" + "\n".join(world.trail[-10:]))
        met[world.state.state, world.state.pending is not None] += 1
    return world.read_late


def test_no_walk_ends_in_an_illegal_state_or_above_the_weight_it_may_have() -> None:
    met: Counter[tuple[State, bool]] = Counter()
    read_late = [late for seed in range(STEPS // STEPS_A_WALK) for late in walk(seed, met)]
    # The walks must have been where it is interesting, or they have shown nothing.
    assert {state for state, _ in met} == set(State)
    assert sum(count for (_, pending), count in met.items() if pending) > STEPS / 100
    assert min(read_late.count(True), read_late.count(False)) > STEPS / 1000
