"""Version 0.1's board, which has no description: which of its words belongs to which migration.

The words lie one after the other, in the order of the configuration that the board was made for. That order is
certain where the board's digest is that of the same migrations with some number of workers. Otherwise a word is taken
for a migration's only where its checkpoint says the same and no other word and no other checkpoint agree; and where
one word agrees with no checkpoint, none is taken: it may be a decrease that was published and never written, and
whose it is cannot be known. A migration whose word is not taken is held at 0, as after a reboot.

All numbers here are version 0.1's, whatever this version's are.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from proxy.board.carrying import Cells, LeftBoard, read_cells
from proxy.board.layout import PINNED, Word

MAGIC: Final = int.from_bytes(b"phsgate1", "little")
HEADER_CELLS: Final = 16
H_LAYOUT: Final = 1
H_BOOT: Final = 2
H_CONTROL_PID: Final = 3
H_CONTROL_HEARTBEAT: Final = 4
MIGRATION_CELLS: Final = 8
FIELDS: Final = {"word": 0, "lease_until": 1, "cut_over_at": 2, "cancel_at": 3, "published_at": 4}
SIZES: Final = "752, 24, 16, 8, 16, 10000"  # in the digest: series, share, worker, migration, header, buckets
WORKERS_MAX: Final = 256
WEIGHT_MAX: Final = 10_000

Migrations = Sequence[tuple[str, tuple[str, ...]]]  # each with the names of its operations
Expected = Mapping[str, frozenset[Word]]  # a migration's name → the words that its checkpoint may have on a board


class FirstBoard(NamedTuple):
    """What a board of version 0.1 says. ``cells`` are those of as many migrations as there may have been."""

    digest: int
    control_pid: int
    control_heartbeat: int
    cells: tuple[Cells, ...]


def read_first(path: Path, boot: int, migrations: int) -> FirstBoard | None:
    """Version 0.1's board at ``path``, with the cells of at most so many; None where there is none of this boot."""
    with suppress(OSError, ValueError), path.open("rb") as file:
        header = read_cells(file.fileno(), 0, HEADER_CELLS)
        if (header[0], header[H_BOOT]) != (MAGIC, boot):
            return None
        room = os.fstat(file.fileno()).st_size // 8 - HEADER_CELLS
        found = []
        for m in range(min(migrations, room // MIGRATION_CELLS)):
            cells = read_cells(file.fileno(), HEADER_CELLS + m * MIGRATION_CELLS, MIGRATION_CELLS)
            found.append({name: cells[cell] for name, cell in FIELDS.items()})
        return FirstBoard(header[H_LAYOUT], header[H_CONTROL_PID], header[H_CONTROL_HEARTBEAT], tuple(found))
    return None


def named(board: FirstBoard, migrations: Migrations, expected: Expected, *, ended: bool) -> LeftBoard:
    """The board's cells by the migrations' names, as far as it is certain whose they are.

    ``migrations`` are the configuration's, under the names that they had then. ``ended``: the run ended as told;
    version 0.1 notes no time, so control's last heartbeat stands for it.
    """
    names = [name for name, _ in migrations]
    places = dict(enumerate(names)) if _digest_fits(board.digest, migrations) else _places(board.cells, expected)
    found = {name: board.cells[place] for place, name in places.items() if place < len(board.cells)}
    return LeftBoard(found, board.control_pid, board.control_heartbeat if ended else 0)


def _digest_fits(digest: int, migrations: Migrations) -> bool:
    return any(digest == _digest(workers, migrations) for workers in range(1, 2 * WORKERS_MAX + 1))


def _digest(rows: int, migrations: Migrations) -> int:
    text = f"(Layout(workers={rows}, migrations={tuple(migrations)!r}), {SIZES})"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _places(cells: Sequence[Cells], expected: Expected) -> dict[int, str]:
    words = {place: Word.unpack(each["word"]) for place, each in enumerate(cells)}
    agree = [(place, name) for place, word in words.items() for name in expected if word in expected[name]]
    matched = {place for place, _ in agree}
    if any(place not in matched and _is_word(word) for place, word in words.items()):
        return {}
    times = Counter(place for place, _ in agree), Counter(name for _, name in agree)
    return {place: name for place, name in agree if times[0][place] == times[1][name] == 1}


def _is_word(word: Word) -> bool:
    """Whether it could be the word of a migration that was published. What follows the last migration is not."""
    return word.generation > 0 and word.flags in (0, PINNED) and word.weight_bp <= WEIGHT_MAX
