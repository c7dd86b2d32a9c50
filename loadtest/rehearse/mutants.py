"""Plants one bug at a time in a copy of the product, and checks that the rehearsals that watch for it fail.

``python -m loadtest.rehearse.mutants [BUG …]``. A check that never fails proves nothing. The same rehearsals first
run on a copy without a bug, and must hold there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from loadtest.rehearse.faults import REHEARSALS
from loadtest.stage.processes import ROOT

OK, USAGE, FAILED = 0, 2, 3
WITHIN_S: Final = 300.0  # for all rehearsals that watch for one bug: at most seven, of about forty seconds each
COPIED: Final = ("backends", "control", "loadtest", "proxy")


class Bug(NamedTuple):
    """A planted bug: ``edits`` (old text, new text) of ``file``; each old text must occur there exactly once."""

    name: str
    title: str
    file: str
    edits: tuple[tuple[str, str], ...]


BUGS: Final = (
    Bug(
        "counter-off-by-one",
        "one request in a hundred is not counted",
        "proxy/migration/split.py",
        (("C_BUCKETS + histogram.index(us)] += 1", "C_BUCKETS + histogram.index(us)] += us % 97 != 0"),),
    ),
    Bug(
        "stickiness-broken",
        "a visitor's side follows the path too",
        "proxy/migration/sticky.py",
        (
            (
                'return sticky[migration], b""',
                'return (sticky[migration] * len(client.line.target)) % BUCKETS, b""',
            ),
        ),
    ),
    Bug(
        "rollback-forgets-worker",
        "one worker goes on with the greatest weight it has seen",
        "proxy/migration/split.py",
        (
            (
                "        self.migration = migration\n",
                "        self.migration = migration\n        self._kept = slot\n",
            ),
            (
                "        if (\n            bucket < word & WEIGHT_MASK\n",
                "        if self._kept:\n            self._kept = max(self._kept, word & 0xFFFF)\n"
                "            word = word & ~0xFFFF | self._kept\n"
                "        if (\n            bucket < word & WEIGHT_MASK\n",
            ),
        ),
    ),
    Bug(
        "fallback-off",
        "a failing target fails the reader",
        "backends/pair/manager.py",
        (("            if not self._hybrid:\n", "            if True:\n"),),
    ),
    Bug(
        "lease-ignored",
        "workers ask the target though the lease has run out",
        "proxy/migration/split.py",
        (("(word & _PINNED_BIT or now_ns < cells[self._lease])", "(word or now_ns < cells[self._lease])"),),
    ),
    Bug(
        "own-writes-forgotten",
        "a visitor whose write fell back to the source is sent to the target before it has the write",
        "proxy/migration/split.py",
        ((" or self._has_all(bucket))", " or True)"),),
    ),
    Bug(
        "mirror-forgets",
        "one change in four is not handed on to the other side",
        "backends/pair/backlog.py",
        (
            (
                "        segment = logged.segment\n        if segment is not None:\n            segment.open -= 1\n",
                "        if hash(str(logged.step)) % 4 == 0:\n            return\n"
                "        segment = logged.segment\n        if segment is not None:\n            segment.open -= 1\n",
            ),
        ),
    ),
)


class NotPlantedError(Exception):
    """The code no longer contains the text that the bug replaces."""


def plant(bug: Bug, tree: Path) -> None:
    """Write the bug into a copy. Raises ``NotPlantedError``."""
    path = tree / bug.file
    text = path.read_text()
    for old, new in bug.edits:
        if text.count(old) != 1:
            raise NotPlantedError(f"{bug.name}: {bug.file} has {text.count(old)} places with {old!r}, expected one")
        text = text.replace(old, new)
    path.write_text(text)


def copy(to: Path) -> None:
    """Copy the product's sources."""
    for name in COPIED:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "vendor", "*.new"))


def watchers(bug: str) -> list[str]:
    """The rehearsals that claim to watch for a bug."""
    return [rehearsal.name for rehearsal in REHEARSALS if bug in rehearsal.watches]


def rehearse(tree: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Run rehearsals in a tree: by name, the findings that did not hold."""
    output = tree / "found.json"
    command = [sys.executable, "-m", "loadtest.rehearse", *names, "--json", str(output)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    if not output.exists():
        raise NotPlantedError(f"the rehearsals did not run: {done.stdout[-400:]}{done.stderr[-400:]}")
    rows = json.loads(output.read_text())["rehearsals"]
    return {row["name"]: [one["name"] for one in row["findings"] if not one["held"]] for row in rows}


def main(arguments: Sequence[str]) -> int:
    """Run them all; 0 only if every bug was caught by every rehearsal that watches for it."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.rehearse.mutants", description=__doc__)
    parser.add_argument(
        "bugs", metavar="BUG", nargs="*", help=f"which (default: all): {', '.join(b.name for b in BUGS)}"
    )
    options = parser.parse_args(arguments)
    chosen = [bug for bug in BUGS if not options.bugs or bug.name in options.bugs]
    needed = list(dict.fromkeys(name for bug in chosen for name in watchers(bug.name)))
    if not chosen or any(not watchers(bug.name) for bug in chosen):
        print("mutants: a bug is unknown, or nothing watches for it", file=sys.stderr)
        return USAGE
    caught = True
    try:
        sound = _in_a_copy(None, needed)
        for name, why in sound.items():
            caught &= not why
            print(
                f"{'without a bug':24} {name:20} {'holds' if not why else 'DOES NOT HOLD: ' + '; '.join(why)}",
                flush=True,
            )
        for bug in chosen:
            for name, why in _in_a_copy(bug, watchers(bug.name)).items():
                caught &= bool(why)
                print(f"{bug.name:24} {name:20} {'caught: ' + '; '.join(why) if why else 'NOT CAUGHT'}", flush=True)
    except (NotPlantedError, subprocess.TimeoutExpired) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return USAGE
    return OK if caught else FAILED


def _in_a_copy(bug: Bug | None, names: Sequence[str]) -> dict[str, list[str]]:
    with tempfile.TemporaryDirectory(prefix="phasegate-mutant-") as place:
        tree = Path(place)
        copy(tree)
        if bug is not None:
            plant(bug, tree)
        return rehearse(tree, names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
