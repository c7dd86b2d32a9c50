"""Named points at which the control process can be made to die: how its tests prove that it may die anywhere.

Nothing happens unless the environment variable ``PHASEGATE_FAULT_POINT`` names the point.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "PHASEGATE_FAULT_POINT"

# ``<what>.<step>``, in the order in which a raise and a rollback go through them.
RAISE_STEPS: Final = ("decided", "persisted", "publishing", "published", "verified")
DESCENT_STEPS: Final = ("decided", "publishing", "published", "seen", "drained", "recorded")
POINTS: Final = tuple([f"raise.{step}" for step in RAISE_STEPS] + [f"descent.{step}" for step in DESCENT_STEPS])

_named = os.environ.get(VARIABLE)


def point(name: str) -> None:
    """Die here, by SIGKILL, if this is the point named."""
    if _named is not None and _named == name:
        os.kill(os.getpid(), signal.SIGKILL)
