"""The split's secret in its file: made once, its owner's alone, and refused where it could be somebody else's."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.demo.stage import SPLIT_SECRET
from control.lead import splitkey
from control.lead.splitkey import SECRET_BYTES, SplitKeyError


def test_it_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    assert splitkey.read(tmp_path) is None
    before = os.umask(0)
    try:
        made = splitkey.secret_of(tmp_path)
    finally:
        os.umask(before)
    assert len(made) == SECRET_BYTES
    assert stat.S_IMODE((tmp_path / splitkey.FILE).stat().st_mode) == 0o600
    assert splitkey.secret_of(tmp_path) == splitkey.read(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == [splitkey.FILE]
    other = tmp_path / "other"
    other.mkdir()
    assert splitkey.secret_of(other) != made


def test_what_a_killed_process_left_half_made_is_no_secret(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / f"{splitkey.FILE}.new").symlink_to(elsewhere)
    made = splitkey.secret_of(tmp_path)
    assert not elsewhere.exists(), "nor is written where a link leads"
    assert splitkey.read(tmp_path) == made


def linked(path: Path) -> None:
    (path.parent / "good").write_bytes(bytes(SECRET_BYTES))
    path.symlink_to("good")


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a link": (linked, "is a link"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "is a link"),
    "too short": (lambda path: path.write_bytes(bytes(SECRET_BYTES - 1)), "has 31 bytes, expected 32"),
    "too long": (lambda path: path.write_bytes(bytes(SECRET_BYTES + 1)), "has 33 bytes, expected 32"),
    "a folder": (lambda path: path.mkdir(), "is no regular file"),
    "a pipe": (lambda path: os.mkfifo(path), "is no regular file"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_file_that_cannot_be_trusted_is_refused_in_words(tmp_path: Path, spoiled: str) -> None:
    spoil, words = SPOILED[spoiled]
    spoil(tmp_path / splitkey.FILE)
    for taking in (splitkey.read, splitkey.secret_of):
        with pytest.raises(SplitKeyError, match=words) as refused:
            taking(tmp_path)
        assert "move it away" in str(refused.value)


def test_another_users_file_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = splitkey.secret_of(tmp_path)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(SplitKeyError, match=f"belongs to user {own}, expected user {own + 1}"):
        splitkey.read(tmp_path)
    monkeypatch.undo()
    assert splitkey.read(tmp_path) == made


def test_a_copy_that_all_could_read_is_its_owners_alone_again(tmp_path: Path) -> None:
    made = splitkey.secret_of(tmp_path)
    (tmp_path / splitkey.FILE).chmod(0o644)
    assert splitkey.read(tmp_path) == made
    assert stat.S_IMODE((tmp_path / splitkey.FILE).stat().st_mode) == 0o600


def test_where_it_cannot_be_written_a_secret_is_used_all_the_same(tmp_path: Path, logged: list[Any]) -> None:
    nowhere = tmp_path / "nowhere"
    assert len(splitkey.secret_of(nowhere)) == SECRET_BYTES
    assert [line["event"] for line in logged] == ["split_key_not_written"]


def test_the_demos_secret_is_one(tmp_path: Path) -> None:
    splitkey.write(tmp_path, SPLIT_SECRET)
    assert splitkey.secret_of(tmp_path) == SPLIT_SECRET
