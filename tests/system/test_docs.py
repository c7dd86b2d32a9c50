"""Every command that README and docs show is run, in their order, against a phasegate that serves."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a command needs to be run here: it asks, follows, or would change what the test has set up.
INSTEAD = {
    "init": ["init", "--yes", "--config", "made.toml"],
    "start": ["start", "--detach"],
    "serve": None,  # is what runs
    "demo": None,  # has its own test
    "watch": None,  # has its own test, at a terminal
}
# Where the order of a page leaves a state in which a command is refused, that is an answer too.
ANSWERED = {0, 3}


def commands(page: Path) -> Iterator[list[str]]:
    """The ``phasegate`` and ``make`` commands of a page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] in ("phasegate", "make"):
                yield words


@pytest.mark.parametrize("page", [page for page in PAGES if [*commands(page)]], ids=lambda page: page.name)
def test_every_command_shown_works(page: Path, serving: Callable[..., Any], emulated: str, tmp_path: Path) -> None:
    running = serving(emulated, [("half", 50, "10m"), ("complete", 100, "10m")])
    run = 0
    for program, *words in commands(page):
        if program == "make":
            target = [word for word in words if not word.startswith("ARGS=")]
            subprocess.run(["make", "-n", *target], cwd=ROOT, check=True, capture_output=True)
            continue
        instead = INSTEAD.get(words[0], words)
        if instead is None:
            continue
        if words[0] == "start":
            instead = instead + words[1:]
        arguments = [str(tmp_path / word) if word.endswith((".toml", ".html", ".json")) else word for word in instead]
        arguments = ["phase6" if word == "catalogue" else word for word in arguments]
        if words[0] in ("check", "seed") and "--config" not in arguments:
            arguments += ["--config", str(running.config)]
        done = running.phasegate(*arguments)
        assert done.returncode in ANSWERED, f"{arguments}: {done.stderr}"
        assert "Traceback" not in done.stderr
        run += 1
    assert run or not [words for words in commands(page) if words[0] == "phasegate"]
