"""What a person reads of a status: one line where one will do, and nothing said twice."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import convert
from msgspec.structs import replace

from control.data.documents import DataDocument
from control.judge.document import verdict_document
from control.lead.documents import Status
from control.report.nextstep import changes, next_line, waits
from control.report.wording import (
    after_rollback,
    audit_detail,
    audit_line,
    criteria,
    data_line,
    headline,
    percent,
    rollback_line,
    span,
    verdict_line,
)
from control.rollout.model import Rollback, State
from control.store.entry import AuditEntry
from tests.support.documents import ROLLBACK, current, report, status, status_json, verdict


def entry(kind: str, actor: str, detail: dict[str, Any]) -> AuditEntry:
    return AuditEntry(1, "2026-05-04T03:02:01.000Z", kind, actor, detail, "", "")


def test_a_headline_says_state_phase_and_weight() -> None:
    assert headline(status()) == "phase6: running, phase 2 of 5, early, 25 % on the target"
    assert headline(status(state="idle", phase=None, weight=0.0)) == "phase6: idle, 0 % on the target"


def test_a_rollback_line_has_reason_steps_and_whether_it_was_in_time() -> None:
    last = convert(ROLLBACK, Rollback)
    said = rollback_line(last)
    assert "25 % → 5 %" in said
    assert "error rate 31 % of 412 requests" in said
    assert "decided 1 ms, seen by all 10 ms, drained 40 ms" in said
    assert "complete after 51 ms, within its limit" in said
    assert "LATER" in rollback_line(replace(last, within_deadline=False))


def test_after_a_rollback_the_way_to_the_start_is_said_where_there_is_one() -> None:
    held = after_rollback(status(state="rolled_back", weight=25.0))
    assert held == "25 % is on the target still; `phasegate rollback --to start` takes it all the way to 0 %"
    assert after_rollback(status(state="rolled_back", weight=0.0)) == "0 % is on the target: all is on the source"


def test_a_completed_migration_with_phases_above_says_how_to_go_on() -> None:
    said = next_line(status(state="completed", weight=50.0, phase=current(2, "half", 50.0)))
    assert "`phasegate advance` goes on to majority, 75 %" in said
    assert next_line(status(state="completed", weight=100.0)).startswith("nothing: ")


def test_nothing_is_said_of_a_status_like_the_last() -> None:
    assert changes(status(), status()) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"state": "paused"}, "paused"),
        ({"weight": 50.0, "phase": current(2, "half", 50.0)}, "50 %"),
        ({"last_rollback": ROLLBACK}, "Rolled back"),
        ({"verdict": verdict("roll_back", "p99 over 2000 ms")}, "roll back: p99 over 2000 ms"),
    ],
)
def test_what_changed_is_said_once(changed: dict[str, Any], expected: str) -> None:
    (line,) = changes(status(), status(**changed))
    assert expected in line


def test_the_first_status_is_always_said() -> None:
    assert changes(None, status()) == [headline(status())]


def test_before_the_first_verdict_that_is_what_is_said() -> None:
    assert verdict_line(verdict_document(None)) == "no data: nothing has been judged yet"
    assert changes(status(), status(verdict=verdict("no_data"))) == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (4.2, "4.2s"), (50.0, "50s"), (59.96, "60s"), (65, "1m05s"), (7380, "2h03m"), (None, "-")],
)
def test_spans_are_short(seconds: float | None, said: str) -> None:
    assert span(seconds) == said


def test_weights_have_no_needless_decimals() -> None:
    assert (percent(5.0), percent(2.5), percent(None)) == ("5 %", "2.5 %", "-")


def test_an_audit_entry_is_one_line() -> None:
    assert audit_line(entry("rolling_back", "ci", {"reason": "slow"})) == "03:02:01 ci rolling back  “slow”"


def test_a_run_that_goes_on_has_failed_nothing_yet() -> None:
    found = [
        {"name": "error_rate", "passed": True, "evidence": "0"},
        {"name": "latency", "passed": False, "evidence": "-"},
    ]
    going, over = (
        report(outcome="running", ended_at=None, criteria=found),
        report(outcome="rolled_back", criteria=found),
    )
    assert [passed for _, passed, _ in criteria(going)] == [True, None]
    assert [passed for _, passed, _ in criteria(over)] == [True, False]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"state": "idle", "phase": None, "weight": 0.0}, "`phasegate start` begins with initial, 5 %"),
        ({}, "half, 50 %, in 30s at the earliest, when every rule is proven"),
        ({"verdict": verdict("promote"), "soaked": 60}, "half, 50 %, now"),
        ({"soaked": 60}, "half, 50 %, as soon as every rule is proven"),
        (
            {"state": "paused", "resume": "early"},
            "held at 25 % until `phasegate resume`, which goes on with early, 25 %; a breach is still rolled back",
        ),
        (
            {"state": "paused", "resume": "early", "weight": 0.0},
            "held at 0 % until `phasegate resume`, which raises it to early, 25 %; a breach",
        ),
        (
            {"state": "rolled_back", "resume": "initial", "phase": None},
            "held at 25 % until `phasegate resume`, which lowers it to initial, 5 %; a breach is rolled back further",
        ),
        (
            {"state": "rolled_back", "phase": None, "weight": 3.0},
            "held at 3 %: no phase has so little weight to go on with; `phasegate start` begins anew with initial",
        ),
        (
            {"state": "rolled_back", "weight": 0.0, "resume": "half"},
            "all traffic is on the source; `phasegate start --resume` goes on with half, 50 %, "
            "`start` begins anew with initial, 5 %",
        ),
        (
            {"state": "aborted", "weight": 0.0, "phase": None},
            "all traffic is on the source; `phasegate start` begins anew with initial, 5 %",
        ),
    ],
)
def test_what_comes_next_names_whose_turn_it_is_and_where_it_leads(changed: dict[str, Any], expected: str) -> None:
    assert next_line(standing(**changed)).startswith(expected)


def standing(*, soaked: float = 30, resume: str | None = None, **changed: Any) -> Status:
    """A status in early, 25 %."""
    checkpoint = status_json()["checkpoint"] | {"resume_phase": resume}
    phase = current(1, "early", 25.0, soaked_s=float(soaked))
    return status(**{"phase": phase, "checkpoint": checkpoint} | changed)


COPY = "phasegate copy --migration phase6"
REPAIR = "phasegate compare --migration phase6 --repair"


def gated(mend: str, task: str | None = None, **changed: Any) -> dict[str, Any]:
    """The status's data while the gate holds."""
    under_way = None if task is None else {"kind": task, "done": 3, "of": None, "rate": None, "left_s": None}
    behind = {"changes": 0, "oldest_s": 0.0}
    document = {"complete": False, "gated": True, "mend": mend, "copied_at": None, "behind": behind, "lost": 0}
    return {"data": document | {"compare": None, "task": under_way} | changed}


