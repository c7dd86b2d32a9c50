"""The dashboard without a phasegate: its own files in a real browser, with the API's documents set by the test.

``open_page`` answers every request of the page. ``window.tell(kind, data)`` stands in for the event stream: it
repeats the last status each second, as the control plane does, so that the page does not consider the stream lost.
"""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, Route

FILES = Path(__file__).parents[2] / "control" / "dashboard"
ORIGIN = "http://phasegate.test"
NOW = 1_780_000_000.0
BOUNDS_MS = [10 ** (i / 4 - 2) for i in range(25)]
STEPS = 120

STREAM = """
window.EventSource = class extends EventTarget {
  constructor() {
    super();
    window.stream = this;
    setTimeout(() => this.dispatchEvent(new Event("open")));
    this.timer = setInterval(() => window.last && this.say("status", window.last), 1000);
    if (window.last) this.say("status", window.last);
  }
  say(kind, data) { this.dispatchEvent(new MessageEvent(kind, { data: JSON.stringify(data) })); }
  close() { clearInterval(this.timer); }
};
window.tell = (kind, data) => {
  if (kind === "status") window.last = data;
  window.stream.say(kind, data);
};
// Two frames: the page draws a new status in the first.
window.drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
"""


def history(most: int) -> list[dict[str, Any]]:
    """Samples of the last seconds: each arm had up to ``most`` requests a second, some slow and some failed."""

    def arm(k: int, share: float) -> dict[str, Any]:
        requests = int(most * share * (0.8 + 0.2 * (k % 7) / 6))
        heat = [0] * 8 + [requests // 2, requests // 3, requests // 9, 0, 0, 1, 0, 1]
        times = {"p50_ms": 0.043, "p95_ms": 12.3 + k / 10, "p99_ms": 9876.5}
        return {"requests": requests, "errors": requests // 40, "heat": heat} | times

    return [
        {
            "at": NOW - STEPS + k,
            "span_s": 1.0,
            "weight": 25.0 if k < STEPS // 2 else 50.0,
            "source": arm(k, 0.5),
            "target": arm(k + 3, 0.5),
        }
        for k in range(STEPS)
    ]


def open_page(
    context: BrowserContext,
    *,
    role: str = "operator",
    names: tuple[str, ...] = ("phase6",),
    entries: list[dict[str, Any]] | None = None,
    most: int = 100,
    to_actions: tuple[int, dict[str, Any]] = (409, {}),
    differences: list[dict[str, Any]] | None = None,
) -> Page:
    """The page, signed in and waiting for its first status.

    ``most``: requests per second in its plots. ``to_actions``: the answer to every action.
    ``differences``: what the last compare listed, of which there is one page more.
    """
    samples = history(most)
    identity = {"name": f"{role}-of-the-night-shift", "role": role, "csrf": "none"}
    answers: dict[str, Any] = {
        "/api/session": identity,
        "/api/migration": {"migrations": [{"name": name} for name in names]},
    }
    for name in names:
        answers[f"/api/migration/{name}/audit"] = {"entries": entries or [], "next_cursor": "1" if entries else None}
        listed = {"items": differences or [], "next_cursor": "1" if differences else None}
        answers[f"/api/migration/{name}/data/differences"] = listed
        answers[f"/api/migration/{name}/history"] = {"step_s": 1, "heat_bounds_ms": BOUNDS_MS, "samples": samples}

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if route.request.method != "GET":
            code, document = to_actions
            route.fulfill(status=code, json=document)
            return
        if path in answers:
            route.fulfill(json=answers[path])
            return
        name = "index.html" if path == "/" else path.removeprefix("/admin/static/")
        file = FILES / name
        if not file.is_file():
            route.fulfill(status=404, json={"error": {"code": "not_found", "message": "not here"}})
            return
        route.fulfill(body=file.read_bytes(), content_type=mimetypes.guess_type(name)[0] or "text/plain")

    page = context.new_page()
    page.add_init_script(STREAM)
    page.route("**/*", answer)
    page.goto(ORIGIN)
    page.wait_for_function("() => window.stream !== undefined")
    return page


def show(page: Page, status: dict[str, Any]) -> None:
    """Send the page a status, and wait until it has drawn it."""
    page.evaluate(f"async () => {{ window.tell('status', {json.dumps(status)}); await window.drawn(); }}")
