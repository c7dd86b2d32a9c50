"""What a handler returns: an answer in JSON, a refusal, or what a write changed."""

from __future__ import annotations

import time

import orjson

from backends.documents.changes import Change
from backends.documents.port import Context
from backends.operations import Answer, error_answer

# A write's answer, and the change that the other store must apply; None where nothing changed.
Written = tuple[Answer, Change | None]


class OperationRefused(Exception):  # noqa: N818 - carries an ordinary answer past the rest of a handler
    """Ends a handler early: the client gets ``answer``."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def refused(status: int, code: str, message: str) -> OperationRefused:
    """An error answer to raise."""
    return OperationRefused(error_answer(status, code, message))


def reply(status: int, value: object) -> Answer:
    """An answer in JSON: times in UTC with a ``Z``, and keys sorted, because Firestore does not keep their order."""
    return Answer(status, orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_SORT_KEYS))


def rest_for(ctx: Context, seconds: float) -> None:
    """Record that the answer stays valid for at most ``seconds``."""
    ctx.rest_until(time.monotonic() + seconds)
