"""The configuration of backends, ``[backends.NAME]``: shapes and defaults; ``control.plan.settings`` reads files."""

from __future__ import annotations

import re
from typing import Self

import msgspec

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(float):
    """Seconds, written in a config as ``"250ms"``, ``"30s"``, ``"5m"``, ``"1h"`` or a bare number of seconds."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raise ``ValueError``, in words for a person, for what is no duration or a negative one."""
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f'expected a duration such as "30s" or "5m", found {value!r}')
        return cls(float(match[1]) * _SECONDS[match[2]])


def encode_hook(value: object) -> float:
    """For msgspec: a duration travels between processes as its seconds."""
    if isinstance(value, Duration):
        return float(value)
    raise NotImplementedError(type(value).__name__)


def decode_hook(kind: type, value: object) -> object:
    """For msgspec: the other way. Raises ``ValueError`` in words for a person."""
    if kind is Duration:
        return Duration.parse(value)
    raise NotImplementedError(kind.__name__)


class Mock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mock"):
    """An in-memory store, the same on every worker: mutations go through a journal in the run directory."""

    fixtures: str | None = None  # a folder of JSON files, one a collection
    seed: int = 0
    latency_s: Duration = msgspec.field(default=Duration(0.0), name="latency")  # added to every call: for rehearsals
    fault_rate: float = 0.0  # share of calls that fail: for rehearsals


class Firestore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="firestore"):
    """Google Cloud Firestore, or its emulator where ``FIRESTORE_EMULATOR_HOST`` says so."""

    project: str
    database: str = "(default)"
    deadline_s: Duration = msgspec.field(default=Duration(1.0), name="deadline")
    cache: str = "memory"  # or a redis:// address, shared by several machines
    view_max_age_s: Duration = msgspec.field(default=Duration(90.0), name="view_max_age")


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="http"):
    """Another HTTP origin standing as an arm."""

    origin: str
    deadline_s: Duration = msgspec.field(default=Duration(5.0), name="deadline")


Backend = Mock | Firestore | Http
