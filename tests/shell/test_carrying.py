"""What an earlier board says, put on one of another layout: by name, whichever version made it, and never more."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.board import first
from proxy.board import layout as at
from proxy.board.board import Board
from proxy.board.carrying import carry, read_left
from proxy.board.layout import PINNED, Layout, Word

BOOT = 42
SHOP, OTHER, THIRD = ("shop", ("a", "b")), ("other", ("x",)), ("third", ("y", "z"))
MORE_WORKERS = Layout(8, (SHOP, OTHER))


@pytest.fixture
def old(tmp_path: Path) -> Board:
    board = Board.create(tmp_path / "board", Layout(4, (SHOP, OTHER)), BOOT)
    board.publish(0, 500, pinned=False, now_ns=5)
    board.publish(0, 2500, pinned=False, now_ns=7, cut_over_at=8, cancel_at=9)
    board.renew_lease(0, 1_000)
    board.publish(1, 10_000, pinned=True, now_ns=7)
    return board


def carried(old: Board, layout: Layout, was: dict[str, str] | None = None) -> Board:
    left = read_left(old.path, BOOT)
    assert left is not None
    return Board.create(old.path, layout, BOOT, lambda new: carry(left, new, was or {}))


@pytest.mark.parametrize(
    "migrations",
    [(SHOP, OTHER), (OTHER, SHOP), (THIRD, SHOP), (SHOP,), (("shop", ("a", "b", "c")), OTHER)],
    ids=["the same", "another order", "one more and one less", "one less", "another operation"],
)
@pytest.mark.parametrize("workers", [2, 4, 16])
def test_every_migration_keeps_its_word_and_its_lease(
    old: Board, migrations: tuple[tuple[str, tuple[str, ...]], ...], workers: int
) -> None:
    new = carried(old, Layout(workers, migrations))
    found = {name: (new.word(m), new.lease_until(m)) for m, (name, _) in enumerate(migrations)}
    known = {"shop": (Word(2, 0, 2500), 1_000), "other": (Word(1, PINNED, 10_000), 0), "third": (Word(0, 0, 0), 0)}
    assert found == {name: known[name] for name in found}
    assert new.cells[new.layout.migration(0) + at.M_CUT_OVER_AT] == (8 if migrations[0][0] == "shop" else 0)


def test_a_renamed_migration_goes_on_with_the_word_of_its_earlier_name(old: Board) -> None:
    new = carried(old, Layout(4, (OTHER, ("store", ("a", "b")))), {"store": "shop"})
    assert (new.word(1), new.lease_until(1)) == (Word(2, 0, 2500), 1_000)
    again = carried(new, Layout(6, (OTHER, ("store", ("a", "b")))), {"store": "shop"})
    assert again.word(1) == Word(2, 0, 2500), "the configuration says it still, and it is renamed already"


def test_a_board_from_before_a_reboot_says_nothing(old: Board, tmp_path: Path) -> None:
    assert read_left(old.path, BOOT + 1) is None
    assert read_left(tmp_path / "none", BOOT) is None


@pytest.mark.parametrize("length", [0, 7, 100, 8 * at.HEADER_CELLS, 2000])
def test_a_board_that_was_cut_short_says_nothing(old: Board, length: int) -> None:
    os.truncate(old.path, length)
    assert read_left(old.path, BOOT) is None


def test_cells_of_another_version_are_found_by_their_names(tmp_path: Path) -> None:
    """A later version has its cells in other places, and one that this version does not know."""
    layout = Layout(2, (SHOP,))
    board = Board.create(tmp_path / "board", layout, BOOT)
    places = {"migrations": {"shop": 40}, "cells": {"word": 3, "lease_until": 0, "secret": 1}}
    theirs = json.dumps(places).encode()
    with board.path.open("r+b") as file:
        file.seek(layout.cells() * at.CELL_BYTES)
        file.write(theirs)
    board.cells[at.H_DESCRIPTION_BYTES] = len(theirs)
    for cell, value in ((3, Word(9, 0, 700).pack()), (0, 77), (1, 5)):
        board.cells[40 + cell] = value
    new = carried(board, MORE_WORKERS)
    assert (new.word(0), new.lease_until(0)) == (Word(9, 0, 700), 77)
    assert new.cells[new.layout.migration(0) + at.M_CUT_OVER_AT] == 0


def test_after_an_orderly_end_a_lease_has_left_what_it_had_then(old: Board) -> None:
    old.end(400)
    left = read_left(old.path, BOOT)
    assert left is not None
    assert left.ended_at == 400
    new = carried(old, MORE_WORKERS)
    new.go_on_after(left.ended_at, 1_000_000)
    assert new.lease_until(0) - new.ended_at() == 600
    assert new.lease_until(1) == 0, "there was no lease"
    new.forget_end()
    assert new.ended_at() == 0


# Version 0.1.

PLANNED = (SHOP, OTHER)


def first_board(words: list[Word], digest: int = 1) -> first.FirstBoard:
    cells = tuple({"word": word.pack(), "lease_until": 70 + place} for place, word in enumerate(words))
    return first.FirstBoard(digest, 4711, 60, cells)


def words_of(board: first.FirstBoard, expected: dict[str, frozenset[Word]]) -> dict[str, Word]:
    return first.named(board, PLANNED, expected, ended=True).words()


def test_the_order_is_certain_where_the_digest_is_of_these_migrations() -> None:
    """Whatever the checkpoints say: a decrease that was published and never written is on the board alone."""
    digest = first._digest(12, PLANNED)
    board = first_board([Word(3, 0, 0), Word(2, 0, 500)], digest)
    assert words_of(board, {"shop": frozenset({Word(2, 0, 5000)})}) == {
        "shop": Word(3, 0, 0),
        "other": Word(2, 0, 500),
    }
    assert words_of(first_board([Word(3, 0, 0), Word(2, 0, 500)]), {"shop": frozenset({Word(2, 0, 5000)})}) == {}


def test_words_of_an_unknown_order_are_taken_where_one_checkpoint_says_the_same() -> None:
    one, two = Word(4, 0, 2500), Word(9, PINNED, 10_000)
    expected = {"shop": frozenset({one}), "other": frozenset({Word(8, 0, 10_000), two})}
    assert words_of(first_board([two, one]), expected) == {"shop": one, "other": two}


def test_a_word_that_two_could_have_is_nobodys() -> None:
    word = Word(4, 0, 2500)
    assert words_of(first_board([word]), {"shop": frozenset({word}), "other": frozenset({word})}) == {}
    assert words_of(first_board([word, word]), {"shop": frozenset({word})}) == {}


def test_a_word_that_no_checkpoint_knows_leaves_all_at_0() -> None:
    """It may be the decrease of a migration whose checkpoint another's word agrees with."""
    agreed = Word(4, 0, 2500)
    assert words_of(first_board([Word(5, 0, 0), agreed]), {"shop": frozenset({agreed}), "other": frozenset()}) == {}


