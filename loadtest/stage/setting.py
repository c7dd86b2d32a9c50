"""The options of one stage: the connection to the target, the plan, and limits for phasegate. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Setting:
    """The options of a stage."""

    hop: Literal["direct", "relay", "cable"] = "direct"
    plan: Literal["held", "climbing", "walk"] = "held"
    lease_s: float = 10.0
    deadline_s: float = 3.0  # of calls to the target; long enough for healthy calls on a busy machine
    thresholds: tuple[tuple[str, float], ...] = ()
    disk_mb: int = 0  # size of a separate disk for the run directory; 0: on the machine's own
    descriptors: int = 0  # limit for each of phasegate's processes; 0: as this process
    clock: bool = False  # the wall clock can be set
