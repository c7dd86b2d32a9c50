"""The change log: files in the run directory that hold the changes which one side has and the other has yet to take.

``run_dir/NAME.changes/`` belongs to the migration NAME. A file in it is a *segment* (see ``segment``),
``to_target.ID`` or ``to_source.ID``: changes that the target, or the source, lacks. The process that writes a segment
holds a lock on it (``flock``), which the kernel releases when the process dies. A segment without a lock is an
orphan: whichever process gets its lock goes on with it, and removes it when all in it is done. So it does not matter
how many processes there are, or which of them wrote what.

The encoded change comes alone, or after the name of the operation that made it (``named``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import structlog

from backends.disk import Disk
from backends.pair.segment import HEADER, MAGIC, START, ChangeState, Segment

LOSSES: Final = "lost"  # the file of changes that were given up

# Begins a body that names its operation: no MessagePack, and so no encoded change, begins with this byte.
_NAMED: Final = b"\xc1"
_NAME_AT: Final = len(_NAMED) + 1  # after one byte for the name's length
_NAME_MAX: Final = 255
_ATTEMPTS: Final = 10  # to make a segment; each fails only if another process took that very file

_log = structlog.get_logger("phasegate.changelog")


class ChangeLog:
    """One process's part in the changes of one migration that the ``side`` has yet to take. ``open`` before use."""

    def __init__(self, folder: Path, side: str, disk: Disk) -> None:
        self.folder = folder
        self.disk = disk
        self.folder_fd = -1
        self._side = side
        self._names: set[str] = set()  # of segments that are not to be looked at: its own, and strange ones
        self.current: Segment | None = None  # the segment that is appended to

    def open(self) -> None:
        """Make the folder. Raises ``OSError``."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # All files are named relative to the open folder, so that it may be renamed meanwhile.
        self.folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def append(self, body: bytes, *, state: ChangeState, read_later: bool) -> tuple[Segment, int]:
        """Write a change; returns its segment and its number there. Raises ``OSError``, and nothing is written."""
        segment = self.current
        if segment is None or not segment.takes(len(body)):
            segment = self.current = self._make()
        made = time.time_ns() // 1000
        try:
            return segment, segment.append(body, made, state=state, read_later=read_later)
        except OSError:
            segment.cut()
            raise

    def _make(self) -> Segment:
        for _ in range(_ATTEMPTS):
            name = f"to_{self._side}.{secrets.token_hex(8)}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(name, flags, 0o600, dir_fd=self.folder_fd)
            try:
                if not _lock(fd) or os.fstat(fd).st_nlink == 0:  # another process took it for an orphan
                    os.close(fd)
                    continue
                # Reserved on the disk now: to touch a mapped page for which there is no room would kill the process.
                os.posix_fallocate(fd, 0, HEADER)
                os.pwrite(fd, START.pack(MAGIC, time.time_ns() // 1000), 0)
                segment = Segment(self.folder / name, fd, self.disk, own=True)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self.folder_fd)
                os.close(fd)
                raise
            self._names.add(name)
            self.disk.wrote(self)
            return segment
        raise OSError(errno.EBUSY, "another process takes each new file of the change log")

    def orphans(self) -> Iterator[Segment]:
        """The segments that no living process holds; this one holds them then."""
        try:
            names = os.listdir(self.folder_fd)
        except OSError as error:
            _log.error("change_log_damaged", file=str(self.folder), reason=f"the folder cannot be read: {error}")
            return
        for name in sorted(names):
            if name.startswith(f"to_{self._side}.") and name not in self._names:
                segment = self._take(name)
                if segment is not None:
                    yield segment

    def _take(self, name: str) -> Segment | None:
        try:
            fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.folder_fd)
        except FileNotFoundError:
            return None  # its owner was faster
        except OSError as error:
            self._refuse(name, f"it cannot be opened: {error}")
            return None
        if not _lock(fd):
            os.close(fd)
            return None
        found = os.fstat(fd)
        if found.st_nlink and found.st_size < HEADER:
            # A process that was killed while it made the segment; one that makes it now sees that it is gone.
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self.folder_fd)
        elif found.st_nlink:
            magic = os.pread(fd, len(MAGIC), 0)
            if magic in (MAGIC, bytes(len(MAGIC))):
                self._names.add(name)
                return Segment(self.folder / name, fd, self.disk, own=False)
            self._refuse(name, "it is no segment of a change log that this version knows")
        os.close(fd)
        return None

    def _refuse(self, name: str, reason: str) -> None:
        self._names.add(name)  # told once
        _log.error("change_log_damaged", file=str(self.folder / name), reason=reason)

    def discard(self, segment: Segment) -> None:
        """Remove a segment in which all is done."""
        self._names.discard(segment.name)
        if segment is self.current:
            self.current = None
        with contextlib.suppress(OSError):
            os.unlink(segment.name, dir_fd=self.folder_fd)
        segment.close()

    def lose(self, **facts: object) -> None:
        """Keep a line about a change that was given up, for whoever repairs it, and for the count."""
        line = msgspec.json.encode({"at": time.time(), "to": self._side, **facts}) + b"\n"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(LOSSES, flags, 0o600, dir_fd=self.folder_fd)
        except OSError as error:
            _log.error("loss_not_kept", file=str(self.folder / LOSSES), reason=str(error))
            return
        try:
            os.write(fd, line)
        except OSError as error:
            _log.error("loss_not_kept", file=str(self.folder / LOSSES), reason=str(error))
        finally:
            os.close(fd)

    def descriptors(self) -> Iterable[int]:
        """As ``Written.descriptors``: the folder, without which a new file in it is not found after a crash."""
        return () if self.folder_fd < 0 else (os.dup(self.folder_fd),)

    def close(self, segments: Iterable[Segment]) -> None:
        """Release all segments, for other processes to go on with, and the folder."""
        self.disk.closing(self)
        for segment in segments:
            self.disk.closing(segment)
            segment.close()
        self._names.clear()
        self.current = None
        if self.folder_fd >= 0:
            os.close(self.folder_fd)
            self.folder_fd = -1


def _lock(fd: int) -> bool:
    """Lock the file, if no other process has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@cache
