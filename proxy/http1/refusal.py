"""Error answers of phasegate's own: what was refused and why, in the form that the config sets."""

from __future__ import annotations

import html
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson

BAD_GATEWAY: Final = "bad_gateway"


class Refused(Exception):  # noqa: N818 - an expected outcome of a message, not an error of phasegate
    """A message is not passed on. The client gets ``status``, ``code`` and ``message``."""

    __slots__ = ("code", "message", "status")

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Form:
    """The form of error answers. ``template`` may hold {status}, {reason}, {code} and {message}; empty: JSON."""

    content_type: str = "application/json"
    template: str = ""

    def body(self, status: int, code: str, message: str) -> bytes:
        """The answer's body."""
        if not self.template:
            return orjson.dumps({"error": {"code": code, "message": message}})
        values = {"status": str(status), "reason": HTTPStatus(status).phrase, "code": code, "message": message}
        if "html" in self.content_type or "xml" in self.content_type:
            values = {name: html.escape(value) for name, value in values.items()}
        text = self.template
        for name, value in values.items():
            text = text.replace("{" + name + "}", value)
        return text.encode()

    def encode(self, status: int, code: str, message: str, extra: bytes, *, bodiless: bool = False) -> bytes:
        """The whole answer. ``extra`` holds further fields, each with its CRLF; ``bodiless``: it answers a HEAD."""
        body = self.body(status, code, message)
        head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n" % (
            status,
            HTTPStatus(status).phrase.encode(),
            self.content_type.encode(),
            len(body),
            extra,
        )
        return head if bodiless else head + body
