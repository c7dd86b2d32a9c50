"""Builds the report of a run from the audit trail: its phases, rollbacks and criteria. Pure.

``build_report`` reads the entries since the run's start. A finished phase's figures are in its ``phase_left`` entry;
the current phase's figures come from the status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from control.figures.documents import BothArms, Summary
from control.lead.documents import ArmStatus, PhaseLeft, Status
from control.plan.phases import Phase, Thresholds
from control.plan.times import rfc3339
from control.report.documents import Criterion, Report, ReportedData, ReportedPhase, TrailHead
from control.rollout.model import Rollback, State
from control.store.entry import AuditLine

GOING_ON: Final = (State.RUNNING, State.PAUSED)  # states in which the current phase belongs to the run


def build_report(
    name: str,
    phases: Sequence[Phase],
    thresholds: Thresholds,
    lines: Sequence[AuditLine],
    status: Status,
    adapters: Mapping[str, int],
    head: TrailHead,
) -> Report:
    """The report of a run. ``lines`` are the run's audit entries, oldest first. ``adapters`` counts each adapter's
    target requests since the last change of weight. ``head`` is the last entry of the trail.
    """
    left = _left(lines)
    rollbacks = tuple(msgspec.convert(line.detail, Rollback) for line in lines if line.kind == "rollback_complete")
    current = _going_on(status)
    return Report(
        migration=name,
        outcome=status.state,
        started_at=rfc3339(lines[0].at) if lines else None,
        ended_at=_ended_at(lines, status.state),
        phases=(*(_phase(phase) for phase in left), *([current] if current is not None else [])),
        rollbacks=rollbacks,
        criteria=tuple(_criteria(phases, thresholds, left, rollbacks, status, adapters)),
        audit=head,
        data=_data(status),
    )


def _data(status: Status) -> ReportedData | None:
    data = status.data
    if data is None:
        return None
    return ReportedData(data.complete, data.copied_at, data.lost, data.compare, data.gated, data.mend)


def _left(lines: Iterable[AuditLine]) -> list[PhaseLeft]:
    """Each phase that was left, once: a cancelled advance leaves an earlier entry, so a phase's last one counts."""
    left = [msgspec.convert(line.detail, PhaseLeft) for line in lines if line.kind == "phase_left"]
    return list({phase.entered_at: phase for phase in left}.values())


def _phase(left: PhaseLeft) -> ReportedPhase:
    return ReportedPhase(
        name=left.name,
        weight=left.weight,
        entered_at=rfc3339(left.entered_at),
        left_at=rfc3339(left.left_at),
        arms=left.arms,
        target_share=left.target_share,
        verdict=left.verdict,
        unsplit=left.unsplit,
        copies=left.copies,
        copy_faults=left.copy_faults,
    )


def _going_on(status: Status) -> ReportedPhase | None:
    phase = status.phase
    if phase is None or status.state not in GOING_ON:
        return None
    arms = BothArms(_summary(status.arms.source), _summary(status.arms.target))
    requests = arms.source.requests + arms.target.requests
    return ReportedPhase(
        name=phase.name,
        weight=phase.weight,
        entered_at=phase.entered_at,
        left_at=None,
        arms=arms,
        target_share=round(arms.target.requests / requests, 6) if requests else None,
        verdict=status.verdict,
        unsplit=status.unsplit,
        copies=sum(each.copies for each in status.copies),
        copy_faults=sum(each.faults for each in status.copies),
    )


def _summary(arm: ArmStatus) -> Summary:
    return Summary(arm.requests, arm.errors, arm.error_rate, arm.p50_ms, arm.p95_ms, arm.p99_ms)


def _ended_at(lines: Sequence[AuditLine], state: State) -> str | None:
    if state in (*GOING_ON, State.ROLLING_BACK):
        return None
    ends = [line.at for line in lines if line.kind in ("complete", "rollback_complete", "abort", "reset")]
    return rfc3339(ends[-1]) if ends else None


