"""Checkpoints and the audit trail, in SQLite: one file in the run directory, WAL, synchronous=FULL.

``Store`` is the file, used by one thread. ``StoreThread`` is that thread: its calls are awaited, so a slow disk
delays whoever awaits it and never the event loop.

Each audit entry carries the SHA-256 of the one before it and its own content, a chain a migration. Each checkpoint
carries the head of the chain, so that a chain cut short is found too. ``Store.verify`` and ``verify_file`` follow it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from control.rollout.model import Entry
from control.store.chain import Chain, Trail, digest, genesis
from control.store.entry import AuditLine
from control.store.port import Checkpoint, StoreError

_log = structlog.get_logger("phasegate.store")

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 5.0  # how long a lock is waited for that another reader of the file holds
PAGE_MAX: Final = 1000  # entries a page of the trail
RUN_MAX: Final = 10_000  # entries of a run that a report reads: a bound on its memory and time
_AFTER_ALL: Final = 1 << 62  # above every sequence number
_EVER: Final = float(1 << 62)  # after every time
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS checkpoint (
    migration TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    saved_at REAL NOT NULL,
    audit_seq INTEGER NOT NULL,
    audit_hash TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS audit (
    migration TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    detail TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (migration, seq)
) STRICT, WITHOUT ROWID;
"""
_KNOWN: Final = "SELECT audit_seq, audit_hash FROM checkpoint WHERE migration = ?"
_MIGRATIONS: Final = "SELECT migration FROM checkpoint UNION SELECT migration FROM audit"


class Store:
    """The open file. Every method may raise ``StoreError``; used by one thread at a time."""

    def __init__(self, path: Path, tell: Callable[[Path], None] = lambda kept_as: None) -> None:
        """Open or create the file. A broken database is renamed first; ``tell`` is called with its new path."""
        self.path = path
        try:
            try:
                self._db = self._open()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                tell(_set_aside(path))
                self._db = self._open()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        with suppress(OSError):
            # SQLite would make it readable to all; its log and index take the file's own mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        self._db.close()

    def save(
        self, migration: str, document: str, entries: Sequence[tuple[float, Entry]], now: float
    ) -> list[AuditLine]:
        """Write a checkpoint and its audit entries (each with its Unix time), all or nothing, synced to disk."""
        with self._transaction():
            return self._save(migration, document, entries, now)

    def _save(
        self, migration: str, document: str, entries: Sequence[tuple[float, Entry]], now: float
    ) -> list[AuditLine]:
        lines = list(self._append(migration, entries))
        head = (lines[-1].seq, lines[-1].hash) if lines else self._head(migration)
        self._db.execute(
            "INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?, ?)", (migration, document, now, *head)
        )
        return lines

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # After some failures SQLite has already rolled back by itself.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def _head(self, migration: str) -> tuple[int, str]:
        """The entry that the next one follows: the checkpoint's, so that entries cut off the end stay missing."""
        last = self._db.execute(
            "SELECT seq, hash FROM audit WHERE migration = ? ORDER BY seq DESC LIMIT 1", (migration,)
        ).fetchone()
        known: tuple[int, str] | None = self._db.execute(_KNOWN, (migration,)).fetchone()
        if known is not None and (last is None or known[0] >= last[0]):
            return known
        return (last[0], last[1]) if last else (0, genesis(migration))

    def _append(self, migration: str, entries: Sequence[tuple[float, Entry]]) -> Iterator[AuditLine]:
        seq, previous = self._head(migration)
        for at, entry in entries:
            seq += 1
            line = AuditLine(
                seq, at, entry.kind, entry.actor, entry.detail, previous, digest(previous, migration, seq, at, entry)
            )
            detail = json.dumps(entry.detail, sort_keys=True, separators=(",", ":"))
            self._db.execute(
                "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (migration, seq, at, entry.kind, entry.actor, detail, previous, line.hash),
            )
            previous = line.hash
            yield line

    def checkpoint(self, migration: str) -> Checkpoint | None:
        """What was saved last."""
        sql = "SELECT CAST(document AS BLOB), saved_at FROM checkpoint WHERE migration = ?"
        found = self._query(sql, (migration,))
        # A byte that is not UTF-8 spoils this document, and is no reason to call the store unreadable.
        return Checkpoint(found[0][0].decode("utf-8", "replace"), found[0][1]) if found else None

    def audit(self, migration: str, limit: int, before: int | None = None) -> list[AuditLine]:
        """The newest ``limit`` lines, or those before a sequence number; newest first."""
        rows = self._query(
            "SELECT seq, at, kind, actor, detail, previous, hash FROM audit WHERE migration = ? AND seq < ?"
            " ORDER BY seq DESC LIMIT ?",
            (migration, before if before is not None else _AFTER_ALL, min(limit, PAGE_MAX)),
        )
        return [_line(row) for row in rows]

    def rename(self, old: str, new: str, left: str, facts: dict[str, Any], now: float) -> None:
        """Go on with ``old``'s checkpoint as ``new``'s; both trails say so, all or nothing.

        ``left`` is the checkpoint that ``old`` is left with: its trail needs one that knows the last entry.
        """
        moved = self.checkpoint(old)
        if moved is None:
            return
        with self._transaction():
            self._save(old, left, [(now, Entry("renamed", "phasegate", {"to": new, **facts}))], now)
            self._save(new, moved.document, [(now, Entry("renamed", "phasegate", {"from": old, **facts}))], now)

    def run(self, migration: str, before: float = _EVER) -> list[AuditLine]:
        """The lines since the last start of a run, oldest first, the recoveries between them included.

        Where the migration was renamed since, the run's first lines are in the trail of its earlier name. ``before``
        (Unix time) is when that name ended: it may have been another migration's since.
        """
        rows = self._query(
            "SELECT seq, at, kind, actor, detail, previous, hash FROM audit"
            " WHERE migration = ?1 AND at < ?2 AND seq >="
            " (SELECT max(seq) FROM audit WHERE migration = ?1 AND at < ?2"
            " AND (kind = 'start' OR (kind = 'renamed' AND json_extract(detail, '$.from') IS NOT NULL)))"
            " ORDER BY seq LIMIT ?3",
            (migration, before, RUN_MAX),
        )
        lines = [_line(row) for row in rows]
        if not lines or lines[0].kind == "start":
            return lines
        return [*self.run(str(lines[0].detail["from"]), lines[0].at), *lines][:RUN_MAX]

    def verify(self, migration: str) -> Trail:
        """Follow the migration's chain."""
        try:
            return _follow(self._db, migration)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def migrations(self) -> list[str]:
        """Every migration that has a line or a checkpoint."""
        return [row[0] for row in self._query(_MIGRATIONS, ())]

    def _query(self, sql: str, values: Sequence[object]) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error


