"""A rollout in a world that goes wrong: random commands, verdicts, crashes, reboots, slow and failing stores, clocks.

The target comes to lack something, and has it again, at any step: then nothing is raised unless it is forced.
The configuration is edited under it: phases are added, taken out, renamed and given other weights, and the migration
itself is renamed, again and again, at any step. A crash may come after any effect. Every other world begins with a
run of version 0.1, whose checkpoint and board say nothing of its split. 20,000 steps are walked, in walks of 100 with
a seed each; more of them by ``PHASEGATE_MODEL_STEPS=1000000 python -m pytest tests/core/test_rollout_model.py``. A
walk that fails tells its seed and its last steps.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from control.lead import splitkey
from control.plan.phases import DEFAULT_PHASES, FULL_BP, Phase
from control.plan.times import Now
from control.rollout.machine import RAISING as RAISES
from control.rollout.machine import TRANSITIONS, step
from control.rollout.model import (
    EnteredPhase,
    On,
    Persist,
    PublishWeight,
    Refuse,
    Rollout,
    RolloutEvent,
    RolloutPlan,
    RunSplit,
    State,
)
from control.rollout.recovery import BoardWord, recover, rejoin, wait
from proxy.board.layout import SplitKey
from proxy.migration import buckets
from proxy.settings import Mode

STEPS = int(os.environ.get("PHASEGATE_MODEL_STEPS", "20000"))
STEPS_A_WALK = 100
FIRST_PLAN = RolloutPlan(DEFAULT_PHASES)
LEADS_TO = {(row.state, row.on, row.to) for row in TRANSITIONS}
LEASE_S = 10.0
COMMANDS = (On.START, On.ADVANCE, On.PAUSE, On.RESUME, On.ROLLBACK, On.ABORT, On.RESET)
SECRET = bytes(splitkey.SECRET_BYTES)
NO_SPLIT = SplitKey(0, 0)
# As version 0.1 left it: it knew no keys.
FROM_0_1 = Rollout(
    State.PAUSED, phase=EnteredPhase("initial", 500), weight_bp=500, revision=3, generation=2, split=RunSplit()
)
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
        self.lacking = ""  # what the target is known to lack, as the coordinator says it with every event
        self.plan = FIRST_PLAN
        self.weights = {0}  # that were configured at some time
        self.decided_bp = 0  # the weight of the last increase that was published: nothing but a decision goes beyond
        self.met: Counter[str] = Counter()
        self.name, self.names = "shop", 0
        self.was: str | None = None
        self.split = NO_SPLIT  # on the board
        self.run_split = NO_SPLIT  # what the workers split the run by since it began
        self.written_splits: set[str] = set()  # keys that a checkpoint had
        if seed % 2:
            self.saved, self.word, self.lease_until = FROM_0_1, Word(2, 500), self.mono + LEASE_S
            self.decided_bp, self.run_split = 500, buckets.plain(self.name)
        self.begin()

    # What the coordinator does.

    @property
    def first_name(self) -> str:
        return self.was or self.name

    def settle_split(self) -> None:
        split = splitkey.settled(self.state.split, self.first_name, self.split, self.left.weight_bp)
        self.state = replace(self.state, split=split)

    def show_split(self) -> None:
        self.split = splitkey.for_board(self.state.split)

    def workers_split(self) -> SplitKey:
        """What the workers go by: where the board says nothing, as version 0.1 did."""
        return self.split if self.split.version else buckets.plain(self.first_name)

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
        self.weights |= {phase.weight_bp for phase in self.plan.phases}
        self.plan = replace(self.plan, split=splitkey.new_run(SECRET, self.name))
        self.state = Rollout(split=splitkey.known(RunSplit(), self.first_name))
        self.waiting = self.random.random() < 0.3
        if not self.waiting:
            self.go_on()
            return
        effective = self.effective()
        self.state, effects = wait(self.plan, BoardWord(*self.word), Mode.HYBRID, self.lapsed)
        self.settle_split()
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
        self.settle_split()
        self.show_split()
        self.carry_out(effects)
        assert (self.word, self.state.state) == (before, decided.state)
        assert self.saved is None or self.state.revision > self.saved.revision

    def go_on(self) -> None:
        """From the checkpoint, if nothing was decided without it."""
        before, effective, left = self.left, self.effective(), BoardWord(*self.left)
        at_once, _ = recover(self.plan, self.saved, left, Mode.HYBRID, self.now(), self.lapsed)
        self.state, effects = recover(
            self.plan, self.saved, left, Mode.HYBRID, self.now(), self.lapsed, BoardWord(*self.word)
        )
        assert replace(self.state, generation=0) == replace(at_once, generation=0)
        self.settle_split()
        self.show_split()
        self.carry_out(effects, recovering=True)
        assert self.state.state is not State.RUNNING or self.plan.current(self.state) is not None
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
        before, event = self.state, replace(event, lacking=self.lacking)
        self.state, effects = step(self.plan, before, event, self.now())
        taken = not any(isinstance(effect, Refuse) for effect in effects)
        if taken:
            self.nothing_is_raised_while_the_target_lacks_something(before, event)
            self.the_table_has_a_row(before, event)
            self.an_increase_goes_no_further_than_it_may(before, event)
        self.carry_out(effects)
        return before, taken

    def nothing_is_raised_while_the_target_lacks_something(self, before: Rollout, event: RolloutEvent) -> None:
        """Neither asked for nor published; and what is held or lowered never waits for the data."""
        asked = self.state.pending
        if self.lacking and asked is not None and asked is not before.pending:
            goes_on = event.kind is On.RESUME and asked.weight_bp <= before.weight_bp
            assert event.forced or goes_on
            self.met["forced"] += event.forced
        if self.lacking and self.state.weight_bp > before.weight_bp:
            assert before.pending is not None
            assert before.pending.forced
        if self.lacking and event.kind is On.PERSISTED and before.pending is not None and asked is None:
            self.met["called off"] += self.state.weight_bp == before.weight_bp

    def the_table_has_a_row(self, before: Rollout, event: RolloutEvent) -> None:
        after = self.state.state
        published = event.kind is On.PERSISTED and before.pending is not None and after is before.pending.to
        assert after is before.state or published or (before.state, event.kind, after) in LEADS_TO

    def an_increase_goes_no_further_than_it_may(self, before: Rollout, event: RolloutEvent) -> None:
        """Each kind of decision leads to the weight that it is for, by the configuration of this moment."""
        asked = self.state.pending
        if asked is None or asked is before.pending:
            return
        assert asked.weight_bp == asked.phase.weight_bp
        weights = [phase.weight_bp for phase in self.plan.phases]
        if asked.kind == "start":
            assert asked.weight_bp == weights[0]
        elif asked.kind == "resume" and before.state is not State.COMPLETED:
            assert asked.weight_bp <= self.decided_bp
            assert asked.weight_bp <= before.weight_bp or not before.weight_bp
            assert not any(asked.weight_bp < weight <= (before.resumable_bp or 0) for weight in weights)
        elif asked.kind == "complete":
            assert asked.weight_bp == before.weight_bp
        else:
            assert asked.weight_bp == min(weight for weight in weights if weight > before.weight_bp)
        if before.state is State.COMPLETED:
            self.met["beyond"] += 1
        if before.weight_bp and asked.kind == "resume":
            self.met["resumed"] += 1

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
            self.decided_bp = effect.weight_bp
        assert effect.weight_bp <= max(self.decided_bp, self.word.weight_bp)
        self.lowered_last = effect.weight_bp < self.word.weight_bp or effect.weight_bp == 0
        self.show_split()
        self.burn()  # between the split and the word
        self.a_run_keeps_its_split(effect)
        if effect.weight_bp and not effect.pinned:
            self.lease_until = self.mono + LEASE_S
        self.word = Word(self.word.generation + 1, effect.weight_bp, effect.pinned)
        assert self.word.generation == self.state.generation

    def a_run_keeps_its_split(self, effect: PublishWeight) -> None:
        """Only from nothing is another taken: else visitors would change sides without a decision."""
        if not effect.weight_bp:
            return
        workers, pending = self.workers_split(), None if self.saved is None else self.saved.pending
        if not self.word.weight_bp and workers != self.run_split:
            begins = pending is not None and pending.kind == "start" and pending.weight_bp == effect.weight_bp
            # A start that was published, and lowered to 0 before it was written as done, is no run that goes on.
            assert begins or f"{self.run_split.key:032x}" not in self.written_splits
            self.met["split"] += 1
            self.run_split = workers
        assert workers == self.run_split

    # What may happen.

    def all_goes_well(self) -> None:
        """The next step up, with a store and workers that answer: what takes walks to where it is interesting."""
        self.lacking = ""
        self.checkpoint_is_read()
        self.loop_goes_round()
        onward = {
            State.RUNNING: On.PROMOTE,
            State.PAUSED: On.RESUME,
            State.ROLLED_BACK: On.RESUME,
            State.ROLLING_BACK: On.DRAINED,
            State.COMPLETED: On.ADVANCE,
        }
        self.apply(RolloutEvent(onward.get(self.state.state, On.START)))
        self.saved = self.state
        self.saving, self.dirty = None, False
        if self.state.pending is not None:
            self.apply(RolloutEvent(On.PERSISTED, revision=self.state.revision))
        self.apply(RolloutEvent(On.SEEN))

    def command(self) -> None:
        kind, before = self.random.choice((*COMMANDS, *RAISING)), self.word.weight_bp
        if self.waiting and kind in RAISES:
            return
        to = self.random.choice((None, "previous", "start", *(phase.name for phase in self.plan.phases)))
        forced = self.random.random() < 0.2
        resume = self.random.random() < 0.5
        was, taken = self.apply(RolloutEvent(kind, resume=resume, to=to, detected=self.mono, forced=forced))
        if self.lacking and not taken:
            # The data holds increases alone: what is refused would go up, or is refused with it as well.
            _, effects = step(self.plan, was, RolloutEvent(kind, resume=resume, to=to), self.now())
            held = not any(isinstance(effect, Refuse) for effect in effects)
            assert not held or kind in RAISES
            self.met["held"] += held
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
            written, self.saving = self.saving, None
            self.saved = written
            self.apply(RolloutEvent(On.PERSISTED, revision=written.revision))

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

    def the_target_comes_to_lack_something(self) -> None:
        """Changes are lost, or a compare finds differences; or they are mended."""
        self.lacking = "" if self.lacking or self.random.random() < 0.3 else "3 changes were lost"

    def it_comes_to_lack_something_at_the_last_moment(self) -> None:
        """Between the request of an increase and the store's answer."""
        if self.waiting:
            return
        self.apply(
            RolloutEvent(self.random.choice((On.START, On.PROMOTE, On.RESUME)), forced=self.random.random() < 0.3)
        )
        self.store_begins()
        self.the_target_comes_to_lack_something()
        self.store_has_written()

    def clocks_jump(self) -> None:
        self.mono += self.random.choice((0.1, 3.0, 9.9, 10.0, 400.0))
        self.unix += self.random.randint(-(10**6), 10**6)

    def the_configuration_is_edited(self) -> None:
        """Phases are added, taken out, renamed or given another weight, as an operator's editor can."""
        phases = list(self.plan.phases)
        for _ in range(self.random.randint(1, 3)):
            place = self.random.randrange(len(phases))
            weight = self.random.choice((1, 5, 10, 25, 40, 50, 60, 75, 90, 100))
            taken = {phase.weight_bp for phase in phases}
            kind = self.random.choice(("add", "remove", "rename", "reweight", "put back"))
            if kind == "add" and weight * 100 not in taken:
                phases.append(Phase(self.a_name(phases), float(weight)))
            elif kind == "remove" and len(phases) > 1:
                del phases[place]
            elif kind == "rename":
                phases[place] = Phase(self.a_name(phases), phases[place].weight)
            elif kind == "reweight" and weight * 100 not in taken:
                phases[place] = Phase(phases[place].name, float(weight))
            elif kind == "put back":
                phases = list(DEFAULT_PHASES)
            phases.sort(key=lambda phase: phase.weight)
        if self.random.random() < 0.2:
            self.names += 1
            self.was, self.name = self.name, f"name-{self.names}"
            self.met["renamed"] += self.word.weight_bp > 0
        self.plan = replace(self.plan, phases=tuple(phases), on_breach=self.random.choice(("previous", "start")))
        self.met["gone"] += self.word.weight_bp > 0 and self.word.weight_bp not in {p.weight_bp for p in phases}

    def a_name(self, phases: list[Phase]) -> str:
        names = [name for name in "abcdefgh" if name not in {phase.name for phase in phases}]
        return self.random.choice(names)

    def reload(self) -> None:
        """A new control process with an edited configuration; the one before had written what it knew."""
        if not self.waiting and self.state.pending is None:
            self.saved = self.state
        self.the_configuration_is_edited()
        self.crash()

    def restart_with_other_workers(self) -> None:
        """Everything ends and begins with a board of another layout, which has the words of the one before."""
        if self.random.random() < 0.5:
            self.the_configuration_is_edited()
        self.word = Word(*self.word)
        self.mono += 0.5
        self.crash_after_writing()

    def crash(self) -> None:
        self.fuse, self.dirty, self.saving = -1, False, None
        self.begin()

    def crash_after_writing(self) -> None:
        """What the store was at has come through, and nobody heard of it."""
        if self.saving is not None:
            self.saved = self.saving
        self.crash()

    def reboot(self) -> None:
        self.word, self.split, self.lease_until, self.mono = Word(), NO_SPLIT, 0.0, 5.0
        if self.random.random() < 0.3:
            self.the_configuration_is_edited()
        self.crash()

    # What always holds.

    def the_board_shows_the_state(self) -> None:
        assert self.word == (self.state.generation, self.state.weight_bp, self.state.pinned)
        assert self.word.weight_bp in self.weights
        assert self.word.weight_bp <= FULL_BP

    def visitors_are_where_their_run_put_them(self) -> None:
        if self.saved is not None:
            self.written_splits.add(self.saved.split.key)
        if self.word.weight_bp:
            assert self.workers_split() == self.run_split
            assert self.waiting or splitkey.for_board(self.state.split) == self.run_split

    def the_state_is_a_legal_one(self) -> None:
        s = self.state
        assert (s.state is State.ROLLING_BACK) == (s.descent is not None)
        assert s.pinned == (s.state is State.COMPLETED)
        if s.state is State.RUNNING:
            assert s.phase is not None
            assert s.weight_bp == s.phase.weight_bp
        if s.phase is not None:
            assert s.weight_bp in (0, s.phase.weight_bp)
        assert s.resumable_bp is None or s.resumable_bp <= max(self.decided_bp, s.weight_bp)
        if s.weight_bp:
            assert s.resumable_bp == s.weight_bp
        if s.state is State.COMPLETED:
            assert s.weight_bp
        if s.state in (State.IDLE, State.ABORTED):
            assert s.weight_bp == 0
        if s.pending is not None:
            assert s.state is not State.ROLLING_BACK
        if s.soaking_since is not None:
            assert s.verified
            assert s.state is State.RUNNING


