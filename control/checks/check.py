"""The result of a check: what was found, and how to repair it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

BEHIND_S: Final = 5.0  # the weight is not raised while the target lags further behind the source's changes

LAG: Final = "changes"  # the name of the check of the target's lag


class Check(Struct, frozen=True):
    """One check. ``ok`` is null where it is no failure: the check could not be made, or it warns, with a ``mend``."""

    name: str
    ok: bool | None
    found: str  # what was found, in words
    mend: str = ""  # how to repair it; may be empty


def failed(checks: Sequence[Check]) -> list[Check]:
    """The checks that failed."""
    return [check for check in checks if check.ok is False]


def lag(behind_s: float, pending: int, lost: int) -> Check:
    """Whether the target has the source's changes. Visitors who move to the target would miss what it lacks."""
    lost_too = f"; {lost} were lost since boot" if lost else ""
    if behind_s <= BEHIND_S:
        return Check(LAG, True, f"the target has the source's changes ({pending} on their way{lost_too})")
    found = f"the target lacks the source's changes of the last {behind_s:.0f} s ({pending} on their way{lost_too})"
    mend = "The target catches up by itself as long as it answers: check that it answers."
    return Check(LAG, False, found, mend)
