"""``phasegate verify``: checks the audit trail, through a running phasegate or in the store's file."""

from __future__ import annotations

from pathlib import Path

import click

from control.api.client import ControlClient
from control.store.chain import Trail
from control.store.port import StoreError
from control.store.sqlite import verify_file
from control.terminal.exits import GATE, OK, USAGE, Stop


def asked(client: ControlClient) -> dict[str, Trail]:
    """The migration's trail, verified by the control plane."""
    trail = client.verify()
    if trail.renamed_to is not None:
        click.echo(f"{client.migration} was renamed, and goes on as {trail.renamed_to}")
    return {client.migration: Trail(trail.entries, trail.hash, trail.problems)}


def read(path: Path, migration: str | None) -> dict[str, Trail]:
    """Every trail of a control.db, or one migration's. Raises ``Stop``."""
    try:
        trails = verify_file(path)
    except StoreError as error:
        raise Stop(
            USAGE, f"{error}\nExpected a control.db of phasegate, or a copy of it together with its -wal file."
        ) from error
    if not trails:
        raise Stop(USAGE, f"{path} has no migration")
    if migration is None:
        return trails
    if migration not in trails:
        raise Stop(USAGE, f"{path} has no migration {migration!r}; it has: {', '.join(trails)}")
    return {migration: trails[migration]}


def tell(trails: dict[str, Trail]) -> int:
    """Print the result for each trail. Returns the exit code."""
    for migration, trail in trails.items():
        count = "1 entry" if trail.entries == 1 else f"{trail.entries} entries"
        if not trail.problems:
            click.echo(f"{migration}: whole, {count}, the last is {trail.hash}")
            continue
        click.echo(f"{migration}: NOT whole, {count}:")
        for problem in trail.problems:
            click.echo(f"  {problem}")
    return GATE if any(trail.problems for trail in trails.values()) else OK
