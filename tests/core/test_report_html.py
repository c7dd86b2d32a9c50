"""The report's page: it stands by itself, says everything, and takes nothing as markup that is data."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from markupsafe import escape
from msgspec.structs import replace

from control.report.documents import Report
from control.report.html import page
from tests.support import documents
from tests.support.documents import arm, reported, verdict

ROLLBACK = documents.ROLLBACK | {"trigger": "command", "reason": "it looks odd", "drained_ms": 38.0, "total_ms": 43.4}


def report(**changed: Any) -> Report:
    source = arm(1234, 2, p50_ms=0.8, p95_ms=3.2, p99_ms=12.5)
    arms = {"source": source, "target": source | {"p99_ms": 140.0}}
    proven = verdict("promote", "all rules proven")
    made = {
        "phases": [
            reported(name, weight, arms=arms, verdict=proven) for name, weight in (("initial", 5), ("all", 100))
        ],
        "criteria": [{"name": "error_rate", "passed": True, "evidence": "0.16 % of 1,234"}],
    }
    return documents.report(**made | changed)


class Outline(HTMLParser):
    """What a page asks for from elsewhere, and whether its tags are in balance."""

    VOID = frozenset({"meta", "circle", "rect", "line", "path", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        fetching = {"src", "href", "srcset", "data", "action"}
        self.asked += [f"{tag} {name}" for name, _ in attrs if name in fetching or name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_its_tags_are_in_balance() -> None:
    outline = Outline(page(report()))
    assert outline.open == []
    assert outline.asked == []
    assert not outline.tags & {"script", "link", "img", "iframe", "object"}
    assert {"svg", "table", "main", "h1"} <= outline.tags


def test_the_page_has_outcome_shares_latencies_criteria_and_verdicts() -> None:
    html = page(report())
    for expected in ("completed", "initial", "5.00 %", "140.00 ms", "0.16 % of 1,234", "all rules proven", "1,234"):
        assert expected in html


def test_what_is_data_never_becomes_markup() -> None:
    nasty = '<script>alert("x")</script>'
    judged = reported(nasty, 5.0, verdict=verdict("hold", nasty))
    made = report(
        migration=nasty,
        phases=[judged],
        rollbacks=[ROLLBACK | {"reason": nasty, "trigger": nasty}],
        criteria=[{"name": nasty, "passed": False, "evidence": nasty}],
        audit={"entries": 1, "hash": nasty},
    )
    # What the types do not let in, a template must not let through either.
    (phase,) = made.phases
    phase = replace(phase, verdict=replace(phase.verdict, outcome=nasty))
    html = page(replace(made, outcome=nasty, phases=(phase,)))
    outline = Outline(html)
    assert "script" not in outline.tags
    assert (outline.open, outline.asked) == ([], [])
    assert html.count(str(escape(nasty))) >= 11, "each place that shows it shows it whole"
    assert "script" in Outline(html.replace(str(escape(nasty)), nasty)).tags, "unescaped it would have been seen"


def test_a_run_without_traffic_or_phases_is_a_page_too() -> None:
    quiet = reported("initial", 5.0, target_share=None, verdict=verdict("no_data", "nothing has been judged yet"))
    assert Outline(page(report(phases=[quiet]))).open == []
    assert Outline(page(report(phases=[], criteria=[], ended_at=None))).open == []


def test_a_rollback_is_told_with_its_clock_and_the_trail_with_its_hash() -> None:
    html = page(report(rollbacks=[ROLLBACK], audit={"entries": 7, "hash": "c0ffee"}))
    for expected in ("it looks odd", "decided", "seen", "drained", "43 ms", "within its", "7 entries", "c0ffee"):
        assert expected in html
    assert Outline(html).open == []
    at_once = ROLLBACK | {"decided_ms": 0.0, "seen_ms": 0.0, "drained_ms": 0.0, "total_ms": 0.0}
    assert Outline(page(report(rollbacks=[at_once]))).open == []


def test_a_verdict_shows_what_each_rule_rests_on() -> None:
    rules = [
        {"rule": "error_rate", "value": 0.0123, "limit": 0.05, "samples": 4321, "outcome": "promote", "proof": 1.0},
        {"rule": "p95_ms", "value": None, "limit": 1000.0, "samples": 0, "outcome": "no_data", "proof": None},
        {"rule": "memory_mb", "value": 94.2, "limit": 512.0, "samples": 3, "outcome": "promote", "proof": None},
    ]
    reasons = ("soaking: 3 s of 4 s", "error_rate: 53 of 4321 target requests failed")
    judged = verdict("hold", *reasons, rules=rules, summary=reasons[:1])
    html = page(report(phases=[reported("initial", 5.0, verdict=judged)]))
    for expected in ("soaking: 3 s of 4 s", "1.23 %", "5.00 %", "4,321", "100 %", "no data", "94.2 MB"):
        assert expected in html
    assert "53 of 4321" not in html, "the row says it"
    earlier = verdict("hold", *reasons, rules=rules)
    assert "53 of 4321" in page(report(phases=[reported("initial", 5.0, verdict=earlier)])), "no row says it"


def test_the_data_has_a_section_where_there_is_data() -> None:
    assert "<h2>Data</h2>" not in page(report())
    at = "2026-05-04T03:02:01.000Z"
    compare = {"at": at, "equal": False, "differences": 3, "documents": 12}
    lacks = {"complete": False, "gated": True, "mend": "phasegate compare --repair"}
    html = page(report(data={**lacks, "copied_at": at, "lost": 2, "compare": compare}))
    assert "INCOMPLETE, `phasegate compare --repair` mends it; no phase begins before" in html
    for line in ("copied: 2026-05-04 03:02:01 UTC", "12 documents, 3 differences", "lost: 2 changes"):
        assert line in html
    assert Outline(html).open == []
    whole = page(report(data={"complete": True, "copied_at": None, "lost": 0, "compare": None}))
    assert "not known to lack anything" in whole
    assert "copied: never" in whole
