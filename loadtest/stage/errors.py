"""The error that ends a run because its processes cannot be started or used. Pure."""

from __future__ import annotations


class StageError(Exception):
    """The stage cannot be set up; the message says what was found and what to do."""
