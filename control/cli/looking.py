"""The read-only commands: ``status``, ``watch``, ``audit``, ``verify`` and ``report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from control.cli.base import api, api_options, client, follow_to_the_end, print_json
from control.terminal.exits import USAGE, Stop

if TYPE_CHECKING:
    from control.api.client import ControlClient


@click.command()
@api
@click.option("--json", "as_json", is_flag=True, help="The whole status as JSON.")
def status(client: ControlClient, as_json: bool) -> None:
    """Show where the migration stands."""
    document = client.status()
    if as_json:
        print_json(document)
        return
    from control.terminal.picture import print_status

    print_status(document)


@click.command()
@api
def watch(client: ControlClient) -> None:
    """Follow the migration and change nothing; d or Ctrl-C ends it."""
    client.status()
    follow_to_the_end(client, may_act=False)


@click.command()
@api
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", help="Show the next page; the page before prints its cursor.")
@click.option("--json", "as_json", is_flag=True, help="The page as JSON.")
def audit(client: ControlClient, limit: int, cursor: str | None, as_json: bool) -> None:
    """List the audit trail: what was done, by whom and why, newest first.

    --migration also takes the name of a migration that was renamed or abandoned.
    """
    page = client.audit(limit, cursor)
    if as_json:
        print_json(page)
        return
    from control.terminal.tables import print_audit

    print_audit(page, client.migration)


@click.command()
@api_options
@click.option(
    "--store", type=click.Path(exists=True, dir_okay=False), help="Read this control.db; no phasegate needed."
)
def verify(store: str | None, url: str | None, migration: str | None, config: str) -> None:
    """Check that the audit trail is complete and unchanged.

    Exit codes: 0 it is, 2 usage, credentials or no such file, 3 it is not, 5 the control plane gave no answer.
    """
    from control.cli import verify as cli_verify

    trails = cli_verify.read(Path(store), migration) if store else cli_verify.asked(client(url, migration, config))
    sys.exit(cli_verify.tell(trails))


@click.command()
@api
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.option(
    "--html", type=click.Path(dir_okay=False, writable=True), help="Write the report here, as one HTML page."
)
def report(client: ControlClient, as_json: bool, html: str | None) -> None:
    """Show the report of the run: its phases, rollbacks and criteria."""
    run = client.report()
    if html is not None:
        from control.report.html import page

        try:
            Path(html).write_text(page(run), encoding="utf-8")
        except OSError as error:
            raise Stop(USAGE, f"{html} cannot be written: {error.strerror}; name another file with --html") from error
        click.echo(f"Wrote {html}", err=True)
    if as_json:
        print_json(run)
    elif html is None:
        from control.terminal.tables import print_report

        print_report(run)


COMMANDS: Final = (status, watch, audit, verify, report)
