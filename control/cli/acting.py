"""The commands that act on a migration: ``start``, the actions after it, and ``reset``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from control.cli.base import api, follow_to_the_end, print_json
from control.terminal.exits import GATE, INTERRUPTED, OK, USAGE, Stop

if TYPE_CHECKING:
    from control.api.client import ControlClient
    from control.lead.commands import Action
    from control.lead.documents import Status
    from control.rollout.model import Rollback

# How long a rollback may be delayed to read the previous rollback first, which tells the two apart afterwards.
_PREVIOUS_WITHIN_S: Final = 0.5
_FORCE: Final = click.option("--force", is_flag=True, help="Go on although a check failed; needs --reason.")
_REASON: Final = click.option("--reason", help="Why; kept in the audit trail.")


@click.command()
@api
@click.option("--dry-run", is_flag=True, help="Say what a start would be answered now; change nothing.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint instead of from the first phase.")
@click.option("--detach", is_flag=True, help="Start, and do not follow.")
@_FORCE
@_REASON
def start(client: ControlClient, dry_run: bool, resume: bool, detach: bool, force: bool, reason: str | None) -> None:
    """Start the migration and follow it, with keys to act.

    At a terminal: r rolls back, a aborts, p pauses or resumes, d detaches. Elsewhere: a line for every change.
    """
    fields = {"dry_run": dry_run, "resume": resume, "force": force}
    answer = _act(client, "start", reason, {name: True for name, is_set in fields.items() if is_set})
    if dry_run:
        from control.checks.check import failed
        from control.terminal.tables import print_checks

        checks = answer.checks or ()
        print_checks(checks)
        if answer.refused:
            click.echo(f"`phasegate start` would be refused now: {answer.refused.message}")
            sys.exit(GATE)
        if failed(checks):
            click.echo("Nothing that failed would keep `phasegate start` from beginning now.")
        sys.exit(GATE if failed(checks) else OK)
    if detach:
        _print_where_it_stands(answer)
        return
    follow_to_the_end(client, may_act=True, known=answer)


def _action(name: Action, summary: str, *extra: Callable[..., Any]) -> click.Command:
    """Make the command that carries out one action of the API and prints the result."""

    def run(client: ControlClient, reason: str | None, as_json: bool, **fields: Any) -> None:
        before = _last_rollback(client) if name in ("rollback", "abort") else None
        answer = _act(
            client, name, reason, {key: value for key, value in fields.items() if value not in (None, False)}
        )
        if as_json:
            print_json(answer)
            return
        _print_where_it_stands(answer)
        if name in ("rollback", "abort"):
            _print_rollback(before, answer.last_rollback)
        if answer.message:
            click.echo(f"{answer.message}.")

    run.__doc__ = summary
    command = api(run)
    for option in (
        *extra,
        _REASON,
        click.option("--json", "as_json", is_flag=True, help="The status afterwards as JSON."),
    ):
        command = option(command)
    return click.command(name)(command)


advance = _action(
    "advance",
    "Go on to the next phase now, if both backends are healthy.",
    click.option("--to", metavar="PHASE", help="Only if this is the next phase."),
    _FORCE,
)
pause = _action("pause", "Hold the weight; a failing target is still rolled back.")
resume = _action("resume", "Go on after a pause, a restart or a reboot.", _FORCE)
rollback = _action(
    "rollback",
    "Take traffic back; answers when it is done.\n\n"
    "Done is when every worker shows the lower weight and no older request is open on the target.",
    click.option(
        "--to",
        metavar="PHASE",
        help="previous (the default), start for all the way to 0 %, or a phase with less weight by its name.",
    ),
)
abort = _action("abort", "End the migration and take all traffic back to the source.")


@click.command()
@api
@click.option("--yes", is_flag=True, help="Do not ask.")
@_REASON
def reset(client: ControlClient, yes: bool, reason: str | None) -> None:
    """Emergency reset: all traffic to the source; the run cannot be resumed."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Reset {client.migration}: its progress is lost. Go on?", abort=True)
    _print_where_it_stands(_sent("reset", lambda: client.reset(reason)))


COMMANDS: Final = (start, advance, pause, resume, rollback, abort, reset)


def _act(client: ControlClient, action: Action, reason: str | None, fields: dict[str, Any]) -> Status:
    """Carry out an action."""
    if fields.get("force") and not reason:
        raise Stop(USAGE, f"{action} --force needs a reason: add --reason WHY, which the audit trail keeps")
    return _sent(action, lambda: client.act(action, reason=reason, **fields))


def _sent(action: str, send: Callable[[], Status]) -> Status:
    """Send an action. Ctrl-C ends the command, not the action: once sent, the action runs to its end."""
    try:
        return send()
    except KeyboardInterrupt:
        message = f"interrupted; {action} goes on to its end all the same. See what came of it: `phasegate status`"
        raise Stop(INTERRUPTED, message) from None


def _print_where_it_stands(status: Status) -> None:
    from control.report.nextstep import next_line
    from control.report.wording import headline

    click.echo(headline(status))
    click.echo(f"Next: {next_line(status)}")


def _last_rollback(client: ControlClient) -> Rollback | None:
    """The last rollback before this action, or None where the control plane does not answer at once."""
    from control.api.unanswered import ApiError

    try:
        return client.status(_PREVIOUS_WITHIN_S).last_rollback
    except ApiError:
        return None


def _print_rollback(before: Rollback | None, last: Rollback | None) -> None:
    from control.report.wording import rollback_line

    if last is not None and last != before:
        click.echo(rollback_line(last))
    else:
        click.echo("Nothing had to be taken back.")