def _criteria(
    phases: Sequence[Phase],
    thresholds: Thresholds,
    left: Sequence[PhaseLeft],
    rollbacks: Sequence[Rollback],
    status: Status,
    adapters: Mapping[str, int],
) -> Iterable[Criterion]:
    completed = status.state is State.COMPLETED
    names = {phase.name for phase in left}
    missing = [phase.name for phase in phases if phase.name not in names]
    evidence = f"{len(left)} phases left, {len(rollbacks)} rollbacks"
    if missing:
        evidence += f"; not reached or not left: {', '.join(missing)}"
    yield Criterion("all phases without a rollback", completed and not missing and not rollbacks, evidence)

    target = [phase.arms.target for phase in left]
    requests, errors = sum(arm.requests for arm in target), sum(arm.errors for arm in target)
    rate = errors / requests if requests else None
    evidence = "no target requests" if rate is None else f"{errors} of {requests} target requests failed ({rate:.3%})"
    within = rate is not None and rate <= thresholds.error_limit
    yield Criterion("error rate", within, f"{evidence}, limit {thresholds.error_limit:.3%}")

    yield Criterion("latency", *_percentiles([(f"{phase.name}: ", phase.arms.target) for phase in left], thresholds))

    last = left[-1] if left else None
    full = (
        completed
        and last is not None
        and last.name == phases[-1].name
        and last.weight == 100
        and last.target_share == 1.0
        and last.soaked_s >= phases[-1].min_soak_s
    )
    evidence = (
        "the last phase was not left"
        if last is None or last.name != phases[-1].name
        else f"share of the target {last.target_share}, soaked {last.soaked_s:.1f} s of {phases[-1].min_soak_s:g} s"
    )
    yield Criterion("100 % on the target for the last phase's soak", full, evidence)

    validations = sum(phase.validations for phase in left)
    failed = sum(phase.validations_failed for phase in left)
    evidence = f"{validations} validations, {failed} asked for a rollback"
    yield Criterion("every validation passed", validations > 0 and failed == 0, evidence)

    yield from _after(phases, thresholds, left, status, adapters)


def _percentiles(arms: Iterable[tuple[str, Summary]], thresholds: Thresholds) -> tuple[bool, str]:
    """Whether every arm that had requests kept both limits, and the figures of each arm after its label."""
    measured = [
        (label, arm.p95_ms, arm.p99_ms) for label, arm in arms if arm.p95_ms is not None and arm.p99_ms is not None
    ]
    within = all(p95 <= thresholds.p95_ms and p99 <= thresholds.p99_ms for _, p95, p99 in measured)
    figures = "; ".join(f"{label}p95 {p95:.1f} ms, p99 {p99:.1f} ms" for label, p95, p99 in measured)
    return bool(measured) and within, figures or "no target requests"


def _after(
    phases: Sequence[Phase],
    thresholds: Thresholds,
    left: Sequence[PhaseLeft],
    status: Status,
    adapters: Mapping[str, int],
) -> Iterable[Criterion]:
    """The criteria after completion: requests of the last phase and since, with all traffic on the target."""
    last = left[-1] if left and left[-1].name == phases[-1].name else None
    completed = status.state is State.COMPLETED and last is not None
    served = {
        name: requests + (last.adapters.get(name, 0) if last is not None else 0)
        for name, requests in adapters.items()
    }
    evidence = ", ".join(f"{name} {requests} answers" for name, requests in served.items()) or "no adapters"
    answering = completed and bool(served) and all(served.values())
    yield Criterion("each adapter answers from the target", answering, evidence)

    arms = [_summary(status.arms.target)] + ([last.arms.target] if last is not None else [])
    used = [arm for arm in arms if arm.requests]
    requests, errors = sum(arm.requests for arm in used), sum(arm.errors for arm in used)
    calm = completed and requests > 0 and errors / requests <= thresholds.error_limit
    yield Criterion(
        "no rise in errors", calm, f"{errors} of {requests} target requests failed with all on the target"
    )

    within, evidence = _percentiles([("", arm) for arm in used], thresholds)
    yield Criterion("latency reviewed", completed and within, evidence)