def _name(operation: str) -> bytes:
    name = operation.encode()[:_NAME_MAX]
    return _NAMED + bytes((len(name),)) + name if name else b""


def named(operation: str, change: bytes) -> bytes:
    """An encoded change with the name of its operation before it; alone where the name is empty."""
    return _name(operation) + change


def without_name(body: bytes) -> tuple[str, bytes]:
    """The name of the operation, which may be empty, and the encoded change."""
    if not body.startswith(_NAMED) or len(body) < _NAME_AT:
        return "", body
    end = _NAME_AT + body[_NAME_AT - 1]
    return body[_NAME_AT:end].decode(errors="replace"), body[end:]


def changes_folder(run_dir: Path, migration: str) -> Path:
    """The folder of a migration's change logs."""
    return run_dir / f"{migration}.changes"


def lost_before(run_dir: Path, migration: str) -> int:
    """How many changes of the migration were given up since its folder was made."""
    try:
        return (changes_folder(run_dir, migration) / LOSSES).read_bytes().count(b"\n")
    except OSError:
        return 0


def move_folder(run_dir: Path, old: str, new: str) -> None:
    """Carry the change logs of a migration that was renamed. Raises ``OSError``."""
    source, target = changes_folder(run_dir, old), changes_folder(run_dir, new)
    if not source.is_dir() or source.is_symlink():
        return
    if not target.exists():
        source.rename(target)
        return
    # An earlier migration of the new name has left something: file by file, as their names are unique.
    for path in source.iterdir():
        if path.name == LOSSES:
            with (target / LOSSES).open("ab") as losses:
                losses.write(path.read_bytes())
            path.unlink()
        else:
            path.rename(target / path.name)
    source.rmdir()


def drop_folder(run_dir: Path, migration: str) -> None:
    """Remove the change logs of a migration that was given up: one that gets its name later has other data."""
    folder = changes_folder(run_dir, migration)
    if folder.parent == run_dir and folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
