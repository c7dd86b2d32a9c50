"""What all commands share: the command group, the client of the control API, exit codes for its errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from control.api.unanswered import ApiError, ApiRefused, Unreachable
from control.cli.finding import CONFIG
from control.terminal.exits import GATE, INTERRUPTED, OK, ROLLED_BACK, UNREACHABLE, USAGE, Stop

if TYPE_CHECKING:
    from control.api.client import ControlClient
    from control.lead.documents import Status

EPILOG: Final = """\b
First steps: `phasegate demo` shows a whole migration; `phasegate init` sets up your own app.
PHASEGATE_URL and PHASEGATE_TOKEN: the control plane's address, and your token.
Exit codes: 0 done, 2 usage or configuration, 3 a check or gate failed,
            4 rolled back or aborted, 5 unreachable, 130 interrupted.
"""

# The commands in the order in which a user needs them. A test checks that no command is missing.
SECTIONS: Final = {
    "Set up": ("init", "token", "check", "indexes", "seed"),
    "Run": ("serve", "demo", "loadtest", "emulator"),
    "Move the data": ("copy", "compare"),
    "Migrate": ("start", "advance", "pause", "resume", "rollback", "abort", "reset"),
    "Look": ("status", "watch", "audit", "verify", "report"),
}


# The exit code for each error status of the API: the caller's mistake, a gate that stayed shut, or no usable answer.
REFUSALS: Final = {
    400: USAGE,
    401: USAGE,
    403: USAGE,
    404: USAGE,
    429: USAGE,
    409: GATE,
    412: GATE,
    500: UNREACHABLE,
    503: UNREACHABLE,
}


class Commands(click.Group):
    """The command group. It turns every error of a command into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors are translated here and nowhere else."""
        try:
            return self._carry_out(ctx)
        except Stop as error:
            stop = error
        except KeyboardInterrupt:
            stop = Stop(INTERRUPTED, "interrupted")
        except click.Abort:
            stop = Stop(INTERRUPTED, "interrupted at a question; nothing was changed")
        click.echo(f"phasegate: {stop.message}", err=True)
        return ctx.exit(stop.code)

    def _carry_out(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ApiError as error:
            raise translated(error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, one per line."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(8), self.commands[name].get_short_help_str(80)) for name in names])


def translated(error: ApiError) -> Stop:
    if isinstance(error, ApiRefused) and error.code == "check_failed":
        hint = "Repair it (`phasegate check` looks at every part), or go on anyway with --force --reason WHY."
        return Stop(GATE, f"{error.message}\n{hint}")
    if isinstance(error, ApiRefused):
        return Stop(REFUSALS.get(error.status, GATE), str(error))
    if isinstance(error, Unreachable):
        return Stop(UNREACHABLE, str(error))
    return Stop(USAGE, str(error))


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--config", default=CONFIG, show_default=True, envvar="PHASEGATE_CONFIG", help="The configuration file."
    )(command)


def api(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command a ``client``. Its address comes from PHASEGATE_URL, or else from the configuration file."""

    def run(*args: Any, url: str | None, migration: str | None, config: str, **kwargs: Any) -> Any:
        return command(*args, client=client(url, migration, config), **kwargs)

    return api_options(update_wrapper(run, command))


def api_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that ``client`` is made from: ``url``, ``migration`` and ``config``."""
    for option in (
        click.option("--migration", help="Which migration; needed where the configuration has several."),
        click.option("--url", envvar="PHASEGATE_URL", help="The control plane's address."),
        config_option,
    ):
        command = option(command)
    return command


def client(url: str | None, migration: str | None, config: str) -> ControlClient:
    """A client of the control plane. Raises ``Unreachable`` where the configuration leads to none, and ``Stop``."""
    from control.api.client import ControlClient
    from control.cli.finding import chosen_migration, found_url, peek

    document: dict[str, Any] = {}
    if url is None or migration is None:
        document = peek(config, needed=url is None)
    # In this order: a question about the migrations is answered whether or not anybody serves.
    name = chosen_migration(document, config) if migration is None else migration
    return ControlClient(found_url(document, config) if url is None else url, os.environ.get("PHASEGATE_TOKEN"), name)


def settings(config: str) -> Any:
    """Read the configuration, or stop with every mistake in it."""
    from control.plan.settings import ConfigError, load

    try:
        return load(Path(config))
    except ConfigError as error:
        problems = list(error.problems)
        if not Path(config).exists():
            raise Stop(
                USAGE, f"{config} does not exist: `phasegate init` writes one, --config names another"
            ) from error
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise Stop(USAGE, "\n".join([f"{config} has {count}:", *(f"  {problem}" for problem in problems)])) from error


def log_as(command: str, *, failures: bool = True) -> None:
    """Log warnings and errors to standard error. A command prints its results itself.

    ``failures`` False: its results say already what a backend's failures are.
    """
    import logging

    from proxy.process import logs

    logs.configure(command, level=logging.WARNING if failures else logging.CRITICAL)


def print_json(value: object) -> None:
    """Print a document as indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def follow_to_the_end(client: ControlClient, *, may_act: bool, known: Status | None = None) -> NoReturn:
    """Show the migration until it ends or the person detaches, then exit with the code for its end.

    ``known`` is a status that the command has already.
    """
    from control.rollout.model import State
    from control.terminal.follow import follow

    state = follow(client, may_act=may_act, known=known)
    sys.exit(ROLLED_BACK if state in (State.ROLLED_BACK, State.ABORTED, State.IDLE) else OK)


def version(ctx: click.Context, _: click.Parameter, is_set: bool) -> None:
    """Print the version and whether the data plane is compiled, then end the command."""
    if not is_set:
        return
    from importlib import metadata

    from proxy.process.form import form

    try:
        number = metadata.version("phasegate")
    except metadata.PackageNotFoundError:
        number = "from its source, not installed"
    click.echo(f"phasegate {number}, data plane: {form()}")
    ctx.exit()
