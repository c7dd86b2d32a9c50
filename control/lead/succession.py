"""What a configuration makes of the migrations that a run directory holds: goes on, renames, abandons, or is refused.

A migration that is in flight or completed has its data on two sides, and its visitors on one of them. A configuration
that no longer names it would drop its weight to 0 without a decision, so it is refused, at the start and at a reload,
unless it says what becomes of it: ``was`` in the migration that goes on with it, or ``abandon``.
"""

from __future__ import annotations

import difflib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from backends.kinds.registry import KINDS
from backends.pair.changelog import drop_folder, move_folder
from control.plan.mistakes import one_of
from control.plan.phases import percent_of
from control.plan.settings import Settings
from control.rollout.model import Entry, Rollout, State
from control.store.port import StoreError
from control.store.sqlite import Store, checkpoints_in
from proxy.board.layout import PINNED, Word
from proxy.settings import CannotStartError

_log = structlog.get_logger("phasegate.succession")

STORE: Final = "control.db"  # in the run directory
GENERATION_MASK: Final = 0xFFFFFFFF
_OF_TASKS: Final = ("copy", "compare", "differences")  # where a copy is, what a compare looks at again, what it found
_AT_REST: Final = (State.IDLE, State.ABORTED)  # with nothing on the target: nothing is lost with it


class _SavedRaise(Struct, frozen=True):
    weight_bp: int
    pinned: bool


class _SavedRollout(Struct, frozen=True):
    """What must be known of a checkpoint, whichever version wrote it."""

    state: State = State.IDLE
    weight_bp: int = 0
    pinned: bool = False
    generation: int = 0
    pending: _SavedRaise | None = None

    @property
    def begun(self) -> bool:
        """Whether it ever had a weight of its own. A name that was given up by a rename has none."""
        return self.generation > 0 or not self.at_rest

    @property
    def at_rest(self) -> bool:
        return self.state in _AT_REST and self.weight_bp == 0 and self.pending is None

    def words(self) -> Iterator[Word]:
        """The words that it may have on a board: the one it was saved with, and that of the increase asked for."""
        yield Word(self.generation & GENERATION_MASK, PINNED if self.pinned else 0, self.weight_bp)
        if self.pending is not None:
            generation = self.generation + 1 & GENERATION_MASK
            yield Word(generation, PINNED if self.pending.pinned else 0, self.pending.weight_bp)


class _SavedDocument(Struct, frozen=True):
    rollout: _SavedRollout = _SavedRollout()


def weights_in(path: Path) -> dict[str, float]:
    """The share of visitors on each migration's target, in percent, as a store's file was last written.

    That of an increase which is asked for counts already. Raises ``StoreError`` where it cannot be read.
    """
    return {
        name: percent_of(max(word.weight_bp for word in saved.words()))
        for name, saved in _understood(checkpoints_in(path)).items()
    }


def _understood(documents: Mapping[str, str]) -> dict[str, _SavedRollout]:
    found = {}
    for name, document in documents.items():
        with suppress(msgspec.DecodeError):
            found[name] = msgspec.json.decode(document, type=_SavedDocument).rollout
    return found


