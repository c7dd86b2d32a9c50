"""The dashboard's card of the data, in a real browser: copy, compare and repair between a mock and an emulator."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from playwright.sync_api import Locator, Page, expect

from backends.kinds.firestore.settings import EMULATOR
from tests.support import sides
from tests.support.browsing import DESKTOP, PHONE, violations

Start = Callable[..., Any]
Open = Callable[..., Page]

PHASES = [("half", 50, "10m")]
DELETED = 60  # more than the page asks for at once
PAGE = 50
TASK_MS = 600_000.0  # a task gives way to everybody else on this machine


class Emulated:
    """The documents that the target's emulator holds, changed behind phasegate's back."""

    def __init__(self, project: str) -> None:
        self.project = project
        self._root = f"http://{os.environ[EMULATOR]}/v1/projects/{project}/databases/(default)/documents"

    def held(self) -> sides.Side:
        return sides.firestore(os.environ[EMULATOR], self.project)

    def delete(self, path: str) -> None:
        self._send("DELETE", path, None)

    def put(self, path: str, **fields: str) -> None:
        """Write these fields beside the others."""
        mask = "&".join(f"updateMask.fieldPaths={name}" for name in fields)
        self._send("PATCH", f"{path}?{mask}", {"fields": {n: {"stringValue": v} for n, v in fields.items()}})

    def _send(self, method: str, path: str, body: Any) -> None:
        headers = {"Authorization": "Bearer owner", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._root}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200


def card_of(page: Page) -> Locator:
    return page.get_by_role("region", name="Data", exact=True)


def fact(page: Page, name: str) -> Locator:
    """A figure of the card."""
    return card_of(page).locator(".facts > div", has=page.get_by_text(name, exact=True)).locator("dd")


def press(page: Page, name: str, *, of: str = "") -> None:
    """Press a button of the card, or of the dialog that the button ``of`` opens."""
    if not of:
        card_of(page).get_by_role("button", name=name, exact=True).click()
        return
    press(page, of)
    page.get_by_role("dialog").get_by_role("button", name=name, exact=True).click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def paths(page: Page) -> list[str]:
    """The documents that the card lists."""
    return card_of(page).locator(".differences tbody th").all_text_contents()


def test_from_an_empty_target_to_one_that_is_mended(serving: Start, opened: Open, emulated: str) -> None:
    running = serving(emulated, PHASES, copied=False)
    target, page = Emulated(emulated), opened(running)
    with ThreadPoolExecutor(1) as aside:  # this thread's event loop is the browser's
        source = aside.submit(sides.mock, running.folder / "run" / "phase6.mock.journal").result()
    card = card_of(page)

    # The gate holds, and the page says why, and what opens it.
    expect(card.locator(".outcome")).to_have_text(re.compile("no phase begins"))
    expect(card.locator(".why")).to_contain_text("The target lacks the source's data")
    expect(card.locator("code")).to_have_text("phasegate copy --migration phase6")
    expect(fact(page, "Last copy")).to_contain_text("never")
    expect(fact(page, "Last compare")).to_contain_text("never")
    page.get_by_role("button", name="Start …").click()
    page.get_by_role("dialog").get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".said")).to_contain_text("phasegate copy --migration phase6")

    # A copy says what it costs before, and what it did afterwards.
    press(page, "Copy …")
    page.get_by_role("button", name="What does it cost?").click()
    expect(page.get_by_role("dialog").get_by_role("status")).to_contain_text(
        f"writes {len(source):,}", timeout=TASK_MS
    )
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    press(page, "Copy", of="Copy …")
    expect(card.locator(".outcome")).to_have_text(re.compile("not known to lack anything"), timeout=TASK_MS)
    expect(card.get_by_role("status")).to_contain_text(f"Copy done: {len(source):,} documents copied")
    expect(fact(page, "Last copy")).not_to_contain_text("never")
    assert target.held() == source

    # What differs is listed in full, by pages.
    old = [path for path in sorted(source) if path.startswith("analytics_events/")]
    changed, deleted = old[0], old[1 : DELETED + 1]
    assert len(deleted) == DELETED
    for path in deleted:
        target.delete(path)
    target.put(changed, planted="x")
    press(page, "Compare")
    expect(fact(page, "Last compare")).to_contain_text(f"{DELETED + 1} differences", timeout=TASK_MS)
    expect(card.locator(".outcome")).to_have_text(re.compile("no phase begins"))
    expect(card.locator(".why")).to_contain_text(f"{DELETED + 1} documents differ")
    rows = card.locator(".differences tbody tr")
    expect(rows).to_have_count(PAGE)
    press(page, "Load more")
    expect(rows).to_have_count(DELETED + 1)
    assert paths(page) == sorted([changed, *deleted])
    expect(rows.filter(has_text=changed)).to_contain_text("different")
    expect(rows.filter(has_text=changed)).to_contain_text("planted")
    expect(rows.filter(has_text=deleted[0])).to_contain_text("missing on the target")

    # The newer wins: of a document that is never changed no rule says which that is.
    press(page, "Repair", of="Repair …")
    expect(fact(page, "Last compare")).to_contain_text(re.compile("^1 difference"), timeout=TASK_MS)
    expect(rows).to_have_count(1)
    assert paths(page) == [changed]
    expect(card.get_by_role("status")).to_contain_text(f"Repair done: {DELETED} repaired")

    # One side follows the other, and what only it has is deleted: that has to be typed.
    target.put("analytics_events/planted", planted="y")
    press(page, "Repair …")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("checkbox")).to_have_count(0)
    dialog.get_by_label("Make the target like the source").check()
    dialog.get_by_label("Also delete what only the target has").check()
    expect(dialog.get_by_role("button", name="Repair")).to_be_disabled()
    dialog.get_by_label("to confirm").fill("phase6")
    dialog.get_by_role("button", name="Repair").click()
    expect(card.locator(".outcome")).to_have_text(re.compile("not known to lack anything"), timeout=TASK_MS)
    expect(fact(page, "Last compare")).to_contain_text("equal")
    expect(card.locator(".differences")).to_have_count(0)
    assert target.held() == source
    entry = next(entry for entry in running.client.audit(50).entries if entry.kind == "repair")
    assert (entry.actor, entry.detail["from"], entry.detail["delete"]) == ("tests", "source", True)


def test_everybody_sees_a_task_and_operators_stop_it(serving: Start, opened: Open, emulated: str, axe: str) -> None:
    # The first page of documents is written at once; the next one waits for most of a minute.
    running = serving(emulated, PHASES, copied=False, rate=1)
    page, other, viewer = opened(running), opened(running, viewport=PHONE), opened(running, token=running.viewer)
    expect(card_of(viewer).locator(".outcome")).to_have_text(re.compile("no phase begins"))
    expect(card_of(viewer).get_by_role("button")).to_have_count(0)
    for each, viewport in ((page, DESKTOP), (other, PHONE)):
        for scheme in ("light", "dark"):
            each.emulate_media(color_scheme=scheme)
            assert violations(each, axe) == []
            press(each, "Repair …")
            each.get_by_role("dialog").get_by_label("Make the source like the target").check()
            assert violations(each, axe) == []
            each.get_by_role("button", name="Cancel").click()
            expect(each.get_by_role("dialog")).to_have_count(0)
        assert each.evaluate("document.documentElement.scrollWidth") <= viewport["width"]

    # By the keyboard alone. Whoever asked for another copy at the same time is told that one is under way.
    press(other, "Copy …")
    card_of(page).get_by_role("button", name="Copy …").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Copy", exact=True).focus()
    page.keyboard.press("Enter")
    for each in (page, other, viewer):
        bar = card_of(each).get_by_role("progressbar", name="Copying")
        expect(bar).to_have_attribute("aria-valuenow", re.compile(r"^[1-9]\d?$"), timeout=TASK_MS)
        expect(card_of(each).locator(".progress")).to_contain_text(re.compile(r"[1-9]\d* of [\d,]+ documents"))
        expect(card_of(each).get_by_role("button", name="Copy …")).to_have_count(0)
    other.get_by_role("dialog").get_by_role("button", name="Copy", exact=True).click()
    expect(card_of(other).get_by_role("status")).to_contain_text("copy is under way, begun by tests")
    assert violations(page, axe) == []
    assert violations(other, axe) == []

    stop = card_of(page).get_by_role("button", name="Stop the copy")
    expect(stop).to_be_focused()
    page.keyboard.press("Enter")
    for each in (page, viewer):
        expect(card_of(each).get_by_role("progressbar")).to_have_count(0, timeout=TASK_MS)
        expect(card_of(each).get_by_role("status")).to_contain_text("Copy stopped.")
        expect(card_of(each).locator(".outcome")).to_have_text(re.compile("no phase begins"))
    expect(card_of(page).get_by_role("button", name="Copy …")).to_be_focused()
