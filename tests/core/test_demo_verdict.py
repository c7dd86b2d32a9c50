"""The demo's own judgement: it passes an honest run and catches each way of being wrong."""

from __future__ import annotations

from itertools import accumulate
from math import sqrt
from typing import Any

import pytest
from msgspec import convert
from msgspec.structs import replace

from control.demo.load import visitor
from control.demo.promises import STANDARD_ERRORS, promises
from control.figures.documents import BothArms, Summary
from control.report.documents import Report
from proxy.migration.buckets import bucket, salt
from tests.support import documents
from tests.support.documents import arm, reported

KINDS = ("mock", "firestore")
WEIGHTS = (5, 25, 50, 75, 100)
COPIED = {"complete": True, "copied_at": "2026-05-04T02:59:00Z", "lost": 0, "compare": None}


def report(**changed: Any) -> Report:
    phases = [
        reported(f"phase {weight}", weight, arms={"source": arm(1000 - 10 * weight), "target": arm(10 * weight)})
        for weight in WEIGHTS
    ]
    return documents.report(**{"phases": phases, "data": COPIED} | changed)


def changed_phase(index: int, **changed: Any) -> Report:
    """A report of which one phase was otherwise."""
    made = report()
    phases = list(made.phases)
    phases[index] = replace(phases[index], **changed)
    return replace(made, phases=tuple(phases))


def wire(**changed: Any) -> dict[str, Any]:
    honest = {
        "sent": 6000,
        "answered": 6000,
        "failed": 0,
        "held_back": 0,
        "app": 1000,
        "reads": 4700,
        "writes": 300,
        "sources": {"mock": 2453, "firestore": 2547},
        "fallbacks": {"deadline": 3},
        "examples": [],
    }
    return honest | changed


COUNTERS = {"source": 2450, "target": 2550, "fallbacks": 3}


def failed(found_report: Report, counters: dict[str, int], found_wire: dict[str, Any]) -> list[str]:
    return [found.name for found in promises(found_report, KINDS, counters, found_wire) if not found.held]


def test_an_honest_run_holds() -> None:
    assert failed(report(), COUNTERS, wire()) == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"failed": 1, "examples": ["GET /: 502"]}, "no client request failed"),
        ({"answered": 5999}, "no client request failed"),
        ({"sent": 0, "answered": 0}, "no client request failed"),
        ({"sources": {"mock": 2454, "firestore": 2546}}, "answers by x-data-source agree with the counters"),
        ({"sources": {"mock": 2453, "firestore": 2547, "x": 1}}, "answers by x-data-source agree with the counters"),
        ({"fallbacks": {}}, "fallbacks on the wire agree with the counters"),
        ({"writes": 0}, "reads and writes were both sent"),
    ],
)
def test_each_lie_on_the_wire_is_caught(changed: dict[str, Any], name: str) -> None:
    assert failed(report(), COUNTERS, wire(**changed)) == [name]


def test_a_rolled_back_run_does_not_hold() -> None:
    assert failed(report(outcome="rolled_back"), COUNTERS, wire()) == ["the migration completed"]


@pytest.mark.parametrize(
    "changed",
    [
        {"data": None},
        {"data": COPIED | {"copied_at": None}},
        {"data": COPIED | {"copied_at": "2026-05-04T03:10:00Z"}},
        {"data": COPIED | {"complete": False, "lost": 2}},
        {"started_at": None},
    ],
)
def test_a_run_on_a_target_that_was_not_copied_before_does_not_hold(changed: dict[str, Any]) -> None:
    assert failed(report(**changed), COUNTERS, wire()) == ["the data was copied before the first phase"]


def test_a_share_beyond_three_standard_errors_is_caught() -> None:
    error = sqrt(0.25 * 0.75 / 1000)
    assert failed(changed_phase(1, target_share=0.25 + 2.9 * error), COUNTERS, wire()) == []
    strayed = changed_phase(1, target_share=0.25 + 3.1 * error)
    assert failed(strayed, COUNTERS, wire()) == ["phase 25: 25 % on the target"]


def test_at_full_weight_every_single_request_counts() -> None:
    strayed = changed_phase(4, target_share=0.999)
    assert failed(strayed, COUNTERS, wire()) == ["phase 100: 100 % on the target"]


def test_a_phase_without_requests_proves_nothing() -> None:
    nothing = convert(arm(), Summary)
    empty = changed_phase(0, arms=BothArms(nothing, nothing), target_share=None)
    assert failed(empty, COUNTERS, wire()) == ["phase 5: 5 % on the target"]


def test_no_window_of_visitors_that_a_short_demo_cuts_strays_by_itself() -> None:
    """Phase i of n visitors begins near visitor i·n: none of these windows may fail a demo by chance."""
    buckets = [bucket(salt("phase6"), visitor(k).encode()) for k in range(10_000)]
    for index, weight in enumerate(WEIGHTS[:4]):
        share = weight / 100
        sums = [0, *accumulate(b < weight * 100 for b in buckets)]
        for count in range(200, 1600, 200):
            for start in range(int(0.8 * index * count), int(1.5 * index * count + 800), 20):
                strayed = sums[start + count] - sums[start] - count * share
                assert abs(strayed) <= STANDARD_ERRORS * sqrt(count * share * (1 - share))