class ConfiguredSuccession:
    """One configuration beside one run directory, whose store is ``path``."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self._settings = settings
        self._path = path
        self._writes = any(each.was is not None for each in settings.migrations.values()) or bool(settings.abandon)
        self.was: Mapping[str, str] = {
            name: migration.was for name, migration in settings.migrations.items() if migration.was is not None
        }

    def expected(self) -> dict[str, frozenset[Word]]:
        """The words that the checkpoints may have on the board, by migration."""
        return {name: frozenset(saved.words()) for name, saved in self._saved().items()}

    def refusal(self, words: Mapping[str, Word]) -> str | None:
        """Why the configuration may not take over; None where it may. ``words`` are those on the board."""
        try:
            saved = self._saved(needed=self._writes)
        except CannotStartError as error:
            return str(error)
        problems = list(_refusals(self._settings, self.was, saved, words))
        return "\n".join(problems) if problems else None

    def in_flight(self, words: Mapping[str, Word]) -> dict[str, str]:
        """What is in flight or completed, by its name in the run directory, in words such as "is paused at 50 %"."""
        saved = self._saved()
        states = {name: _in_flight(saved.get(name), words.get(name)) for name in dict.fromkeys((*saved, *words))}
        return {name: state for name, state in states.items() if state is not None}

    def strange(self) -> list[str]:
        """What is accepted and probably a mistake: a ``was`` of which nothing is known, where something else is.

        It is no reason not to serve: nothing is in flight under the name that was meant.
        """
        saved = self._saved()
        left_over = [name for name in _unclaimed(self._settings, self.was, saved) if saved[name].begun]
        return [
            f'migrations.{name}.was: nothing is known of "{old}", so "{name}" begins anew; {_meant(old, left_over)}'
            for name, old in self.was.items()
            if left_over and old not in saved and name not in saved
        ]

    def take_over(self) -> None:
        """Rename and abandon as the configuration says, once each. Only while no control process runs.

        Raises ``CannotStartError``: without it a renamed migration would begin anew.
        """
        if not self._writes:
            return
        for problem in self.strange():
            _log.warning("was_names_nothing", reason=problem)
        saved = self._saved(needed=True)
        renamed = {name: old for name, old in self.was.items() if old in saved}
        abandoned = [name for name in self._settings.abandon if name in saved]
        try:
            if renamed or abandoned:
                self._write(renamed, abandoned, saved)
            for name, old in self.was.items():
                _move_files(self._path.parent, old, name)
                move_folder(self._path.parent, old, name)
            for name in self._settings.abandon:
                drop_folder(self._path.parent, name)
        except (StoreError, OSError) as error:
            raise CannotStartError(f"migrations cannot be renamed or abandoned: {error}") from None

    def _write(self, renamed: Mapping[str, str], abandoned: list[str], saved: Mapping[str, _SavedRollout]) -> None:
        store, now = Store(self._path), time.time()
        try:
            for name, old in renamed.items():
                if not _gone(store, old):
                    store.rename(old, name, _document(State.IDLE), _facts(saved[old]), now)
                    _log.info("migration_renamed", migration=name, was=old)
            for name in abandoned:
                if not _gone(store, name):
                    facts = _facts(saved[name])
                    entry = Entry("abandoned", "phasegate", facts)
                    store.save(name, _document(State.ABORTED), [(now, entry)], now)
                    _log.warning("migration_abandoned", migration=name, state=facts["state"], weight=facts["weight"])
        finally:
            store.close()

    def _saved(self, *, needed: bool = False) -> dict[str, _SavedRollout]:
        """What the checkpoints say that can be read and understood.

        ``needed``: raises ``CannotStartError`` where they cannot be read now and may be later. A broken store will
        never be: control sets it aside and goes on from the board.
        """
        try:
            documents = checkpoints_in(self._path)
        except StoreError as error:
            if needed and type(error.__cause__) is not sqlite3.DatabaseError:
                raise CannotStartError(f"migrations cannot be renamed or abandoned: {error}") from None
            # The board's words still tell which migrations have weight, and control keeps them.
            _log.error("checkpoints_not_read", reason=str(error))
            return {}
        return _understood(documents)


def _unclaimed(settings: Settings, was: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """Those of the names in a run directory of which the configuration says nothing."""
    claimed = {*settings.migrations, *was.values(), *settings.abandon}
    return [name for name in dict.fromkeys(names) if name not in claimed]


def _refusals(
    settings: Settings, was: Mapping[str, str], saved: Mapping[str, _SavedRollout], words: Mapping[str, Word]
) -> Iterator[str]:
    missing = {
        name: state
        for name in _unclaimed(settings, was, (*saved, *words))
        if (state := _in_flight(saved.get(name), words.get(name))) is not None
    }
    for name, state in missing.items():
        yield (
            f'migration "{name}" {state}, and this configuration has no [migrations.{name}]. '
            f'Where another migration continues it, write was = "{name}" there; '
            f'to give it up, write abandon = ["{name}"] at the top of the file'
        )
    for name, old in was.items():
        goes_on = any(_in_flight(saved.get(each), words.get(each)) is not None for each in (name, old))
        if missing and not goes_on:
            yield f'migrations.{name}.was: nothing is in flight under the name "{old}"; {_meant(old, [*missing])}'
    for name, old in was.items():
        state = _in_flight(saved.get(name), words.get(name))
        other = _in_flight(saved.get(old), words.get(old))
        if state is not None and other is not None:
            yield (
                f'migrations.{name}.was: "{old}" {other}, and "{name}" {state} itself: one migration cannot continue '
                f'both. Give another name to the one that continues "{old}", or write abandon = ["{old}"]'
            )


def _meant(name: str, known: list[str]) -> str:
    """Which name may have been meant by one of which nothing is known."""
    near = difflib.get_close_matches(name, known, 1)
    return f'did you mean "{near[0]}"?' if near else f"expected {one_of(known)}, or no `was`"


def _in_flight(saved: _SavedRollout | None, word: Word | None) -> str | None:
    """What would be lost with a migration, in words; None where nothing would."""
    at_rest = saved is None or saved.at_rest
    if at_rest and (word is None or word.weight_bp == 0):
        return None
    weight_bp = word.weight_bp if word is not None and word.generation else saved.weight_bp if saved else 0
    state = "has weight on the target" if saved is None else f"is {saved.state.value.replace('_', ' ')}"
    return f"{state} at {percent_of(weight_bp):g} %"


def _gone(store: Store, migration: str) -> bool:
    """Whether it was renamed or abandoned already: the configuration may say so for longer."""
    newest = next(iter(store.audit(migration, 1)), None)
    return newest is not None and (newest.kind == "abandoned" or (newest.kind == "renamed" and "to" in newest.detail))


def _document(state: State) -> str:
    """A checkpoint that nothing goes on from."""
    return msgspec.json.encode({"rollout": Rollout(state=state)}).decode()


def _facts(saved: _SavedRollout) -> dict[str, Any]:
    return {"state": saved.state.value, "weight": percent_of(saved.weight_bp)}


def _move_files(folder: Path, old: str, new: str) -> None:
    """Give a migration's files the new name, where it has none of that name: its backends' and its tasks'."""
    for path in sorted(folder.glob(f"{old}.*")):
        kind = path.name.removeprefix(f"{old}.").removeprefix("target.").partition(".")[0]
        to = path.with_name(new + path.name.removeprefix(old))
        if (kind in KINDS or kind in _OF_TASKS) and not to.exists():
            path.rename(to)