def completed_or(condition: bool, s: Rollout) -> bool:
    """After a reboot a completed migration is where it was; anything else is no higher than the workers had it."""
    return condition or s.state is State.COMPLETED


LIKELY: dict[Callable[[World], None], int] = {
    World.all_goes_well: 7,
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
    World.the_target_comes_to_lack_something: 2,
    World.it_comes_to_lack_something_at_the_last_moment: 1,
    World.crash: 1,
    World.crash_after_writing: 1,
    World.reboot: 1,
    World.reload: 1,
    World.restart_with_other_workers: 1,
}


def walk(seed: int, met: Counter[tuple[State, bool]]) -> World:
    """One walk; fails with what led there."""
    world = World(seed)
    for what in world.random.choices(list(LIKELY), list(LIKELY.values()), k=STEPS_A_WALK):
        world.trail.append(f"{world.state.state.value} {world.state.weight_bp}: {what.__name__}")
        try:
            what(world)
            world.the_board_shows_the_state()
            world.the_state_is_a_legal_one()
            world.visitors_are_where_their_run_put_them()
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error}\n" + "\n".join(world.trail[-10:]))
        met[world.state.state, world.state.pending is not None] += 1
    return world


def test_no_walk_ends_in_an_illegal_state_or_above_the_weight_it_may_have() -> None:
    met: Counter[tuple[State, bool]] = Counter()
    worlds = [walk(seed, met) for seed in range(STEPS // STEPS_A_WALK)]
    read_late = [late for world in worlds for late in world.read_late]
    # The walks must have been where it is interesting, or they have shown nothing.
    assert {state for state, _ in met} == set(State)
    assert sum(count for (_, pending), count in met.items() if pending) > STEPS / 100
    assert min(read_late.count(True), read_late.count(False)) > STEPS / 1000
    for what in ("gone", "resumed", "beyond", "split", "renamed", "held", "forced", "called off"):
        assert sum(world.met[what] for world in worlds) > STEPS / 10_000
