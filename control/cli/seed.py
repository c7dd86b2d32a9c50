"""``phasegate seed``: writes a mock's fixtures into the other side of its migration, if that is empty."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Final

import click

from backends.adapters.adapter import AdapterError
from backends.copy.folder import FixtureError
from backends.copy.seed import Seeded, SeedRefusedError
from backends.copy.seed import seed as write
from backends.documents.port import Rejected
from backends.errors import Fault
from backends.kinds.registry import KINDS
from control.lead.succession import weights_in
from control.plan.settings import Migration, Settings
from control.serve import STORE
from control.store.port import StoreError
from control.terminal.exits import GATE, UNREACHABLE, USAGE, Stop

ANY: Final = 100.0  # percent
_EXAMPLES: Final = 5  # of the documents that were left as they are
_FORCE: Final = (
    "`phasegate seed --force` creates those of the fixtures' documents that are missing there, and replaces none."
)
_AGAIN: Final = "What was written stays; run `phasegate seed` again, and it goes on."
_LEFT: Final = (
    "counts and totals among these documents do not include what was written now. `phasegate copy` brings what the "
    "source holds."
)


def seed(settings: Settings, name: str | None, *, yes: bool, force: bool) -> None:
    """Seed the target of the migration ``name``, or of every migration. Raises ``Stop``, which says what to do."""
    if name is not None and name not in settings.migrations:
        raise Stop(USAGE, f"there is no migration {name!r}; there are {', '.join(settings.migrations)}")
    for each in settings.migrations if name is None else (name,):
        click.echo(f"{each}: {_seed(settings, each, yes=yes, force=force)}")


def _seed(settings: Settings, name: str, *, yes: bool, force: bool) -> str:
    """Seed one migration's target; returns what was done, in words."""
    migration = settings.migrations[name]
    source, target = settings.backends[migration.source], settings.backends[migration.target]
    seeded = KINDS[target.kind].seeded
    if KINDS[source.kind].begins_with is None or seeded is None:
        return (
            "nothing to do: only a database is seeded, from a mock; `phasegate copy` brings what another source holds"
        )
    where, is_real = seeded(target)

    def agree(documents: int) -> None:
        if is_real and not yes:
            click.confirm(f"{name}: write the fixtures, {documents} documents, into {where}?", abort=True)

    run_dir = Path(settings.proxy.run_dir)
    try:
        weight = _weight(run_dir, name, migration, force=force)
        work = write(target, data=source, run_dir=run_dir, name=name, weight=weight, force=force, agree=agree)
        done = asyncio.run(work)
    except (FixtureError, AdapterError) as error:
        raise Stop(USAGE, f"{name}: {error}") from None
    except SeedRefusedError as refusal:
        raise Stop(GATE, f"{name}: {where} is not seeded: {refusal}.\n{_FORCE}") from None
    except Rejected as refusal:
        raise Stop(USAGE, f"{name}: {where} does not take the fixtures: {refusal}. {_AGAIN}") from None
    except (StoreError, OSError) as error:
        message = f"{name}: {run_dir} does not say where the migration stands, so nothing was written: {error}"
        raise Stop(USAGE, message) from None
    except Fault as fault:
        message = f"{name}: {where} could not be read or written: {fault}. See `phasegate check`. {_AGAIN}"
        raise Stop(UNREACHABLE, message) from None
    if done.left and not force:
        raise Stop(GATE, f"{name}: {_words(done)} ({where}). Something writes there: {_LEFT}")
    return f"{_words(done)} ({where})" + (f". {_LEFT}" if done.left else "")


def _weight(run_dir: Path, name: str, migration: Migration, *, force: bool) -> float:
    """The percentage of visitors that the target answers by now, whether phasegate runs or not.

    Raises ``StoreError`` where that cannot be told, unless forced: then any are assumed, and the marker will say so.
    """
    try:
        weights = weights_in(run_dir / STORE)
    except StoreError:
        if not force:
            raise
        return ANY
    return max(weights.get(each, 0.0) for each in (name, migration.was) if each is not None)


def _words(done: Seeded) -> str:
    if done.before:
        return "seeded before, left unchanged"
    there = done.documents - done.written - len(done.left)
    words = [f"{done.written} documents written"]
    if there:
        words.append(f"{there} were there already")
    if done.left:
        counts = Counter(path.partition("/")[0] for path in done.left)
        by_collection = ", ".join(f"{count} in {collection}" for collection, count in sorted(counts.items()))
        examples = ", ".join(done.left[:_EXAMPLES])
        words.append(
            f"{len(done.left)} hold something else and were left as they are: {by_collection}, as {examples}"
        )
    return "; ".join(words)
