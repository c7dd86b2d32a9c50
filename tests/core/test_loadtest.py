"""The load generators' arithmetic: pacing, percentiles, what visitors ask, and what a run comes to."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.generator.client import Reply
from loadtest.generator.histogram import Histogram, index, merged, upper
from loadtest.generator.ledger import Ledger
from loadtest.generator.pacing import ClosedLoop, Schedule
from loadtest.generator.visitors import (
    EXPECTED,
    PROPORTIONS,
    WRITES,
    Ask,
    Crowd,
    Regulars,
    Visitor,
    crowd_at,
)
from loadtest.phases.judgement import GATE, PASSED, ROLLED_BACK, Run, judge, split_problem

# Percentiles


@given(st.integers(0, 10**12))
def test_a_bucket_is_at_most_one_part_in_128_wide(us: int) -> None:
    top = upper(index(us))
    assert us <= top <= us + us / 128
    assert index(top) == index(us)
    assert index(top + 1) == index(us) + 1


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=300), st.sampled_from((50, 90, 99, 99.9, 100)))
def test_a_percentile_never_flatters_and_is_close(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    found = histogram.percentile(percent)
    exact = sorted(values)[max(0, -(-round(percent * len(values) * 10) // 1000) - 1)]
    assert found is not None
    assert exact <= found <= exact * (1 + 1 / 128) + 1


@given(st.lists(st.lists(st.integers(0, 10**7), max_size=50), max_size=5))
def test_merged_histograms_say_what_one_of_all_values_says(parts: list[list[int]]) -> None:
    apart, together = [], Histogram()
    for part in parts:
        histogram = Histogram()
        for value in part:
            histogram.record(value)
            together.record(value)
        apart.append(Histogram.from_json(json.loads(json.dumps(histogram.to_json()))))
    assert merged(apart).to_json() == together.to_json()


def test_of_nothing_there_is_no_percentile() -> None:
    assert Histogram().percentiles_ms((50,)) == {"p50": None, "max": None}


# Pacing


@given(st.floats(0.5, 5000), st.floats(0.1, 100), st.floats(0, 200))
def test_at_any_moment_exactly_those_have_arrived_that_are_due(rate: float, duration: float, elapsed: float) -> None:
    schedule = Schedule(rate, duration)
    arrived = schedule.arrived(elapsed)
    assert 0 <= arrived <= schedule.total
    if arrived:
        assert schedule.due(arrived - 1) <= elapsed + 1e-6
    if arrived < schedule.total:
        assert schedule.due(arrived) > elapsed - 1e-6


def test_a_schedule_begins_at_its_offset() -> None:
    schedule = Schedule(10, 1, offset_s=0.05)
    assert [schedule.arrived(at) for at in (0.0, 0.049, 0.05, 0.149, 0.151, 99)] == [0, 0, 1, 1, 2, 10]


def test_a_closed_loop_leaves_out_what_its_user_would_not_have_sent() -> None:
    loop = ClosedLoop(2)
    assert [loop.sends(k) for k in range(4)] == [True, True, False, False]  # both wait while the server stalls
    loop.answered(0)
    assert [loop.sends(k) for k in (4, 5)] == [True, False]
    assert loop.omitted == 3


# What visitors ask


Scans = dict[str, dict[str, Any]]


def someone(seed: int, **more: Any) -> Visitor:
    return Visitor("v-1", random.Random(seed), **more)


def own_scan(ask: Ask) -> str:
    """The id of the scan that is asked of; "" where it is none."""
    return ask.path.split("/")[3].partition("?")[0] if ask.path.startswith("/api/scans/") else ""


def right(ask: Ask, scans: Scans, arm: str = "mock") -> Reply:
    """What a faultless server answers."""
    if not ask.data:
        return Reply(200, {}, b"hello")
    status, shape = EXPECTED[ask.operation]
    assert shape is not None
    blank = {str: "x", int: 1, dict: {"users": 1}, list: []}
    document = {name: blank[kind[0] if isinstance(kind, tuple) else kind] for name, kind in shape.items()}
    sent = json.loads(ask.body or b"{}")
    if ask.operation == "scans.create":
        document["id"] = f"scan-{len(scans)}"
        scans[document["id"]] = {"status": "queued", "progress": 0.0, "files": 0, "name": sent["name"]}
    elif ask.operation == "dashboard.publish":
        document["metrics"] = sent["metrics"]
    elif ask.operation == "analytics.ingest":
        document["accepted"] = len(sent) if isinstance(sent, list) else 1
    known = scans.get(own_scan(ask))
    if known is not None:
        if ask.operation == "scans.update":
            steps = {"queued": ("running",), "running": ("running", "completed")}
            assert sent["status"] in steps[known["status"]]
            known.update(sent)
        elif ask.operation == "scans.add_results":
            document["accepted"] = len(sent["files"])
            known["files"] += len(sent["files"])
        elif ask.operation == "scans.results":
            file = {"path": "/a", "size": 1, "hash": "h"}
            document["files"] = [file] * min(50, known["files"])
    if ask.operation in ("scans.get", "scans.update", "scans.create"):
        document |= scans[own_scan(ask) or document["id"]]
    return Reply(status, {"x-data-source": arm}, json.dumps(document).encode())


def always() -> bool:
    return True


def test_a_faultless_server_is_never_found_fault_with() -> None:
    visitor, scans = someone(7), {}
    for _ in range(3000):
        ask = visitor.next()
        assert visitor.judge(ask, right(ask, scans), settled=always) is None
    assert {scan["status"] for scan in scans.values()} == {"queued", "running", "completed"}


def test_visitors_ask_in_the_proportions_that_are_written() -> None:
    visitor, scans = someone(1), {}
    asked: Counter[str] = Counter()
    for _ in range(8000):
        ask = visitor.next()
        visitor.judge(ask, right(ask, scans), settled=always)
        asked[ask.operation] += 1
    assert sum(PROPORTIONS.values()) == 100
    for operation, share in PROPORTIONS.items():
        if not operation.startswith("scans."):  # those become creations while there is no scan to ask of
            assert abs(asked[operation] - 80 * share) < 4 * math.sqrt(80 * share), operation
    assert all(asked[operation] for operation in PROPORTIONS)


def a_write_and_its_reading(operation: str) -> tuple[Visitor, Ask, Scans]:
    """A visitor that has written, and its next reading of it."""
    visitor, scans = someone(3), {}
    written = False
    while True:
        ask = visitor.next()
        if written and ask.operation == "scans.get" and scans[own_scan(ask)]["files"]:
            return visitor, ask, scans
        assert visitor.judge(ask, right(ask, scans), settled=always) is None
        written = written or ask.operation == operation


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": 500}, "expected 200, found 500"),
        ({"status": 0, "body": b"connection: closed"}, "connection: closed"),
        ({"body": b"<html>"}, "not JSON"),
        ({"body": b"[]"}, "expected an object"),
        ({"fields": {}}, "without x-data-source"),
        ({"fields": {"x-data-source": "firestore"}}, "answered by firestore and before by mock"),
        ({"document": {"files": 0}}, "files of its own scan"),
        ({"document": {"status": "cancelled"}}, "status of its own scan"),
        ({"document": {"progress": True}}, "progress is True"),
        ({"without": "root"}, "root is missing"),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(change: dict[str, Any], words: str) -> None:
    visitor, ask, scans = a_write_and_its_reading("scans.add_results")
    answer = right(ask, scans)
    document = json.loads(answer.body) | change.get("document", {})
    document.pop(change.get("without"), None)
    answer = answer._replace(body=json.dumps(document).encode())
    answer = answer._replace(**{name: value for name, value in change.items() if name in Reply._fields})
    problem = visitor.judge(ask, answer, settled=always)
    assert problem is not None
    assert words in problem.words


def test_another_arm_may_answer_while_the_weight_changes_and_for_a_failing_target() -> None:
    visitor, ask, scans = a_write_and_its_reading("scans.add_results")
    other = right(ask, scans, "firestore")
    fallback = other._replace(fields={"x-data-source": "firestore", "x-data-fallback": "deadline"})
    assert visitor.judge(ask, fallback, settled=always) is None
    assert visitor.judge(ask, other, settled=lambda: False) is None
    visitor.forget_arm()
    assert visitor.judge(ask, right(ask, scans), settled=always) is None


def the_next(visitor: Visitor, operation: str) -> Ask:
    """The visitor's next request of an operation; those before it are not sent."""
    while True:
        ask = visitor.next()
        if ask.operation == operation:
            return ask
        visitor.judge(ask, Reply(0, {}, b"", "unsent"))