AT_0: dict[str, Any] = {"weight": 0.0, "phase": None}
FIRST = f"`{COPY}`, without which no phase begins; then "


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"state": "idle"} | AT_0 | gated(COPY), f"{FIRST}`phasegate start` begins with initial, 5 %"),
        ({"state": "aborted"} | AT_0 | gated(COPY), f"all traffic is on the source; {FIRST}`phasegate start` begins"),
        (
            {"state": "rolled_back", "resume": "half"} | AT_0 | gated(REPAIR),
            f"all traffic is on the source; `{REPAIR}`, without which no phase begins; then "
            "`phasegate start --resume` goes on with half, 50 %",
        ),
        (gated(REPAIR), f"`{REPAIR}`, without which no phase begins; then half, 50 %, in 30s at the earliest"),
        (
            {"state": "paused", "resume": "early", "weight": 0.0} | gated(COPY),
            f"held at 0 % until {FIRST}`phasegate resume`, which raises it to early, 25 %; a breach",
        ),
        (
            {"state": "completed", "weight": 50.0, "phase": current(2, "half", 50.0)} | gated(REPAIR),
            f"held at 50 % for good; `{REPAIR}`, without which no phase begins; then `phasegate advance` goes on",
        ),
        (
            {"state": "idle"} | AT_0 | gated(COPY, "copy"),
            "the copy under way, without which no phase begins; then `phasegate start` begins",
        ),
        ({"state": "idle"} | AT_0 | gated(REPAIR, "compare"), f"`{REPAIR}`, without which"),
    ],
)
def test_while_the_gate_holds_the_command_that_opens_it_comes_before_what_it_keeps_from_being(
    changed: dict[str, Any], expected: str
) -> None:
    assert next_line(standing(**changed)).startswith(expected)


