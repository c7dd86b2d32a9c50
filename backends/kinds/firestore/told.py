"""Says in the log what is not right about a Firestore: once a minute for each trouble and shape of request."""

from __future__ import annotations

import time
from typing import Final

import structlog

from backends.documents.port import Rejected
from backends.errors import Fault

AGAIN_S: Final = 60.0  # before the same is said again
REMEMBERED: Final = 256  # troubles and shapes; the oldest is forgotten first, and may then be said too early
DOCUMENT_LENGTH: Final = 200  # characters of a path; a client may have chosen its ids

_log = structlog.get_logger("phasegate.firestore")


class Told:
    """What was said, and when."""

    def __init__(self) -> None:
        self._said_at: dict[tuple[str, str], float] = {}  # by trouble and shape, seconds of the monotonic clock

    def tell(self, problem: Fault | Rejected, what: str, document: str | None = None) -> None:
        """Say that ``what`` failed, if a person has to do something about it. ``what`` is a shape, without values."""
        trouble = problem.trouble
        if trouble is None:
            return
        key = trouble.name, what
        now = time.monotonic()
        if now - self._said_at.get(key, float("-inf")) < AGAIN_S:
            return
        self._said_at.pop(key, None)
        if len(self._said_at) >= REMEMBERED:
            del self._said_at[next(iter(self._said_at))]
        self._said_at[key] = now
        _log.error(
            "backend_not_right",
            backend="firestore",
            trouble=trouble.name,
            asked=what,
            document=None if document is None else document[:DOCUMENT_LENGTH],
            reason=str(problem),
            whose=trouble.whose,
            mend=trouble.mend,
        )
