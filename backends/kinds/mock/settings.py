"""The settings of a mock: ``[backends.NAME]`` with ``kind = "mock"``. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from backends.backend import Backend
from backends.durations import Duration

DEADLINE_S: Final = 1.0  # of one call


class Mock(Backend, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mock"):
    """An in-memory store, the same in every worker: writes go through a journal in the run directory."""

    fixtures: str | None = None  # a folder of JSON files, one per collection, and requests.jsonl; none: made-up data
    seed: int = 0  # of the made-up data; equal seeds give equal documents
    latency_s: Duration = msgspec.field(default=Duration(0.0), name="latency")  # added to every call: for rehearsals
    fault_rate: float = 0.0  # share of calls that fail: for rehearsals

    @property
    def deadline_s(self) -> float:
        """Not a setting: a call waits for the journal's lock only."""
        return DEADLINE_S
