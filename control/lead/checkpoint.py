"""A migration's checkpoint as the store keeps it, and how one of version 0.1 is read. Pure.

Version 0.1 wrote a phase as its place in the list, without name or weight. A place is read as the weight that was
saved with it. Only where none was, because nothing was on the target, is the plan's weight taken, and not above the
highest weight that the checkpoint shows to have been held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from control.data.state import DataState
from control.lead.observer import KeptBaseline
from control.plan.phases import BP_PER_PERCENT, Phase, phase_at
from control.rollout.model import EnteredPhase, Rollout


class CheckpointDocument(Struct, frozen=True):
    """A checkpoint."""

    rollout: Rollout | None = None  # None: nothing was decided yet; a copy was made before the first `serve`
    baseline: KeptBaseline | None = msgspec.field(default=None, name="chapter")
    data: DataState | None = None  # of a migration between document stores


class _Data(Struct, frozen=True):
    """What of a checkpoint is about the data."""

    data: DataState | None = None


class _Weights(Struct, frozen=True):
    """What of a checkpoint, its descent, last rollback or pending increase says where the rollout was."""

    phase: EnteredPhase | int | None = None
    resume_phase: EnteredPhase | int | None = None
    weight_bp: int = 0
    from_bp: int = 0
    from_weight: float = 0.0
    pending: _Weights | None = None
    descent: _Weights | None = None
    last_rollback: _Weights | None = None


def decoded(phases: Sequence[Phase], text: str) -> CheckpointDocument:
    """The checkpoint that was written. Raises ``msgspec.DecodeError`` where it cannot be understood."""
    document = msgspec.json.decode(text, type=dict[str, Any])
    rollout = document.get("rollout")
    if isinstance(rollout, dict):
        document["rollout"] = rollout | _by_weight(phases, rollout)
    return msgspec.convert(document, CheckpointDocument)


def data_in(text: str) -> DataState | None:
    """What a checkpoint knows of the data. Raises ``msgspec.DecodeError`` where it cannot be understood."""
    return msgspec.json.decode(text, type=_Data).data


def with_data(text: str | None, data: DataState) -> str:
    """The checkpoint with this state of the data and all else as it was, whichever version wrote it."""
    document = {} if text is None else msgspec.json.decode(text, type=dict[str, Any])
    return msgspec.json.encode(document | {"data": data}).decode()


def _by_weight(phases: Sequence[Phase], rollout: dict[str, Any]) -> dict[str, Any]:
    """What a rollout's places in the list are by name and weight; nothing where it has none."""
    found = msgspec.convert(rollout, _Weights)
    read: dict[str, Any] = {}
    here = found.phase
    if isinstance(here, int):
        here = _saved(phases, here, found.weight_bp) if found.weight_bp else _planned(phases, here, None)
        read["phase"] = msgspec.to_builtins(here)
    if isinstance(found.resume_phase, int):
        same = here is not None and found.resume_phase == found.phase
        going_on = here if same else _planned(phases, found.resume_phase, _highest(found))
        read["resume_phase"] = msgspec.to_builtins(going_on)
    if found.pending is not None and isinstance(found.pending.phase, int):
        asked = _saved(phases, found.pending.phase, found.pending.weight_bp)
        read["pending"] = rollout["pending"] | {"phase": msgspec.to_builtins(asked)}
    return read


def _saved(phases: Sequence[Phase], place: int, weight_bp: int) -> EnteredPhase:
    """The phase of a weight that was saved; where the plan has none, its place is all that is known of its name."""
    phase = phase_at(phases, weight_bp)
    return EnteredPhase(f"phase {place + 1}" if phase is None else phase.name, weight_bp)


def _planned(phases: Sequence[Phase], place: int, most_bp: int | None) -> EnteredPhase:
    """The phase at a place in the plan; not above ``most_bp``, and at 0 where the plan has no such place."""
    weight_bp = phases[place].weight_bp if 0 <= place < len(phases) else 0
    return _saved(phases, place, weight_bp if most_bp is None else min(weight_bp, most_bp))


def _highest(found: _Weights) -> int | None:
    """The highest weight that the checkpoint shows to have been held; None where it shows none."""
    descent, last = found.descent or _Weights(), found.last_rollback or _Weights()
    return max(found.weight_bp, descent.from_bp, round(last.from_weight * BP_PER_PERCENT)) or None
