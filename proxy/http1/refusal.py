"""Answers that phasegate gives by itself: what was refused and why, in the JSON form of every error."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import orjson

BAD_GATEWAY: Final = "bad_gateway"


class Refused(Exception):  # noqa: N818 - the name of what happened to the message, not of a mistake of ours
    """A message that is not passed on. ``status`` and ``code`` go to the client, with ``message`` in words."""

    __slots__ = ("code", "message", "status")

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def encode(
    status: int, code: str, message: str, *, extra: bytes = b"", close: bool = True, head: bool = False
) -> bytes:
    """The whole answer. ``extra`` holds further fields, each with its CRLF; ``head``: the request was a HEAD."""
    body = orjson.dumps({"error": {"code": code, "message": message}})
    lead = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (
        status,
        HTTPStatus(status).phrase.encode(),
        len(body),
    )
    return lead + (b"connection: close\r\n" if close else b"") + extra + b"\r\n" + (b"" if head else body)