class StoreThread:
    """The store behind one thread of its own, in the order of the calls; each opens the file where it is not yet.

    A file that turns out to be broken, at the start or while it is used, is set aside and a new one begun. The new
    one has a note of that before the first entry of each migration, and subscribers of ``when_new`` are called,
    because it has no checkpoint yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._store: Store | None = None
        self._listeners: list[Callable[[], None]] = []
        # The store's thread alone sets these.
        self._set_aside: Path | None = None  # the newest that was, by this process
        self._noted: set[str] = set()  # migrations whose trail says so
        self._is_new = False  # the listeners have yet to be called

    def when_new(self, tell: Callable[[], None]) -> None:
        """Call ``tell``, on the event loop, whenever a new file was begun in place of a broken one."""
        self._listeners.append(tell)

    async def close(self) -> None:
        """Write what was asked for, and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._close)
        self._pool.shutdown(wait=False)

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    async def save(self, migration: str, document: str, entries: Sequence[tuple[float, Entry]]) -> list[AuditLine]:
        """As ``Store.save``; the first one into a new file begins with a note of what became of the old one."""
        return await self._call(lambda store: self._save(store, migration, document, entries))

    def _save(
        self, store: Store, migration: str, document: str, entries: Sequence[tuple[float, Entry]]
    ) -> list[AuditLine]:
        now, noted = time.time(), list(entries)
        if self._set_aside is not None and migration not in self._noted:
            note = f"the store was broken; it is kept as {self._set_aside.name}, and this is a new one"
            noted.insert(0, (now, Entry("note", "phasegate", {"note": note})))
        lines = store.save(migration, document, noted, now)
        self._noted.add(migration)
        return lines

    async def checkpoint(self, migration: str) -> Checkpoint | None:
        """As ``Store.checkpoint``."""
        return await self._call(lambda store: store.checkpoint(migration))

    async def audit(self, migration: str, limit: int, before: int | None = None) -> list[AuditLine]:
        """As ``Store.audit``."""
        return await self._call(lambda store: store.audit(migration, limit, before))

    async def run(self, migration: str) -> list[AuditLine]:
        """As ``Store.run``."""
        return await self._call(lambda store: store.run(migration))

    async def verify(self, migration: str) -> Trail:
        """As ``Store.verify``."""
        return await self._call(lambda store: store.verify(migration))

    async def _call(self, what: Callable[[Store], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._with_store, what)
        finally:
            if self._is_new:
                self._is_new = False
                for tell in self._listeners:
                    tell()

    def _put_aside(self, kept_as: Path) -> None:
        _log.error("store_set_aside", kept_as=str(kept_as))
        self._set_aside, self._noted, self._is_new = kept_as, set(), True

    def _with_store(self, what: Callable[[Store], T]) -> T:
        if self._store is None:
            self._store = Store(self._path, self._put_aside)
        try:
            return what(self._store)
        except StoreError as error:
            if type(error.__cause__) is sqlite3.DatabaseError:  # malformed: the next call looks at the file anew
                _log.error("store_broken", reason=str(error))
                self._close()
            raise


def checkpoints_in(path: Path) -> dict[str, str]:
    """The documents saved last in a store's file, by migration; none where there is no file. It stays as it is.

    Raises ``StoreError`` where it cannot be read.
    """
    if not path.exists():
        return {}
    sql = "SELECT migration, CAST(document AS BLOB) FROM checkpoint"
    with _reading(path) as db:
        return {migration: document.decode("utf-8", "replace") for migration, document in db.execute(sql).fetchall()}


def verify_file(path: Path) -> dict[str, Trail]:
    """Follow every chain of a store's file, in use or not, or of a copy; the file and its log stay as they are.

    Raises ``StoreError`` where it cannot be read.
    """
    with _reading(path) as db:
        return {migration: _follow(db, migration) for (migration,) in db.execute(_MIGRATIONS).fetchall()}


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A store's file, in use or not, as of one moment, whatever is written meanwhile. Raises ``StoreError``."""
    path = path.resolve()  # the log lies beside the file, not beside a link to it
    with tempfile.TemporaryDirectory() as folder:
        try:
            with closing(_open_to_read(path, Path(folder))) as db:
                db.execute("BEGIN")
                yield db
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path}: {error}") from error


