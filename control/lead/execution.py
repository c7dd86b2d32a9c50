"""How an operator's command is carried out: what it has to pass, and when it has taken effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from control.checks.check import Check
from control.lead.commands import Command
from control.lead.readiness import Readiness, unwell
from control.lead.saving import Outbox
from control.rollout.machine import RAISING
from control.rollout.model import INCOMPLETE, On, Refuse, Rollout, RolloutEvent, State

VERIFY_WITHIN_S: Final = 5.0  # how long a command waits for every worker to show a raise
RECORD_WITHIN_S: Final = 1.0  # how long the answer to a decrease waits for the store
# Beyond a rollback's own limit: the coordinator leaves hung workers out a second after it (``DRAIN_GRACE_S``), and a
# command answers after that.
ANSWER_GRACE_S: Final = 2.0


class CommandRefused(Exception):  # noqa: N818 - it says what happened
    """A command was not carried out; nothing has changed."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Leader(Protocol):
    """What a command needs of whoever leads the migration."""

    state: Rollout
    raised_at: int  # the revision of the last increase that was published

    @property
    def outbox(self) -> Outbox[Any]:
        """Its way to the store."""

    @property
    def readiness(self) -> Readiness:
        """The checks before an increase."""

    def mono(self) -> float:
        """The monotonic clock, in seconds."""

    def refusal(self, event: RolloutEvent) -> Refuse | None:
        """Why the event would be refused; changes nothing."""

    def apply(self, event: RolloutEvent) -> Refuse | None:
        """Let the event happen, unless it is refused."""

    async def until(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Wait until ``holds`` is true; False where it was not in time."""


class Examined(NamedTuple):
    """What a command has to pass: each check that was made, and why the command is refused; None: it is not."""

    checks: list[Check]
    refused: CommandRefused | None


async def examine(leader: Leader, command: Command, revision: int | None, received: float) -> Examined:
    """Ask everything that a command has to pass before it is carried out, and change nothing.

    ``carry_out`` obeys it and a dry run shows it. What comes after the first refusal is not asked. ``revision`` is
    the one that the command is for, and ``received`` is when it came, CLOCK_MONOTONIC seconds.
    """
    stale = command.expected_revision
    if stale is not None and stale != leader.state.revision:
        message = f"revision {stale} was expected, and it is {leader.state.revision}"
        hint = "Something changed in between: look at the status, decide anew."
        return _refused("revision", "stale_revision", message, hint)
    if On(command.action) not in RAISING:
        return Examined([], None)
    if not leader.outbox.known:
        hint = "Mend the store; it is read again every second. Rollback, abort and reset are possible."
        return _refused("checkpoint", "store_failed", f"{command.action} was not tried: {leader.outbox.error}", hint)
    await leader.readiness.look_for_seed()
    refused = leader.refusal(command.event(revision, received))
    if refused is not None:
        name = "data" if refused.code == INCOMPLETE else "state"
        return _refused(name, refused.code, refused.message, refused.hint)
    allowed = Check("state", True, f"{command.action} is possible in state {leader.state.state.value}")
    data = leader.readiness.data_checks()
    if command.force:
        return Examined([allowed, *data, Check("health, changes and hours", None, "passed over by force")], None)
    found = await leader.readiness.checks()
    closed = leader.readiness.closed() if command.action != "resume" else []
    hours = [
        Check(hold.kind.value, False, hold.reason, "Wait, or repeat with force and a reason.") for hold in closed
    ]
    if command.action != "resume" and not closed:
        hours = [Check("hours", True, "neither a window nor a freeze keeps a phase from beginning now")]
    made = [allowed, *data, *found, *hours]
    problems = [*unwell(found), *closed]
    if not problems:
        return Examined(made, None)
    message = f"{command.action} was not tried: {'; '.join(hold.reason for hold in problems)}"
    return Examined(made, CommandRefused("check_failed", message, "Mend it, or repeat with force and a reason."))


def _refused(name: str, code: str, message: str, hint: str) -> Examined:
    return Examined([Check(name, False, message, hint)], CommandRefused(code, message, hint))


async def carry_out(leader: Leader, command: Command) -> None:
    """Carry out a command; returns when it has taken effect. Raises ``CommandRefused``."""
    received = leader.mono()
    revision = command.expected_revision
    if On(command.action) in RAISING and revision is None:
        # The checks may take seconds: the command is for the state it was given in, and for no later one.
        revision = leader.state.revision
    refused = (await examine(leader, command, revision, received)).refused
    if refused is not None:
        raise refused
    _obey(leader.apply(command.event(revision, received)))
    if leader.state.pending is not None:
        await _raised(leader, leader.state.pending.revision)
    elif leader.state.state is State.ROLLING_BACK:
        within = leader.state.descent.within_s if leader.state.descent is not None else 0.0
        await leader.until(lambda: leader.state.state is not State.ROLLING_BACK, within + ANSWER_GRACE_S)
    await leader.until(lambda: not leader.outbox.entries or leader.outbox.error is not None, RECORD_WITHIN_S)


def _obey(refused: Refuse | None) -> None:
    if refused is not None:
        raise CommandRefused(refused.code, refused.message, refused.hint)


async def _raised(leader: Leader, revision: int) -> None:
    """Wait until the increase was written, published, and is shown by every worker."""

    def answered() -> bool:
        return leader.state.pending is None or leader.state.pending.revision != revision

    if not await leader.until(answered, VERIFY_WITHIN_S):
        hint = "It goes on as soon as the store answers; abort calls it off."
        raise CommandRefused("store_slow", "the store has not taken the checkpoint yet", hint)
    if leader.raised_at != revision and (lacking := leader.readiness.lacking()):
        message = f"it was called off: {lacking[0].reason}"
        raise CommandRefused(INCOMPLETE, message, "Run that command, or repeat with force and a reason.")
    if leader.raised_at != revision and leader.outbox.error is None:
        raise CommandRefused("superseded", "a decrease came before it", "Look at the status and decide anew.")
    if leader.raised_at != revision:
        message = f"the checkpoint could not be written: {leader.outbox.error}"
        raise CommandRefused("store_failed", message, "Mend the disk.")
    await leader.until(lambda: leader.state.verified, VERIFY_WITHIN_S)
