"""What a check says: what was found, and how to mend it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Check(Struct, frozen=True):
    """One check. ``ok`` None means that it could not be made, which is no failure."""

    name: str
    ok: bool | None
    found: str
    mend: str = ""


def failed(checks: Sequence[Check]) -> list[Check]:
    """Those that stand in the way."""
    return [check for check in checks if check.ok is False]
