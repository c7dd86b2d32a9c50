"""What ``phasegate init`` tells a person to do next."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from control.cli.init import init
from control.cli.preparing import init as command
from control.plan.settings import load


def test_the_next_steps_bring_what_the_source_holds_before_the_migration_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.toml"
    init(path, ask=False, given={})
    steps = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  phasegate ")]
    assert [words[1] for words in steps] == ["check", "serve", "copy", "start"]
    assert all(words[2:4] == ["--config", str(path)] for words in steps)


@pytest.mark.parametrize(("answer", "expected"), [("", "arm"), ("source", "source"), ("both\nsource", "source")])
def test_it_asks_which_side_takes_the_writes_and_says_when_to_choose_which(
    tmp_path: Path, answer: str, expected: str
) -> None:
    path = tmp_path / "phasegate.toml"
    answers = ["", "", "", "", "", answer, ""]  # the last is for who needs none
    result = CliRunner().invoke(command, ["--config", str(path)], input="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    assert "where visitors change the same documents at once" in result.output
    assert ("expected arm or source, found 'both'" in result.output) == answer.startswith("both")
    assert load(path).migrations["phase6"].writes == expected


def test_which_side_takes_the_writes_is_an_option_too(tmp_path: Path) -> None:
    path = tmp_path / "phasegate.toml"
    result = CliRunner().invoke(command, ["--config", str(path), "--yes", "--writes", "source"])
    assert result.exit_code == 0, result.output
    assert "Which side" not in result.output
    assert load(path).migrations["phase6"].writes == "source"
