"""What an earlier run left on the board, and what whoever reads the configuration knows of its migrations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from proxy.board.carrying import LeftBoard, read_left
from proxy.board.first import Expected, named, read_first
from proxy.board.layout import Word
from proxy.migration.routes import layout
from proxy.settings import Plan

BOARD: Final = "board"


class Succession(Protocol):
    """What whoever reads the configuration knows of the migrations in the run directory."""

    @property
    def was(self) -> Mapping[str, str]:
        """A migration's name → the name that it had before."""

    def refusal(self, words: Mapping[str, Word]) -> str | None:
        """Why the configuration may not take the place of what is in the run directory; ``words``: on the board."""

    def expected(self) -> Expected:
        """The words that the checkpoints may have on the board, by migration."""

    def take_over(self) -> None:
        """Rename and abandon what the configuration says; no control process runs. Raises ``CannotStartError``."""


def workers_of(plan: Plan) -> int:
    """How many workers serve."""
    return plan.proxy.workers or os.cpu_count() or 1


def rows_of(plan: Plan) -> int:
    """How many rows of the board they need: a worker and its successor serve side by side for a moment."""
    return 2 * workers_of(plan)


def left_in(run_dir: Path, boot: int, plan: Plan, succession: Succession, *, was_killed: bool) -> LeftBoard | None:
    """What the board in the run directory says, whichever configuration or version it was made for. Only read.

    ``was_killed``: the run that left it did not end as told.
    """
    path = run_dir / BOARD
    left = read_left(path, boot)
    if left is not None:
        return left
    expected = succession.expected()
    migrations = layout(plan, 1).migrations
    first = read_first(path, boot, max(len(expected), len(migrations)))
    if first is None:
        return None
    earlier = [(succession.was.get(name, name), operations) for name, operations in migrations]
    return named(first, earlier, expected, ended=not was_killed)