def _open_to_read(path: Path, folder: Path) -> sqlite3.Connection:
    """The file opened as it is found: in use, a copy, or a copy with its log, which is read from ``folder``."""
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    if not log.exists():
        how = "immutable=1"  # nobody has it open, and no lock is needed, nor a folder that may be written
    elif index.exists():
        how = "mode=ro"
    else:  # SQLite would make an index beside it
        for part in (path, log):
            shutil.copy(part, folder)
        path, how = folder / path.name, "mode=ro"
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=BUSY_TIMEOUT_S)


def _follow(db: sqlite3.Connection, migration: str) -> Trail:
    chain = Chain(migration)
    try:
        rows = db.execute(
            "SELECT seq, at, kind, actor, detail, previous, hash FROM audit WHERE migration = ? ORDER BY seq",
            (migration,),
        )
        for row in rows:
            chain.add(_line(row))
    except (sqlite3.Error, StoreError) as error:
        chain.broke(str(error))
    return chain.end(db.execute(_KNOWN, (migration,)).fetchone())


def _line(row: Sequence[Any]) -> AuditLine:
    """A row of the table. Raises ``StoreError`` where it has not the form of one that was written."""
    try:
        found = dict(zip(AuditLine.__struct_fields__, row, strict=True))
        return msgspec.convert(found | {"detail": json.loads(found["detail"])}, AuditLine)
    except (ValueError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise StoreError(f"entry {row[0]} is no entry of phasegate's: somebody changed it") from error


def _set_aside(path: Path) -> Path:
    """Move a broken database out of the way, with its log, under a name that says what it is."""
    kept = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    return kept