@given(st.permutations([0, 1, 2]), st.lists(st.integers(0, 3), min_size=3, max_size=3), st.data())
def test_nobody_gets_a_weight_above_what_was_published_for_him(
    order: list[int], steps: list[int], data: st.DataObject
) -> None:
    """Words in any order, any of them lowered since the last checkpoint: each is the migration's own, or none."""
    names = ["a", "b", "c"]
    saved = [Word(step, 0, 1000 * step) for step in steps]
    words = [data.draw(st.sampled_from([word, Word(word.generation + 1, 0, 0)])) for word in saved]
    board = first_board([words[place] for place in order])
    expected = {name: frozenset({word}) for name, word in zip(names, saved, strict=True)}
    found = first.named(board, [(name, ()) for name in names], expected, ended=False).words()
    for name, word in zip(names, words, strict=True):
        if name in found:
            assert found[name].weight_bp <= word.weight_bp


def test_the_run_directory_kept_of_version_0_1_has_a_board_that_is_read(repository: Path) -> None:
    path = repository / "tests/support/run_dir_0_1/run/board"
    boot = int.from_bytes(path.read_bytes()[16:24], sys.byteorder)
    board = first.read_first(path, boot, 2)
    assert board is not None
    assert [Word.unpack(cells["word"]).weight_bp for cells in board.cells] == [0, 5000]
    assert first.read_first(path, boot + 1, 2) is None