def test_a_visitor_may_follow_a_write_that_fell_back_until_the_target_answers_again() -> None:
    visitor, ask, scans = a_write_and_its_reading("scans.add_results")
    write = the_next(visitor, "dashboard.publish")
    fell_back = right(write, scans, "old")._replace(fields={"x-data-source": "old", "x-data-fallback": "deadline"})
    assert visitor.judge(write, fell_back, settled=always) is None
    assert visitor.judge(ask, right(ask, scans, "old"), settled=always) is None
    assert visitor.judge(ask, right(ask, scans), settled=always) is None
    problem = visitor.judge(ask, right(ask, scans, "old"), settled=always)
    assert problem is not None
    assert "before by" in problem.words


LOST = Reply(0, {}, b"connection: closed", "broken")


@pytest.mark.parametrize("lost", [Reply(503, {}, b"write_uncertain"), LOST])
@pytest.mark.parametrize("applied", [True, False])
def test_a_write_that_was_not_confirmed_is_held_against_nobody(lost: Reply, applied: bool) -> None:
    visitor, _, scans = a_write_and_its_reading("scans.add_results")
    for operation in ("scans.update", "scans.add_results"):
        write = the_next(visitor, operation)
        if applied:
            right(write, scans)
        assert visitor.judge(write, lost, settled=always) is not None
        for _ in range(200):
            read = the_next(visitor, "scans.get")
            assert visitor.judge(read, right(read, scans), settled=always) is None


