"""The split's key: the run directory's secret, and what of it a run, its checkpoint and the board have.

A visitor who could compute its bucket could choose its side, or make up keys that are all on one. The secret is made
at the first start and never leaves its file. A run's key is derived from it; the checkpoint holds that key, so that a
run goes on as it began whatever becomes of the file. No configuration can set either.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

import structlog

from control.rollout.model import RunSplit
from proxy.board.layout import SplitKey
from proxy.migration import buckets

_log = structlog.get_logger("phasegate.splitkey")

FILE: Final = "split.key"
SECRET_BYTES: Final = 32
_MODE: Final = 0o600
_MEND: Final = "move it away: a new one is made, and runs that have begun keep their visitors' sides"


class SplitKeyError(Exception):
    """The file is not one to be trusted: what was found, what was expected, what to do."""


def read(run_dir: Path) -> bytes | None:
    """The secret; None where there is none yet. Raises ``SplitKeyError``."""
    path = run_dir / FILE
    try:
        if path.is_symlink():
            raise SplitKeyError(f"{path} is a link, expected a file of {SECRET_BYTES} bytes; {_MEND}")
        # It could have become a link since, or a pipe, on which opening would wait.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SplitKeyError(f"{path} cannot be read: {error.strerror}; {_MEND}") from None
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise SplitKeyError(f"{path} is no regular file, expected one of {SECRET_BYTES} bytes; {_MEND}")
        if facts.st_uid != os.geteuid():
            raise SplitKeyError(
                f"{path} belongs to user {facts.st_uid}, expected user {os.geteuid()}, who runs phasegate; {_MEND}"
            )
        if facts.st_size != SECRET_BYTES:
            raise SplitKeyError(f"{path} has {facts.st_size} bytes, expected {SECRET_BYTES}; {_MEND}")
        if stat.S_IMODE(facts.st_mode) != _MODE:
            os.fchmod(fd, _MODE)  # as a copy from a backup may not have it
        return os.read(fd, SECRET_BYTES)
    finally:
        os.close(fd)


def write(run_dir: Path, secret: bytes) -> None:
    """Make the file, whole before it takes its name. Raises ``OSError``."""
    new = run_dir / f"{FILE}.new"
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    with open(fd, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(fd)
    new.rename(run_dir / FILE)


def secret_of(run_dir: Path) -> bytes:
    """The secret, made where there is none yet. Control only. Raises ``SplitKeyError``."""
    found = read(run_dir)
    if found is not None:
        return found
    made = secrets.token_bytes(SECRET_BYTES)
    try:
        write(run_dir, made)
    except OSError as error:
        # As unpredictable as one in a file. A run that begins with it keeps its key by its checkpoint.
        _log.error("split_key_not_written", path=str(run_dir / FILE), reason=str(error))
    return made


def new_run(secret: bytes, migration: str) -> RunSplit:
    """The split of a run that begins now."""
    return _run_split(buckets.keyed(secret, migration), migration)


def known(split: RunSplit, migration: str) -> RunSplit:
    """The split with its key. ``migration`` is the name it was written under, whatever it is called by now."""
    return split if split.key else _run_split(buckets.plain(migration), migration)


def settled(saved: RunSplit, migration: str, board: SplitKey, weight_bp: int) -> RunSplit:
    """The split to go on with: the board's where visitors are on the target by it, or else the checkpoint's.

    They differ after a crash in the midst of a start, and where the store was set aside or set back.
    """
    kept = known(saved, migration)
    return _run_split(board, "") if board.version and weight_bp and board != for_board(kept) else kept


def for_board(split: RunSplit) -> SplitKey:
    """What the workers are told of a split whose key is known."""
    return SplitKey(split.version, int(split.key, 16))


def _run_split(split: SplitKey, salt: str) -> RunSplit:
    assert split.version in (buckets.PLAIN, buckets.KEYED)
    return RunSplit(2 if split.version == buckets.KEYED else 1, salt, f"{split.key:032x}")
