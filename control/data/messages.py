"""What control and the process of a task say to each other: one JSON document a line, each way. Pure.

Control writes the orders first, and while phasegate serves ``ParentLine`` after them. The task writes
what it costs first, then how far it is, and as its last line whether it is done.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from backends.copy.calm import ArrivalLook


class TaskKind(StrEnum):
    """What a task does."""

    COPY = "copy"  # write to the target what it lacks of the source's documents
    COMPARE = "compare"  # say where the two sides differ
    REPAIR = "repair"  # a compare that mends what it finds


class OrderedTask(Struct, frozen=True):
    """What a task is to do: the first line on its standard input. ``plan`` is a ``proxy.settings.Plan``, as JSON.

    ``cost`` only says what a copy would cost. It is no field of a copy: a task that did not know it would write.
    """

    kind: Literal["copy", "compare", "repair", "cost"]
    migration: str
    plan: msgspec.Raw
    run_dir: str
    rate: int  # writes a second with which a copy and a repair begin
    collections: tuple[str, ...] = ()  # patterns; none: all
    from_: str | None = msgspec.field(default=None, name="from")  # of a repair: the side that is right
    delete: bool = False  # of a repair: also what the side that is right has not
    sample: int | None = None  # of a compare: so many random documents, and not all
    values: bool = False  # of a compare: whether differences are listed with both values
    served: bool = True  # phasegate serves: others write meanwhile
    report: str | None = None


class ParentLine(Struct, frozen=True, omit_defaults=True):
    """What control says while phasegate serves: what has reached both sides, or that the task is to end in order."""

    arrival: ArrivalLook | None = None
    stop: bool = False


class TaskCost(Struct, frozen=True, tag_field="event", tag="cost"):
    """What the task will cost, by estimate."""

    reads: int = 0
    writes: int = 0
    usd: float | None = None


class TaskProgress(Struct, frozen=True, tag_field="event", tag="progress"):
    """How far it is."""

    done: int
    of: int | None = None  # null: not known yet
    rate: float | None = None  # documents a second
    left_s: float | None = None  # null: not known yet
    collection: str | None = None


class ComparedCollection(Struct, frozen=True):
    """A collection on both sides, in whole numbers of documents."""

    name: str  # its pattern, such as `scans/*/results`
    source: int
    target: int
    equal: int
    missing_on_target: int
    missing_on_source: int
    different: int
    pending: int  # that were still on their way when they were looked at last


class SampledShare(Struct, frozen=True):
    """What a compare of some random documents can say of all."""

    documents: int  # looked at
    share: float  # of differences that would have been found with this probability
    confidence: float


class SkippedDocuments(Struct, frozen=True):
    """Documents of one side that cannot be read."""

    count: int
    documents: dict[str, str] = {}  # some of their paths: why


class TaskResult(Struct, frozen=True):
    """What came of a task: the document that the command line prints at its end."""

    equal: bool | None = None  # null: nothing was compared
    collections: tuple[ComparedCollection, ...] = ()
    repaired: int = 0
    copied: int | UnsetType = UNSET  # of a copy alone
    skipped_newer: int | UnsetType = UNSET  # of a copy alone: the target had a newer document
    sample: SampledShare | UnsetType = UNSET  # of a compare of some documents alone
    skipped: dict[str, SkippedDocuments] | UnsetType = UNSET  # by side


class TaskDone(Struct, frozen=True, tag_field="event", tag="done"):
    """It is done; its last line. ``differences`` are left, of ``documents``."""

    result: TaskResult
    differences: int = 0
    documents: int = 0


class TaskFailed(Struct, frozen=True, tag_field="event", tag="failed"):
    """It is not done, and why; its last line.

    ``kind`` is `unreachable`, `refused` or `stopped`; what control itself says of a process that did not say it is
    `crashed`.
    """

    message: str
    kind: str = "refused"


class NotUnderstoodError(Exception):
    """A line is none of a task's messages; the message says why."""


TaskMessage = TaskCost | TaskProgress | TaskDone | TaskFailed
TaskEnd = TaskDone | TaskFailed

_decoder: Final = msgspec.json.Decoder(TaskMessage)


def line(message: OrderedTask | ParentLine) -> bytes:
    """A message to a task, with the end of its line."""
    return msgspec.json.encode(message) + b"\n"


def understood(written: bytes) -> TaskMessage:
    """A line of a task's. Raises ``NotUnderstoodError`` where it is none of its messages."""
    try:
        return _decoder.decode(written)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotUnderstoodError(str(error)) from None
