"""Durations as a configuration writes them, and the hooks by which msgspec encodes and decodes them. Pure."""

from __future__ import annotations

import re
from typing import Final, Self

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(float):
    """Seconds, written in a config as ``"250ms"``, ``"30s"``, ``"5m"``, ``"1h"`` or a bare number of seconds."""

    _written = ""  # as the config has it, where it was parsed in this process

    @property
    def shown(self) -> str:
        """As its author wrote it; else in seconds."""
        return self._written or f"{self:g}s"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raise ``ValueError``, with a message for the user, for anything but a duration of zero or more."""
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        if value == "0":  # which needs no unit
            return cls(0.0)
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f'expected a duration such as "30s" or "5m", found {value!r}')
        parsed = cls(float(match[1]) * _SECONDS[match[2]])
        parsed._written = match[0]
        return parsed


def encode_hook(value: object) -> float:
    """For msgspec: a duration is sent between processes in seconds."""
    if isinstance(value, Duration):
        return float(value)
    raise NotImplementedError(type(value).__name__)


def decode_hook(wanted: type, value: object) -> object:
    """For msgspec: the reverse. Raises ``ValueError`` with a message for the user."""
    if wanted is Duration:
        return Duration.parse(value)
    raise NotImplementedError(wanted.__name__)
