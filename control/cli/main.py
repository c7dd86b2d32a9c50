"""The command line. Speaks to a running phasegate through the control API alone; imports what a command needs then.

Exit codes: 0 done, 2 usage or configuration, 3 a check or gate failed, 4 rolled back or aborted, 5 unreachable,
130 interrupted.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from control.cli.base import CONFIG, EPILOG, Commands, api, api_options, client, config_option, proxy, version
from control.cli.base import settings as read_settings
from control.terminal.exits import GATE, INTERRUPTED, OK, ROLLED_BACK, USAGE, Stop

if TYPE_CHECKING:
    from control.api.client import Client, Json


def _dump(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=version, help="Show the version."
)
def main() -> None:
    """Move an app's data from one backend to another, a phase at a time, and take it back at once."""


# Running phasegate


@main.command()
@config_option
def serve(config: str) -> None:
    """Serve the app's traffic, until SIGTERM or Ctrl-C."""
    from control.serve import serve as run
    from proxy.process.supervisor import CannotStartError

    read_settings(config)
    if sys.stderr.isatty():
        click.echo("Serving; Ctrl-C drains and ends. Beside it: `phasegate start`, `status`, `watch`.", err=True)
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
    """Show a whole migration with nothing to set up.

    Starts a small app, the Firestore emulator, phasegate in front of both, and a stream of requests.
    """
    from control.demo.run import demo as run

    sys.exit(run(**options))


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="The checks as JSON.")
@click.option("--url", envvar="PHASEGATE_URL", help="The control plane's address.")
def check(config: str, as_json: bool, url: str | None) -> None:
    """Look whether a migration could start, and say how to mend it."""
    from msgspec import to_builtins

    from control.checks.preflight import preflight
    from control.terminal.tables import print_checks

    settings = read_settings(config)
    checks = to_builtins(preflight(settings, url=url, token=os.environ.get("PHASEGATE_TOKEN")))
    good = all(found["ok"] is not False for found in checks)
    if as_json:
        _dump({"ok": good, "checks": checks})
    else:
        print_checks(checks)
        if good:
            serving = any(found["name"].startswith("dry run") for found in checks)
            click.echo("Next: `phasegate start`." if serving else "Next: `phasegate serve`, then `phasegate start`.")
    sys.exit(OK if good else GATE)


@main.command()
@click.option("--config", default=CONFIG, show_default=True, help="The file to write.")
@click.option("--yes", is_flag=True, help="Ask nothing: take the options given, and the defaults.")
@click.option("--app", "origin", help="The app's address, as http://127.0.0.1:3000.")
@click.option("--project", help="The Google Cloud project that Firestore is in.")
@click.option("--listen", metavar="HOST:PORT", help="Where phasegate takes the app's traffic.")
@click.option("--control", metavar="HOST:PORT", help="Where the API and the dashboard listen.")
@click.option("--admin", help="The e-mail address of an admin.")
def init(config: str, yes: bool, **given: str | None) -> None:
    """Ask a few questions and write a commented configuration.

    A file that is there already is never touched.
    """
    from control.cli.init import init as run

    run(Path(config), ask=not yes, given=given)


@main.command()
@config_option
@click.option("--migration", help="Only this migration's target.")
@click.option("--yes", is_flag=True, help="Write into a real Firestore project without asking.")
def seed(config: str, migration: str | None, yes: bool) -> None:
    """Write what the mock begins with into Firestore, once.

    A store that was seeded before is left as it is.
    """
    from control.cli.init import seed as run

    run(read_settings(config), migration, yes)


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
    click.echo(f'  {{ name = {json.dumps(name)}, sha256 = "{digest}", role = "{role}" }}', err=True)


