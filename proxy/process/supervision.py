"""When to restart a child, and when to call it hung. Pure: the supervisor acts on what is decided here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_STEADY_S: Final = 10.0  # a child that lived this long had no trouble starting
_BACKOFF_S: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_LOOP: Final = 5  # early deaths in a row that are worth an operator's attention


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """A child's past: how many times in a row it died before it was steady."""

    early_deaths: int = 0


@dataclass(frozen=True, slots=True)
class Restart:
    """What follows a death: wait so long, then start. ``looping`` is true on the death that makes it a crash loop."""

    delay_s: float
    history: RestartHistory
    looping: bool


def after_death(history: RestartHistory, lived_s: float) -> Restart:
    """A steady child is restarted at once; one that keeps dying, ever later up to half a minute, for ever."""
    early = 0 if lived_s >= _STEADY_S else history.early_deaths + 1
    delay = _BACKOFF_S[min(max(0, early - 1), len(_BACKOFF_S) - 1)]
    return Restart(delay, RestartHistory(early), looping=early == _LOOP)


def is_hung(heartbeat_ns: int, started_ns: int, now_ns: int, limit_s: float) -> bool:
    """Whether a process that was started at ``started_ns`` has given no sign of life for ``limit_s``."""
    return now_ns - max(heartbeat_ns, started_ns) > limit_s * 1e9
