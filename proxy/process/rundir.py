"""The run directory: one phasegate at a time uses it, and none that is older than whoever wrote it last.

``version`` holds the number of the directory's form. Version 0.1 wrote none, so a directory without it is of form 1
or new. It is raised whenever an older phasegate would misread what a newer one writes.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Final

import msgspec

from proxy.process.fixed import Fixed
from proxy.settings import CannotStartError

FORM: Final = 2
FIRST: Final = 1  # of version 0.1
READY: Final = "ready.json"  # for scripts, while a phasegate serves
TAKE_WITHIN_S: Final = 0.5  # `owner` holds the lock for a moment, and must keep nobody from starting
_NAME: Final = "version"
_LOCK: Final = "lock"
_POLL_S: Final = 0.02


class RunDirInUseError(CannotStartError):
    """Another process uses the run directory."""


class ReadyNote(msgspec.Struct, frozen=True):
    """The supervisor's process, the addresses that were bound, and what only a restart changes."""

    pid: int
    proxy: tuple[str, ...]
    control: str
    fixed: Fixed | None = None  # version 0.1 wrote none


def note_ready(run_dir: Path, ready: ReadyNote) -> None:
    """Write ``ready.json``, whole or not at all. Raises ``OSError``."""
    new = run_dir / f"{READY}.new"
    new.write_bytes(msgspec.json.encode(ready))
    new.rename(run_dir / READY)


def ready_in(run_dir: Path) -> ReadyNote | None:
    """What the phasegate that serves says in its run directory; None where none does, or it cannot be read."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((run_dir / READY).read_bytes(), type=ReadyNote)
    return None


def owner(run_dir: Path) -> str | None:
    """The process that uses the directory, as its lock says; None where none does. Raises ``OSError``."""
    try:
        lock = (run_dir / _LOCK).open("r")
    except FileNotFoundError:
        return None
    with lock:
        if _locked(lock, fcntl.LOCK_SH):
            return None
        return lock.read().strip() or "unknown"


def served_by(run_dir: Path) -> ReadyNote | None:
    """What the phasegate says that serves from this directory now; None where none does, or it cannot be told.

    One that was killed leaves its ``ready.json`` behind, and another process may have its port by now: what it says
    counts only while the process that wrote it has the lock.
    """
    with suppress(OSError):
        ready = ready_in(run_dir)
        if ready is not None and owner(run_dir) == str(ready.pid):
            return ready
    return None


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take(run_dir: Path) -> IO[str]:
    """Make the directory, and lock it for as long as the file given is open.

    Raises ``RunDirInUseError``, and ``CannotStartError`` where it cannot be used.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (run_dir / _LOCK).open("a+")
    except OSError as error:
        raise CannotStartError(
            f"cannot use the run directory {run_dir}: {error.strerror}; "
            "let this user write there, or choose another proxy.run_dir"
        ) from None
    until = monotonic() + TAKE_WITHIN_S
    while not _locked(lock, fcntl.LOCK_EX):
        if monotonic() < until:
            sleep(_POLL_S)
            continue
        lock.seek(0)
        held_by = lock.read().strip() or "unknown"
        lock.close()
        raise RunDirInUseError(
            f"another phasegate (process {held_by}) uses the run directory {run_dir}; "
            "stop it, or give this one another proxy.run_dir"
        )
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def form(run_dir: Path) -> int:
    """The form that the directory has. Raises ``CannotStartError`` where it is newer than this version's."""
    path = run_dir / _NAME
    try:
        found = int(path.read_text("ascii"))
    except FileNotFoundError:
        return FIRST
    except (OSError, ValueError) as error:
        raise CannotStartError(
            f"{path} does not say which version of phasegate wrote the run directory ({error}); "
            "restore it, or the whole directory, from a backup"
        ) from None
    if found > FORM:
        raise CannotStartError(
            f"the run directory {run_dir} was written by a newer phasegate (form {found}; this version knows {FORM} "
            "and older). Start that version again, or restore the backup of the directory from before the upgrade"
        )
    return found


def note_form(run_dir: Path) -> None:
    """Write this version's form, whole or not at all. Raises ``CannotStartError``."""
    path, new = run_dir / _NAME, run_dir / f"{_NAME}.new"
    try:
        with suppress(FileNotFoundError):
            new.unlink()
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{FORM}\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError as error:
        raise CannotStartError(f"cannot write {path}: {error.strerror}") from None
