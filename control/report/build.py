"""The report of a run: its phases, rollbacks and criteria, from the audit trail. Pure.

``build_report`` reads the lines since the run's start. What a phase did was written into its ``phase_left`` line when
it was left; the phase going on now comes from the status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from control.plan.phases import Phase, Thresholds
from control.plan.times import rfc3339
from control.store.entry import AuditLine

Json = dict[str, Any]
_ROLLBACK_KEYS: Final = (
    "trigger",
    "reason",
    "from_weight",
    "to_weight",
    "decided_ms",
    "seen_ms",
    "drained_ms",
    "total_ms",
    "within_deadline",
)


def build_report(
    name: str,
    phases: Sequence[Phase],
    thresholds: Thresholds,
    lines: Sequence[AuditLine],
    status: Json,
    adapters: Mapping[str, int],
) -> Json:
    """The report. ``lines`` are the run's, oldest first; ``adapters`` counts each one's target requests since the
    last change of weight.
    """
    passed = _passed(lines)
    rollbacks = [_rollback(line.detail) for line in lines if line.kind == "rollback_complete"]
    now = _going_on(status)
    outcome = status["state"]
    return {
        "migration": name,
        "outcome": outcome,
        "started_at": rfc3339(lines[0].at) if lines else None,
        "ended_at": _ended_at(lines, outcome),
        "phases": [_phase(detail) for detail in passed] + ([now] if now is not None else []),
        "rollbacks": rollbacks,
        "criteria": list(_criteria(phases, thresholds, passed, rollbacks, status, adapters)),
    }


def _passed(lines: Iterable[AuditLine]) -> list[Json]:
    """Each phase that was left, once: an advance that was called off had written the line before its time."""
    found = {line.detail["entered_at"]: line.detail for line in lines if line.kind == "phase_left"}
    return list(found.values())


def _phase(detail: Json) -> Json:
    return {
        "name": detail["name"],
        "weight": detail["weight"],
        "entered_at": rfc3339(detail["entered_at"]),
        "left_at": rfc3339(detail["left_at"]),
        "arms": detail["arms"],
        "target_share": detail["target_share"],
        "verdict": detail["verdict"],
    }


def _rollback(detail: Json) -> Json:
    return {key: detail[key] for key in _ROLLBACK_KEYS}


def _going_on(status: Json) -> Json | None:
    phase = status["phase"]
    if phase is None or status["state"] not in ("running", "paused"):
        return None
    arms = {
        name: {key: value for key, value in arm.items() if key not in ("backend", "inflight")}
        for name, arm in status["arms"].items()
    }
    requests = sum(arm["requests"] for arm in arms.values())
    return {
        "name": phase["name"],
        "weight": phase["weight"],
        "entered_at": phase["entered_at"],
        "left_at": None,
        "arms": arms,
        "target_share": round(arms["target"]["requests"] / requests, 6) if requests else None,
        "verdict": status["verdict"],
    }


def _ended_at(lines: Sequence[AuditLine], outcome: str) -> str | None:
    if outcome in ("running", "paused", "rolling_back"):
        return None
    ends = [line.at for line in lines if line.kind in ("complete", "rollback_complete", "abort", "reset")]
    return rfc3339(ends[-1]) if ends else None


def _criterion(name: str, passed: bool, evidence: str) -> Json:
    return {"name": name, "passed": passed, "evidence": evidence}


def _criteria(
    phases: Sequence[Phase],
    thresholds: Thresholds,
    passed: Sequence[Json],
    rollbacks: Sequence[Json],
    status: Json,
    adapters: Mapping[str, int],
) -> Iterable[Json]:
    completed = status["state"] == "completed"
    names = [detail["name"] for detail in passed]
    missing = [phase.name for phase in phases if phase.name not in names]
    told = f"{len(passed)} phases left, {len(rollbacks)} rollbacks"
    if missing:
        told += f"; not reached or not left: {', '.join(missing)}"
    yield _criterion("all phases without a rollback", completed and not missing and not rollbacks, told)

    target = [detail["arms"]["target"] for detail in passed]
    requests, errors = sum(arm["requests"] for arm in target), sum(arm["errors"] for arm in target)
    rate = errors / requests if requests else None
    told = "no target requests" if rate is None else f"{errors} of {requests} target requests failed ({rate:.3%})"
    within = rate is not None and rate <= thresholds.error_limit
    yield _criterion("error rate", within, f"{told}, limit {thresholds.error_limit:.3%}")

    yield _latency("latency", passed, thresholds)

    last = passed[-1] if passed else None
    full = (
        completed
        and last is not None
        and last["name"] == phases[-1].name
        and last["weight"] == 100
        and last["target_share"] == 1.0
        and last["soaked_s"] >= phases[-1].min_soak_s
    )
    told = (
        "the last phase was not left"
        if last is None or last["name"] != phases[-1].name
        else f"share of the target {last['target_share']}, soaked {last['soaked_s']:.1f} s"
        f" of {phases[-1].min_soak_s:g} s"
    )
    yield _criterion("100 % on the target for the last phase's soak", full, told)

    made = sum(detail["validations"] for detail in passed)
    bad = sum(detail["validations_failed"] for detail in passed)
    told = f"{made} validations, {bad} asked for a rollback"
    yield _criterion("every validation passed", made > 0 and bad == 0, told)

    yield from _after(phases, thresholds, passed, status, adapters)


def _latency(name: str, passed: Sequence[Json], thresholds: Thresholds) -> Json:
    figures = [(detail["name"], detail["arms"]["target"]) for detail in passed]
    measured = [(phase, arm) for phase, arm in figures if arm["p95_ms"] is not None]
    kept = all(arm["p95_ms"] <= thresholds.p95_ms and arm["p99_ms"] <= thresholds.p99_ms for _, arm in measured)
    told = "; ".join(f"{phase}: p95 {arm['p95_ms']:.1f} ms, p99 {arm['p99_ms']:.1f} ms" for phase, arm in measured)
    return _criterion(name, bool(measured) and kept, told or "no target requests")


def _after(
    phases: Sequence[Phase],
    thresholds: Thresholds,
    passed: Sequence[Json],
    status: Json,
    adapters: Mapping[str, int],
) -> Iterable[Json]:
    """The checks after the migration: on the last phase, all on the target, and what came since."""
    last = passed[-1] if passed and passed[-1]["name"] == phases[-1].name else None
    completed = status["state"] == "completed" and last is not None
    served = {
        name: requests + (last["adapters"].get(name, 0) if last is not None else 0)
        for name, requests in adapters.items()
    }
    told = ", ".join(f"{name} {requests} answers" for name, requests in served.items()) or "no adapters"
    answering = completed and bool(served) and all(served.values())
    yield _criterion("each adapter answers from the target", answering, told)

    arms = [status["arms"]["target"]] + ([last["arms"]["target"]] if last is not None else [])
    used = [arm for arm in arms if arm["requests"]]
    requests, errors = sum(arm["requests"] for arm in used), sum(arm["errors"] for arm in used)
    calm = completed and requests > 0 and errors / requests <= thresholds.error_limit
    yield _criterion(
        "no rise in errors", calm, f"{errors} of {requests} target requests failed with all on the target"
    )

    kept = all(arm["p95_ms"] <= thresholds.p95_ms and arm["p99_ms"] <= thresholds.p99_ms for arm in used)
    told = "; ".join(f"p95 {arm['p95_ms']:.1f} ms, p99 {arm['p99_ms']:.1f} ms" for arm in used)
    yield _criterion("latency reviewed", completed and bool(used) and kept, told or "no target requests")
