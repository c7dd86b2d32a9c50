"""What tests of the dashboard ask of a page in a real browser: nothing goes wrong on it, and everybody can use it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Page, Request

DESKTOP: Final[Any] = {"width": 1440, "height": 900}
PHONE: Final[Any] = {"width": 390, "height": 844}

# What a browser says of its own when an answer is an error or there is none: signed out, or control was killed.
EXPECTED: Final = "Failed to load resource"


class Watch:
    """What went wrong on a page, whether or not anybody could see it."""

    def __init__(self, page: Page, origin: str) -> None:
        self.wrong: list[str] = []
        self._origin = origin
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", self._asked)

    def _said(self, kind: str, text: str) -> None:
        # A violation of the content security policy is said on the console too.
        if kind in ("error", "warning") and not text.startswith(EXPECTED):
            self.wrong.append(f"{kind}: {text}")

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).netloc != self._origin and not request.url.startswith("data:"):
            self.wrong.append(f"asked another host: {request.url}")


def violations(page: Page, axe: str) -> list[str]:
    """axe-core's serious and critical findings, and where."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{each['impact']} {each['id']}: {node['target']} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
