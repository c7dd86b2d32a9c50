"""What receivers are notified of beside a rollout's changes: holds, a lost lease, data that differs. Pure."""

from __future__ import annotations

from msgspec import Struct

from control.rollout.model import News


class ApprovalNeeded(Struct, frozen=True):
    """A phase is earned and waits for an operator's advance. ``weight`` in percent."""

    phase: str
    weight: float
    reason: str


class Held(Struct, frozen=True):
    """A phase is earned and may not begin now. ``phase`` and ``weight`` (percent) are its own; null is completion."""

    reason_kind: str  # `window`, `freeze`, `health`, `lag` or `data`
    phase: str | None
    weight: float | None
    reason: str


class LeaseLost(Struct, frozen=True):
    """Workers went back to the source by themselves, because control was away. ``from_weight`` in percent."""

    from_weight: float
    reason: str


class DataDiffers(Struct, frozen=True):
    """Source and target are known to differ: changes were lost, or a compare found documents that differ."""

    lost: int  # changes that one side alone has, since the last copy or equal compare
    differences: int  # documents
    reason: str


Told = News | ApprovalNeeded | Held | LeaseLost | DataDiffers
