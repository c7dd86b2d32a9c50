"""The one set of commands that API, CLI and dashboard go through. Pure: a body in, a ``Command`` or mistakes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, convert
from msgspec.structs import asdict

from control.data.documents import DataBody
from control.plan.mistakes import one_of, problems, shown
from control.rollout.model import On, RolloutEvent

REASON_MAX: Final = 500


PhaseName = Annotated[str, Meta(min_length=1, max_length=64)]
Reason = Annotated[str, Meta(max_length=REASON_MAX)]
Action = Literal["start", "advance", "pause", "resume", "rollback", "abort"]


class ActionBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An action on a migration, and what goes with it."""

    action: Action
    reason: Reason = ""  # why, for the audit trail
    expected_revision: int | None = None  # refuse where anything has changed since this revision of the status
    dry_run: bool = False  # of a start: only make the checks
    resume: bool = False  # of a start: go on from the checkpoint
    # Of a rollback: `previous` (as where it is left out), `start`, or the name of a phase with less weight. Of an
    # advance: the name of the phase that it must lead to.
    to: PhaseName | None = None
    force: bool = False  # against a failed check; needs a reason


# Which fields an action takes beside ``reason`` and ``expected_revision``.
FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "start": ("dry_run", "resume", "force"),
    "advance": ("to", "force"),
    "pause": (),
    "resume": ("force",),
    "rollback": ("to",),
    "abort": (),
    "reset": (),
}
_COMMON: Final = ("action", "reason", "expected_revision")


# Likewise of the actions on a migration's data, beside ``action``.
DATA_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "copy": ("collections", "dry_run"),
    "compare": ("collections", "sample", "values"),
    "repair": ("collections", "from", "delete"),
    "stop": (),
}


class Malformed(Exception):  # noqa: N818 - it says what is wrong
    """The body is no command; ``problems`` says everything that is wrong with it."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Command(Struct, frozen=True):
    """What somebody wants done; ``actor`` is who."""

    action: str
    actor: str
    reason: str = ""
    expected_revision: int | None = None
    dry_run: bool = False
    resume: bool = False
    to: str | None = None
    force: bool = False

    def event(self, revision: int | None, detected: float) -> RolloutEvent:
        """The rollout's event, to be refused where the state is no longer at ``revision`` (None: whatever it is)."""
        return RolloutEvent(
            On(self.action),
            actor=self.actor,
            reason=self.reason,
            to=self.to,
            resume=self.resume,
            forced=self.force,
            revision=revision,
            detected=detected,
        )


def parse(body: Any, actor: str) -> Command:
    """The command that a JSON body asks for. Raises ``Malformed``."""
    mistakes = _mistakes(body, ActionBody, FIELDS, _COMMON, "start")
    if body.get("force") is True and not body.get("reason"):
        mistakes.append("reason: a forced action needs one")
    if mistakes:
        raise Malformed(mistakes)
    return Command(actor=actor, **asdict(convert(body, ActionBody)))


def parse_data(body: Any) -> DataBody:
    """What a JSON body asks for of a migration's data. Raises ``Malformed``."""
    mistakes = _mistakes(body, DataBody, DATA_FIELDS, ("action",), "copy")
    if body.get("delete") is True and body.get("from") is None:
        mistakes.append("from: with delete it must say which side is right")
    if mistakes:
        raise Malformed(mistakes)
    return convert(body, DataBody)


def _mistakes(
    body: Any, shape: type[Struct], fields: Mapping[str, tuple[str, ...]], common: tuple[str, ...], example: str
) -> list[str]:
    """What is wrong with a body: by its shape, and by which fields go with its action. Raises ``Malformed``."""
    if not isinstance(body, dict):
        raise Malformed([f'expected an object such as {{"action": "{example}"}}, found {shown(body)}'])
    mistakes = problems(shape, body)
    action = body.get("action")
    if isinstance(action, str) and action in fields and action != "reset":
        allowed = (*common, *fields[action])
        strange = [key for key in body if key not in allowed and key in shape.__struct_encode_fields__]
        mistakes += [f"{key}: goes with {_goes_with(key, fields)}, not with {action}" for key in strange]
    return mistakes


def _goes_with(key: str, fields: Mapping[str, tuple[str, ...]]) -> str:
    return one_of([action for action, taken in fields.items() if key in taken])
