"""The run directory: one phasegate at a time uses it, and none that is older than whoever wrote it last.

``version`` holds the number of the directory's form. Version 0.1 wrote none, so a directory without it is of form 1
or new. It is raised whenever an older phasegate would misread what a newer one writes.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from proxy.process.fixed import Fixed
from proxy.settings import CannotStartError

FORM: Final = 2
FIRST: Final = 1  # of version 0.1
READY: Final = "ready.json"  # for scripts, while a phasegate serves
_NAME: Final = "version"


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


def take(run_dir: Path) -> IO[str]:
    """Make the directory, and lock it for as long as the file given is open. Raises ``CannotStartError``."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (run_dir / "lock").open("a+")
    except OSError as error:
        raise CannotStartError(
            f"cannot use the run directory {run_dir}: {error.strerror}; "
            "let this user write there, or choose another proxy.run_dir"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise CannotStartError(
            f"another phasegate (process {owner}) uses the run directory {run_dir}; "
            "stop it, or give this one another proxy.run_dir"
        ) from None
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
