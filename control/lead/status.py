"""A migration's status, put together from what is known of it. Pure: what is known in, a document out."""

from __future__ import annotations

from collections.abc import Sequence

from control.data.documents import DataDocument
from control.figures.counts import WorkerState
from control.judge.document import verdict_document
from control.judge.verdict import PhaseVerdict
from control.lead.documents import (
    ArmsStatus,
    CheckpointStatus,
    CurrentPhase,
    OpensAt,
    PlannedPhase,
    Status,
    Wait,
    WorkerStatus,
)
from control.plan.phases import Phase
from control.plan.times import Now, rfc3339
from control.rollout.model import Rollout, RolloutPlan


def status_document(
    name: str,
    plan: RolloutPlan,
    s: Rollout,
    now: Now,
    verdict: PhaseVerdict | None,
    arms: ArmsStatus,
    checkpoint: CheckpointStatus,
    workers: Sequence[WorkerState],
    waits: tuple[Wait, ...],
    opens: OpensAt | None,
    data: DataDocument | None,
) -> Status:
    """The whole status."""
    current = plan.current(s)
    return Status(
        migration=name,
        state=s.state,
        revision=s.revision,
        weight=s.weight_bp / 100,
        phase=None if current is None else _current(plan.phases.index(current), current, s, now),
        phases=tuple(_planned(phase) for phase in plan.phases),
        verdict=verdict_document(verdict),
        arms=arms,
        last_rollback=s.last_rollback,
        checkpoint=checkpoint,
        workers=tuple(_worker(worker) for worker in workers),
        waits=waits,
        opens=opens,
        data=data,
    )


def _current(index: int, phase: Phase, s: Rollout, now: Now) -> CurrentPhase:
    return CurrentPhase(
        index=index,
        name=phase.name,
        weight=phase.weight,
        entered_at=rfc3339(s.entered_at),
        soaked_s=round(s.soaked(now.mono), 3),
        min_soak_s=float(phase.min_soak_s),
        rollback_within_s=float(phase.rollback_within_s),
    )


def _planned(phase: Phase) -> PlannedPhase:
    return PlannedPhase(
        name=phase.name,
        weight=phase.weight,
        min_soak_s=float(phase.min_soak_s),
        rollback_within_s=float(phase.rollback_within_s),
        approval=phase.approval,
    )


def _worker(worker: WorkerState) -> WorkerStatus:
    return WorkerStatus(
        slot=worker.slot,
        pid=worker.pid,
        generation=worker.generation,
        inflight_target=worker.inflight_target + worker.inflight_old,
        heartbeat_age_ms=round(worker.heartbeat_age_s * 1000, 3),
    )
