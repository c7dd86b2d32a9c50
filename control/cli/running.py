"""The commands that start processes: ``serve``, ``demo``, ``loadtest`` and ``emulator``."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from control.cli.base import api, config_option, log_as
from control.cli.base import settings as read_settings
from control.cli.finding import proxy_url
from control.terminal.exits import USAGE, Stop

if TYPE_CHECKING:
    from control.api.client import ControlClient


@click.command()
@config_option
def serve(config: str) -> None:
    """Serve the app's traffic, until SIGTERM or Ctrl-C."""
    from proxy.process import logs

    logs.configure("supervisor")  # first, so that every later failure is logged

    from control.serve import serve as run
    from proxy.settings import CannotStartError

    try:
        read_settings(config)
        if sys.stderr.isatty():
            next_steps = "In another terminal: `phasegate copy`, `start`, `status`, `watch`."
            click.echo(f"Serving; Ctrl-C drains and ends. {next_steps}", err=True)
        code = run(config)
    except (Stop, CannotStartError) as refusal:
        if sys.stderr.isatty():
            raise Stop(USAGE, str(refusal)) from refusal
        from structlog import get_logger

        log = get_logger("phasegate.serve")
        log.error("cannot_start", reason=str(refusal))
        code = USAGE
    sys.exit(code)


@click.command()
@click.option(
    "--once", is_flag=True, help="End with the migration; exit 0 only if every check of the outcome passed."
)
@click.option(
    "--phase-seconds", type=click.FloatRange(1, 3600), default=10, show_default=True, help="Soak of each phase."
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
    """Show a whole migration without any setup.

    Starts a small app, the Firestore emulator, phasegate in front of both, and a stream of requests.
    """
    from control.demo.run import demo as run

    sys.exit(run(**options))


@click.command()
@api
@click.option(
    "--phase",
    required=True,
    type=click.Choice(["initial", "early", "half", "majority", "complete", "migration"]),
    help="The phase whose load is sent; migration: every phase's in turn, following the live migration.",
)
@click.option("--users", type=click.IntRange(1), default=100, show_default=True, help="Visitors at a time.")
@click.option(
    "--spawn-rate", type=click.FloatRange(0.1), default=20, show_default=True, help="New visitors a second."
)
@click.option("--run-time", help="Such as 90s or 10m.  [default: 2m; for migration, until it ends]")
@click.option("--host", help="The proxy's address.  [default: the first of proxy.listen]")
@click.option("--enter", is_flag=True, help="Bring the migration to the phase first, as an operator.")
@click.option("--html", type=click.Path(dir_okay=False, writable=True), help="Write locust's report here.")
@click.option("--csv", metavar="PREFIX", help="Write locust's figures to PREFIX_stats.csv and others.")
def loadtest(client: ControlClient, host: str | None, **options: Any) -> None:
    """Send a phase's load through phasegate and judge the result.

    Exit codes: 0 passed, 3 not passed or not judged, 4 phasegate rolled back, 5 the control plane cannot be reached.
    """
    for flag, path in (("--html", options["html"]), ("--csv", options["csv"])):
        if path and not Path(path).parent.is_dir():
            raise Stop(USAGE, f"{flag} {path}: there is no folder {Path(path).parent}; make it, or name another")
    if options["run_time"] and not re.fullmatch(r"(?=\d)(\d+h)?(\d+m)?(\d+s?)?", options["run_time"]):
        raise Stop(
            USAGE, f"--run-time: expected a length of time such as 90s or 1h30m, found {options['run_time']!r}"
        )
    line = [sys.executable, "-m", "loadtest.phases.run", "--url", client.url, "--migration", client.migration]
    line += ["--host", host or proxy_url(click.get_current_context().params["config"])]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        line += [flag] if value is True else [flag, str(value)] if value else []
    # `loadtest` lies beside `control`, in a checkout as well as in site-packages.
    search = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    os.execve(sys.executable, line, os.environ | {"PYTHONPATH": search})  # noqa: S606 - our own module, no shell


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8085",
    show_default=True,
    help="A loopback address; port 0: any free one.",
)
def emulator(listen: str) -> None:
    """Serve Firestore's methods from this process's memory, for demos and tests.

    It is phasegate's own, not Google's: it starts in a second, needs no Java, and forgets everything when it ends.
    Whatever uses Firestore's client libraries finds it by FIRESTORE_EMULATOR_HOST, which it prints.
    """
    from backends.emulator.server import CannotListenError
    from backends.emulator.server import serve as run
    from backends.kinds.firestore.settings import EMULATOR
    from control.plan.settings import address

    log_as("emulator")
    try:
        host, port = address(listen)
        run(host, port, lambda bound: _say_emulated(EMULATOR, bound))
    except (ValueError, CannotListenError) as problem:
        raise Stop(USAGE, f"--listen: {problem}") from None


def _say_emulated(variable: str, bound: str) -> None:
    """What it is, for a person; the variable, on standard output, for whoever reads it."""
    click.echo(
        "phasegate's own emulator of Firestore, for demos and tests: in memory, gone when it ends; Ctrl-C ends it.",
        err=True,
    )
    click.echo(f"{variable}={bound}")
    sys.stdout.flush()


COMMANDS: Final = (serve, demo, loadtest, emulator)
