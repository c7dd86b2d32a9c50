"""The command line. It reaches a running phasegate only through the control API.

Exit codes: 0 done, 2 usage or configuration, 3 a check or gate failed, 4 rolled back or aborted, 5 unreachable,
130 interrupted.
"""

from __future__ import annotations

from typing import NoReturn

import click

from control.cli import acting, looking, moving, preparing, running
from control.cli.base import EPILOG, Commands, version


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=version, help="Show the version."
)
def main() -> None:
    """Move an app's traffic from one backend to another in phases, and roll it back at once."""


for each in (*preparing.COMMANDS, *running.COMMANDS, *moving.COMMANDS, *acting.COMMANDS, *looking.COMMANDS):
    main.add_command(each)


def run() -> NoReturn:
    """The entry of ``python -m control.cli``."""
    main(prog_name="phasegate")
    raise AssertionError("click exits")
