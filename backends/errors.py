"""Faults, each answering three questions: what kind, may the write be applied, may the call be repeated. Pure.

A *client's* mistake is not a fault: it is an ordinary 4xx ``Answer`` (see ``operations``), the same from every
backend, and never counts against the target. A ``Fault`` is a backend's failure and always counts.
"""

from __future__ import annotations

from enum import IntEnum


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

    @property
    def label(self) -> str:
        """The name shown to people: in ``x-data-fallback``, metrics and reports."""
        return self.name.lower()


class Fault(Exception):  # noqa: N818 - fault is the domain's term
    """A backend failed to do what was asked.

    ``may_retry``: the same call may be sent again at once.
    ``may_have_applied``: the write may or may not be in the store; it must never be reported as done.
    """

    __slots__ = ("kind", "may_have_applied", "may_retry")

    def __init__(
        self, kind: FaultKind, message: str, *, may_retry: bool = False, may_have_applied: bool = False
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.may_retry = may_retry
        self.may_have_applied = may_have_applied
