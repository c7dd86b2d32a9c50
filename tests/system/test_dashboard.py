"""The dashboard in a real browser, in front of a real run: what a person sees, presses and is told."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.support.browsing import DESKTOP, PHONE, Watch, violations

Start = Callable[..., Any]
Open = Callable[..., Page]

# The second phase has to be left by an operator: the test is done long before its soak.
PHASES = [("first", 20, "2s"), ("second", 60, "10m"), ("last", 100, "10m")]

RATE = 20  # requests a second: enough to see, and no load for a machine that draws pages besides


def state_is(page: Page, name: str) -> None:
    expect(page.locator("h1 .state")).to_have_text(name)


def drawn(page: Page, title: str) -> str:
    """The picture of a plot as it is now."""
    return str(
        page.locator("figure", has_text=title).locator("canvas").evaluate("canvas => canvas.toDataURL()"),
    )


def start(page: Page, reason: str) -> None:
    page.get_by_role("button", name="Start …").click()
    page.get_by_role("dialog").get_by_label("Reason").fill(reason)
    page.get_by_role("dialog").get_by_role("button", name="Start", exact=True).click()
    state_is(page, "Running")


def test_a_run_from_signing_in_to_a_rollback(serving: Start, opened: Open, emulated: str, until: Any) -> None:
    running = serving(emulated, PHASES, max_soak="4s")
    traffic = running.traffic(RATE)
    page = opened(running, token=None)

    page.get_by_label("Token").fill("a wrong one")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not known")
    page.get_by_label("Token").fill(running.token)
    page.get_by_role("button", name="Sign in").click()
    state_is(page, "Idle")
    cookie = page.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")

    # What puts traffic on the target asks first, and a question can be taken back.
    page.get_by_role("button", name="Start …").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("button", name="Check first").click()
    expect(page.locator(".checks")).to_contain_text("checks")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert running.client.status().state == "idle"
    start(page, "a rehearsal")

    # Figures, plots and the phase go on by themselves.
    before = {title: drawn(page, title) for title in ("Requests", "Latency", "Every request, target")}
    expect(page.locator("h1 .weight")).to_have_text("60 %")
    expect(page.locator(".rail .current .name")).to_have_text("second")
    expect(page.locator("figure", has_text="Requests")).to_contain_text(re.compile(r"[1-9][\d.]*/s.*[1-9][\d.]*/s"))
    for title, picture in before.items():
        until(lambda title=title, picture=picture: drawn(page, title) != picture, 60, f"the plot {title}")
    expect(page.locator(".verdict tbody")).to_contain_text("Errors")
    expect(page.locator(".audit tbody")).to_contain_text("“a rehearsal”")

    # Advancing against the evidence has to be typed.
    page.get_by_role("button", name="Advance to 100 %").click()
    advance = page.get_by_role("dialog").get_by_role("button", name="Advance", exact=True)
    page.get_by_role("dialog").get_by_label("Reason").fill("no reason")
    expect(advance).to_be_disabled()
    page.get_by_role("dialog").get_by_label("to confirm").fill("last")
    expect(advance).to_be_enabled()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)

    # Taking it back is one click. By its role, because the closed dialog, which has such a field too, is in the page
    # for a moment longer.
    page.get_by_role("textbox", name="Reason").fill("it looks odd")
    page.get_by_role("button", name="Roll back to 20 %").click()
    state_is(page, "Rolled back")
    clock = page.locator(".rollback")
    expect(clock).to_contain_text("60 % → 20 %")
    expect(clock).to_contain_text("it looks odd")
    expect(clock).to_contain_text("within")
    last = running.client.status().last_rollback
    for step in ("detected", "decided", "seen", "drained", "limit"):
        expect(clock.locator(".steps")).to_contain_text(step)
    assert (last.from_weight, last.to_weight, last.reason) == (60, 20, "it looks odd")
    expect(page.locator("h1 .weight")).to_have_text("20 %")
    expect(page.locator(".verdict")).to_contain_text("held until an operator resumes")  # and is not "soaking"

    # The audit trail has it, and can be searched.
    page.get_by_label("Filter the entries").fill("it looks odd")
    expect(page.locator(".audit tbody tr")).to_have_count(2)  # the rollback, and its completion
    page.get_by_label("Filter the entries").fill("")

    # Forgetting the run has to be typed.
    page.get_by_text("More", exact=True).click()
    page.get_by_role("button", name="Emergency reset").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("the rehearsal is over")
    page.get_by_role("dialog").get_by_label("to confirm").fill("phase6")
    page.get_by_role("button", name="Reset", exact=True).click()
    state_is(page, "Idle")
    expect(page.locator(".audit tbody")).to_contain_text("“the rehearsal is over”")
    assert traffic.end()["failed"] == 0

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Token")).to_be_visible()


def test_the_page_stays_true_while_control_is_killed_and_comes_back(
    serving: Start, opened: Open, emulated: str
) -> None:
    running = serving(emulated, PHASES[1:])
    running.traffic(RATE)
    page = opened(running)
    start(page, "")
    page.evaluate("window.same = true")
    seen = page.locator(".arms tbody tr", has_text="Requests").nth(1)
    expect(seen).to_contain_text(re.compile(r"[1-9]"))

    # Stopped first: a control plane that hangs says nothing, and is not to be taken for one that is well.
    (control,) = running.processes("control.serve")
    control.send_signal(signal.SIGSTOP)
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"Connection lost\. Figures from \d\d:\d\d:\d\d"))
    expect(page.locator("main.stale")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Advance"))).to_be_disabled()
    os.kill(control.pid, signal.SIGKILL)

    expect(page.locator(".link.live")).to_be_visible()  # of a new control process: the old one says nothing more
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator("main.stale")).to_have_count(0)
    state_is(page, "Running")
    expect(page.locator(".audit tbody")).to_contain_text("Recovered")
    assert page.evaluate("window.same"), "the page came back by itself, signed in as it was"
    page.get_by_role("button", name="Roll back to 0 %").click()
    state_is(page, "Rolled back")


def test_everybody_can_read_and_use_it(serving: Start, opened: Open, emulated: str, axe: str) -> None:
    running = serving(emulated, PHASES[1:])
    running.traffic(RATE)
    page = opened(running)
    signed_out = opened(running, token=None)
    assert violations(signed_out, axe) == []
    signed_out.context.close()
    start(page, "")
    for viewport in (DESKTOP, PHONE):
        shown = opened(running, viewport=viewport)
        expect(shown.locator(".verdict tbody")).to_contain_text("Errors")
        expect(shown.locator("figure canvas")).to_have_count(6)
        assert violations(shown, axe) == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        shown.emulate_media(color_scheme="dark")  # as when evening comes
        assert violations(shown, axe) == []
        if viewport is DESKTOP:
            shown.get_by_role("button", name=re.compile("Advance")).click()
            assert violations(shown, axe) == []
        shown.context.close()

    # A viewer sees all of it and can do nothing.
    viewer = opened(running, token=running.viewer)
    state_is(viewer, "Running")
    expect(viewer.locator(".actions")).to_contain_text("signed in as a viewer")
    expect(viewer.locator(".actions button")).to_have_count(0)

    # A rollback by the keyboard alone; the page says the change aloud.
    page.get_by_role("button", name="Roll back to 0 %").focus()
    page.keyboard.press("Enter")
    state_is(page, "Rolled back")
    expect(page.locator("[aria-live=polite]")).to_have_text("Rolled back, 0 % on the target.")
    expect(viewer.locator("h1 .state")).to_have_text("Rolled back")
    assert violations(page, axe) == []
    page.locator("h2").first.evaluate("title => title.style.cssText = 'color: #777; background: #888'")
    assert any("color-contrast" in each for each in violations(page, axe)), "what cannot be read is found"


def test_the_page_allows_no_script_and_no_host_but_its_own(serving: Start, browser: Browser, emulated: str) -> None:
    running = serving(emulated, PHASES)
    page = browser.new_page()
    watch = Watch(page, running.control)
    answer = page.goto(f"http://{running.control}/admin/migration")
    assert answer is not None
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)

    # The policy bites: what a mistake of ours could let in is not run.
    refused = page.evaluate(
        """async () => {
          const seen = new Promise((done) =>
            document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective)));
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          await fetch("http://127.0.0.2:9/").catch(() => {});
          return [await seen, window.ran ?? false];
        }"""
    )
    page.close()
    assert refused == ["script-src-elem", False]
    assert any("Content Security Policy" in wrong for wrong in watch.wrong), "the other tests would have seen it"
