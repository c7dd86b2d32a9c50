"""The judge of rehearsals can fail: each promise, broken alone, is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.generator.ledger import TOO_OFTEN, Ledger, OwnScan
from loadtest.rehearse import report
from loadtest.rehearse.faults import BY_NAME, RehearsalRow
from loadtest.rehearse.judge import Seen, judge
from loadtest.rehearse.records import SOURCE, TARGET, RequestRecord

BEGUN, ENDED, OVER = 10.0, 12.0, 20.0
VISITORS = 40


def line(kind: str, at: float, **detail: Any) -> dict[str, Any]:
    return {"kind": kind, "unix": at, "detail": detail}


def rolled_back(at: float = BEGUN + 1) -> list[dict[str, Any]]:
    steps = {"decided_ms": 3.0, "seen_ms": 4.0, "drained_ms": 5.0, "total_ms": 12.0, "within_deadline": True}
    return [
        line("rollback", at - 0.1, trigger="breach", reason="error_rate: 9 of 9 target requests failed"),
        line("rollback_complete", at, from_weight=50, to_weight=0, **steps),
    ]


def good() -> Seen:
    """A target that was killed: half of the visitors fell back for a second, then all were on the source."""
    records = []
    for tick in range(int(OVER * 20)):
        due, visitor = tick / 20, tick % VISITORS
        on_target = visitor < VISITORS / 2 and due < BEGUN + 0.9
        broken = on_target and due >= BEGUN
        source = TARGET if on_target and not broken else SOURCE
        fallback = "unavailable" if broken else ""
        records.append(RequestRecord(due, 0.01, "scans.get", f"visitor-{visitor}", source, fallback, 200))
    counters = {
        "source": sum(record.asked == SOURCE for record in records),
        "target": sum(record.asked == TARGET for record in records),
        "fallbacks": sum(bool(record.fallback) for record in records),
    }
    return Seen(
        records=records,
        steady=1.0,
        begun=BEGUN,
        ended=ENDED,
        facts={"target_killed": True},
        status={"state": "rolled_back", "weight": 0},
        audit=rolled_back(),
        counters=counters,
        promises=3,
    )


KILLED = BY_NAME["target-killed"]


def broken_promises(seen: Seen, rehearsal: RehearsalRow = KILLED) -> list[str]:
    return [finding.name for finding in judge(rehearsal, seen).findings if not finding.held]


def test_what_went_as_it_should_is_found_to_hold() -> None:
    assert broken_promises(good()) == []
    verdict = judge(KILLED, good())
    assert verdict.held
    assert verdict.figures["detected_s"] == pytest.approx(0.9)


def _with_record(**fields: Any) -> Callable[[Seen], None]:
    def spoil(seen: Seen) -> None:
        seen.records[205] = seen.records[205]._replace(**fields)

    return spoil


def _both_sides(seen: Seen) -> None:
    at = next(i for i, record in enumerate(seen.records) if record.due > 5 and record.source == TARGET)
    seen.records[at] = seen.records[at]._replace(source=SOURCE)
    seen.counters["source"] += 1
    seen.counters["target"] -= 1


def _sent_after(seen: Seen) -> None:
    seen.records[-1] = seen.records[-1]._replace(fallback="breaker")
    seen.counters["source"] -= 1
    seen.counters["target"] += 1
    seen.counters["fallbacks"] += 1


def _late(seen: Seen) -> None:
    seen.audit[1]["detail"]["within_deadline"] = False


def _far_too_late(seen: Seen) -> None:
    seen.audit = rolled_back(BEGUN + 100)
    seen.status["weight"] = 0


def uncopied(seen: Seen, told: int) -> None:
    """A write that the target alone lacks; ``told``: how many phasegate says that it lost."""
    seen.lost.append("firestore: scan 1 is gone")
    seen.uncopied.append(seen.lost[-1])
    seen.mirror_lost = told


SPOILED: list[tuple[str, Callable[[Seen], object]]] = [
    ("no request failed but those allowed", _with_record(failure="status")),
    ("no request failed but those allowed", _with_record(failure="stale")),
    ("no confirmed write is lost", lambda seen: seen.lost.append("scan 1 is gone")),
    ("no confirmed write is lost", lambda seen: setattr(seen, "promises", 0)),
    ("no confirmed write is lost", lambda seen: uncopied(seen, told=0)),
    ("it ends where it should", lambda seen: seen.status.update(weight=25)),
    ("it ends where it should", lambda seen: seen.status.update(state="running")),
    ("traffic was taken back, and for the right reason", lambda seen: seen.audit.clear()),
    ("every rollback was complete within its deadline", _late),
    ("from the fault to the last harm within 38 s", _far_too_late),
    ("every visitor stays on one side", _both_sides),
    ("nobody is sent to the target once the rollback is complete", _sent_after),
    ("phasegate's counters agree with the client's", lambda seen: seen.counters.update(target=0)),
    ("phasegate's counters agree with the client's", lambda seen: seen.counters.update(source=10**6)),
    ("the audit trail is whole", lambda seen: seen.chain.append("entry 2 is not what was written")),
    ("what was to be broken was broken", lambda seen: seen.facts.clear()),
    ("it was carried out to its end", lambda seen: setattr(seen, "error", "phasegate did not start")),
]


@pytest.mark.parametrize(("name", "spoil"), SPOILED)
def test_each_promise_broken_alone_is_found_out(name: str, spoil: Callable[[Seen], object]) -> None:
    seen = good()
    spoil(seen)
    assert name in broken_promises(seen)


def test_a_copy_that_died_with_a_worker_is_forgiven_where_it_is_told_and_nothing_else_is() -> None:
    seen = good()
    uncopied(seen, told=2)
    assert broken_promises(seen) == []
    seen.lost.append("mock: scan 2 is gone")
    assert broken_promises(seen) == ["no confirmed write is lost"]


def test_a_failure_is_excused_only_by_its_kind_its_time_and_its_number() -> None:
    row = BY_NAME["workers-killed"]
    (allowed,) = row.allowed

    def with_failures(count: int, kind: str, at: float) -> Seen:
        seen = replace(
            good(), status={"state": "running", "weight": 50}, audit=[], facts=dict.fromkeys(row.proof, True)
        )
        fresh = [RequestRecord(at, 0.01, "scans.create", "visitor-1", failure=kind) for _ in range(count)]
        seen.records = sorted([*seen.records, *fresh])
        return seen

    promise = "no request failed but those allowed"
    assert promise not in broken_promises(with_failures(allowed.most, "broken", BEGUN + 1), row)
    assert promise in broken_promises(with_failures(allowed.most + 1, "broken", BEGUN + 1), row)
    assert promise in broken_promises(with_failures(1, "status", BEGUN + 1), row)
    assert promise in broken_promises(with_failures(1, "broken", BEGUN - 5), row)
    assert promise in broken_promises(with_failures(1, "broken", OVER - 1), row)


def test_target_requests_after_the_lease_are_found_out() -> None:
    row = BY_NAME["control-stopped"]
    seen = good()
    seen.audit = []
    left = BEGUN + row.setting.lease_s + 2
    seen.facts = {"control_stopped": 1, "left_at": left}
    promise = "without control the workers leave the target when the lease ends"
    assert promise not in broken_promises(seen, row)
    late = RequestRecord(left - 0.5, 0.01, "scans.get", "visitor-1", TARGET, "", 200)
    seen.records = sorted([*seen.records, late])
    assert promise in broken_promises(seen, row)


def test_a_confirmed_change_must_be_found_and_an_uncertain_one_may_be() -> None:
    scan = OwnScan("s1", "visitor-1", values=[0.0, 10.0, 20.0], confirmed=1, files=3, files_uncertain=3)

    def found(progress: float, files: int) -> dict[str, Any]:
        return {"status": "running", "progress": progress, "files": files}

    assert not scan.problem(found(10.0, 3), 1, 3)
    assert not scan.problem(found(20.0, 6), 1, 3)
    assert scan.problem(found(0.0, 3), 1, 3)
    assert scan.problem(found(10.0, 0), 1, 3)
    assert scan.problem(found(10.0, 3) | {"status": "completed"}, 1, 3)
    assert scan.problem(found(10.0, 9), 1, 3).endswith(TOO_OFTEN)
    assert scan.problem(None, 1, 3)


@pytest.mark.parametrize(("outcome", "right", "wrong"), [("done", 1, 0), ("done", 1, 2), ("refused", 0, 1)])
def test_an_event_counts_once_when_confirmed_and_never_when_refused(outcome: Any, right: int, wrong: int) -> None:
    ledger = Ledger()
    ledger.events["once-1"] = outcome
    (promise,) = ledger.promises()
    assert not promise.problem({"events": right})
    assert promise.problem({"events": wrong}).endswith(TOO_OFTEN) == (wrong > right)
    assert promise.problem({"events": wrong})


def test_the_page_has_a_row_a_rehearsal_and_says_what_did_not_hold() -> None:
    seen = good()
    seen.lost.append("scan 1 is gone")
    verdicts = [judge(KILLED, good()), judge(KILLED, seen)]
    assert "NOT SO: no confirmed write is lost" in report.text(verdicts)
    page = report.page(verdicts, {"kernel": "k"}, "the command")
    assert page.count("| target-killed |") == 2
    assert "the command" in page


def _diverted(seen: Seen, *, returned: bool) -> None:
    """A visitor of the target whose write fell back reads it on the source; ``returned``: after seeing the target."""
    own = [i for i, record in enumerate(seen.records) if record.due > 2 and record.visitor == "visitor-3"]
    wrote, between_, read = own[:3]
    seen.records[wrote] = seen.records[wrote]._replace(
        operation="scans.create", source=SOURCE, fallback="deadline", status=201
    )
    if not returned:
        seen.records[between_] = seen.records[between_]._replace(source=SOURCE)
    seen.records[read] = seen.records[read]._replace(source=SOURCE)
    moved = 1 if returned else 2
    seen.counters["source"] += moved
    seen.counters["target"] -= moved
    seen.counters["fallbacks"] += 1


def test_a_visitor_may_follow_his_own_write_to_the_source_and_no_longer() -> None:
    seen = good()
    _diverted(seen, returned=False)
    assert broken_promises(seen) == []
    seen = good()
    _diverted(seen, returned=True)
    assert broken_promises(seen) == ["every visitor stays on one side"]


def test_the_published_page_is_the_reports_text_around_its_figures() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rehearsals.md").read_text(encoding="utf-8")
    command = next(line.strip() for line in page.splitlines() if line.startswith("    python -m"))
    machine = next(line for line in page.splitlines() if line.startswith("Made on: "))
    table = [line for line in page.splitlines() if line.startswith("|")]
    failings = [line for line in page.splitlines() if "** did not hold: " in line]
    names = [row.split("|")[1].strip() for row in table[2:]]
    assert len(names) > 20
    shown = "\n".join([*failings, "", ""]) if failings else ""
    assert report.filled(command, machine, "\n".join(table), shown, names) == page