@pytest.mark.parametrize("refused", [Reply(0, {}, b"", "refused"), Reply(409, {}, b"{}")])
def test_a_write_that_was_refused_must_not_be_read(refused: Reply) -> None:
    visitor, _, scans = a_write_and_its_reading("scans.add_results")
    for operation in ("scans.update", "scans.add_results"):
        write = the_next(visitor, operation)
        right(write, scans)  # applied all the same
        visitor.judge(write, refused, settled=always)
        read = the_next(visitor, "scans.get")
        while own_scan(read) != own_scan(write):
            read = the_next(visitor, "scans.get")
        problem = visitor.judge(read, right(read, scans), settled=always)
        assert problem is not None
        assert problem.kind == "stale"


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (LOST, "broken"),
        (Reply(500, {}, b"{}"), "status"),
        (Reply(404, {}, b"{}"), "stale"),
        (Reply(200, {"x-data-source": "mock"}, b"[]"), "wrong"),
    ],
)
def test_the_kind_of_a_problem_says_whose_it_is(response: Reply, kind: str) -> None:
    visitor, ask, _ = a_write_and_its_reading("scans.add_results")
    problem = visitor.judge(ask, response)
    assert problem is not None
    assert problem.kind == kind


@pytest.mark.parametrize("operation", sorted(WRITES))
def test_what_an_answer_says_of_what_was_sent_must_be_it(operation: str) -> None:
    visitor, _, scans = a_write_and_its_reading("scans.add_results")
    write = the_next(visitor, operation)
    assert write.echo is not None
    wrong = json.loads(right(write, scans).body)
    for name in {"name", "metrics", "progress", "accepted"} & wrong.keys():
        wrong[name] = {"other": 1} if name == "metrics" else "other" if name == "name" else 77
    problem = visitor.judge(write, right(write, scans)._replace(body=json.dumps(wrong).encode()))
    assert problem is not None
    assert "sent" in problem.words


def test_who_may_make_no_scan_completes_none() -> None:
    mixture = {name: often for name, often in PROPORTIONS.items() if name not in ("scans.create", "app.page")}
    visitor, scans = someone(5, mixture=mixture), {}
    for _ in range(3000):
        ask = visitor.next()
        assert visitor.judge(ask, right(ask, scans)) is None
    statuses = [scan["status"] for scan in scans.values()]
    assert statuses
    assert "completed" not in statuses


def test_regulars_look_at_what_was_just_written_and_the_ledger_has_every_write() -> None:
    mixture = {name: often for name, often in PROPORTIONS.items() if name != "app.page"}
    ledger, scans = Ledger(), Scans()
    regulars = Regulars(10, mixture, ledger, seed=1)
    again = written = 0
    wrote = ""
    for _ in range(3000):
        visitor, ask = regulars.next()
        again += bool(wrote) and ask.operation == "scans.get" and own_scan(ask) == wrote
        assert visitor.judge(ask, right(ask, scans)) is None
        wrote = ""
        if ask.operation in ("scans.create", "scans.update", "scans.add_results"):
            written += 1
            wrote = own_scan(ask) or list(scans)[-1]
    assert abs(again - written / 2) < 4 * math.sqrt(written / 4) + written / 20  # some are read by chance
    assert ledger.scans.keys() == scans.keys()
    for name, found in scans.items():
        assert not ledger.scans[name].problem(found, ledger.scans[name].confirmed, found["files"])
    assert set(ledger.events.values()) == {"done"}


