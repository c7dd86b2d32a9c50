"""The command line. Speaks to a running phasegate through the control API alone; imports what a command needs then.

Exit codes: 0 done, 2 usage or configuration, 3 a check or gate failed, 4 rolled back or aborted, 5 unreachable.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from control.exits import GATE, OK, ROLLED_BACK, UNREACHABLE, USAGE, Stop

if TYPE_CHECKING:
    from control.client import ApiError, Client, Json

CONFIG: Final = "phasegate.toml"
EPILOG: Final = (
    "PHASEGATE_URL and PHASEGATE_TOKEN say where the control plane is and who asks. "
    "Exit codes: 0 done, 2 usage or configuration, 3 a check or gate failed, 4 rolled back, 5 unreachable."
)


# What the API's refusals mean to the shell: the caller's mistake, or a gate that stayed shut.
_REFUSALS: Final = {400: USAGE, 401: USAGE, 403: USAGE, 404: USAGE, 409: GATE, 412: GATE, 503: UNREACHABLE}


class Commands(click.Group):
    """A group whose every command turns what the control plane says no with into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; translate at this one edge."""
        from control.client import ApiError

        try:
            return super().invoke(ctx)
        except (Stop, ApiError) as error:
            stop = error if isinstance(error, Stop) else _translated(error)
        click.echo(f"phasegate: {stop.message}", err=True)
        return ctx.exit(stop.code)


def _translated(error: ApiError) -> Stop:
    from control.client import Refused, Unreachable

    if isinstance(error, Refused):
        return Stop(_REFUSALS.get(error.status, GATE), str(error))
    if isinstance(error, Unreachable):
        return Stop(UNREACHABLE, str(error))
    return Stop(USAGE, str(error))


def _config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--config", default=CONFIG, show_default=True, envvar="PHASEGATE_CONFIG", help="The configuration file."
    )(command)


def _api(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command a ``client``: the address from PHASEGATE_URL or else from the configuration file."""

    def run(*args: Any, url: str | None, migration: str | None, config: str, **kwargs: Any) -> Any:
        return command(*args, client=_client(url, migration, config), **kwargs)

    wrapped: Callable[..., Any] = update_wrapper(run, command)
    for option in (
        click.option("--migration", help="Which migration, where the configuration has several."),
        click.option("--url", envvar="PHASEGATE_URL", help="The control plane's address."),
        _config_option,
    ):
        wrapped = option(wrapped)
    return wrapped


def _client(url: str | None, migration: str | None, config: str) -> Client:
    from control.client import DEFAULT_MIGRATION, DEFAULT_URL, Client

    found: Json = {}
    if (url is None or migration is None) and Path(config).is_file():
        import tomllib

        try:
            found = tomllib.loads(Path(config).read_text())
        except (OSError, ValueError) as error:
            if url is None:
                raise Stop(USAGE, f"{config}: {error}") from error
    if url is None:
        control = found.get("control")
        listen = control.get("listen") if isinstance(control, dict) else None
        url = f"http://{listen}" if isinstance(listen, str) else DEFAULT_URL
    if migration is None:
        declared = found.get("migrations")
        names = list(declared) if isinstance(declared, dict) else []
        migration = DEFAULT_MIGRATION if DEFAULT_MIGRATION in names or not names else names[0]
        if len(names) > 1 and DEFAULT_MIGRATION not in names:
            raise Stop(USAGE, f"{config} has several migrations: say which with --migration ({', '.join(names)})")
    return Client(url, os.environ.get("PHASEGATE_TOKEN"), migration)


def _dump(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="phasegate", message="%(prog)s %(version)s")
def main() -> None:
    """Move an app's data from one backend to another, a phase at a time, and take it back at once."""


# Running phasegate


@main.command()
@_config_option
def serve(config: str) -> None:
    """Serve traffic by the configuration, until SIGTERM or Ctrl-C."""
    from control.serve import serve as run
    from proxy.supervisor import CannotStartError

    _settings(config)
    try:
        code = run(config)
    except CannotStartError as error:
        raise Stop(USAGE, str(error)) from error
    sys.exit(code)


