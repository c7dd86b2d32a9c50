"""What a check says: what was found, and how to mend it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

BEHIND_S: Final = 5.0  # by how much the target may lag behind the source's changes where its weight is raised


class Check(Struct, frozen=True):
    """One check. ``ok`` None means that it could not be made, which is no failure."""

    name: str
    ok: bool | None
    found: str
    mend: str = ""


def failed(checks: Sequence[Check]) -> list[Check]:
    """Those that stand in the way."""
    return [check for check in checks if check.ok is False]


def lag(behind_s: float, pending: int, lost: int) -> Check:
    """Whether the target has been told of what was changed on the source: visitors who come over would miss it."""
    never = f"; {lost} were lost since boot" if lost else ""
    if behind_s <= BEHIND_S:
        return Check("changes", True, f"the target has the source's changes ({pending} on their way{never})")
    found = f"the target lacks the source's changes of the last {behind_s:.0f} s ({pending} on their way{never})"
    return Check("changes", False, found, "It catches up by itself while it answers: see that it does.")
