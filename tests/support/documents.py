"""Complete documents of the control API for tests; a test sets only the fields it is about."""

from __future__ import annotations

from typing import Any

from msgspec import convert

from control.lead.documents import Status
from control.report.documents import Report

Json = dict[str, Any]

ROLLBACK: Json = {
    "trigger": "breach",
    "reason": "error rate 31 % of 412 requests",
    "from_weight": 25.0,
    "to_weight": 5.0,
    "decided_ms": 1.2,
    "seen_ms": 9.6,
    "drained_ms": 40.4,
    "total_ms": 51.2,
    "within_deadline": True,
}


def arm(requests: int = 0, errors: int = 0, p95: float | None = None, **changed: Any) -> Json:
    """An arm's figures; all percentiles are ``p95``."""
    rate = errors / requests if requests else 0.0
    figures = {
        "requests": requests,
        "errors": errors,
        "error_rate": rate,
        "p50_ms": p95,
        "p95_ms": p95,
        "p99_ms": p95,
    }
    return figures | changed


def arm_status(backend: str, **figures: Any) -> Json:
    """An arm's figures in a status."""
    return arm(**figures) | {"backend": backend, "inflight": 0}


def verdict(outcome: str = "hold", *reasons: str, rules: list[Json] | None = None, **changed: Any) -> Json:
    """A verdict."""
    return {"outcome": outcome, "reasons": reasons, "checked_at": None, "rules": rules or []} | changed


def planned(name: str, weight: float, **changed: Any) -> Json:
    """A phase of the plan."""
    phase = {"name": name, "weight": weight, "min_soak_s": 60.0, "rollback_within_s": 10.0, "approval": False}
    return phase | changed


def current(index: int, name: str, weight: float, **changed: Any) -> Json:
    """The phase that a migration is in."""
    phase = {"index": index, "name": name, "weight": weight, "entered_at": None}
    return phase | {"soaked_s": 0.0, "min_soak_s": 60.0, "rollback_within_s": 10.0} | changed


def status_json(**changed: Any) -> Json:
    """A status as it is sent."""
    checkpoint = {"revision": 7, "saved_at": None, "ok": True, "error": None, "unsaved_entries": 0, "lost_entries": 0}
    weights = (("initial", 5.0), ("early", 25.0), ("half", 50.0), ("majority", 75.0), ("complete", 100.0))
    whole = {
        "migration": "phase6",
        "state": "running",
        "revision": 7,
        "weight": 25.0,
        "phase": current(1, "early", 25.0),
        "phases": [planned(name, weight) for name, weight in weights],
        "verdict": verdict("hold", "62 of 100 samples"),
        "arms": {"source": arm_status("mock"), "target": arm_status("firestore")},
        "last_rollback": None,
        "checkpoint": checkpoint | {"resume_phase": None},
        "workers": [],
        "waits": [],
        "opens": None,
    }
    return whole | changed


def status(**changed: Any) -> Status:
    """A status."""
    return convert(status_json(**changed), Status)


def reported(name: str, weight: float, **changed: Any) -> Json:
    """A phase of a report."""
    phase = {
        "name": name,
        "weight": weight,
        "entered_at": "2026-05-04T03:00:00Z",
        "left_at": "2026-05-04T03:05:00Z",
        "arms": {"source": arm(), "target": arm()},
        "target_share": weight / 100,
        "verdict": verdict("promote"),
    }
    return phase | changed


def report(**changed: Any) -> Report:
    """A report of a run that is over."""
    whole = {
        "migration": "phase6",
        "outcome": "completed",
        "started_at": "2026-05-04T03:00:00Z",
        "ended_at": "2026-05-04T03:45:00Z",
        "phases": [],
        "rollbacks": [],
        "criteria": [],
        "audit": {"entries": 0, "hash": None},
    }
    return convert(whole | changed, Report)
