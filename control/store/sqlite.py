"""Checkpoints and the audit trail, in SQLite: one file in the run directory, WAL, synchronous=FULL.

``Store`` is the open file; one thread uses it. ``StoreThread`` is that thread. Its calls are awaited, so a slow disk
delays the caller that waits for it, and never the event loop.

Each audit entry has a SHA-256 over the previous entry's hash and its own content; the entries of a migration form one
chain. Each checkpoint stores the last entry's number and hash, so entries cut off the end of the chain are noticed,
too. ``Store.verify`` and ``verify_file`` check the chain.
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

BUSY_TIMEOUT_S: Final = 5.0  # how long to wait for a lock that another reader of the file holds
PAGE_MAX: Final = 1000  # entries per page of the trail
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
        """Open or create the file. A broken database is renamed first, and ``tell`` is called with its new path."""
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
            # SQLite would create the file readable by everybody. Its log and index get the same mode as the file.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the file. SQLite moves the write-ahead log into it."""
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
                # After some failures SQLite has already rolled the transaction back.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def _head(self, migration: str) -> tuple[int, str]:
        """Number and hash of the entry that the next one follows.

        The checkpoint's record of the last entry goes first. If entries were cut off the end, the next entry then
        still follows the missing ones, and verification finds the gap.
        """
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
        """The newest checkpoint; None before the first."""
        sql = "SELECT CAST(document AS BLOB), saved_at FROM checkpoint WHERE migration = ?"
        rows = self._query(sql, (migration,))
        # Bytes that are not UTF-8 make this one document invalid, not the whole store unreadable.
        return Checkpoint(rows[0][0].decode("utf-8", "replace"), rows[0][1]) if rows else None

    def audit(self, migration: str, limit: int, before: int | None = None) -> list[AuditLine]:
        """The newest ``limit`` entries, or those before a sequence number; newest first."""
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
        """Check the migration's chain."""
        try:
            return _follow(self._db, migration)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def migrations(self) -> list[str]:
        """Every migration that has an entry or a checkpoint."""
        return [row[0] for row in self._query(_MIGRATIONS, ())]

    def names(self, limit: int) -> list[str]:
        """Migrations that have a checkpoint, as everyone with a trail has; at most ``limit``. Reads no trail."""
        sql = "SELECT migration FROM checkpoint ORDER BY migration LIMIT ?"
        return [row[0] for row in self._query(sql, (limit,))]

    def has(self, migration: str) -> bool:
        """Whether the migration has a checkpoint."""
        return bool(self._query("SELECT 1 FROM checkpoint WHERE migration = ?", (migration,)))

    def renamed_to(self, migration: str) -> str | None:
        """The name that goes on with a migration; None where it was not renamed, or has gone on itself since.

        Of one that was renamed several times it is the last name.
        """
        name, seen = migration, {migration}
        while (to := self._next_name(name)) is not None and to not in seen:
            seen.add(to)
            name = to
        return None if name == migration else name

    def _next_name(self, migration: str) -> str | None:
        newest = next(iter(self.audit(migration, 1)), None)
        if newest is None or newest.kind != "renamed":
            return None
        to = newest.detail.get("to")
        return to if isinstance(to, str) else None

    def _query(self, sql: str, values: Sequence[object]) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error


class StoreThread:
    """The store in a thread of its own. Calls run in their order; a call opens the file unless it is open.

    A file that turns out to be broken, at the start or later, is renamed, and a new file is created. In the new file
    each migration's trail begins with a note of that. Subscribers of ``when_new`` are called, because the new file
    has no checkpoint yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._store: Store | None = None
        self._listeners: list[Callable[[], None]] = []
        # Only the store's thread sets these.
        self._set_aside: Path | None = None  # the newest broken file that this process renamed
        self._noted: set[str] = set()  # migrations whose new trail has the note already
        self._is_new = False  # a new file was created, and the listeners have not been called yet

    def when_new(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called, on the event loop, whenever a new file replaces a broken one."""
        self._listeners.append(tell)

    async def close(self) -> None:
        """Finish the calls that are under way, close the file and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._close)
        self._pool.shutdown(wait=False)

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    async def save(self, migration: str, document: str, entries: Sequence[tuple[float, Entry]]) -> list[AuditLine]:
        """As ``Store.save``. In a new file, a migration's first entry is a note that says where the old file is."""
        return await self._call(lambda store: self._save(store, migration, document, entries))

    def _save(
        self, store: Store, migration: str, document: str, entries: Sequence[tuple[float, Entry]]
    ) -> list[AuditLine]:
        now, with_note = time.time(), list(entries)
        if self._set_aside is not None and migration not in self._noted:
            note = f"the store was broken; it is kept as {self._set_aside.name}, and this is a new one"
            with_note.insert(0, (now, Entry("note", "phasegate", {"note": note})))
        lines = store.save(migration, document, with_note, now)
        self._noted.add(migration)
        return lines

    async def checkpoint(self, migration: str) -> Checkpoint | None:
        """As ``Store.checkpoint``."""
        return await self._call(lambda store: store.checkpoint(migration))

    async def audit(self, migration: str, limit: int, before: int | None = None) -> list[AuditLine]:
        """As ``Store.audit``."""
        return await self._call(lambda store: store.audit(migration, limit, before))

    async def names(self, limit: int) -> list[str]:
        """As ``Store.names``."""
        return await self._call(lambda store: store.names(limit))

    async def has(self, migration: str) -> bool:
        """As ``Store.has``."""
        return await self._call(lambda store: store.has(migration))

    async def renamed_to(self, migration: str) -> str | None:
        """As ``Store.renamed_to``."""
        return await self._call(lambda store: store.renamed_to(migration))

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
            # A plain DatabaseError means a malformed file: close it, so that the next call opens and checks it again.
            if type(error.__cause__) is sqlite3.DatabaseError:
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
    """Check every chain in a store's file, whether in use or not, or in a copy. Changes neither the file nor its log.

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
    """Open the file for reading: a file in use, a copy, or a copy with its log, which is read from ``folder``."""
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    if not log.exists():
        how = "immutable=1"  # no process has it open, so neither a lock nor a writable folder is needed
    elif index.exists():
        how = "mode=ro"
    else:  # SQLite would create an index beside the original: read a copy in ``folder`` instead
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
    """Read a row of the table. Raises ``StoreError`` where phasegate cannot have written it."""
    try:
        fields = dict(zip(AuditLine.__struct_fields__, row, strict=True))
        return msgspec.convert(fields | {"detail": json.loads(fields["detail"])}, AuditLine)
    except (ValueError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise StoreError(f"entry {row[0]} was not written by phasegate: somebody changed it") from error


def _set_aside(path: Path) -> Path:
    """Rename a broken database and its log to ``NAME.broken-TIME``. Returns the new path."""
    renamed = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(renamed.with_name(renamed.name + suffix))
    return renamed