def test_an_answer_of_the_apps_has_no_data_source() -> None:
    page = Ask("app.page", "GET", "/")
    assert someone(1).judge(page, Reply(200, {}, b""), settled=always) is None
    assert someone(1).judge(page, Reply(200, {"x-data-source": "mock"}, b""), settled=always) is not None
    problem = someone(1).judge(page, Reply(404, {}, b"none"), settled=always)
    assert problem is not None
    assert problem.words == "expected 200, found 404: none"


def test_a_crowd_gives_each_visitor_one_request_at_a_time_and_is_bounded() -> None:
    crowd = Crowd("v", least=2, most=3)
    taken = [crowd.take() for _ in range(4)]
    assert [visitor and visitor.identity for visitor in taken] == ["v-0", "v-1", "v-2", None]
    assert taken[1] is not None
    crowd.put(taken[1])
    assert crowd.take() is taken[1]


def test_a_split_may_stray_by_chance_and_no_further() -> None:
    chance = random.Random(5)
    for weight in (5, 25, 50, 75):
        on_target = sum(chance.random() * 100 < weight for _ in range(400))
        assert split_problem(on_target, 400, weight) is None
    assert split_problem(0, 400, 50) is not None
    assert split_problem(399, 400, 100) is not None
    assert split_problem(1, 400, 0) is not None
    assert split_problem(0, 0, 50) is None


def test_a_migrations_crowd_grows_with_its_weight() -> None:
    sizes = [crowd_at(weight, 200) for weight in (0, 5, 25, 50, 75, 100)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (80, 200)
    assert crowd_at(0, 1) == 1


# What a run comes to


def status(**changes: Any) -> dict[str, Any]:
    limits = {"error_rate": 0.05, "p95_ms": 1000.0, "p99_ms": 2000.0, "memory_mb": 512.0}
    target = {"backend": "firestore", "requests": 500, "error_rate": 0.0, "p95_ms": 4.0, "p99_ms": 9.0}
    rules = [
        {"rule": rule, "value": 1e9 if rule != "memory_mb" else 90.0, "limit": limit, "samples": 1, "outcome": "hold"}
        for rule, limit in limits.items()
    ]
    made: dict[str, Any] = {
        "state": "running",
        "phase": {"name": "half"},
        "phases": [{"name": "half"}, {"name": "complete"}],
        "arms": {"target": target, "source": {"backend": "mock"}},
        "verdict": {"rules": rules},
        "last_rollback": None,
    }
    made["arms"]["target"] |= changes.pop("target", {})
    return made | changes


GOOD = Run("half", requests=1000, failures=0, cpu=0.3)
ROLLBACK = {"trigger": "breach", "reason": "p99"}


@pytest.mark.parametrize(
    ("run", "after", "code", "words"),
    [
        (GOOD, status(), PASSED, "p99_ms: 9 of at most 2000, kept (500 samples)"),
        (GOOD, status(last_rollback=ROLLBACK, state="rolled_back"), ROLLED_BACK, "rolled back: breach: p99"),
        (GOOD, status(state="aborted"), ROLLED_BACK, "aborted"),
        (Run("half", 1000, 0, 0.71), status(), GATE, "not judged"),
        (Run("half", 0, 0, 0.1), status(), GATE, "no request"),
        (Run("half", 1000, 2, 0.1, ["scans.get: lost"]), status(), GATE, "scans.get: lost"),
        (GOOD, status(phase={"name": "complete"}), GATE, "ended in complete"),
        (GOOD, status(target={"requests": 99}), GATE, "no judgement"),
        (GOOD, status(target={"p99_ms": 2000.1}), GATE, "p99_ms: 2000 of at most 2000, BROKEN"),
        (GOOD, status(target={"error_rate": 0.06}), GATE, "error_rate"),
        (Run("half", 1000, 0, 0.1, split="9 of 10"), status(), GATE, "9 of 10"),
        (Run("", 1000, 0, 0.1), status(), GATE, "did not complete"),
        (Run("", 1000, 0, 0.1), status(state="completed"), PASSED, "kept"),
    ],
)
def test_a_run_comes_to(run: Run, after: dict[str, Any], code: int, words: str) -> None:
    found = judge(run, status(), after)
    assert found.code == code, found.reasons
    assert any(words in reason for reason in found.reasons), found.reasons


def test_a_rollback_from_before_the_run_is_not_the_runs() -> None:
    assert judge(GOOD, status(last_rollback=ROLLBACK), status(last_rollback=ROLLBACK)).code == PASSED


def test_the_last_phase_may_be_earned_within_its_own_load_test() -> None:
    run = Run("complete", 1000, 0, 0.1)
    before = status(phase={"name": "complete"})
    assert judge(run, before, status(state="completed", phase=None)).code == PASSED
