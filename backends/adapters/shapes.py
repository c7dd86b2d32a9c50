"""Shapes that all adapters share: the base of every answer, and the form of an error. Pure."""

from __future__ import annotations

import msgspec


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """An answer has these fields and no others."""


class Problem(Strict):
    """What went wrong, for a program and for a person."""

    code: str
    message: str


class Error(Strict):
    """The form of every error."""

    error: Problem
