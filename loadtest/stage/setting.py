"""What is different about one stage: the way to the target, the plan, and what its phasegate may have. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Setting:
    """What is different about the stage."""

    hop: Literal["direct", "relay", "cable"] = "direct"
    plan: Literal["held", "climbing", "walk"] = "held"
    lease_s: float = 10.0
    deadline_s: float = 3.0  # of the target's calls: long enough for a busy machine's honest ones
    thresholds: tuple[tuple[str, float], ...] = ()
    disk_mb: int = 0  # a run directory on a disk of this size; 0: on the machine's own
    descriptors: int = 0  # at most, for each of phasegate's processes; 0: as many as we may have
    clock: bool = False  # the wall clock can be set
