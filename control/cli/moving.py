"""The commands that move and compare the data: ``copy`` and ``compare``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from control.cli.base import api_options, log_as

_COLLECTION: Final = click.option(
    "--collection", "collections", metavar="C", multiple=True, help="Only this collection, such as scans; repeatable."
)
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    return api_options(_COLLECTION(_JSON(command)))


@click.command()
@_common
@click.option("--dry-run", is_flag=True, help="Only say what it would read and write, and what that costs.")
def copy(**given: Any) -> None:
    """Copy what the source holds to the target.

    Nothing newer on the target is overwritten, and nothing is deleted. Traffic may go on meanwhile. Interrupted, it
    goes on where it was when it is run again. Until it has been run to its end, no phase begins.
    """
    _run("copy", **given)


@click.command()
@_common
@click.option("--sample", metavar="N", type=click.IntRange(1), help="Look at N random documents instead of all.")
@click.option("--repair", is_flag=True, help="Mend what differs: the newer document wins.")
@click.option("--from", "from", type=click.Choice(["source", "target"]), help="With --repair: this side is right.")
@click.option("--delete", is_flag=True, help="With --from: also delete what the side that is right has not.")
@click.option("--values", is_flag=True, help="List the differences with both values.")
@click.option("--report", metavar="FILE.jsonl", help="Write every difference to this file, one a line.")
def compare(**given: Any) -> None:
    """Compare both sides, document by document.

    Exit codes: 0 equal, 3 differences are left. What is still on its way from one side to the other is told as
    pending, and is no difference.
    """
    repair = given.pop("repair")
    if (given["from"] or given["delete"]) and not repair:
        raise click.UsageError("--from and --delete go with --repair")
    if given["delete"] and not given["from"]:
        raise click.UsageError("--delete needs --from: it must be said which side is right")
    if given["sample"] and repair:
        raise click.UsageError("--sample goes with a compare of some documents; --repair looks at all of them")
    _run("repair" if repair else "compare", **given)


def _run(kind: str, **given: Any) -> None:
    from control.cli.data import run

    log_as(kind)
    run(kind, **given)


COMMANDS: Final = (copy, compare)
