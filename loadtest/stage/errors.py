"""What ends a run that needs real processes: they cannot be had as they are wanted. Pure."""

from __future__ import annotations


class StageError(Exception):
    """The stage cannot be set: what was found, and what to do."""