@main.command()
@click.option("--once", is_flag=True, help="End when the migration does; exit 0 only if everything held.")
@click.option(
    "--phase-seconds", type=click.FloatRange(1, 3600), default=10, show_default=True, help="Soak of a phase."
)
@click.option(
    "--listen", metavar="HOST:PORT", help="Where the proxy listens.  [default: 127.0.0.1:8080 or a free port]"
)
@click.option(
    "--control", metavar="HOST:PORT", help="Where control listens.  [default: 127.0.0.1:9090 or a free port]"
)
@click.option("--rate", type=click.FloatRange(1, 2000), default=150, show_default=True, help="Requests a second.")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Worker processes.")
@click.option("--report", type=click.Path(dir_okay=False, writable=True), help="Write the report here, as JSON.")
def demo(**options: Any) -> None:
    """Show a whole migration with nothing to set up: app, Firestore emulator, phasegate and traffic."""
    from control.demo import demo as run

    sys.exit(run(**options))


@main.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="The checks as JSON.")
@click.option("--url", envvar="PHASEGATE_URL", help="The control plane's address.")
def check(config: str, as_json: bool, url: str | None) -> None:
    """Look whether a migration could start: every part, what was found, and how to mend it."""
    from msgspec import to_builtins

    from control.preflight import preflight
    from control.tables import print_checks

    settings = _settings(config)
    checks = to_builtins(preflight(settings, url=url, token=os.environ.get("PHASEGATE_TOKEN")))
    good = all(found["ok"] is not False for found in checks)
    if as_json:
        _dump({"ok": good, "checks": checks})
    else:
        print_checks(checks)
    sys.exit(OK if good else GATE)


@main.command()
@click.option("--config", default=CONFIG, show_default=True, help="The file to write.")
@click.option("--yes", is_flag=True, help="Ask nothing: take the options given, and the defaults.")
@click.option("--app", "origin", help="The app's address, as http://127.0.0.1:3000.")
@click.option("--project", help="The Google Cloud project that Firestore is in.")
@click.option("--listen", metavar="HOST:PORT", help="Where phasegate takes the app's traffic.")
@click.option("--admin", help="The e-mail address of an admin.")
def init(config: str, yes: bool, **given: str | None) -> None:
    """Ask a few questions and write a commented configuration; an existing file is never touched."""
    from control.cli_init import init as run

    run(Path(config), ask=not yes, given=given)


@main.command()
@_config_option
@click.option("--migration", help="Only this migration's target.")
@click.option("--yes", is_flag=True, help="Write into a real Firestore project without asking.")
def seed(config: str, migration: str | None, yes: bool) -> None:
    """Write what the mock begins with into Firestore; a store that was seeded before is left as it is."""
    from control.cli_init import seed as run

    run(_settings(config), migration, yes)


@main.command()
@click.option("--name", default="operator", show_default=True, help="Whose token it is: the audit trail shows it.")
@click.option("--role", type=click.Choice(["viewer", "operator"]), default="operator", show_default=True)
def token(name: str, role: str) -> None:
    """Make a token, and the line that lets it in."""
    import hashlib
    import secrets

    made = secrets.token_urlsafe(32)
    digest = hashlib.sha256(made.encode()).hexdigest()
    click.echo(made)
    click.echo("Shown once. Keep it as PHASEGATE_TOKEN, and put this into tokens of [control]:", err=True)
    click.echo(f'  {{ name = "{name}", sha256 = "{digest}", role = "{role}" }}', err=True)


# Reading


@main.command()
@_api
@click.option("--json", "as_json", is_flag=True, help="The whole status as JSON.")
def status(client: Client, as_json: bool) -> None:
    """Show where the migration stands."""
    found = client.status()
    if as_json:
        _dump(found)
        return
    from control.live import print_status

    print_status(found)


@main.command()
@_api
def watch(client: Client) -> None:
    """Follow a migration and change nothing; d or Ctrl-C ends it."""
    from control.live import follow

    client.status()
    sys.exit(_ended(follow(client, may_act=False)))


@main.command()
@_api
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", help="Go on where a page ended.")
@click.option("--json", "as_json", is_flag=True, help="The page as JSON.")
def audit(client: Client, limit: int, cursor: str | None, as_json: bool) -> None:
    """List what was done, by whom and why, newest first."""
    page = client.audit(limit, cursor)
    if as_json:
        _dump(page)
        return
    from control.tables import print_audit

    print_audit(page)


