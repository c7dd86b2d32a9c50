"""The dashboard's cards hold whatever they may be told, at every width, in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.support import pages

# The narrowest phone that WCAG 1.4.10 has in mind, a usual one, one edge of each layout, and a laptop.
WIDTHS = (320, 390, 640, 768, 1161, 1280)
# What WCAG 1.4.12 demands that a page bears; also about what a wider font than this machine's would take.
SPACED = "* { letter-spacing: 0.12em !important; word-spacing: 0.16em !important }"

RULES = {
    "error_rate": ("Errors", "share"),
    "success_rate": ("Successes", "share"),
    "p95_ms": ("p95", "ms"),
    "p99_ms": ("p99", "ms"),
    "memory_mb": ("Memory", "MB"),
    "cpu": ("CPU", "share"),
}
LARGE = {"p95_ms": (9_876.0, 9_000.0), "p99_ms": (123_456.0, 100_000.0), "memory_mb": (123_456.7, 131_072.0)}
SHARE = (0.98765, 0.999)
SAMPLES = 123_456_789
WORD = "an-unbroken-word-as-long-as-names-of-backends-and-reasons-may-be"
WHY = (
    "123456 of 123456789 target requests failed (12.3 %); at most 5 % allowed; above it with a likelihood ratio of "
    "10^1234 to 1"
)
# How the page puts each: outcome, proof, and whether the value is above its limit.
WORDINGS = {
    "kept": ("promote", None, False),
    "proven": ("promote", 1.0, False),
    "0 % proven": ("hold", 0.0, False),
    "99 % proven": ("hold", 0.9999, False),
    "not yet": ("hold", None, False),
    "above": ("hold", 0.5, True),
    "broken": ("roll_back", None, True),
    "no data": ("no_data", None, False),
}
OUTCOMES = ("promote", "hold", "roll_back", "no_data")
STATES = ("idle", "running", "paused", "rolling_back", "rolled_back", "completed", "aborted")
PHASES = [
    {"name": name, "weight": weight, "min_soak_s": 86_399.0, "rollback_within_s": 38.5, "approval": True}
    for name, weight in (("initial", 0.25), ("early-birds", 12.5), (WORD, 33.33), ("majority", 75), ("all", 100))
]


def rule(name: str, wording: str) -> dict[str, Any]:
    outcome, proof, above = WORDINGS[wording]
    value, limit = LARGE.get(name, SHARE)
    found = limit * 1.1 if above else value if outcome != "hold" else limit * 0.98765
    return {
        "rule": name,
        "value": None if outcome == "no_data" else found,
        "limit": limit,
        "samples": SAMPLES,
        "outcome": outcome,
        "proof": proof,
        "label": RULES[name][0],
        "unit": RULES[name][1],
        "evidence": None,
        "reason": WHY,
    }


def verdict(outcome: str, wording: str) -> dict[str, Any]:
    summary = f"held by {', '.join(RULES)}; {WORD}"
    return {
        "outcome": outcome,
        "summary": [summary],
        "reasons": [summary, *(f"{name}: {WHY}" for name in RULES)],
        "checked_at": "2026-05-04T23:59:59.999Z",
        "rules": [rule(name, wording) for name in RULES],
    }


def arm(requests: int, slow: float) -> dict[str, Any]:
    return {
        "backend": WORD,
        "requests": requests,
        "errors": requests // 8,
        "error_rate": 0.12345,
        "p50_ms": slow / 100,
        "p95_ms": slow,
        "p99_ms": slow * 12,
        "inflight": 12_345,
    }


FACTS = {
    "copied_at": "2026-05-04T23:59:59.999Z",
    "behind": {"changes": SAMPLES, "oldest_s": 123_456.7},
    "lost": SAMPLES,
    "compare": {"at": "2026-05-04T23:59:59.999Z", "equal": False, "differences": SAMPLES, "documents": SAMPLES},
    "task": None,
}
LACKS = {
    "complete": False,
    "lacks": f"{SAMPLES:,} changes reached one side alone since the last copy or equal compare, {SAMPLES:,} differ",
    "mend": f"phasegate compare --migration {WORD} --repair",
}
EQUAL = {"at": "2026-05-04T23:59:59.999Z", "equal": True, "differences": 0, "documents": SAMPLES}
TASK = {"done": SAMPLES, "of": SAMPLES, "rate": 123_456.7, "left_s": 123_456.7}
# Every way in which the data may stand.
DATA: dict[str, dict[str, Any]] = {
    "never copied": FACTS | LACKS | {"copied_at": None, "compare": None, "lost": 0, "gated": True},
    "differs": FACTS | LACKS | {"gated": True},
    "differs, gate off": FACTS | LACKS | {"gated": False},
    "equal": FACTS | {"complete": True, "gated": False, "lacks": None, "mend": None, "lost": 0, "compare": EQUAL},
    "not settled": FACTS | LACKS | {"gated": True, "compare": EQUAL | {"equal": False}},
    "copying": FACTS | LACKS | {"gated": True, "task": TASK | {"kind": "copy"}},
    "compare begun": FACTS
    | LACKS
    | {"gated": True, "task": {"kind": "compare", "done": 0, "of": None, "rate": None, "left_s": None}},
}
DIFFERENCES = [
    {"path": f"scans/{WORD}{WORD}/groups/{n}", "kind": kind, "fields": fields}
    for n, (kind, fields) in enumerate(
        [("missing_on_target", []), ("missing_on_source", []), ("different", [WORD, "state", "copies"] * 4)] * 9
    )
]


def status(state: str = "running", outcome: str = "hold", wording: str = "99 % proven") -> dict[str, Any]:
    """A status in which everything is as long as it may well become."""
    phase = {"index": 2, **PHASES[2], "soaked_s": 86_398.0, "entered_at": "2026-05-04T23:59:59.999Z"}
    last = {"trigger": "lease_lost", "reason": f"{WHY}; {WORD}", "from_weight": 33.33, "to_weight": 12.5}
    worker = {"pid": 4_194_304, "inflight_target": 12_345, "heartbeat_age_ms": 123_456.7}
    return {
        "migration": "phase6",
        "state": state,
        "revision": 123_456,
        "weight": 33.33,
        "phase": None if state in ("idle", "aborted") else phase,
        "phases": PHASES,
        "verdict": verdict(outcome, wording),
        "arms": {"source": arm(SAMPLES, 1.23), "target": arm(SAMPLES, 9_876.5)},
        "last_rollback": last
        | {
            "decided_ms": 1.23,
            "seen_ms": 9_876.5,
            "drained_ms": 33_333.3,
            "total_ms": 43_211.1,
            "within_deadline": False,
        },
        "checkpoint": {"ok": False, "error": f"database or disk is full: /var/lib/{WORD}", "resume_phase": WORD},
        "workers": [{"slot": slot, "generation": 123_456 - slot % 2} | worker for slot in (0, 63)],
        "waits": [],
        "opens": None,
        "data": DATA["differs"],
    }


ENTRIES = [
    {
        "seq": seq,
        "at": "2026-05-04T23:59:59.999Z",
        "kind": kind,
        "actor": "phasegate" if seq % 2 else WORD,
        "detail": {
            "revision": 123_456,
            "from_weight": 33.33,
            "to_weight": 12.5,
            "phase": WORD,
            "reason": f"{WORD}{WORD}, {WHY}",
            "more": [WORD],
        },
        "hash": "c0ffee",
    }
    for seq, kind in enumerate(("start", "rollback", "rollback_completed_by_somebody", "lease_lost"), 1)
]
ENTRIES.append(
    ENTRIES[0] | {"seq": 9, "kind": "data_task_failed", "detail": {"kind": "repair", "failure": WORD, "reason": WHY}}
)

# Every text must lie within its box and on no other text; what a box cuts off on purpose (an ellipsis, a list that
# scrolls) counts as far as it is seen.
STRAYING = """() => {
  const boxes = ".card, dialog, .hero, .bar, .lost[role=alert], .menu";
  const found = [];
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 0) found.push(`the page is ${wide} px too wide`);
  for (const each of document.querySelectorAll("body *:not(.rail ol)")) {
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(each).overflowX);
    if (scrolls && each.scrollWidth > each.clientWidth) found.push(`${each.className} has to be scrolled sideways`);
  }
  const seen = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const text = node.data.trim();
    const parent = node.parentElement;
    if (parent.matches("details:not([open])")) continue;
    if (!text || parent.closest(".hidden, .skip, canvas, option, [aria-live]") || !parent.checkVisibility()) continue;
    const box = parent.closest(boxes);
    if (!box) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      let [left, right, top, bottom] = [rect.left, rect.right, rect.top, rect.bottom];
      let sticky = false;
      for (let each = parent; each; each = each.parentElement) {
        const style = getComputedStyle(each);
        sticky ||= style.position === "sticky";
        if (style.overflowX === "visible" || each === document.documentElement) continue;
        const clip = each.getBoundingClientRect();
        [left, right] = [Math.max(left, clip.left), Math.min(right, clip.right)];
        [top, bottom] = [Math.max(top, clip.top), Math.min(bottom, clip.bottom)];
      }
      if (right - left < 1 || bottom - top < 1) continue;
      const { left: from, right: to } = box.getBoundingClientRect();
      const where = `${box.className || box.tagName}: “${text.slice(0, 60)}”`;
      const out = Math.max(from - left, right - to);
      if (out > 0.5) found.push(`${where} sticks out by ${out.toFixed(1)} px`);
      // Two lines of one text may touch, and what floats above the page lies on it by intent.
      if (sticky || getComputedStyle(box).position !== "static") continue;
      for (const other of seen) {
        if (other.node === node || other.box !== box) continue;
        const across = Math.min(right, other.right) - Math.max(left, other.left);
        const down = Math.min(bottom, other.bottom) - Math.max(top, other.top);
        if (across > 1 && down > 4) found.push(`${where} lies on “${other.text.slice(0, 60)}”`);
      }
      seen.push({ node, box, text, left, right, top, bottom });
    }
  }
  return [...new Set(found)];
}"""

STYLED = "css => document.head.append(Object.assign(document.createElement('style'), { textContent: css }))"


def straying(page: Page) -> list[str]:
    """What does not fit, in words; [] where everything does."""
    found: list[str] = page.evaluate(STRAYING)
    return found


REFUSED = {"error": {"code": "conflict", "message": f"{WHY}; {WORD}", "hint": f"Look at {WORD}, and try again."}}
CHECKS = {"checks": [{"name": WORD, "ok": ok, "found": f"{WHY}; {WORD}", "mend": WORD} for ok in (True, False, None)]}

Opened = Callable[..., Page]


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Opened]:
    """Open the page at a width, in the midst of a migration. ``spaced``: its text as wide as it must bear."""
    contexts = []

    def open_page(spaced: bool = False, **how: Any) -> Page:
        viewport = ViewportSize(width=request.param, height=900)
        context = browser.new_context(viewport=viewport, reduced_motion="reduce")
        contexts.append(context)
        page = pages.open_page(
            context, names=("phase6", WORD), entries=ENTRIES, most=99_999, differences=DIFFERENCES, **how
        )
        pages.show(page, status())
        expect(page.locator(".audit tbody tr")).to_have_count(len(ENTRIES))
        expect(page.locator(".differences tbody tr")).to_have_count(len(DIFFERENCES))
        if spaced:
            page.evaluate(STYLED, SPACED)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("spaced", [False, True], ids=["usual", "spaced"])
def test_every_wording_of_a_verdict_fits(opened: Opened, spaced: bool) -> None:
    page, found = opened(spaced), {}
    for outcome in OUTCOMES:
        for wording in WORDINGS:
            pages.show(page, status(outcome=outcome, wording=wording))
            cells = [" ".join(text.split()) for text in page.locator(".verdict td.text").all_text_contents()]
            assert {text.lstrip("✓•✕\u2013 ") for text in cells} == {wording}
            found[outcome, wording] = straying(page)
    assert {each: wrong for each, wrong in found.items() if wrong} == {}


def test_every_state_fits_with_its_menu_and_its_questions(opened: Opened) -> None:
    page, found, asked = opened(True, to_actions=(200, CHECKS)), {}, 0
    for state in STATES:
        pages.show(page, status(state))
        found[state, "as it is"] = straying(page)
        for label in page.locator(".actions button").all_text_contents():
            button = page.locator(".actions").get_by_role("button", name=label.strip(), exact=True)
            if not button.is_visible():
                page.get_by_text("More", exact=True).click()
                found[state, "menu"] = straying(page)
            if not label.strip().endswith("…"):
                continue
            button.click()
            if page.get_by_role("button", name="Check first").count():
                page.get_by_role("button", name="Check first").click()
                expect(page.locator(".checks li")).to_have_count(3)
            found[state, label] = straying(page)
            asked += page.get_by_role("dialog").count()
            page.get_by_role("button", name="Cancel").click()
            expect(page.get_by_role("dialog")).to_have_count(0)
    assert asked > len(STATES)
    assert {each: wrong for each, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("spaced", [False, True], ids=["usual", "spaced"])
def test_the_data_fits_however_it_stands_with_its_questions(opened: Opened, spaced: bool) -> None:
    page, asked = opened(spaced), 0
    found: dict[tuple[str, ...], list[str]] = {}
    card = page.locator(".card.data")
    for name, data in DATA.items():
        pages.show(page, status() | {"data": data})
        found[name, "as it is"] = straying(page)
        for label in card.locator("header button").all_text_contents():
            if not label.strip().endswith("…"):
                continue
            card.get_by_role("button", name=label.strip(), exact=True).click()
            for nth, way in enumerate(page.get_by_role("dialog").get_by_role("radio").all()):
                way.check()
                found[name, label, str(nth)] = straying(page)
            found[name, label] = straying(page)
            asked += 1
            page.get_by_role("button", name="Cancel").click()
            expect(page.get_by_role("dialog")).to_have_count(0)
    assert asked == 2 * len([data for data in DATA.values() if data["task"] is None])
    assert {each: wrong for each, wrong in found.items() if wrong} == {}


def test_where_there_is_no_data_there_is_no_card(opened: Opened) -> None:
    page = opened()
    expect(page.locator(".card.data")).to_have_count(1)
    pages.show(page, status() | {"data": None})
    expect(page.locator(".card.data")).to_have_count(0)


def test_what_goes_wrong_is_told_in_full(opened: Opened) -> None:
    page = opened(True, to_actions=(409, REFUSED))
    page.get_by_role("button", name="Roll back to 12.5 %").click()
    expect(page.locator(".said")).to_contain_text(WORD)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".data .ended")).to_contain_text(f"Compare: {WHY}; {WORD}")
    assert straying(page) == []
    page.route("**/api/session", lambda route: route.abort())
    page.evaluate("window.stream.dispatchEvent(new Event('error'))")
    expect(page.get_by_role("alert")).to_contain_text("Connection lost")
    assert straying(page) == []


def test_signing_in_fits(opened: Opened) -> None:
    page = opened(True, to_actions=(401, REFUSED))
    page.route(
        "**/api/session",
        lambda route: route.fallback() if route.request.method == "POST" else route.fulfill(status=401, json=REFUSED),
    )
    page.reload()
    page.get_by_label("Token").fill(WORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text(WORD)
    page.evaluate(STYLED, SPACED)
    assert straying(page) == []


def test_what_does_not_fit_is_found(opened: Opened) -> None:
    page = opened()
    assert straying(page) == []
    cell = page.locator(".arms tbody th").first
    cell.evaluate("cell => { cell.style.whiteSpace = 'nowrap'; cell.textContent = 'wide '.repeat(99); }")
    assert any("sticks out" in each for each in straying(page))
    cell.evaluate("cell => { cell.textContent = ''; }")
    page.locator(".arms tbody tr").nth(3).evaluate("row => { row.style.transform = 'translateY(-100%)'; }")
    assert any("lies on" in each for each in straying(page))
