"""``python -m loadtest.rehearse [NAME …]``: run rehearsals, print the table, exit 0 only if all held."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from loadtest.rehearse import report
from loadtest.rehearse.faults import BY_NAME, REHEARSALS, RehearsalRow
from loadtest.rehearse.judge import RehearsalVerdict
from loadtest.rehearse.rehearsing import rehearse
from loadtest.stage import procfs
from loadtest.stage.errors import StageError
from loadtest.stage.stage import World, folder

OK, USAGE, FAILED, INTERRUPTED = 0, 2, 3, 130


def main(arguments: Sequence[str]) -> int:
    """Run the chosen rehearsals; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{row.name:22} {row.title}" for row in REHEARSALS))
        return OK
    unknown = [name for name in options.names if name not in BY_NAME]
    if unknown:
        print(f"no such rehearsal: {', '.join(unknown)}; --list shows them all", file=sys.stderr)
        return USAGE
    chosen = [BY_NAME[name] for name in options.names] or list(REHEARSALS)
    if options.rate:
        chosen = [replace(row, rate=options.rate) for row in chosen]
    try:
        verdicts = asyncio.run(_run(chosen, options.scale))
    except StageError as error:
        print(f"rehearsals: {error}", file=sys.stderr)
        return USAGE
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("rehearsals: ended; every process has been ended", file=sys.stderr)
        return INTERRUPTED
    print(report.text(verdicts))
    if options.json:
        options.json.write_text(report.document(verdicts, machine()))
    if options.markdown:
        command = shlex.join(["python", "-m", "loadtest.rehearse", *arguments])
        options.markdown.write_text(report.page(verdicts, machine(), command))
    return OK if all(verdict.held for verdict in verdicts) else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.rehearse", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="which rehearsals (default: all)")
    parser.add_argument("--list", action="store_true", help="list all rehearsals")
    parser.add_argument("--rate", type=float, metavar="R", help="requests a second (default: each row's own)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all durations by this factor")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the Markdown page")
    return parser


async def _run(chosen: Sequence[RehearsalRow], scale: float) -> list[RehearsalVerdict]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    verdicts = []
    with folder() as place:
        async with World(place) as world:
            for rehearsal in chosen:
                verdict = await rehearse(world, rehearsal, scale)
                verdicts.append(verdict)
                print(report.line(verdict), flush=True)
                for finding in verdict.findings:
                    if not finding.held:
                        print(f"    {finding.name}: {finding.evidence}", flush=True)
        if not all(verdict.held for verdict in verdicts):
            logs = place.rename(place.with_name(f"{place.name}-kept"))
            print(f"The processes' logs are in {logs}")
    return verdicts


def machine() -> dict[str, object]:
    """The date, machine and versions of the run."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processors": f"{len(os.sched_getaffinity(0))} of {procfs.cpu_model()}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
