"""``phasegate verify``: whether the audit trail is what was written, asked of phasegate or of its file."""

from __future__ import annotations

from pathlib import Path

import click

from control.api.client import ControlClient
from control.store.chain import Trail
from control.store.port import StoreError
from control.store.sqlite import verify_file
from control.terminal.exits import GATE, OK, USAGE, Stop


def asked(client: ControlClient) -> dict[str, Trail]:
    """What the control plane says of its migration's trail."""
    trail = client.verify()
    return {client.migration: Trail(trail.entries, trail.hash, trail.problems)}


def read(path: Path, migration: str | None) -> dict[str, Trail]:
    """Every trail of a control.db, or one migration's. Raises ``Stop``."""
    try:
        found = verify_file(path)
    except StoreError as error:
        raise Stop(
            USAGE, f"{error}\nExpected a control.db of phasegate, or a copy with its -wal beside it."
        ) from error
    if not found:
        raise Stop(USAGE, f"{path}: no migration is in it")
    if migration is None:
        return found
    if migration not in found:
        raise Stop(USAGE, f"{path}: no migration {migration!r} is in it; there is: {', '.join(found)}")
    return {migration: found[migration]}


def tell(trails: dict[str, Trail]) -> int:
    """Say what was found; the exit code."""
    for migration, trail in trails.items():
        count = "1 entry" if trail.entries == 1 else f"{trail.entries} entries"
        if not trail.problems:
            click.echo(f"{migration}: whole, {count}, the last is {trail.hash}")
            continue
        click.echo(f"{migration}: NOT whole, {count}:")
        for problem in trail.problems:
            click.echo(f"  {problem}")
    return GATE if any(trail.problems for trail in trails.values()) else OK
