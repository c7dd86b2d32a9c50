"""What ``phasegate seed`` says and exits with, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import extensions
from backends.copy.seed import Seeded
from control.cli import seed as command
from control.plan.settings import Settings
from control.serve import STORE
from control.store.sqlite import Store
from control.terminal.exits import Stop


@pytest.fixture(autouse=True)
def shelves() -> Iterator[None]:
    """A kind that can be seeded without a network is known for one test."""
    extensions.use(["tests.support.shelf:KIND"])
    yield
    extensions.use(())


@pytest.fixture
def settings(settings_of: Callable[..., Settings], tmp_path: Path) -> Callable[..., Settings]:
    """Settings of two migrations from a mock, to a shelf and to an app."""

    def make(shelf: dict[str, Any] | None = None, **migration: Any) -> Settings:
        (tmp_path / "fixtures").mkdir(exist_ok=True)
        (tmp_path / "fixtures" / "things.json").write_text('{"a": {"n": 1}, "b": {}}')
        mock = {"kind": "mock", "fixtures": str(tmp_path / "fixtures")}
        return settings_of(
            {
                "proxy": {"run_dir": str(tmp_path / "run")},
                "backends": {"mock": mock, "shelf": {"kind": "shelf", "boards": 3} | (shelf or {})},
                "migrations": {"phase6": {"source": "mock", "target": "shelf"} | migration},
            }
        )

    return make


def saved(tmp_path: Path, migration: str, **rollout: Any) -> None:
    """A checkpoint of the migration in the run directory."""
    (tmp_path / "run").mkdir(exist_ok=True)
    store = Store(tmp_path / "run" / STORE)
    store.save(migration, json.dumps({"rollout": rollout}), [], 0.0)
    store.close()


def test_it_says_what_was_written_and_the_second_time_that_nothing_was(
    settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    command.seed(settings(), None, yes=False, force=False)
    assert capsys.readouterr().out == "phase6: 2 documents written (a shelf of 3 boards)\n"
    command.seed(settings(), "phase6", yes=False, force=False)
    assert capsys.readouterr().out == "phase6: seeded before, left unchanged (a shelf of 3 boards)\n"


@pytest.mark.parametrize(
    ("rollout", "told"),
    [
        ({"state": "running", "weight_bp": 2500}, "it answers 25 % of the visitors by now"),
        ({"state": "completed", "weight_bp": 10_000}, "it answers 100 % of the visitors by now"),
        ({"weight_bp": 0, "pending": {"weight_bp": 500, "pinned": False}}, "it answers 5 % of the visitors by now"),
        ({"state": "rolled_back", "weight_bp": 0}, None),
    ],
)
@pytest.mark.parametrize("was", [None, "old"])
def test_a_weight_above_0_refuses_whoever_serves(
    settings: Callable[..., Settings], tmp_path: Path, rollout: dict[str, Any], told: str | None, was: str | None
) -> None:
    saved(tmp_path, was or "phase6", **rollout)
    saved(tmp_path, "other", weight_bp=10_000)
    found = settings(**({} if was is None else {"was": was}))
    if told is None:
        command.seed(found, None, yes=False, force=False)
        return
    with pytest.raises(Stop) as stop:
        command.seed(found, None, yes=False, force=False)
    assert stop.value.code == 3
    assert f"phase6: a shelf of 3 boards is not seeded: {told}" in stop.value.message
    assert "`phasegate seed --force`" in stop.value.message
    command.seed(found, None, yes=False, force=True)


def test_a_run_dir_that_cannot_be_read_is_told_and_may_be_forced(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STORE).write_text("no database, for sure; it is only text, as long as you like" * 30)
    with pytest.raises(Stop) as stop:
        command.seed(settings(), None, yes=False, force=False)
    assert stop.value.code == 2
    assert "does not say where the migration stands, so nothing was written" in stop.value.message
    command.seed(settings(), None, yes=False, force=True)


def test_a_backend_that_fails_and_fixtures_that_cannot_be_used_have_their_own_codes(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with pytest.raises(Stop) as stop:
        command.seed(settings({"read_only": True}), None, yes=False, force=False)
    assert stop.value.code == 5
    assert "a shelf of 3 boards could not be read or written: glued. See `phasegate check`." in stop.value.message
    found = settings()
    (tmp_path / "fixtures" / "things.json").write_text("{")
    with pytest.raises(Stop) as stop:
        command.seed(found, None, yes=False, force=False)
    assert stop.value.code == 2
    assert "things.json: it is no JSON" in stop.value.message


def test_a_migration_that_is_not_there_and_one_that_is_not_seeded_are_told(
    settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stop) as stop:
        command.seed(settings(), "phase7", yes=False, force=False)
    assert (stop.value.code, stop.value.message) == (2, "there is no migration 'phase7'; there are phase6")
    command.seed(settings(source="shelf", target="mock"), None, yes=False, force=False)
    assert (
        "phase6: nothing to do: only a database is seeded, from a mock; `phasegate copy`" in capsys.readouterr().out
    )


async def left(*_: Any, **__: Any) -> Seeded:
    return Seeded(9, 5, tuple(f"things/{n}" for n in range(3)))


@pytest.mark.parametrize("force", [False, True])
def test_documents_that_were_left_are_counted_and_named_and_are_a_failure_unless_forced(
    settings: Callable[..., Settings],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    force: bool,
) -> None:
    monkeypatch.setattr(command, "write", left)
    words = (
        "phase6: 5 documents written; 1 were there already; 3 hold something else and were left as they are: "
        "3 in things, as things/0, things/1, things/2 (a shelf of 3 boards)"
    )
    if force:
        command.seed(settings(), None, yes=False, force=True)
        assert words in (shown := capsys.readouterr().out)
        assert "do not include what was written now" in shown
        return
    with pytest.raises(Stop) as stop:
        command.seed(settings(), None, yes=False, force=False)
    assert stop.value.code == 3
    assert words in stop.value.message
