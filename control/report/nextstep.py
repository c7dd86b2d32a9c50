"""Says what a migration does next, what that waits for, and what has changed. Pure: documents in, lines out.

What comes next is one table, ``NEXT_STEPS``. A step that raises the weight is not offered while the data's gate
holds: the command that opens the gate is named first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from control.data.messages import TaskKind
from control.judge.rules import VerdictOutcome
from control.lead.documents import OpensAt, PlannedPhase, Status, WaitKind
from control.report.wording import NONE, headline, percent, rollback_line, span, verdict_line
from control.rollout.model import State


class NextStep(NamedTuple):
    """A row: in these states, where ``when`` is so. The line is ``stands``, then ``step``."""

    states: tuple[State, ...]
    when: Callable[[Status], bool]
    stands: Callable[[Status], str]  # where it stands
    step: Callable[[Status], str]  # what leads on, and to where
    raises: Callable[[Status], bool]  # whether that raises the weight, which the data's gate keeps from being


def next_line(status: Status) -> str:
    """What happens next: by itself, or by which command, and not before when."""
    row = next(row for row in NEXT_STEPS if status.state in row.states and row.when(status))
    first = _data_first(status) if row.raises(status) else ""
    return f"{row.stands(status)}{first}{row.step(status)}"


def _data_first(status: Status) -> str:
    """The command that opens the data's gate, where that holds; the task that does so, where one is under way."""
    data = status.data
    if data is None or not data.gated:
        return ""
    mending = data.task is not None and data.task.kind is not TaskKind.COMPARE
    what = f"the {data.task.kind.value} under way" if data.task is not None and mending else f"`{data.mend}`"
    return f"{what}, without which no phase begins; then "


def _named(phase: PlannedPhase) -> str:
    return f"{phase.name}, {percent(phase.weight)}"


def _resumed(status: Status) -> PlannedPhase | None:
    """The phase that ``resume`` or ``start --resume`` leads to."""
    name = status.checkpoint.resume_phase
    return next((phase for phase in status.phases if phase.name == name), None)


def _held(status: Status) -> str:
    if _resumed(status) is not None:
        return f"held at {percent(status.weight)} until "
    return f"held at {percent(status.weight)}: no phase has so little weight to go on with; "


def _resume(status: Status) -> str:
    """What ``resume`` does to the weight that is held."""
    phase = _resumed(status)
    if phase is None:
        anew = "`phasegate start`" if status.state is State.ROLLED_BACK else "`phasegate reset` and then `start`"
        return f"{anew} begins anew with {_named(status.phases[0])}"
    does = "goes on with"
    if phase.weight != status.weight:
        does = "lowers it to" if phase.weight < status.weight else "raises it to"
    return f"`phasegate resume`, which {does} {_named(phase)}"


def _start(status: Status) -> str:
    """What ``start`` does where nothing is on the target."""
    first, going_on = _named(status.phases[0]), _resumed(status)
    if going_on is None:
        return f"`phasegate start` begins anew with {first}{_not_before(status)}"
    resumed = f"`phasegate start --resume` goes on with {_named(going_on)}"
    return f"{resumed}, `start` begins anew with {first}{_not_before(status)}"


def opening(opens: OpensAt) -> str:
    """When the hours allow a phase again, by the clocks of the window's zone, and in UTC."""
    at = datetime.fromisoformat(opens.at)
    try:
        there = at.astimezone(ZoneInfo(opens.tz))
    except (ZoneInfoNotFoundError, ValueError):  # this machine knows fewer zones than the control plane's
        there = at
    if not there.utcoffset():
        return f"{there:%a %Y-%m-%d %H:%M} UTC"
    return f"{there:%a %Y-%m-%d %H:%M} {opens.tz} ({at:%a %H:%M} UTC)"


def _not_before(status: Status) -> str:
    return f", not before {opening(status.opens)}" if status.opens is not None else ""


def _above(status: Status) -> PlannedPhase | None:
    """The first phase with more weight than is published."""
    return next((phase for phase in status.phases if phase.weight > status.weight), None)


def _following(status: Status) -> str:
    """The next step: a phase or completion."""
    later = _above(status)
    return "completion" if later is None else _named(later)


def _next_phase(status: Status) -> str:
    """What a running migration waits for."""
    if status.phase is None:  # the mode sends everything to one arm, whatever the phases
        return NONE
    later, to, not_before = _above(status), _following(status), _not_before(status)
    if later is not None and later.approval:
        return f"{to}, when an operator approves it with `phasegate advance`{not_before}"
    unwell = next((wait for wait in status.waits if wait.kind in (WaitKind.HEALTH, WaitKind.LAG)), None)
    if unwell is not None:
        return f"{to}, when this is mended: {unwell.reason}{not_before}"
    left = status.phase.min_soak_s - status.phase.soaked_s
    earned = status.verdict.outcome is VerdictOutcome.PROMOTE or (left <= 0 and _is_held(status))
    if not_before:
        return f"{to}{not_before}" if earned else f"{to}{not_before}, when every rule is proven"
    if left > 0:
        return f"{to}, in {span(max(1.0, left // 1))} at the earliest, when every rule is proven"
    return f"{to}, now" if earned else f"{to}, as soon as every rule is proven"