@main.command()
@api
@click.option(
    "--phase",
    required=True,
    type=click.Choice(["initial", "early", "half", "majority", "complete", "migration"]),
    help="Whose load; migration: all of it, as it goes.",
)
@click.option("--users", type=click.IntRange(1), default=100, show_default=True, help="Visitors at a time.")
@click.option("--spawn-rate", type=click.FloatRange(0.1), default=20, show_default=True, help="That come a second.")
@click.option("--run-time", help="Such as 90s or 10m.  [default: 2m; of a migration, until it ends]")
@click.option("--host", help="The proxy's address.  [default: the first of proxy.listen]")
@click.option("--enter", is_flag=True, help="Bring the migration to the phase first, as an operator.")
@click.option("--html", type=click.Path(dir_okay=False, writable=True), help="Write locust's report here.")
@click.option("--csv", metavar="PREFIX", help="Write locust's figures to PREFIX_stats.csv and others.")
def loadtest(client: Client, host: str | None, **asked: Any) -> None:
    """Send a phase's load through phasegate and judge what came of it.

    Exit codes: 0 passed, 3 not passed or not judged, 4 phasegate rolled back, 5 the control plane cannot be reached.
    """
    for flag, path in (("--html", asked["html"]), ("--csv", asked["csv"])):
        if path and not Path(path).parent.is_dir():
            raise Stop(USAGE, f"{flag} {path}: there is no folder {Path(path).parent}; make it, or name another")
    if asked["run_time"] and not re.fullmatch(r"(?=\d)(\d+h)?(\d+m)?(\d+s?)?", asked["run_time"]):
        raise Stop(USAGE, f"--run-time: expected a length of time such as 90s or 1h30m, found {asked['run_time']!r}")
    line = [sys.executable, "-m", "loadtest.phases.run", "--url", client.url, "--migration", client.migration]
    line += ["--host", host or proxy(click.get_current_context().params["config"])]
    for name, value in asked.items():
        flag = f"--{name.replace('_', '-')}"
        line += [flag] if value is True else [flag, str(value)] if value else []
    # The packages stand side by side, installed or not.
    search = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    os.execve(sys.executable, line, os.environ | {"PYTHONPATH": search})  # noqa: S606 - our own module, no shell


# Reading


@main.command()
@api
@click.option("--json", "as_json", is_flag=True, help="The whole status as JSON.")
def status(client: Client, as_json: bool) -> None:
    """Show where the migration stands."""
    found = client.status()
    if as_json:
        _dump(found)
        return
    from control.terminal.picture import print_status

    print_status(found)


@main.command()
@api
def watch(client: Client) -> None:
    """Follow the migration and change nothing; d or Ctrl-C ends it."""
    from control.terminal.follow import follow

    client.status()
    sys.exit(_ended(follow(client, may_act=False)))


@main.command()
@api
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", help="Go on where a page ended.")
@click.option("--json", "as_json", is_flag=True, help="The page as JSON.")
def audit(client: Client, limit: int, cursor: str | None, as_json: bool) -> None:
    """List what was done, by whom and why, newest first."""
    page = client.audit(limit, cursor)
    if as_json:
        _dump(page)
        return
    from control.terminal.tables import print_audit

    print_audit(page)


@main.command()
@api_options
@click.option("--store", type=click.Path(exists=True, dir_okay=False), help="Read this control.db and ask nobody.")
def verify(store: str | None, url: str | None, migration: str | None, config: str) -> None:
    """Check that the audit trail is what was written.

    Exit codes: 0 it is, 2 usage, credentials or no such file, 3 it is not, 5 the control plane cannot say.
    """
    from control.cli import verify as cli_verify

    trails = cli_verify.read(Path(store), migration) if store else cli_verify.asked(client(url, migration, config))
    sys.exit(cli_verify.tell(trails))


@main.command()
@api
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.option("--html", type=click.Path(dir_okay=False, writable=True), help="Write it here, as one HTML page.")
def report(client: Client, as_json: bool, html: str | None) -> None:
    """Show how it went, phase by phase, against its criteria."""
    found = client.report()
    if html is not None:
        from control.report.html import page

        try:
            Path(html).write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise Stop(USAGE, f"{html} cannot be written: {error.strerror}; name another file with --html") from error
        click.echo(f"Wrote {html}", err=True)
    if as_json:
        _dump(found)
    elif html is None:
        from control.terminal.tables import print_report

        print_report(found)


# Acting


