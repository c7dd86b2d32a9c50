"""What ``phasegate init`` tells a person to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.cli.init import init


def test_the_next_steps_bring_what_the_source_holds_before_the_migration_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.toml"
    init(path, ask=False, given={})
    steps = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  phasegate ")]
    assert [words[1] for words in steps] == ["check", "serve", "copy", "start"]
    assert all(words[2:4] == ["--config", str(path)] for words in steps)