@main.command()
@_api
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.option("--html", type=click.Path(dir_okay=False, writable=True), help="Write it here, as one HTML page.")
def report(client: Client, as_json: bool, html: str | None) -> None:
    """Show how the migration went, phase by phase, against its criteria."""
    found = client.report()
    if html is not None:
        from control.report_html import page

        Path(html).write_text(page(found), encoding="utf-8")
        click.echo(f"Wrote {html}", err=True)
    if as_json:
        _dump(found)
    elif html is None:
        from control.tables import print_report

        print_report(found)


# Acting


@main.command()
@_api
@click.option("--dry-run", is_flag=True, help="Only run the checks that come before a start.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint instead of from the first phase.")
@click.option("--detach", is_flag=True, help="Start, and do not follow.")
@click.option("--force", is_flag=True, help="Against a failed check; needs --reason.")
@click.option("--reason", help="Why: the audit trail keeps it.")
def start(client: Client, dry_run: bool, resume: bool, detach: bool, force: bool, reason: str | None) -> None:
    """Start the migration and follow it: r rolls back, a aborts, p pauses or resumes, d detaches."""
    fields = {"dry_run": dry_run, "resume": resume, "force": force}
    answer = client.act("start", reason=reason, **{name: True for name, asked in fields.items() if asked})
    if dry_run:
        from control.tables import print_checks

        checks = answer.get("checks", [])
        print_checks(checks)
        sys.exit(OK if all(found["ok"] is not False for found in checks) else GATE)
    if detach:
        _say(answer)
        return
    from control.live import follow

    sys.exit(_ended(follow(client, may_act=True)))


def _action(name: str, summary: str, *extra: Callable[..., Any]) -> None:
    """Add a command that carries out one action of the API and says what came of it."""

    def run(client: Client, reason: str | None, as_json: bool, **fields: Any) -> None:
        answer = client.act(name, reason=reason, **{key: value for key, value in fields.items() if value})
        if as_json:
            _dump(answer)
        else:
            _say(answer, rolled_back=name in ("rollback", "abort"))

    run.__doc__ = summary
    command = _api(run)
    for option in (
        *extra,
        click.option("--reason", help="Why: the audit trail keeps it."),
        click.option("--json", "as_json", is_flag=True, help="The status afterwards as JSON."),
    ):
        command = option(command)
    main.command(name)(command)


_FORCE: Final = click.option("--force", is_flag=True, help="Against a failed check; needs --reason.")

_action("advance", "Go on to the next phase now, if both backends are healthy.", _FORCE)
_action("pause", "Hold the weight where it is; a failing target is still rolled back.")
_action("resume", "Go on after a pause, a restart or a reboot.", _FORCE)
_action(
    "rollback",
    "Take traffic back from the target; answers when no request is left on it that should not be.",
    click.option("--to", type=click.Choice(["previous", "start"]), help="Back one phase, or all of them."),
)
_action("abort", "End the migration and take all traffic back to the source.")


@main.command()
@_api
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(client: Client, yes: bool) -> None:
    """Emergency reset: all traffic to the source, and the migration back to its beginning."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Reset {client.migration}: its progress is given up. Go on?", abort=True)
    _say(client.reset())


def _say(found: Json, rolled_back: bool = False) -> None:
    from control.words import headline, rollback_line

    click.echo(headline(found))
    last = found.get("last_rollback")
    if rolled_back and last:
        click.echo(rollback_line(last))


def _ended(state: str | None) -> int:
    """The exit code of having followed a migration to ``state``; None means that the person detached."""
    return ROLLED_BACK if state in ("rolled_back", "aborted", "idle") else OK


def _settings(config: str) -> Any:
    """Read the configuration, or stop with every mistake in it."""
    from control.settings import ConfigError, load

    try:
        return load(Path(config))
    except ConfigError as error:
        problems = list(error.problems)
        if not Path(config).exists():
            raise Stop(
                USAGE, f"{config} is not there: `phasegate init` writes one, --config names another"
            ) from error
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise Stop(USAGE, "\n".join([f"{config} has {count}:", *(f"  {problem}" for problem in problems)])) from error


def run() -> NoReturn:
    """The entry of ``python -m control.cli``."""
    main(prog_name="phasegate")
    raise AssertionError("click exits")


if __name__ == "__main__":
    run()
