"""A migration's data as the control API shows it, and what it is asked to do with it. Pure."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from control.data.messages import TaskKind, TaskResult
from control.data.state import AskedTask, DataGauges, DataPair, DataState, counted, holding, lack
from control.plan.times import Timestamp, rfc3339

COLLECTIONS_MAX: Final = 100  # patterns in one call
PATTERN_MAX: Final = 1500  # characters of one: no path of Firestore's is longer
SAMPLE_MAX: Final = 1_000_000

Pattern = Annotated[str, Meta(min_length=1, max_length=PATTERN_MAX)]
Side = Literal["source", "target"]
DataAction = Literal["copy", "compare", "repair", "stop"]


class DataBehind(Struct, frozen=True):
    """Changes that the other side has yet to take."""

    changes: int
    oldest_s: float  # how old the oldest is that the target lacks; 0 where it lacks none


class ComparedInShort(Struct, frozen=True):
    """The newest compare."""

    at: Timestamp
    equal: bool
    differences: int
    documents: int


class TaskInShort(Struct, frozen=True):
    """The task that is under way."""

    kind: TaskKind
    done: int  # documents
    of: int | None  # null: not known yet
    rate: float | None  # documents a second
    left_s: float | None


class DataDocument(Struct, frozen=True):
    """What is known of the data of a migration between document stores."""

    complete: bool  # the target is not known to lack anything
    copied_at: Timestamp | None  # when the last copy of all documents ended
    behind: DataBehind
    lost: int  # changes that one side alone has, since the last copy or equal compare
    compare: ComparedInShort | None
    task: TaskInShort | None
    gated: bool = False  # whether the gate holds: it lacks something, and `gate` is not switched off
    lacks: str | None = None  # what the target is known to lack, in words; null: nothing
    mend: str | None = None  # the command that mends that; null: nothing is to be mended


class DataBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A task to begin, or the one under way to stop."""

    action: DataAction
    from_: Side | None = msgspec.field(default=None, name="from")  # of a repair: the side that is right
    delete: bool = False  # of a repair with `from`: also delete what that side has not
    collections: Annotated[tuple[Pattern, ...], Meta(max_length=COLLECTIONS_MAX)] = ()  # patterns; none: all
    sample: Annotated[int, Meta(ge=1, le=SAMPLE_MAX)] | None = None  # of a compare: so many random documents
    values: bool = False  # of a compare: list differences with both values
    dry_run: bool = False  # of a copy: only say what it would read and write

    def asked(self) -> AskedTask:
        """What a task is to do; not of `stop`."""
        return AskedTask(
            TaskKind(self.action), self.collections, self.from_, self.delete, self.sample, self.values, self.dry_run
        )


class DataAnswer(Struct, frozen=True):
    """The answer to an action: the task that was begun or is told to stop, and the data's document after it."""

    task: str | None  # its `id`; null where there was none to stop
    data: DataDocument


class TaskPrice(Struct, frozen=True):
    """What a task reads and writes, by estimate."""

    reads: int
    writes: int
    usd: float | None


class EndedTask(Struct, frozen=True):
    """A task's end, or its state while it is under way."""

    id: str
    kind: TaskKind
    actor: str
    began_at: Timestamp
    ended_at: Timestamp | None  # null: it is under way
    failure: str | None  # why it did not do its work: `unreachable`, `refused`, `stopped` or `crashed`
    message: str  # in words, where it failed; else empty
    cost: TaskPrice | None  # by estimate; null before the task has said it
    result: TaskResult | None  # null while it is under way, or where it failed
    differences: int
    documents: int


class Difference(Struct, frozen=True):
    """A document that is not the same on both sides."""

    path: str
    kind: Literal["missing_on_target", "missing_on_source", "different"]
    fields: tuple[str, ...] = ()  # that differ
    reason: str | UnsetType = UNSET  # why a repair could not write it
    source: msgspec.Raw | UnsetType = UNSET  # the values, where the compare was asked for them
    target: msgspec.Raw | UnsetType = UNSET


class DifferencesPage(Struct, frozen=True):
    """A page of what the newest compare or repair left different, in the order of paths."""

    items: tuple[Difference, ...]
    next_cursor: str | None  # the `cursor` that fetches the next page; null on the last page


def data_document(state: DataState, gauges: DataGauges, pair: DataPair, task: TaskInShort | None) -> DataDocument:
    """The whole document."""
    state = counted(state, gauges)
    found = lack(state, gauges, pair)
    last = state.compare
    compared = (
        None if last is None else ComparedInShort(rfc3339(last.at), last.equal, last.differences, last.documents)
    )
    return DataDocument(
        complete=found is None,
        gated=holding(state, gauges, pair) is not None,
        lacks=None if found is None else found.what,
        mend=None if found is None else found.mend,
        copied_at=rfc3339(state.copied_at),
        behind=DataBehind(gauges.pending, round(gauges.oldest_s, 3)),
        lost=state.lost,
        compare=compared,
        task=task,
    )
