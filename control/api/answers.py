"""The control API's answers: JSON, errors of one form, and numbers that a caller gives."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from aiohttp import web


class Problem(Exception):  # noqa: N818 - an answer, not an error of ours
    """An error answer."""

    def __init__(self, status: int, code: str, message: str, hint: str = "", headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": code, "message": message, "hint": hint}}
        self.headers = headers


def document(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON document."""
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json")


def error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error answer without a hint."""
    return document({"error": {"code": code, "message": message, "hint": ""}}, status, headers)


def whole(given: Mapping[str, str], name: str, default: int | None, low: int, high: int) -> int | None:
    """A whole number of a query or of headers. Raises ``Problem``."""
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise Problem(400, "malformed", f"{name}: expected a whole number from {low} to {high}")
    return int(text)
