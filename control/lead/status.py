"""A migration's status as the control API shows it. Pure: what is known in, a document out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import to_builtins

from control.figures.counts import WorkerState
from control.judge.document import verdict_document
from control.judge.verdict import PhaseVerdict
from control.plan.phases import Phase
from control.plan.times import Now, rfc3339
from control.rollout.model import Rollout

Json = dict[str, Any]


def status_document(
    name: str,
    phases: Sequence[Phase],
    s: Rollout,
    now: Now,
    verdict: PhaseVerdict | None,
    arms: Mapping[str, Json],
    checkpoint: Json,
    workers: Sequence[WorkerState],
) -> Json:
    """The whole status."""
    return {
        "migration": name,
        "state": s.state.value,
        "revision": s.revision,
        "weight": s.weight_bp / 100,
        "phase": None if s.phase is None else _phase(phases[s.phase], s, now),
        "phases": [phase_document(phase) for phase in phases],
        "verdict": to_builtins(verdict_document(verdict)),
        "arms": dict(arms),
        "last_rollback": to_builtins(s.last_rollback),
        "checkpoint": checkpoint,
        "workers": [_worker(worker) for worker in workers],
    }


def _phase(phase: Phase, s: Rollout, now: Now) -> Json:
    return {
        "index": s.phase,
        "name": phase.name,
        "weight": phase.weight,
        "entered_at": rfc3339(s.entered_at),
        "soaked_s": round(s.soaked(now.mono), 3),
        "min_soak_s": float(phase.min_soak_s),
        "rollback_within_s": float(phase.rollback_within_s),
    }


def phase_document(phase: Phase) -> Json:
    """A phase as it is configured."""
    return {
        "name": phase.name,
        "weight": phase.weight,
        "min_soak_s": float(phase.min_soak_s),
        "rollback_within_s": float(phase.rollback_within_s),
        "approval": phase.approval,
    }


def _worker(worker: WorkerState) -> Json:
    return {
        "slot": worker.slot,
        "pid": worker.pid,
        "generation": worker.generation,
        "inflight_target": worker.inflight_target + worker.inflight_old,
        "heartbeat_age_ms": round(worker.heartbeat_age_s * 1000, 3),
    }
