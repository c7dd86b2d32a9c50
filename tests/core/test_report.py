"""The report of a run, built from what the audit trail has."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec import convert
from msgspec.structs import asdict, replace

from control.data.documents import DataBehind, DataDocument
from control.figures.documents import Summary
from control.lead.documents import CopiesStatus, Status
from control.plan.phases import Phase, Thresholds
from control.report.build import build_report
from control.report.documents import Report, TrailHead
from control.report.html import page
from control.rollout.model import Rollback
from control.store.entry import AuditLine
from control.terminal.picture import print_status
from control.terminal.tables import print_report
from tests.support.documents import status as whole_status

PHASES = (Phase("half", 50.0), Phase("all", 100.0))
VERDICT = {"outcome": "promote", "reasons": [], "checked_at": None, "rules": []}


def arm(requests: int = 1000, errors: int = 0, p95: float | None = 20.0) -> dict[str, Any]:
    rate = errors / requests if requests else 0.0
    return {"requests": requests, "errors": errors, "error_rate": rate, "p50_ms": p95, "p95_ms": p95, "p99_ms": p95}


def left(name: str, weight: float, entered: float, **more: Any) -> AuditLine:
    detail = {
        "name": name,
        "weight": weight,
        "entered_at": entered,
        "left_at": entered + 300,
        "soaked_s": 300.0,
        "arms": {"source": arm(), "target": arm()},
        "target_share": weight / 100,
        "verdict": VERDICT,
        "adapters": {"dashboard": 5, "scans": 4},
        "validations": 10,
        "validations_failed": 0,
    }
    return line("phase_left", detail | more, entered + 300)


def line(kind: str, detail: dict[str, Any], at: float) -> AuditLine:
    return AuditLine(1, at, kind, "ci", detail, "", "")


def status(state: str, phase: dict[str, Any] | None = None) -> Status:
    more = {"backend": "mock", "inflight": 0}
    checkpoint = {"revision": 1, "saved_at": None, "ok": True, "error": None, "unsaved_entries": 0, "lost_entries": 0}
    return convert(
        {
            "migration": "phase6",
            "state": state,
            "revision": 1,
            "weight": 50.0,
            "phase": phase,
            "phases": [],
            "verdict": VERDICT,
            "arms": {"source": arm(0, p95=None) | more, "target": arm(50) | more},
            "last_rollback": None,
            "checkpoint": checkpoint | {"resume_phase": None},
            "workers": [],
        },
        Status,
    )


START = line("start", {}, 100.0)
GOOD = [START, left("half", 50.0, 100.0), left("all", 100.0, 400.0), line("complete", {}, 700.0)]
ROLLBACK = Rollback("breach", "errors", 50.0, 0.0, 1.0, 2.0, 3.0, 6.0, True)


def built(lines: list[AuditLine], now: Status, adapters: dict[str, int] | None = None) -> Report:
    head = TrailHead(len(lines), "c0ffee")
    return build_report("phase6", PHASES, Thresholds(), lines, now, adapters or {"dashboard": 1, "scans": 0}, head)


def failing(report: Report) -> list[str]:
    return [criterion.name for criterion in report.criteria if not criterion.passed]


def test_a_good_run_meets_every_criterion() -> None:
    report = built(GOOD, status("completed"))
    assert failing(report) == []
    assert (report.outcome, report.started_at) == ("completed", "1970-01-01T00:01:40.000Z")
    assert report.ended_at == "1970-01-01T00:11:40.000Z"
    assert [phase.name for phase in report.phases] == ["half", "all"]
    assert len(report.criteria) == 8


def test_a_rollback_is_told_and_fails_the_run() -> None:
    lines = [
        START,
        left("half", 50.0, 100.0),
        line("rollback_complete", asdict(ROLLBACK) | {"unheard_workers": [1]}, 401.0),
    ]
    report = built(lines, status("rolled_back"))
    assert report.rollbacks == (ROLLBACK,)
    assert "all phases without a rollback" in failing(report)
    assert report.ended_at == "1970-01-01T00:06:41.000Z"


def test_a_phase_whose_advance_was_called_off_is_told_once_with_its_last_figures() -> None:
    again = left("half", 50.0, 100.0, target_share=0.49)
    assert [p.target_share for p in built([*GOOD[:2], again], status("running")).phases] == [0.49]


def test_the_phase_going_on_is_in_the_report() -> None:
    phase = {"index": 0, "name": "half", "weight": 50.0, "entered_at": "1970-01-01T00:01:40.000Z"}
    phase |= {"soaked_s": 1.0, "min_soak_s": 300.0, "rollback_within_s": 38.0}
    report = built([START], status("running", phase))
    assert (report.phases[0].left_at, report.ended_at) == (None, None)
    assert report.phases[0].arms.target == convert(arm(50), Summary)


def test_each_criterion_can_fail() -> None:
    def with_last(**more: Any) -> list[AuditLine]:
        return [*GOOD[:2], left("all", 100.0, 400.0, **more), GOOD[3]]

    bad_arms = {"source": arm(), "target": arm(1000, 200)}
    assert failing(built(with_last(arms=bad_arms), status("completed"))) == ["error rate", "no rise in errors"]
    slow = {"source": arm(), "target": arm(p95=1500.0)}
    assert failing(built(with_last(arms=slow), status("completed"))) == ["latency", "latency reviewed"]
    full = "100 % on the target for the last phase's soak"
    assert failing(built(with_last(target_share=0.999), status("completed"))) == [full]
    assert failing(built(with_last(soaked_s=10.0), status("completed"))) == [full]
    assert failing(built(with_last(validations_failed=1), status("completed"))) == ["every validation passed"]
    silent = with_last(adapters={"dashboard": 5})
    assert failing(built(silent, status("completed"))) == ["each adapter answers from the target"]


def test_nothing_measured_is_no_pass() -> None:
    report = built([], status("idle"))
    assert len(failing(report)) == len(report.criteria)


def test_requests_that_were_not_split_are_told_beside_the_phases_figures(capsys: pytest.CaptureFixture[str]) -> None:
    report = built([START, left("half", 50.0, 100.0, unsplit=77)], status("running"))
    assert report.phases[0].unsplit == 77
    print_report(report)
    assert re.search(r"not split +77", capsys.readouterr().out)
    assert "not split" in page(report)
    without = built([START, left("half", 50.0, 100.0)], status("running"))
    assert without.phases[0].unsplit == 0, "as in the audit trails of earlier versions"
    assert "not split" not in page(without)


def test_copies_of_writes_that_failed_are_told_beside_the_phases_figures(capsys: pytest.CaptureFixture[str]) -> None:
    report = built([START, left("half", 50.0, 100.0, copies=48, copy_faults=3)], status("running"))
    print_report(report)
    assert re.search(r"copies +48 +3\n", capsys.readouterr().out)
    assert '<td class="text">copies of writes</td><td>48</td><td class="bad">3</td>' in page(report)
    going_on = replace(
        whole_status(), copies=(CopiesStatus("scans.create", 40, 0), CopiesStatus("scans.update", 8, 3))
    )
    assert [(each.copies, each.copy_faults) for each in built([START], going_on).phases] == [(48, 3)]
    without = built([START, left("half", 50.0, 100.0)], status("running"))
    assert (without.phases[0].copies, "copies of writes" in page(without)) == (0, False)


def test_the_report_says_what_the_target_lacks_and_that_the_gate_holds(capsys: pytest.CaptureFixture[str]) -> None:
    mend = "phasegate compare --migration phase6 --repair"
    behind = DataBehind(0, 0.0)
    data = DataDocument(False, "2026-05-04T03:02:01.000Z", behind, 3, None, None, gated=True, mend=mend)
    report = built([START], replace(status("running"), data=data))
    print_report(report)
    said = f"INCOMPLETE, `{mend}` mends it; no phase begins before"
    assert f"Data {said}" in capsys.readouterr().out
    assert f'<span class="bad">{said}</span>' in page(report)
    whole = replace(data, complete=True, lost=0, gated=False, mend=None)
    assert "INCOMPLETE" not in page(built([START], replace(status("running"), data=whole)))


def test_the_status_shows_what_was_not_split_and_what_became_of_copies(capsys: pytest.CaptureFixture[str]) -> None:
    copies = (CopiesStatus("scans.create", 40, 0), CopiesStatus("scans.update", 8, 3))
    print_status(replace(whole_status(), unsplit=50, copies=copies))
    out = capsys.readouterr().out
    assert re.search(r"not split +50", out)
    assert re.search(r"copies +48 +3 failed", out)
    print_status(whole_status())
    assert "not split" not in capsys.readouterr().out
