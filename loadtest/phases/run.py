"""A load test on the command line: ``python -m loadtest.phases.run --phase half``.

Its exit code is the judgement: 0 passed, 2 usage, 3 not passed or not judged, 4 phasegate rolled back, 5 the control
plane cannot be reached. PHASEGATE_URL and PHASEGATE_TOKEN say where phasegate is, as for every other command.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

FILES: Final = ("initial", "early", "half", "majority", "complete", "migration")
USAGE: Final = 2


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.phases.run", description=__doc__.split(":")[0])
    parser.add_argument("--phase", required=True, choices=FILES, help="the phase; migration: all of them in turn")
    parser.add_argument("--users", type=int, default=100, help="visitors; of a migration, at its peak [100]")
    parser.add_argument("--spawn-rate", type=float, default=20.0, help="new visitors per second [20]")
    parser.add_argument("--run-time", default="", help="such as 90s, 10m [2m; of a migration, until it ends]")
    parser.add_argument("--host", default="http://127.0.0.1:8080", help="the proxy [http://127.0.0.1:8080]")
    parser.add_argument("--url", help="the control plane [PHASEGATE_URL]")
    parser.add_argument("--migration", help="its name [phase6]")
    parser.add_argument("--enter", action="store_true", help="bring the migration to the phase first, as an operator")
    parser.add_argument("--html", metavar="FILE", help="write locust's report here")
    parser.add_argument("--csv", metavar="PREFIX", help="write locust's figures to PREFIX_stats.csv and others")
    options = parser.parse_args(argv)
    for name in ("users", "spawn_rate"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')}: expected more than 0")
    return options


def command(options: argparse.Namespace) -> list[str]:
    """locust's command line."""
    file = Path(__file__).parents[1] / f"{options.phase}.py"
    line = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--only-summary", "--host", options.host]
    line += ["-u", str(options.users), "-r", f"{options.spawn_rate:g}"]
    line += ["--stop-timeout", "30", "--loglevel", "WARNING"]
    run_time = options.run_time or ("" if options.phase == "migration" else "2m")
    for flag, value in (("-t", run_time), ("--html", options.html), ("--csv", options.csv)):
        if value:
            line += [flag, value]
    return line


def environment(options: argparse.Namespace, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of the locust files."""
    variables = dict(given)
    # The package may be a checkout that is not installed.
    paths = [str(Path(__file__).parents[2]), given.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    settings = {
        "PHASEGATE_URL": options.url,
        "PHASEGATE_MIGRATION": options.migration,
        "PHASEGATE_ENTER_PHASE": "1" if options.enter else "",
    }
    return variables | {name: value for name, value in settings.items() if value}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    options = arguments(argv)
    if find_spec("locust") is None:
        print("loadtest: locust is missing: pip install 'phasegate[load]'", file=sys.stderr)
        return USAGE
    locust = subprocess.Popen(command(options), env=environment(options, os.environ))
    # Ctrl-C reaches locust too, which ends the run and prints the result.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return locust.wait()


if __name__ == "__main__":
    sys.exit(main())
