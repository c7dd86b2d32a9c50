"""A load test without a window: ``python -m loadtest.phases.run --phase half``.

Its exit code is phasegate's judgement: 0 passed, 2 usage, 3 not passed or not judged, 4 phasegate rolled back, 5 the
control plane cannot be reached. Where phasegate is comes from PHASEGATE_URL and PHASEGATE_TOKEN, as
for every other command.
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
    parser.add_argument("--phase", required=True, choices=FILES, help="whose load; migration: all of it, as it goes")
    parser.add_argument("--users", type=int, default=100, help="visitors; of a migration, at its peak [100]")
    parser.add_argument("--spawn-rate", type=float, default=20.0, help="visitors that come a second [20]")
    parser.add_argument("--run-time", default="", help="such as 90s, 10m [2m; of a migration, until it ends]")
    parser.add_argument("--host", default="http://127.0.0.1:8080", help="the proxy [http://127.0.0.1:8080]")
    parser.add_argument("--url", help="the control plane [PHASEGATE_URL]")
    parser.add_argument("--migration", help="its name [phase6]")
    parser.add_argument("--enter", action="store_true", help="bring the migration to the phase first, as an operator")
    parser.add_argument("--html", metavar="FILE", help="write locust's report here")
    parser.add_argument("--csv", metavar="PREFIX", help="write locust's figures to PREFIX_stats.csv and others")
    found = parser.parse_args(argv)
    for name in ("users", "spawn_rate"):
        if getattr(found, name) <= 0:
            parser.error(f"--{name.replace('_', '-')}: expected more than 0")
    return found


def command(asked: argparse.Namespace) -> list[str]:
    """locust's command line."""
    file = Path(__file__).parents[1] / f"{asked.phase}.py"
    line = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--only-summary", "--host", asked.host]
    line += ["-u", str(asked.users), "-r", f"{asked.spawn_rate:g}", "--stop-timeout", "30", "--loglevel", "WARNING"]
    run_time = asked.run_time or ("" if asked.phase == "migration" else "2m")
    for flag, value in (("-t", run_time), ("--html", asked.html), ("--csv", asked.csv)):
        if value:
            line += [flag, value]
    return line


def environment(asked: argparse.Namespace, given: Mapping[str, str]) -> dict[str, str]:
    """What the locust files are told."""
    found = dict(given)
    # The package may be a checkout that is not installed.
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), given.get("PYTHONPATH", "")]))
    told = {
        "PHASEGATE_URL": asked.url,
        "PHASEGATE_MIGRATION": asked.migration,
        "PHASEGATE_ENTER_PHASE": "1" if asked.enter else "",
    }
    return found | {name: value for name, value in told.items() if value}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    asked = arguments(argv)
    if find_spec("locust") is None:
        print("loadtest: locust is missing: pip install 'phasegate[load]'", file=sys.stderr)
        return USAGE
    locust = subprocess.Popen(command(asked), env=environment(asked, os.environ))
    # Ctrl-C reaches locust too, which ends the run and says what came of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return locust.wait()


if __name__ == "__main__":
    sys.exit(main())
