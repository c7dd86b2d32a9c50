"""What is known of a migration's data: what each event makes of it, and whether the target lacks something. Pure.

``DataState`` is a value in the migration's checkpoint. It counts what happened, by numbers that only grow: a change
is *missed* where one side has taken it and the other never will (it was lost, or no mirror ran). What was missed
before a copy, or an equal compare of all documents, had begun is settled by it. What is missed while it runs is not:
the task may have passed that document already.

``holding`` is the gate: whether a phase may begin on this target.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from control.data.messages import OrderedTask, TaskDone, TaskKind
from control.plan.gates import Hold, HoldKind


class DataPair(NamedTuple):
    """The two backends of a migration, as far as its data is concerned."""

    migration: str
    identity: str  # another text: other stores, of which nothing is known yet
    gate: bool = True  # as configured
    fixtures: str | None = None  # the digest of what the source itself begins with; None: it is not known


class DataGauges(NamedTuple):
    """What a board says of the changes of one migration."""

    board: str  # which board it is
    pending: int  # changes that the other side has yet to take
    oldest_s: float  # how old the oldest of them is that the target lacks; 0 where it lacks none
    lost: int  # changes that were given up, ever: a new board goes on with the count, or begins at 0
    alone: int = 0  # writes that the source took while no mirror ran, since the board was made


class LastCompare(Struct, frozen=True):
    """The newest compare of all documents, or a newer one of some of them that found differences."""

    at: float  # Unix time of its end
    equal: bool
    differences: int
    documents: int


class AskedTask(Struct, frozen=True):
    """What somebody wants a task to do."""

    kind: TaskKind
    collections: tuple[str, ...] = ()
    from_: str | None = None
    delete: bool = False
    sample: int | None = None
    values: bool = False
    dry_run: bool = False

    @property
    def whole(self) -> bool:
        """Whether it goes through all documents of both sides."""
        return not self.collections and self.sample is None and not self.dry_run


class BegunTask(Struct, frozen=True):
    """A task, and how the world was when it began."""

    id: str
    actor: str  # `phasegate` for its own compares
    at: float  # Unix time
    missed: int  # changes missed before it
    orders: AskedTask


class DataState(Struct, frozen=True):
    """All that is known of a migration's data. Times are Unix times; None: never."""

    identity: str = ""  # of the pair that this is known of
    copied_at: float | None = None  # the newest end of a copy of all documents
    equal_at: float | None = None  # the newest end of an equal compare of all documents
    seed: str | None = None  # the digest of the fixtures that the target was seeded with
    missed: int = 0  # changes, ever
    settled: int = 0  # of them before the newest copy or equal compare of all documents
    board: str = ""  # the board that was read last
    read_lost: int = 0  # and its counts
    read_alone: int = 0
    differences: int = 0  # documents that were found to differ and are not known to be mended
    missing: int = 0  # of them on the target
    unsure: bool = False  # the newest copy left documents that differ, and nothing was compared since
    compare: LastCompare | None = None
    copying: BegunTask | None = None  # a copy that goes on after control was away

    @property
    def lost(self) -> int:
        """Changes that were missed and are not settled."""
        return self.missed - self.settled


# What happens to it.


def of_pair(state: DataState, pair: DataPair) -> DataState:
    """What is known of this pair of stores: nothing, where the state is of another pair."""
    return state if state.identity == pair.identity else DataState(identity=pair.identity)


def counted(state: DataState, gauges: DataGauges) -> DataState:
    """After a look at the board."""
    if (state.board, state.read_lost, state.read_alone) == (gauges.board, gauges.lost, gauges.alone):
        return state
    lost = gauges.lost - (state.read_lost if gauges.lost >= state.read_lost else 0)
    alone = gauges.alone - (state.read_alone if state.board == gauges.board else 0)
    return replace(
        state,
        missed=state.missed + lost + max(0, alone),
        board=gauges.board,
        read_lost=gauges.lost,
        read_alone=gauges.alone,
    )


def begun(state: DataState, task: BegunTask) -> DataState:
    """A task begins; a copy is remembered until it ends."""
    is_copy = task.orders.kind is TaskKind.COPY and not task.orders.dry_run
    return replace(state, copying=task) if is_copy else state


def failed(state: DataState, task: BegunTask) -> DataState:
    """A task ended without having done its work, or was stopped: whoever wants it begins it again."""
    return replace(state, copying=None) if state.copying is not None and state.copying.id == task.id else state


def done(state: DataState, task: BegunTask, end: TaskDone, at: float) -> DataState:
    """A task has done its work."""
    state = failed(state, task)
    if task.orders.dry_run:
        return state
    return (_copied if task.orders.kind is TaskKind.COPY else _compared)(state, task, end, at)


