"""What the audit trail says of tasks on a migration's data. Pure."""

from __future__ import annotations

from typing import Any, Final

from control.data.messages import TaskDone, TaskEnd, TaskKind
from control.data.state import AskedTask, BegunTask
from control.rollout.model import Entry

PHASEGATE: Final = "phasegate"

# What each kind of task is called once it has ended.
_ENDED: Final = {TaskKind.COPY: "copied", TaskKind.COMPARE: "compared", TaskKind.REPAIR: "repaired"}


def of_task(task: BegunTask) -> dict[str, Any]:
    """Which task it is."""
    return {"task": task.id, "kind": task.orders.kind.value}


def is_recorded(task: BegunTask) -> bool:
    """Whether beginning and end are in the audit trail: of a compare of phasegate's own only what it found is."""
    return task.actor != PHASEGATE and not task.orders.dry_run


def begun_entry(task: BegunTask) -> Entry:
    """Somebody has begun it."""
    return Entry(task.orders.kind.value, task.actor, of_task(task) | _asked(task.orders))


def ended_entry(task: BegunTask, end: TaskEnd, actor: str) -> Entry:
    """It has ended, with what came of it. ``actor`` is who writes that down."""
    if not isinstance(end, TaskDone):
        return Entry("data_task_failed", actor, of_task(task) | {"failure": end.kind, "reason": end.message})
    counts: dict[str, Any] = {"documents": end.documents, "differences": end.differences}
    counts |= {name: getattr(end.result, name) for name in ("repaired", "copied", "skipped_newer")}
    detail = of_task(task) | {name: count for name, count in counts.items() if isinstance(count, int) and count}
    return Entry(_ENDED[task.orders.kind], actor, detail)


def _asked(asked: AskedTask) -> dict[str, Any]:
    """What of a task is not as it is by itself."""
    given = {
        "from": asked.from_,
        "delete": asked.delete,
        "collections": list(asked.collections),
        "sample": asked.sample,
        "values": asked.values,
        "dry_run": asked.dry_run,
    }
    return {name: value for name, value in given.items() if value}
