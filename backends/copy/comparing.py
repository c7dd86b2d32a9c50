"""Compares what both sides hold, in whole or by a sample, and tells every difference."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from backends.copy.calm import Calm
from backends.copy.equality import Pair
from backends.copy.pace import Pace
from backends.copy.records import READ_AT_ONCE, Again, Differences
from backends.copy.repairing import Repairing
from backends.copy.rules import PatternRule
from backends.copy.settling import Handling, Settling, Write
from backends.copy.tally import Tally
from backends.copy.walk import Sides, look, patiently
from backends.documents.port import DocumentStore

CONFIDENCE: Final = 0.95
HEX: Final = string.digits + "abcdef"
ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_CHARACTERS: Final = 12  # of a random place among the ids
TRIES_EACH: Final = 4  # random places for each document of a sample: some lead to the same one


class Comparing:
    """What a compare does about a difference: it tells it."""

    looks_again = True
    patience_s = 60.0

    def write(self, pair: Pair, rule: PatternRule) -> Write | None:
        """As ``Handling.write``."""
        return None

    def wrote(self, tally: Tally) -> None:
        """As ``Handling.wrote``."""

    def stays(self, tally: Tally, pair: Pair) -> None:
        """As ``Handling.stays``."""


async def compare(
    sides: Sides,
    rules: dict[str, PatternRule],
    calm: Calm,
    scratch: Path,
    differences: Differences,
    *,
    repairing: Repairing | None = None,
    sample: int | None = None,
    paces: tuple[Pace | None, Pace | None] = (None, None),
    patience_s: float | None = None,
    on_page: Callable[[str, int], None] = lambda pattern, documents: None,
) -> list[Tally]:
    """Compare, and repair if asked to, the documents of these patterns: all, or ``sample`` of them.

    ``scratch`` is a file for what must be looked at again. Raises ``Fault``.
    """
    handling: Handling = repairing or Comparing()
    if patience_s is not None:
        handling.patience_s = patience_s
    again = Again(scratch, fresh=True)
    try:
        settling = Settling(
            sides, rules, calm, handling, again, differences=differences, paces=paces, on_page=on_page
        )
        await settling.start()
        if sample is None:
            for pattern, rule in rules.items():
                if repairing is not None and rule.counted:
                    await settling.flush()  # what counters contain is there before they are: see ``settling``
                await settling.go_through(pattern)
            await settling.flush()
        else:
            await _sample(sides, settling, sample)
        await settling.finish()
        return list(settling.tallies.values())
    finally:
        again.remove()


def share_found(documents: int) -> float:
    """The share of differing documents of which so many random documents contain one with 95 % probability."""
    return 1.0 if documents == 0 else 1 - (1 - CONFIDENCE) ** (1 / documents)


async def _sample(sides: Sides, settling: Settling, wanted: int) -> None:
    """Look at ``wanted`` documents, each found at a random place among the ids of a pattern of either side."""
    dice = random.Random()  # noqa: S311 - no secret
    sizes = {
        (pattern, side): await patiently(partial(store.size, pattern))
        for pattern in settling.tallies
        for side, store in enumerate(sides)
    }
    places = [place for place, size in sizes.items() if size]
    seen: set[str] = set()
    fresh: dict[str, list[str]] = {}
    for _ in range(TRIES_EACH * wanted if places else 0):
        pattern, side = dice.choices(places, [sizes[place] for place in places])[0]
        path = await _somewhere(sides[side], pattern, dice)
        if path is not None and path not in seen:
            seen.add(path)
            fresh.setdefault(pattern, []).append(path)
        if len(seen) == wanted:
            break
    for pattern, paths in fresh.items():
        for at in range(0, len(paths), READ_AT_ONCE):
            await settling.settle_some(pattern, await look(sides, paths[at : at + READ_AT_ONCE]))


async def _somewhere(store: DocumentStore, pattern: str, dice: random.Random) -> str | None:
    """A document at a random place of the pattern, by ids that are spread evenly as hexadecimal or letters are."""
    collection, star, rest = pattern.partition("/*/")
    if star:
        # The document above it may not exist itself, so the place is sought among the nested ones.
        after = f"{collection}/{_random_id(dice)}/{rest.replace('*', _random_id(dice))}/{_random_id(dice)}"
    else:
        after = f"{pattern}/{_random_id(dice)}"
    page = await patiently(partial(store.scan, pattern, after, 1))
    page = page or await patiently(partial(store.scan, pattern, None, 1))
    return page[0].path if page else None


def _random_id(dice: random.Random) -> str:
    letters = dice.choice((HEX, ALPHABET))
    return "".join(dice.choice(letters) for _ in range(RANDOM_CHARACTERS))