def _copied(state: DataState, task: BegunTask, end: TaskDone, at: float) -> DataState:
    """What the target lacked it has now; what it has in another form a copy leaves as it is."""
    if not task.orders.whole:
        return state
    return replace(
        state,
        copied_at=at,
        settled=max(state.settled, task.missed),
        differences=max(0, state.differences - state.missing),
        missing=0,
        unsure=end.differences > 0,
        copying=None,  # one that another process left unfinished has nothing more to do
    )


def _compared(state: DataState, task: BegunTask, end: TaskDone, at: float) -> DataState:
    equal = end.differences == 0 and end.result.equal is not False
    if not task.orders.whole and equal:
        return state  # of the other documents it says nothing
    found = LastCompare(at, equal, end.differences, end.documents)
    missing = min(end.differences, sum(one.missing_on_target for one in end.result.collections))
    if not task.orders.whole:  # what is known of the other documents stays known
        left = max(state.differences, end.differences)
        return replace(state, compare=replace(found, differences=left), differences=left)
    if not equal:
        # Not equal without a difference: documents were on their way. What was lost is not settled by that.
        return replace(state, compare=found, differences=end.differences, missing=missing, unsure=False)
    settled = max(state.settled, task.missed)
    return replace(state, compare=found, equal_at=at, settled=settled, differences=0, missing=0, unsure=False)


def seeded(state: DataState, digest: str) -> DataState:
    """The target bears a seed of the fixtures with this digest."""
    return state if state.seed == digest else replace(state, seed=digest)


# The gate.


def was_filled(state: DataState, pair: DataPair) -> bool:
    """Whether the target has ever been known to have the source's documents."""
    own_seed = state.seed is not None and state.seed == pair.fixtures and not state.missed
    return state.copied_at is not None or state.equal_at is not None or own_seed


class Lack(NamedTuple):
    """What the target is known to lack of the source's data."""

    what: str  # with the number
    mend: str  # the command that mends it
    does: str  # what the command does, as the end of a sentence

    def __str__(self) -> str:
        return f"{self.what}; `{self.mend}` {self.does}"


def lack(state: DataState, gauges: DataGauges, pair: DataPair) -> Lack | None:
    """What the target is known to lack; None where nothing."""
    state = counted(state, gauges)
    if not was_filled(state, pair):
        what = "the target lacks the source's data: 0 of its documents are known to have been copied"
        return Lack(what, f"phasegate copy --migration {pair.migration}", "copies them")
    parts = []
    if state.lost:
        parts.append(f"{_number(state.lost, 'change')} reached one side alone since the last copy or equal compare")
    if state.differences:
        verb = "differs" if state.differences == 1 else "differ"
        parts.append(f"{_number(state.differences, 'document')} {verb} between source and target")
    if not parts:
        return None
    mend = f"phasegate compare --migration {pair.migration} --repair"
    return Lack(", and ".join(parts), mend, "finds and mends that")


def lacking(state: DataState, gauges: DataGauges, pair: DataPair) -> str:
    """The same in words, with the number and the command that mends it; "" where nothing."""
    found = lack(state, gauges, pair)
    return "" if found is None else str(found)


def holding(state: DataState, gauges: DataGauges, pair: DataPair) -> Hold | None:
    """The gate: why no phase may begin on the target; None where one may, or the gate is switched off."""
    reason = lacking(state, gauges, pair) if pair.gate else ""
    return Hold(HoldKind.DATA, "data", reason) if reason else None


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# The background compare.


def compare_due_at(state: DataState, pair: DataPair, every_s: float) -> float | None:
    """When all documents are to be compared again, in Unix time; None: never, or not before a first copy.

    At once where a copy has left documents that differ: whether their other form is right a compare says.
    """
    if not every_s or not was_filled(state, pair):
        return None
    if state.unsure and state.copied_at is not None:
        return state.copied_at
    last = state.compare.at if state.compare is not None else None
    return max((at for at in (state.copied_at, last) if at is not None), default=0.0) + every_s


def task_orders(asked: AskedTask, migration: str, plan: bytes, run_dir: str, rate: int) -> OrderedTask:
    """The orders for the task's process. ``plan`` is JSON."""
    return OrderedTask(
        kind="cost" if asked.dry_run else asked.kind.value,
        migration=migration,
        plan=msgspec.Raw(plan),
        run_dir=run_dir,
        rate=rate,
        collections=asked.collections,
        from_=asked.from_,
        delete=asked.delete,
        sample=asked.sample,
        values=asked.values,
    )
