"""What the next step waits for: named while it lasts, and not before it is so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from control.judge.rules import VerdictOutcome
from control.judge.verdict import PhaseVerdict
from control.lead import waiting
from control.lead.documents import OpensAt
from control.plan import gates
from control.plan.gates import Freeze, Hold, HoldKind
from control.plan.settings import Migration
from control.plan.times import Now
from control.rollout.model import EnteredPhase, Rollout, RolloutPlan, State

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOW = Now(1000.0, NOON.timestamp())
PLAIN = Migration("old", "new", ("/api/*",), min_samples=100)
FROZEN = replace(PLAIN, freezes=(Freeze(NOON, NOON.replace(hour=18)),))
PLAN = RolloutPlan(PLAIN.phases)
RUNNING = Rollout(
    State.RUNNING, phase=EnteredPhase("initial", 500), weight_bp=500, verified=True, soaked_s=310.0, entered_at=1.0
)
APPROVAL = Hold(HoldKind.APPROVAL, "early", "waits for approval")
CLOSED = gates.closed((), FROZEN.freezes, NOW.unix)


def kinds(
    migration: Migration = PLAIN,
    s: Rollout = RUNNING,
    outcome: VerdictOutcome = VerdictOutcome.HOLD,
    *,
    requests: int = 5,
    holds: tuple[Hold, ...] = (),
    judged_ago_s: float = 0.0,
) -> list[str]:
    verdict = PhaseVerdict(outcome, ("it is so",), NOW.unix - judged_ago_s)
    found = waiting.waits(migration, PLAN, s, NOW, verdict, requests, holds)
    return [wait.kind.value for wait in found]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["samples"]),
        ({"requests": 100}, ["proof"]),
        ({"outcome": VerdictOutcome.NO_DATA, "requests": 0}, ["samples"]),
        ({"outcome": VerdictOutcome.PROMOTE}, []),
        ({"s": replace(RUNNING, soaked_s=290.0)}, []),  # of 300 s: it soaks still
        ({"judged_ago_s": 11.0}, []),  # this verdict speaks of the soak, which was not over
        ({"migration": FROZEN}, ["freeze", "samples"]),
        ({"migration": FROZEN, "s": replace(RUNNING, soaked_s=1.0)}, ["freeze"]),
        ({"holds": (APPROVAL,)}, ["approval"]),  # it is earned: nothing is left to prove
        ({"migration": FROZEN, "holds": (APPROVAL, *CLOSED)}, ["approval", "freeze"]),
        ({"migration": FROZEN, "s": replace(RUNNING, state=State.PAUSED)}, []),
        ({"s": replace(RUNNING, state=State.ROLLED_BACK)}, []),
    ],
)
def test_what_the_next_step_waits_for(fields: dict[str, Any], expected: list[str]) -> None:
    assert kinds(**fields) == expected


@pytest.mark.parametrize("kind", HoldKind)
def test_whatever_holds_an_earned_phase_is_waited_for_by_the_same_name(kind: HoldKind) -> None:
    assert kinds(holds=(Hold(kind, "it", "why"),)) == [kind.value]


def test_the_opening_is_looked_for_once_and_anew_when_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    look: Callable[..., Any] = gates.opening

    def counted(windows: Any, freezes: Any, unix: float) -> Any:
        asked.append(unix)
        return look(windows, freezes, unix)

    monkeypatch.setattr(gates, "opening", counted)
    hours, evening = waiting.Hours(FROZEN), NOON.replace(hour=18).timestamp()
    for passed_s in (0.0, 1.0, 3600.0):
        assert hours.opens_at(Now(0.0, NOW.unix + passed_s)) == OpensAt("2026-11-20T18:00:00.000Z", "UTC")
    assert asked == [NOW.unix]
    assert hours.opens_at(Now(0.0, evening)) is None
    assert hours.opens_at(Now(0.0, NOW.unix - 1.0)) is None, "the clock was set back to before the freeze"
    assert len(asked) == 3
