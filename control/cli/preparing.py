"""The commands that prepare a migration: ``init``, ``token``, ``check``, ``seed`` and ``indexes``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

import click

from control.cli.base import config_option, log_as, print_json
from control.cli.base import settings as read_settings
from control.cli.finding import CONFIG
from control.terminal.exits import GATE, OK


@click.command()
@click.option("--config", default=CONFIG, show_default=True, help="The file to write.")
@click.option("--yes", is_flag=True, help="Ask nothing; use the options and the defaults.")
@click.option("--app", "origin", help="The app's address, as http://127.0.0.1:3000.")
@click.option("--project", help="The Google Cloud project that Firestore is in.")
@click.option("--listen", metavar="HOST:PORT", help="Where phasegate takes the app's traffic.")
@click.option("--control", metavar="HOST:PORT", help="Where the API and the dashboard listen.")
@click.option("--writes", type=click.Choice(["arm", "source"]), help="Which side takes the writes until completion.")
@click.option("--admin", help="The e-mail address of an admin.")
def init(config: str, yes: bool, **given: str | None) -> None:
    """Ask a few questions and write a commented configuration.

    An existing file is never changed.
    """
    from control.cli.init import init as run

    run(Path(config), ask=not yes, given=given)


@click.command()
@click.option("--name", default="operator", show_default=True, help="The token's name in the audit trail.")
@click.option("--role", type=click.Choice(["viewer", "operator"]), default="operator", show_default=True)
def token(name: str, role: str) -> None:
    """Make a token, and the configuration line that accepts it."""
    import hashlib
    import secrets

    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    click.echo(secret)
    click.echo("Shown once. Keep it as PHASEGATE_TOKEN, and add this line to tokens of [control]:", err=True)
    click.echo(f'  {{ name = {json.dumps(name)}, sha256 = "{digest}", role = "{role}" }}', err=True)


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="The checks as JSON.")
@click.option("--url", envvar="PHASEGATE_URL", help="The control plane's address.")
def check(config: str, as_json: bool, url: str | None) -> None:
    """Check whether a migration could start, and say how to repair what is wrong."""
    from control.checks.check import failed
    from control.cli.check import check as run
    from control.terminal.tables import print_checks

    log_as("check", failures=False)
    outcome = run(read_settings(config), url=url, token=os.environ.get("PHASEGATE_TOKEN"))
    good = not failed(outcome.checks)
    if as_json:
        print_json({"ok": good, "checks": outcome.checks})
    else:
        print_checks(outcome.checks)
        if good:
            click.echo(f"Next: {outcome.next_step}")
    sys.exit(OK if good else GATE)


@click.command()
@config_option
@click.option("--migration", help="Only this migration's target.")
@click.option("--yes", is_flag=True, help="Write into a real Firestore project without asking.")
@click.option("--force", is_flag=True, help="Also where it is not empty: create what is missing, replace nothing.")
def seed(config: str, migration: str | None, yes: bool, force: bool) -> None:
    """Write a mock's fixtures into Firestore, if that is empty.

    The fixtures are the mock's folder of JSON files and requests, or its made-up data. They are not what the app
    wrote into the mock since: `phasegate copy` brings that.

    A database that holds anything in the collections of this data is refused, unless it holds these very fixtures:
    then nothing is written. So is one that answers visitors by now, or whose source was written to since it began.
    With --force the documents that are missing are created; what is there is never replaced, and what differs is
    listed.

    Interrupted, it goes on when it is run again. Exit code 3: refused, and nothing was written; or documents were
    left as they are because something else wrote them meanwhile.
    """
    from control.cli.seed import seed as run

    log_as("seed")
    run(read_settings(config), migration, yes=yes, force=force)


@click.command()
@config_option
@click.option("--backend", help="The backend whose indexes are meant, where there are several.")
def indexes(config: str, backend: str | None) -> None:
    """Print the indexes that Firestore needs, as firestore.indexes.json.

    Keep it as that file, and deploy it: firebase deploy --only firestore:indexes
    """
    from control.cli.indexes import indexes as run

    log_as("indexes")
    click.echo(run(read_settings(config), backend), nl=False)


COMMANDS: Final = (init, token, check, indexes, seed)
