"""The report's page: it stands by itself, says everything, and takes nothing as markup that is data."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from control.report_html import page


def report(**changed: Any) -> dict[str, Any]:
    arm = {"requests": 1234, "errors": 2, "error_rate": 0.0016, "p50_ms": 0.8, "p95_ms": 3.2, "p99_ms": 12.5}
    made: dict[str, Any] = {
        "migration": "phase6",
        "outcome": "completed",
        "started_at": "2026-05-04T03:00:00Z",
        "ended_at": "2026-05-04T03:45:00Z",
        "phases": [
            {
                "name": name,
                "weight": weight,
                "entered_at": "2026-05-04T03:00:00Z",
                "left_at": "2026-05-04T03:05:00Z",
                "arms": {"source": arm, "target": arm | {"p99_ms": 140.0}},
                "target_share": weight / 100,
                "verdict": {"outcome": "promote", "reasons": ["all rules proven"]},
            }
            for name, weight in (("initial", 5), ("complete", 100))
        ],
        "rollbacks": [],
        "criteria": [{"name": "error_rate", "passed": True, "evidence": "0.16 % of 1,234"}],
    }
    return made | changed


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
    html = page(report(migration=nasty, criteria=[{"name": nasty, "passed": False, "evidence": nasty}]))
    assert "<script" not in html
    assert Outline(html).open == []


def test_a_run_without_traffic_or_phases_is_a_page_too() -> None:
    empty = {"requests": 0, "errors": 0, "error_rate": None, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    quiet = report()
    for phase in quiet["phases"]:
        phase |= {"arms": {"source": empty, "target": empty}, "target_share": None, "verdict": None}
    assert Outline(page(quiet)).open == []
    assert Outline(page(report(phases=[], criteria=[], ended_at=None))).open == []