def _is_held(status: Status) -> bool:
    """Whether the next step is earned, and something beside the evidence keeps it from beginning."""
    kinds = {wait.kind for wait in status.waits}
    unproven = kinds & {WaitKind.SAMPLES, WaitKind.PROOF}
    return bool(kinds) and not unproven and status.verdict.outcome is VerdictOutcome.HOLD


def _always(status: Status) -> bool:
    return True


def _resume_raises(status: Status) -> bool:
    """Whether ``resume``, or the ``start`` in its place, is held by the data's gate."""
    phase = _resumed(status)
    return phase is None or phase.weight > status.weight


NEXT_STEPS: Final = (
    NextStep(
        (State.IDLE,),
        _always,
        lambda s: "",
        lambda s: f"`phasegate start` begins with {_named(s.phases[0])}{_not_before(s)}",
        _always,
    ),
    NextStep((State.RUNNING,), _always, lambda s: "", _next_phase, lambda s: s.phase is not None),
    NextStep(
        (State.PAUSED,), _always, _held, lambda s: f"{_resume(s)}; a breach is still rolled back", _resume_raises
    ),
    NextStep(
        (State.ROLLING_BACK,),
        _always,
        lambda s: "waiting for the requests that are still open on the target",
        lambda s: "",
        lambda s: False,
    ),
    NextStep(
        (State.ROLLED_BACK,),
        lambda s: s.weight > 0,
        _held,
        lambda s: f"{_resume(s)}; a breach is rolled back further",
        _resume_raises,
    ),
    NextStep(
        (State.ROLLED_BACK, State.ABORTED), _always, lambda s: "all traffic is on the source; ", _start, _always
    ),
    NextStep(
        (State.COMPLETED,),
        lambda s: _above(s) is not None,
        lambda s: f"held at {percent(s.weight)} for good; ",
        lambda s: f"`phasegate advance` goes on to {_following(s)}{_not_before(s)}",
        _always,
    ),
    NextStep(
        (State.COMPLETED,),
        _always,
        lambda s: "nothing: the migration is complete; `phasegate report` shows the run",
        lambda s: "",
        lambda s: False,
    ),
)


WaitKey = tuple[str, ...]  # which wait it is, of which step: told once


# What is said of a wait before its reason.
_WAITS: Final[Mapping[WaitKind, str]] = {
    WaitKind.WINDOW: "waits",
    WaitKind.FREEZE: "waits",
    WaitKind.APPROVAL: "is earned, and waits for an operator: `phasegate advance` begins it",
    WaitKind.HEALTH: "is earned, and waits until this is mended",
    WaitKind.LAG: "is earned, and waits until this is mended",
    WaitKind.DATA: "is earned, and waits until this is mended",
    WaitKind.SAMPLES: "waits for more requests",
    WaitKind.PROOF: "waits for proof",
}


def waits(status: Status) -> dict[WaitKey, str]:
    """What the next step waits for, each in one line."""
    lines = {}
    for wait in status.waits:
        hours = wait.kind in (WaitKind.WINDOW, WaitKind.FREEZE)
        until = f" until {opening(status.opens)}" if hours and status.opens is not None else ""
        reason = "" if wait.kind is WaitKind.APPROVAL else f": {wait.reason}"
        lines[(*place(status), wait.kind, wait.name, until)] = (
            f"{_following(status)} {_WAITS[wait.kind]}{until}{reason}"
        )
    return lines


def place(status: Status) -> WaitKey:
    """Which step a status is before: its waits are told anew when this changes."""
    return status.state, f"{status.weight:g}", str(_phase(status))


def changes(before: Status | None, now: Status, told: Collection[WaitKey] = ()) -> list[str]:
    """What changed since the status ``before``, in plain lines for a person. ``told``: waits told already."""
    known = {*told, *(waits(before) if before is not None else ())}
    waiting = [line for key, line in waits(now).items() if key not in known]
    if before is None:
        return [headline(now), *waiting]
    news = []
    if place(now) != place(before):
        news.append(headline(now))
    if now.last_rollback is not None and now.last_rollback != before.last_rollback:
        news.append(rollback_line(now.last_rollback))
    if now.verdict.outcome not in (VerdictOutcome.NO_DATA, before.verdict.outcome):
        # A verdict that is held because of what is waited for has the same reason.
        said = bool(waiting) and now.verdict.outcome is VerdictOutcome.HOLD
        news += [] if said else [f"Verdict: {verdict_line(now.verdict)}"]
    return news + waiting


def _phase(status: Status) -> int | None:
    return None if status.phase is None else status.phase.index
