"""What receivers are notified of beside a rollout's own changes: it is held up, or its lease was lost. Pure."""

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

    reason_kind: str  # `window`, `freeze`, `health` or `lag`
    phase: str | None
    weight: float | None
    reason: str


class LeaseLost(Struct, frozen=True):
    """Workers went back to the source by themselves, because control was away. ``from_weight`` in percent."""

    from_weight: float
    reason: str


Told = News | ApprovalNeeded | Held | LeaseLost
