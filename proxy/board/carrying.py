"""What a board of an earlier run says of each migration, read by name, and put on a board of another layout.

A board describes itself, so its migrations' cells are found whatever its configuration or its version was. Only a
board of this boot says anything: its moments are readings of this boot's CLOCK_MONOTONIC.

A board of version 0.1 has no description: its migrations' cells lie in the order of the configuration that it was
made for. ``proxy.board.first`` finds out which is whose.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from proxy.board import layout as at
from proxy.board.board import Board
from proxy.board.layout import Word

Cells = Mapping[str, int]  # a migration's cells, by the names in ``layout.MIGRATION_FIELDS``


class LeftBoard(NamedTuple):
    """What an earlier run left: each migration's cells by its name, and who had control."""

    migrations: Mapping[str, Cells]
    control_pid: int
    ended_at: int  # 0 where the run did not end as told

    def words(self) -> dict[str, Word]:
        """Each migration's word."""
        return {name: Word.unpack(cells["word"]) for name, cells in self.migrations.items()}


def read_left(path: Path, boot: int) -> LeftBoard | None:
    """What the board at ``path`` says; None where there is none of this boot that describes itself."""
    with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
        header = read_cells(file.fileno(), 0, at.HEADER_CELLS)
        if (header[at.H_MAGIC], header[at.H_BOOT]) != (at.MAGIC, boot):
            return None
        start, size = header[at.H_DESCRIPTION_AT] * at.CELL_BYTES, header[at.H_DESCRIPTION_BYTES]
        description = json.loads(os.pread(file.fileno(), size, start))
        names = description["cells"]
        found = {}
        for name, first in description["migrations"].items():
            cells = read_cells(file.fileno(), first, max(names.values()) + 1)
            found[name] = {field: cells[cell] for field, cell in names.items()}
        return LeftBoard(found, header[at.H_CONTROL_PID], header[at.H_ENDED_AT])
    return None


def read_cells(fd: int, first: int, count: int) -> memoryview[int]:
    """Some cells of a board's file. Raises ``ValueError`` where the file ends before them."""
    data = os.pread(fd, count * at.CELL_BYTES, first * at.CELL_BYTES)
    if len(data) < count * at.CELL_BYTES:
        raise ValueError(f"the file ends before cell {first + count}")
    return memoryview(data).cast("Q")


def carry(left: LeftBoard, board: Board, was: Mapping[str, str]) -> None:
    """Put on a new board, which nobody uses yet, what an earlier one said of the same migrations.

    ``was`` gives the earlier name of a migration that was renamed. A cell that either board does not have is left at
    0. The weight is the one that was published last, whatever a checkpoint says: a decrease that was published and
    not written is on the board alone.
    """
    for m, (name, _) in enumerate(board.layout.migrations):
        earlier = was.get(name, name)
        found = left.migrations.get(earlier if earlier in left.migrations else name, {})
        for field, cell in at.MIGRATION_FIELDS.items():
            board.cells[board.layout.migration(m) + cell] = found.get(field, 0)