@pytest.mark.parametrize(
    "changed",
    [
        {"state": "paused", "resume": "early"},
        {"state": "rolled_back", "resume": "initial"},
        {"state": "rolling_back"},
        {"state": "completed", "weight": 100.0},
        {"phase": None},
    ],
)
def test_what_raises_nothing_is_not_held_by_the_gate(changed: dict[str, Any]) -> None:
    assert next_line(standing(**changed | gated(REPAIR))) == next_line(standing(**changed))


def test_a_gate_that_is_switched_off_is_no_step_and_what_is_known_is_said_all_the_same() -> None:
    off = status(state="idle", weight=0.0, phase=None, **gated(COPY, gated=False))
    assert next_line(off).startswith("`phasegate start`")
    assert off.data is not None
    assert f"INCOMPLETE, `{COPY}` mends it" in data_line(off.data)


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_next_step(state: State) -> None:
    for weight in (0.0, 25.0, 100.0):
        assert len(next_line(standing(state=state.value, weight=weight))) > 10


OPENS = {"at": "2026-10-26T08:00:00.000Z", "tz": "Europe/Paris"}
HOURS = {"kind": "window", "name": "hours", "reason": "outside the hours allowed"}
APPROVAL = {"kind": "approval", "name": "half", "reason": 'phase "half" waits for approval'}
FEW = {"kind": "samples", "name": "samples", "reason": "62 target requests of the 100"}
ILL = {"kind": "health", "name": "backend firestore", "reason": "no answer"}
MIDNIGHT = {"at": "2027-01-04T00:00:00Z"}
NEW_YEAR = "not before Mon 2027-01-04 00:00 UTC"
LATER = "not before Mon 2026-10-26 09:00 Europe/Paris (Mon 08:00 UTC)"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"waits": [HOURS]}, f"half, 50 %, {LATER}, when every rule is proven"),
        ({"waits": [HOURS], "soaked": 60}, f"half, 50 %, {LATER}"),
        ({"waits": [HOURS, FEW], "soaked": 60}, f"half, 50 %, {LATER}, when every rule is proven"),
        ({"state": "idle", "phase": None, "weight": 0.0}, f"`phasegate start` begins with initial, 5 %, {LATER}"),
        ({"opens": None, "waits": [ILL]}, "half, 50 %, when this is mended: no answer"),
        ({"opens": MIDNIGHT | {"tz": "UTC"}}, f"half, 50 %, {NEW_YEAR}, when every rule is proven"),
        ({"opens": MIDNIGHT | {"tz": "Mars/Base"}}, f"half, 50 %, {NEW_YEAR}, when every rule is proven"),
    ],
)
def test_what_comes_next_is_not_promised_before_the_hours_allow_it(changed: dict[str, Any], expected: str) -> None:
    assert next_line(standing(**{"opens": OPENS} | changed)) == expected


def test_what_is_waited_for_is_said_when_it_changes_and_once() -> None:
    soaked = standing(soaked=60)
    few = standing(soaked=60, waits=[FEW])
    assert changes(soaked, few) == ["half, 50 % waits for more requests: 62 target requests of the 100"]
    more = standing(soaked=60, waits=[FEW | {"reason": "63 target requests of the 100"}])
    assert changes(few, more) == []
    closed = standing(soaked=60, waits=[HOURS], opens=OPENS)
    until = LATER.removeprefix("not before ")
    assert changes(more, closed) == [f"half, 50 % waits until {until}: outside the hours allowed"]
    asked = standing(soaked=60, waits=[APPROVAL])
    (line,) = changes(closed, asked)
    assert line.startswith("half, 50 % is earned, and waits for an operator: `phasegate advance`")
    assert changes(asked, few, told=waits(few)) == [], "it comes and goes, and was told"


