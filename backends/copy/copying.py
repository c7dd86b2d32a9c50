"""Copies what the source holds now to the target, beside traffic, and goes on where it was if it is killed.

A document that the target lacks is created. One that both have is put together by its adapter's rule: the later
state, the higher counters. Where the target's is newer, or no rule decides, the target's stays as it is. Nothing is
deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from backends.arm import TARGET
from backends.copy.calm import Calm
from backends.copy.equality import Pair
from backends.copy.pace import Pace
from backends.copy.records import Again, Progress
from backends.copy.rules import PatternRule, put_together
from backends.copy.settling import Settling, Write
from backends.copy.tally import Tally
from backends.copy.walk import Sides
from backends.documents.port import Precondition, create, put
from backends.documents.semantics import same


class Copying:
    """What a copy does about a difference."""

    looks_again = False

    def __init__(self, patience_s: float = 300.0) -> None:
        self.patience_s = patience_s

    def write(self, pair: Pair, rule: PatternRule) -> Write | None:
        """As ``Handling.write``."""
        if pair.source is None:
            return None
        if pair.target is None:
            return Write(TARGET, create(pair.path, pair.source.fields))
        fields, _ = put_together(rule, pair.source.fields, pair.target.fields)
        if same(fields, pair.target.fields):
            return None
        return Write(TARGET, put(pair.path, fields, Precondition(update_time=pair.target.update_time)))

    def wrote(self, tally: Tally) -> None:
        """As ``Handling.wrote``."""
        tally.copied += 1

    def stays(self, tally: Tally, pair: Pair) -> None:
        """As ``Handling.stays``."""
        tally.left += pair.source is not None


async def copy(
    sides: Sides,
    rules: dict[str, PatternRule],
    calm: Calm,
    place: Path,
    *,
    pace: Pace | None = None,
    handling: Copying | None = None,
    on_page: Callable[[str, int], None] = lambda pattern, documents: None,
) -> list[Tally]:
    """Copy the documents of these patterns. ``place`` is the file of how far it is, removed when it is finished.

    ``pace``: None for a target in this machine's memory. Raises ``Fault``; a later call goes on from there.
    """
    progress = Progress(place)
    again = Again(place.with_name(f"{place.name}.again"), fresh=not progress.goes_on)
    settling = Settling(sides, rules, calm, handling or Copying(), again, paces=(None, pace), on_page=on_page)
    for tally in progress.place.tallies:
        if tally.name in settling.tallies:
            settling.tallies[tally.name] = tally
    try:
        await settling.start()
        walked: list[str] = []  # of these something may still have to be settled

        def save(pattern: str | None = None, path: str = "") -> None:
            """Everything up to here is settled."""
            progress.place.done += walked
            walked.clear()
            if pattern is not None:
                progress.place.at[pattern] = path
            progress.place.tallies = list(settling.tallies.values())
            progress.save()

        for pattern, rule in rules.items():
            if pattern in progress.place.done:
                continue
            if rule.counted and not any(rules[other].counted for other in walked):
                await settling.flush()  # what counters contain is there before they are: see ``settling``
                save()
            await settling.go_through(pattern, progress.place.at.get(pattern), partial(save, pattern))
            walked.append(pattern)
        await settling.flush()
        save()
        await settling.finish()
    except BaseException:
        again.close()
        raise
    again.remove()
    progress.remove()
    return list(settling.tallies.values())
