"""What a compare and a copy cost: documents a second, processor time a document, memory; and what of it grows.

    python -m tests.bench.data [DOCUMENTS …]

Each row is a process of its own. The stores make up their documents when they are asked for them and hold none, so
the memory is that of the walk; their own share of the time is the row "made up".
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backends.adapters import registry
from backends.copy.calm import Undisturbed
from backends.copy.comparing import compare
from backends.copy.copying import copy
from backends.copy.records import Differences
from backends.copy.rules import rules
from backends.copy.walk import Sides
from tests.support.generated import GeneratedStore
from tests.support.traffic import FOREVER

ROWS = ("made up", "compare, equal", "compare, all missing", "copy")


async def work(row: str, documents: int) -> None:
    """Do what the row is called."""
    every = {"dashboard_snapshots": rules(registry.adapters())["dashboard_snapshots"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if row == "made up":
            for store in (GeneratedStore(documents), GeneratedStore(documents)):
                after = None
                while page := await store.scan("dashboard_snapshots", after, 1000, FOREVER):
                    after = page[-1].path
        elif row == "copy":
            target = GeneratedStore(0, forgets=True)
            await copy(Sides(GeneratedStore(documents), target), every, Undisturbed(), folder / "place")
            assert target.written == documents
        else:
            other = GeneratedStore(0 if "missing" in row else documents)
            with Differences(folder / "differences", values=False) as differences:
                sides = Sides(GeneratedStore(documents), other)
                await compare(sides, every, Undisturbed(), folder / "again", differences)
                assert differences.count == (documents if "missing" in row else 0)


def measured(row: str, documents: int) -> None:
    """One row of the table."""
    began, used = time.perf_counter(), time.process_time()
    asyncio.run(work(row, documents))
    took, cpu = time.perf_counter() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{row:<22} {documents:>9} documents  {documents / took:>8.0f}/s  "
        f"{1e6 * cpu / documents:>6.1f} µs of a processor each  {peak:>5.0f} MB at most",
        flush=True,
    )


def main() -> None:
    """The table."""
    if len(sys.argv) > 2 and sys.argv[1] == "--row":
        measured(sys.argv[2], int(sys.argv[3]))
        return
    for documents in map(int, sys.argv[1:] or ("100000", "1000000")):
        for row in ROWS:
            command = [sys.executable, "-m", "tests.bench.data", "--row", row, str(documents)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