def test_a_verdict_that_is_held_by_what_is_waited_for_is_not_said_beside_it() -> None:
    earned = standing(soaked=60, verdict=verdict("promote"))
    held = standing(soaked=60, verdict=verdict("hold", "outside the hours allowed"), waits=[HOURS])
    assert changes(earned, held) == ["half, 50 % waits: outside the hours allowed"]


def test_an_audit_entry_says_the_weights_and_not_its_numbers_for_programs() -> None:
    detail = {"from_weight": 25.0, "to_weight": 5.0, "decided_ms": 0.0, "seen_ms": 30.0, "drained_ms": 2.0}
    detail |= {"total_ms": 32.4, "within_deadline": True, "trigger": "breach", "reason": ""}
    assert audit_detail(entry("rollback_complete", "phasegate", detail)) == ("25 % → 5 %, complete after 32 ms")
    judged = {"reason": "error_rate: 3 of 100; p95_ms: 4 ms", "weight": 5.0}
    judged["reasons"] = ["error_rate: 3 of 100", "p95_ms: 4 ms"]
    assert audit_detail(entry("advance", "phasegate", judged)) == "at 5 %, “error_rate: 3 of 100 …”"


def test_a_reason_is_cut_where_its_parts_end_and_nowhere_else() -> None:
    written = {"reason": "both failed; see the log", "weight": 5.0}
    assert audit_detail(entry("advance", "phasegate", written)) == "at 5 %, “both failed; see the log”"
    one = convert(ROLLBACK | {"reason": "no answer; timed out", "reasons": []}, Rollback)
    assert "(breach: no answer; timed out)" in rollback_line(one)
    several = convert(ROLLBACK | {"reason": "a; b; c", "reasons": ["a; b", "c"]}, Rollback)
    assert "(breach: a; b)" in rollback_line(several)


def test_a_rollback_on_command_without_a_reason_has_no_empty_one() -> None:
    assert "(command);" in rollback_line(convert(ROLLBACK | {"trigger": "command", "reason": ""}, Rollback))


def known(**changed: Any) -> DataDocument:
    behind = {"changes": 0, "oldest_s": 0.0}
    whole = {"complete": False, "copied_at": None, "behind": behind, "lost": 0, "compare": None, "task": None}
    return convert(whole | changed, DataDocument)


def test_what_is_known_of_the_data_is_one_line_with_what_mends_it() -> None:
    said = data_line(known(mend=COPY))
    assert said == f"INCOMPLETE, `{COPY}` mends it; copied: never; compared: never"
    assert data_line(known()).startswith("INCOMPLETE; copied: never"), "an earlier control plane names no command"
    task = {"kind": "copy", "done": 1200, "of": 5000, "rate": 500.0, "left_s": 7.6}
    assert "copy: 1,200 of 5,000 documents, 7.6s left" in data_line(known(task=task))
    assert "copy: 0 documents" in data_line(known(task=task | {"done": 0, "of": None, "left_s": None}))
    at = "2026-05-04T03:02:01.000Z"
    compare = {"at": at, "equal": True, "differences": 0, "documents": 12}
    equal = known(complete=True, copied_at=at, compare=compare, behind={"changes": 7, "oldest_s": 1.0})
    assert data_line(equal) == (
        "the target is not known to lack anything; copied: 2026-05-04 03:02:01 UTC; "
        "compared: 2026-05-04 03:02:01 UTC, 12 documents, equal; 7 changes on their way"
    )
    found = compare | {"equal": False, "differences": 3}
    differing = data_line(known(copied_at=at, compare=found, lost=2, mend=REPAIR))
    assert differing.startswith(f"INCOMPLETE, `{REPAIR}` mends it")
    assert "12 documents, 3 differences" in differing
    assert "lost: 2 changes" in differing
    unsettled = data_line(known(copied_at=at, complete=True, compare=compare | {"equal": False}))
    assert "documents were on their way" in unsettled
