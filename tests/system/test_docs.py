"""Every command that README and docs show is run, in order, against a phasegate that serves; or says why not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

from control.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DEPLOYED = sorted((ROOT / "deploy").iterdir())
# What a command needs to be run here: it asks, follows, or would change what the test has set up.
INSTEAD = {
    "init": ["init", "--yes", "--config", "made.toml"],
    "start": ["start", "--detach"],
    "serve": None,  # is what runs
    "demo": None,  # tests/system/test_demo.py
    "watch": None,  # tests/system/test_terminal.py
    "loadtest": None,  # tests/system/test_loadtest.py
}
# Where a page's order leaves a state in which a command is refused, or the machine is busy, that is an answer too.
MAY_BE_REFUSED = {"check", "start", "advance", "pause", "resume"}
# Programs of others: shown, and not run here.
ELSEWHERE = {
    "firebase": "needs a project of Google's",
    "schemathesis": "test_schema.py runs it",
    "journalctl": "needs systemd",
    "sqlite3": "SQLite's own command",
}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
# Commands between backquotes in running text, or on a line set in by four spaces.
SPAN = re.compile(
    r"`((?:phasegate|make|python -m|locust) [^`\n]+)`|^ {4}((?:phasegate|make|python) .*)$", re.MULTILINE
)


def commands(page: Path) -> Iterator[list[str]]:
    """The lines of a page's shell blocks, and those of its unnamed blocks that begin with a program."""
    programs = {"phasegate", "make", "python", *ELSEWHERE}
    for _, language, block in FENCE.findall(page.read_text()):
        if language == "text":
            continue  # what a program said
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if language == "sh" or line.split(" ")[0] in programs else []
            if words and (language == "sh" or words[0] in programs):
                yield words


def spans(path: Path) -> Iterator[list[str]]:
    """The commands that a page names in passing."""
    for groups in SPAN.findall(FENCE.sub("", path.read_text())):
        yield shlex.split("".join(groups).replace("…", ""))


def exists(words: list[str]) -> bool:
    """Whether there is such a command, with such options."""
    program, first, *rest = words
    if program == "make":
        return re.search(rf"^{re.escape(first)}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None
    if program == "python":
        return find_spec(rest[0]) is not None if first == "-m" else (ROOT / first).exists()
    if program == "locust":
        return (ROOT / rest[0]).exists()
    command = main.commands.get(first)
    parameters = main.params if command is None else command.params
    known = {"--help", *(option for parameter in parameters for option in parameter.opts)}
    return (command is not None or first in known) and {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("path", [*PAGES, *DEPLOYED], ids=lambda path: path.name)
def test_every_command_named_in_passing_is_one(path: Path) -> None:
    assert [words for words in spans(path) if not exists(words)] == []


def test_a_command_that_is_none_is_found() -> None:
    assert isinstance(main, click.Group)
    for wrong in (
        "phasegate strat",
        "phasegate start --slow",
        "make tea",
        "python -m control.tea",
        "locust -f tea.py",
    ):
        assert not exists(wrong.split())
    assert exists(["phasegate", "start", "--resume"])


@pytest.mark.parametrize("page", [page for page in PAGES if [*commands(page)]], ids=lambda page: page.name)
def test_every_command_shown_works(page: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    shown = [*commands(page)]
    running = None
    if any(program == "phasegate" for program, *_ in shown):
        project = request.getfixturevalue("emulated")
        serving: Callable[..., Any] = request.getfixturevalue("serving")
        running = serving(project, [("half", 50, "10m"), ("complete", 100, "10m")])
    for program, *words in shown:
        if program in ELSEWHERE:
            continue
        if program == "make":
            target = [word for word in words if not word.startswith("ARGS=")]
            subprocess.run(["make", "-n", *target], cwd=ROOT, check=True, capture_output=True)
            continue
        if program == "eval":
            complete(words, tmp_path)
            continue
        assert program == "phasegate", f"what is to become of {program}?"
        instead = INSTEAD.get(words[0], words)
        if instead is None:
            assert exists([program, *words])
            continue
        assert running is not None
        arguments = instead + words[1:] if words[0] == "start" else instead
        arguments = [
            str(tmp_path / word) if word.endswith((".toml", ".html", ".json")) else word for word in arguments
        ]
        arguments = ["phase6" if word == "catalogue" else word for word in arguments]
        if ">" in arguments:  # into a file
            del arguments[arguments.index(">") :]
        if words[0] in ("check", "seed", "indexes") and "--config" not in arguments:
            arguments += ["--config", str(running.config)]
        done = running.phasegate(*arguments)
        other_phases = words[:2] == ["rollback", "--to"] and words[2] != "start"  # this run has two of its own
        refusable = words[0] in MAY_BE_REFUSED or other_phases
        assert done.returncode in ({0, 3} if refusable else {0}), f"{arguments}: {done.stderr}"
        assert "Traceback" not in done.stderr


def complete(words: list[str], folder: Path) -> None:
    """Take shell completion as it is shown, and see that the shell then knows what ``phasegate`` takes."""
    program = folder / "phasegate"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "bin" / "phasegate"} "$@"\n')
    program.chmod(0o755)
    script = f'eval "{" ".join(words)}"; complete -p phasegate'
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "phasegate" in done.stdout
