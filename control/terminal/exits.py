"""How a command ends: its exit codes, and ``Stop``, which ends it with a message for a person."""

from __future__ import annotations

from typing import Final

OK: Final = 0
USAGE: Final = 2  # usage or configuration
GATE: Final = 3  # a check or gate failed
ROLLED_BACK: Final = 4  # or aborted
UNREACHABLE: Final = 5
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it


class Stop(Exception):  # noqa: N818 - no error where a gate stays shut
    """End the command: ``message`` says what was found, what was expected and what to do."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
