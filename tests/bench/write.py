"""CPU of a write, from the handler to the other side's commit, beside an earlier checkout: run by hand.

    python -m tests.bench.write --before ../earlier
    python -m tests.bench.write --before ../earlier --compiled        # after `make compiled` in both

The stores do nothing and a handler's job is always found, so what is measured is phasegate's own part: decoding,
deciding, the change log with ``sync = "1s"``, and the mirror. Each kind of write goes to each side. Ten are made,
then all that waits is handed over, and so on. The two checkouts are measured in turn, each time in a new process; a
round's figure is the least of its turns. What counts is the difference within a round: its median and range are
printed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

LIMIT_US: Final = 10.0  # more than before the change log, at most
ROUNDS: Final = 7
TURNS: Final = 9
WRITES: Final = 1_000  # in a turn
PORTION: Final = 10  # writes at once
SYNC: Final = "1s"
JOB: Final = "j"
BODIES: Final = {
    "dashboard.publish": b'{"metrics":{"n":1,"a":2.5,"b":"x"}}',
    "analytics.ingest": b'{"user":"u","type":"t","item":"i"}',
    "scans.create": b"{}",
    "scans.update": b'{"progress":50.0,"message":"half"}',
    "scans.add_results": b'{"files":[{"path":"/a","size":7,"hash":"00112233"}]}',
}
SIDES: Final = ("source", "target")
HERE: Final = Path(__file__).resolve().parents[2]


def part(*names: str) -> Any:
    """The first of these modules that this checkout has: what it is called now, and what it was called before."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"this checkout has none of {', '.join(names)}")


def stores() -> tuple[Any, Any]:
    """A source and a target that hold one job, and take everything."""
    memory = part("backends.kinds.mock.memory", "backends.memory").MemoryStore
    document = part("backends.documents.port", "backends.documents").Document
    at = part("backends.adapters.times", "backends.adapters.common").from_unix(1.78e9)
    fields = {
        **dict.fromkeys(("root", "name", "message"), ""),
        **dict.fromkeys(("created_at", "updated_at"), at),
        "status": "running",
        "progress": 1.0,
        "revision": 2,
        "change": "c",
        "edits": {"status": [at, "c"], "message": [at, "c"], "progress": 1},
    }
    job = document(f"scans/{JOB}", fields, 1, 1)

    class Near(memory):  # type: ignore[misc,valid-type]  # which class it is shows when this runs
        async def get(self, path: str, ctx: object) -> Any:
            return job if path == job.path else None

        async def get_many(self, paths: Sequence[str], ctx: object) -> list[Any]:
            return [job if path == job.path else None for path in paths]

        async def commit(self, mutations: Sequence[Any], ctx: object) -> int:
            return 1

    class Remote(Near):
        kind = "firestore"

        async def commit(self, mutations: Sequence[Any], ctx: object) -> int:
            await asyncio.sleep(0)  # once, as a network call does
            return 1

    return Near(), Remote()


def operations() -> dict[str, Any]:
    """The writes by name."""
    module = part("backends.adapters.registry", "backends.operations")
    every: Iterable[Any] = module.operations() if hasattr(module, "operations") else module.OPERATIONS
    return {operation.name: operation for operation in every if operation.kind == "write"}


async def measured() -> dict[str, float]:
    """µs of CPU by write and side: the least of the turns, after one to warm up."""
    source = part("backends.pair.manager", "backends.manager").Source
    arm = part("backends.pair.storearm", "backends.storearm").StoreArm
    call = part("backends.operations").Call
    figures = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        how, more = None, {}
        try:
            module = importlib.import_module("backends.disk")
            how, more = module.use(module.Sync(SYNC)), {"changes": Path(folder) / "m.changes"}
        except ModuleNotFoundError:
            pass  # before the change log
        known = operations()
        for name, body in BODIES.items():
            for side, where in enumerate(SIDES):
                near, remote = stores()
                built = source(arm(near, 30), arm(remote, 30), hybrid=True, **more)
                await built.start()
                took = []
                for turn in range(TURNS + 1):
                    began = time.process_time()
                    for nth in range(WRITES):
                        outcome = await built.answer(
                            side, call(known[name], b"", {"id": JOB}, {}, body, 1.79e9, f"{turn}-{nth}")
                        )
                        if outcome.answer.status >= 300 or outcome.fault is not None:
                            raise SystemExit(f"{name}: {outcome}")
                        while nth % PORTION == 0 and any(mirror.pending for mirror in built._mirrors):
                            await asyncio.sleep(0)
                    took.append((time.process_time() - began) / WRITES * 1e6)
                await built.close()
                figures[f"{name} to the {where}"] = min(took[1:])
        if how is not None:
            await how.close()
    return figures


def of(tree: Path, compiled: bool) -> dict[str, float]:
    """The figures of a checkout, measured in a process of its own."""
    path = [str(tree / "build/compiled")] if compiled else []
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(tree)]), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, __file__], env=env, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def compare(before: Path, rounds: int, compiled: bool) -> int:
    """Measure both in turn, and print what a write costs more; 1 where one costs more than the limit."""
    each: list[tuple[dict[str, float], dict[str, float]]] = []
    for nth in range(rounds):
        # In turn also which comes first.
        first = of(before, compiled) if nth % 2 else None
        after = of(HERE, compiled)
        each.append((first or of(before, compiled), after))
    print(f"{'CPU µs of a write':38} {'before':>8} {'after':>8} {'more':>8}  (range of {rounds} rounds)")
    worst = 0.0
    for name in each[0][0]:
        more = [after[name] - first[name] for first, after in each]
        worst = max(worst, median(more))
        was, now = median(first[name] for first, _ in each), median(after[name] for _, after in each)
        print(f"{name:38} {was:8.1f} {now:8.1f} {median(more):+8.1f}  ({min(more):+.1f} to {max(more):+.1f})")
    print(f"at most {worst:.1f} µs more: {'kept' if worst <= LIMIT_US else 'NOT KEPT'}, promised are {LIMIT_US:g} µs")
    return int(worst > LIMIT_US)


def main() -> int:
    """The comparison; without arguments, one checkout's figures as JSON, for the comparison."""
    if len(sys.argv) == 1:
        uvloop = part("uvloop")
        print(json.dumps(uvloop.run(measured())))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="an earlier checkout")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--compiled", action="store_true", help="the compiled form of both")
    chosen = parser.parse_args()
    return compare(chosen.before.resolve(), chosen.rounds, chosen.compiled)


if __name__ == "__main__":
    sys.exit(main())
