"""What a configuration makes of the migrations that a run directory holds: goes on, renames, abandons, or is refused.

A migration that is in flight or completed has its data on two sides, and its visitors on one of them. A configuration
that no longer names it would drop its weight to 0 without a decision, so it is refused, at the start and at a reload,
unless it says what becomes of it: ``was`` in the migration that goes on with it, or ``abandon``.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from backends.kinds.registry import KINDS
from control.plan.phases import percent_of
from control.plan.settings import Settings
from control.rollout.model import Entry, Rollout, State
from control.store.port import StoreError
from control.store.sqlite import Store, checkpoints_in
from proxy.board.layout import PINNED, Word
from proxy.settings import CannotStartError

_log = structlog.get_logger("phasegate.succession")

GENERATION_MASK: Final = 0xFFFFFFFF
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
    def at_rest(self) -> bool:
        return self.state in _AT_REST and self.weight_bp == 0 and self.pending is None

    def words(self) -> Iterator[Word]:
        """The words that it may have on a board: the one it was saved with, and that of the increase asked for."""
        yield Word(self.generation & GENERATION_MASK, PINNED if self.pinned else 0, self.weight_bp)
        if self.pending is not None:
            generation = self.generation + 1 & GENERATION_MASK
            yield Word(generation, PINNED if self.pending.pinned else 0, self.pending.weight_bp)


class _SavedDocument(Struct, frozen=True):
    rollout: _SavedRollout


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
        self.was: Mapping[str, str] = {
            name: migration.was for name, migration in settings.migrations.items() if migration.was is not None
        }

    def expected(self) -> dict[str, frozenset[Word]]:
        """The words that the checkpoints may have on the board, by migration."""
        return {name: frozenset(saved.words()) for name, saved in self._saved().items()}

    def refusal(self, words: Mapping[str, Word]) -> str | None:
        """Why the configuration may not take over; None where it may. ``words`` are those on the board."""
        problems = list(_refusals(self._settings, self.was, self._saved(), words))
        return "\n".join(problems) if problems else None

    def take_over(self) -> None:
        """Rename and abandon as the configuration says, once each. Only while no control process runs.

        Raises ``CannotStartError``: without it a renamed migration would begin anew.
        """
        if not (self.was or self._settings.abandon):
            return
        saved = self._saved(needed=True)
        renamed = {name: old for name, old in self.was.items() if old in saved}
        abandoned = [name for name in self._settings.abandon if name in saved]
        try:
            if renamed or abandoned:
                self._write(renamed, abandoned, saved)
            for name, old in self.was.items():
                _move_files(self._path.parent, old, name)
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


def _refusals(
    settings: Settings, was: Mapping[str, str], saved: Mapping[str, _SavedRollout], words: Mapping[str, Word]
) -> Iterator[str]:
    going_on = {*settings.migrations, *was.values(), *settings.abandon}
    for name in dict.fromkeys((*saved, *words)):
        if name not in going_on and (state := _in_flight(saved.get(name), words.get(name))) is not None:
            yield (
                f'migration "{name}" {state}, and this configuration has no [migrations.{name}]. '
                f'Where another migration continues it, write was = "{name}" there; '
                f'to give it up, write abandon = ["{name}"] at the top of the file'
            )
    for name, old in was.items():
        state = _in_flight(saved.get(name), words.get(name))
        other = _in_flight(saved.get(old), words.get(old))
        if state is not None and other is not None:
            yield (
                f'migrations.{name}.was: "{old}" {other}, and "{name}" {state} itself: one migration cannot continue '
                f'both. Give another name to the one that continues "{old}", or write abandon = ["{old}"]'
            )


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
    """Give the files that a backend's kind keeps for a migration the new name, where it has none of that name."""
    for path in sorted(folder.glob(f"{old}.*")):
        kind = path.name.removeprefix(f"{old}.").removeprefix("target.").partition(".")[0]
        to = path.with_name(new + path.name.removeprefix(old))
        if kind in KINDS and not to.exists():
            path.rename(to)
