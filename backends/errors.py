"""Faults, each answering three questions: what kind, may the write be applied, may the call be repeated. Pure.

A *client's* mistake is not a fault: it is an ordinary 4xx ``Answer`` (see ``operations``), the same from every
backend, and never counts against the target. A ``Fault`` is a backend's failure and always counts.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class FaultKind(IntEnum):
    """Why a backend failed. The value is the column on the board that counts it: append only."""

    DEADLINE = 0
    UNAVAILABLE = 1
    EXHAUSTED = 2
    ABORTED = 3
    PERMISSION = 4
    CORRUPT = 5
    INTERNAL = 6
    BREAKER = 7
    SETUP = 8  # it answers, but is not set up as it must be: ``Trouble`` says what is missing

    @property
    def label(self) -> str:
        """The name shown to people: in ``x-data-fallback``, metrics and reports."""
        return self.name.lower()


class Trouble(NamedTuple):
    """Why a backend that answers cannot do what is asked, and what a person has to do about it."""

    name: str  # for the log, the audit trail and tests: ``missing_index``
    whose: str  # who has to act, in words
    mend: str  # what to do, with the command or the link; only for operators, because it names the database
    whole: bool = True  # whether everything asked of the backend fails so, or only this one request


class Fault(Exception):  # noqa: N818 - fault is the domain's term
    """A backend failed to do what was asked.

    ``may_retry``: the same call may be sent again at once.
    ``may_have_applied``: the write may or may not be in the store; it must never be reported as done.
    ``trouble``: what a person has to do, where that is known.
    """

    __slots__ = ("kind", "may_have_applied", "may_retry", "trouble")

    def __init__(
        self,
        kind: FaultKind,
        message: str,
        *,
        may_retry: bool = False,
        may_have_applied: bool = False,
        trouble: Trouble | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.may_retry = may_retry
        self.may_have_applied = may_have_applied
        self.trouble = trouble


def said_by(error: BaseException) -> str:
    """What an exception says; its class's name where it says nothing."""
    return str(error) or type(error).__name__
