"""Exit codes of the command line, and ``Stop``, which ends a command with a message for a person."""

from __future__ import annotations

from typing import Final

OK: Final = 0
USAGE: Final = 2  # usage or configuration
GATE: Final = 3  # a check or gate failed
ROLLED_BACK: Final = 4  # or aborted
UNREACHABLE: Final = 5
INTERRUPTED: Final = 130  # 128 + SIGINT, as in shells


class Stop(Exception):  # noqa: N818 - not always an error: a gate may stay shut
    """End the command: ``message`` says what was found, what was expected and what to do."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
