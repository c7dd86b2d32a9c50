"""What the next step of a running migration waits for, and when the hours allow one again."""

from __future__ import annotations

from collections.abc import Sequence

from control.judge.rules import VerdictOutcome
from control.judge.verdict import PhaseVerdict
from control.lead.documents import OpensAt, Wait, WaitKind
from control.plan import gates
from control.plan.gates import Hold, Opening
from control.plan.settings import Migration
from control.plan.times import Now, rfc3339
from control.rollout.model import Rollout, RolloutPlan, State


class Hours:
    """When a migration's windows and freezes allow a phase again.

    Looking for it takes milliseconds where there are many freezes, and a status is made every second. What was found
    holds until that moment.
    """

    def __init__(self, migration: Migration) -> None:
        self._migration = migration
        self._since = 0.0  # Unix time, when it was looked for
        self._found: Opening | None = None

    def opens_at(self, now: Now) -> OpensAt | None:
        """When a phase may begin again; None where one may now, or never may."""
        found = self._found
        if found is None or not self._since <= now.unix < found.unix:  # the clock may be set back, too
            found = gates.opening(self._migration.windows, self._migration.freezes, now.unix)
            self._since, self._found = now.unix, found
        return None if found is None else OpensAt(rfc3339(found.unix), found.tz)


def waits(
    migration: Migration,
    plan: RolloutPlan,
    s: Rollout,
    now: Now,
    verdict: PhaseVerdict | None,
    requests: int,
    holds: Sequence[Hold],
) -> tuple[Wait, ...]:
    """What the next step waits for, beside its minimum soak; nothing where the migration is not running.

    ``requests`` are the target's in this phase. ``holds`` keep a phase that is earned from beginning. Hours that are
    closed are named whether it is earned or not.
    """
    if s.state is not State.RUNNING or s.pending is not None:
        return ()
    closed = gates.closed(migration.windows, migration.freezes, now.unix)
    found = dict.fromkeys(Wait(WaitKind(hold.kind), hold.name, hold.reason) for hold in (*holds, *closed))
    return (*found, *([] if holds else _unproven(migration, plan, s, now, verdict, requests)))


def _unproven(
    migration: Migration, plan: RolloutPlan, s: Rollout, now: Now, verdict: PhaseVerdict | None, requests: int
) -> Sequence[Wait]:
    phase = plan.current(s)
    if verdict is None or verdict.outcome not in (VerdictOutcome.HOLD, VerdictOutcome.NO_DATA):
        return ()
    # What was judged before the soak was over speaks of the soak.
    judged_ago_s = now.unix - verdict.checked_at
    if phase is None or s.soaked(now.mono) - judged_ago_s < phase.min_soak_s:
        return ()
    kind = WaitKind.SAMPLES if requests < (phase.min_samples or migration.min_samples) else WaitKind.PROOF
    return [Wait(kind, kind.value, reason) for reason in verdict.reasons[:1]]