@main.command()
@api
@click.option("--dry-run", is_flag=True, help="Only run the checks that come before a start.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint instead of from the first phase.")
@click.option("--detach", is_flag=True, help="Start, and do not follow.")
@click.option("--force", is_flag=True, help="Against a failed check; needs --reason.")
@click.option("--reason", help="Why: the audit trail keeps it.")
def start(client: Client, dry_run: bool, resume: bool, detach: bool, force: bool, reason: str | None) -> None:
    """Start the migration and follow it, with keys to act.

    At a terminal: r rolls back, a aborts, p pauses or resumes, d detaches. Elsewhere: a line for every change.
    """
    fields = {"dry_run": dry_run, "resume": resume, "force": force}
    answer = _act(client, "start", reason, {name: True for name, asked in fields.items() if asked})
    if dry_run:
        from control.terminal.tables import print_checks

        checks = answer.get("checks", [])
        print_checks(checks)
        sys.exit(OK if all(found["ok"] is not False for found in checks) else GATE)
    if detach:
        _say(answer)
        return
    from control.terminal.follow import follow

    sys.exit(_ended(follow(client, may_act=True)))


def _act(client: Client, action: str, reason: str | None, fields: Json) -> Json:
    """Carry out an action. One that was sent goes on to its end without this terminal, and Ctrl-C says so."""
    if fields.get("force") and not reason:
        raise Stop(USAGE, f"{action} --force needs a reason: add --reason WHY, the audit trail keeps it")
    try:
        return client.act(action, reason=reason, **fields)
    except KeyboardInterrupt:
        said = f"interrupted; {action} goes on to its end all the same. See what came of it: `phasegate status`"
        raise Stop(INTERRUPTED, said) from None


def _action(name: str, summary: str, *extra: Callable[..., Any]) -> None:
    """Add a command that carries out one action of the API and says what came of it."""

    def run(client: Client, reason: str | None, as_json: bool, **fields: Any) -> None:
        before = _last_rollback(client) if name in ("rollback", "abort") else None
        answer = _act(client, name, reason, {key: value for key, value in fields.items() if value})
        if as_json:
            _dump(answer)
            return
        _say(answer)
        if name in ("rollback", "abort"):
            _tell_rollback(before, answer.get("last_rollback"))

    run.__doc__ = summary
    command = api(run)
    for option in (
        *extra,
        click.option("--reason", help="Why: the audit trail keeps it."),
        click.option("--json", "as_json", is_flag=True, help="The status afterwards as JSON."),
    ):
        command = option(command)
    main.command(name)(command)


_FORCE: Final = click.option("--force", is_flag=True, help="Against a failed check; needs --reason.")

_action("advance", "Go on to the next phase now, if both backends are healthy.", _FORCE)
_action("pause", "Hold the weight; a failing target is still rolled back.")
_action("resume", "Go on after a pause, a restart or a reboot.", _FORCE)
_action(
    "rollback",
    "Take traffic back; answers when it is done.\n\n"
    "Done is when every worker shows the lower weight and no older request is open on the target.",
    click.option("--to", type=click.Choice(["previous", "start"]), help="Back one phase, or all of them."),
)
_action("abort", "End the migration and take all traffic back to the source.")


@main.command()
@api
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(client: Client, yes: bool) -> None:
    """Emergency reset: all traffic to the source, the run forgotten."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Reset {client.migration}: its progress is given up. Go on?", abort=True)
    _say(client.reset())


def _say(found: Json) -> None:
    from control.report.wording import headline, next_line

    click.echo(headline(found))
    click.echo(f"Next: {next_line(found)}")


_GLANCE_S: Final = 0.5  # what a rollback is delayed by at most, to tell it from the one before


def _last_rollback(client: Client) -> Json | None:
    """The rollback before this one, where the control plane says it at once."""
    from control.api.client import ApiError

    try:
        found: Json | None = client.status(_GLANCE_S).get("last_rollback")
    except ApiError:
        return None
    return found


def _tell_rollback(before: Json | None, last: Json | None) -> None:
    from control.report.wording import rollback_line

    if last and last != before:
        click.echo(rollback_line(last))
    else:
        click.echo("Nothing had to be taken back.")


def _ended(state: str | None) -> int:
    """The exit code of having followed a migration to ``state``; None means that the person detached."""
    return ROLLED_BACK if state in ("rolled_back", "aborted", "idle") else OK


def run() -> NoReturn:
    """The entry of ``python -m control.cli``."""
    main(prog_name="phasegate")
    raise AssertionError("click exits")
