"""The change log: files in the run directory that hold the changes which one side has and the other has yet to take.

``run_dir/NAME.changes/`` belongs to the migration NAME. A file in it is a *segment*, ``to_target.ID`` or
``to_source.ID``: changes that the target, or the source, lacks. The process that writes a segment holds a lock on it
(``flock``), which the kernel releases when the process dies. A segment without a lock is an orphan: whichever process
gets its lock goes on with it, and removes it when all in it is done. So it does not matter how many processes there
are, or which of them wrote what.

A segment is a header and then frames. The header is mapped into memory, and has one byte for each frame: what became
of its change (``ChangeState``). Storing that byte is all it takes to note an outcome. A frame is ``mark · number u32
· length u32 · crc32 u32 · body``; the body is the time (microseconds since 1970) and the encoded change. A frame is
whole in the file before its change is sent to the store, and its outcome is stored before the client has its answer.

After a crash of the machine a frame may be there without its state, or a state without its frame. The first is asked
about as if the process had died in the middle of that write; the second is lost, and told.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from backends.disk import Disk

SEGMENT_BYTES: Final = 16 * 2**20  # a segment takes no further frame beyond this
SEGMENT_FRAMES: Final = 32_768
READ_BYTES: Final = 64 * 1024  # read at once, between two turns of the event loop
SIDES: Final = ("source", "target")
LOSSES: Final = "lost"  # the file of changes that were given up

_MAGIC: Final = b"phschng1"
_START: Final = struct.Struct("<8sQ")  # magic, and when it was made
_STATES: Final = 64  # where the states begin
_HEADER: Final = _STATES + SEGMENT_FRAMES
_FRAME: Final = struct.Struct("<4sIII")
_MARK: Final = b"\x9cChg"  # begins a frame: where to go on behind a damaged one
_MADE: Final = struct.Struct("<Q")
_ATTEMPTS: Final = 10  # to make a segment; each fails only if another process took that very file

_log = structlog.get_logger("phasegate.changelog")


class ChangeState(IntEnum):
    """What became of a change, as far as its process noted it."""

    NONE = 0  # not noted: the process died before it sent the change, or the machine crashed
    OPEN = 1  # it may have been sent to its own side's store
    SETTLED = 2  # its own side has it, the other side has yet to get it
    DONE = 3  # both sides have it, or neither


_WAITING: Final = frozenset({ChangeState.OPEN, ChangeState.SETTLED})


class Frame(NamedTuple):
    """A change as it is in a segment; ``made`` in microseconds since 1970."""

    number: int
    state: int
    made: int
    body: bytes


class Segment:
    """One file of changes, locked by this process."""

    def __init__(self, log: ChangeLog, name: str, fd: int, *, own: bool) -> None:
        self.name = name
        self.own = own  # made by this process, which may append to it
        self._log = log
        self._fd = fd
        # Only a file that is long enough is mapped: what is behind a mapped file's end cannot be touched.
        self._map = mmap.mmap(fd, _HEADER)
        self._states = memoryview(self._map)[_STATES:]
        _, self.made = _START.unpack_from(self._map)
        self.frames = 0  # written, of a segment of this process
        self.end = _HEADER if own else os.fstat(fd).st_size
        self._at = _HEADER  # ``read`` goes on here
        self._number = 0  # with the frame of this number
        self.unread = 0 if own else sum(self._states.tobytes().count(state) for state in _WAITING)
        self.exhausted = own  # nothing is left to be read
        self.open = 0  # changes whose handler has not ended
        self.damaged = 0  # changes that were there and cannot be read; ``read`` adds to it

    # ------------------------------------------------------------------------------------------------- writing

    def takes(self, size: int) -> bool:
        """Whether there is room for another change of so many bytes."""
        return self.frames < SEGMENT_FRAMES and (self.end + size <= SEGMENT_BYTES or self.frames == 0)

    def append(self, body: bytes, made: int, *, state: ChangeState, read_later: bool) -> int:
        """Write a change; returns its number. With ``read_later`` it will be read back. Raises ``OSError``."""
        number = self.frames
        content = _MADE.pack(made) + body
        frame = _FRAME.pack(_MARK, number, len(content), zlib.crc32(content, number)) + content
        written = os.pwrite(self._fd, frame, self.end)
        if written < len(frame):
            self._append_rest(memoryview(frame)[written:], self.end + written)
        self._states[number] = state
        self.frames = number + 1
        self.end += len(frame)
        if read_later:
            self.exhausted = False
            self.unread += 1
        elif self.exhausted:
            self._at, self._number = self.end, self.frames
        self._log.disk.wrote(self)
        return number

    def _append_rest(self, rest: memoryview, at: int) -> None:
        while rest:
            written = os.pwrite(self._fd, rest, at)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest, at = rest[written:], at + written

    def cut(self) -> None:
        """Remove what a failed ``append`` left behind."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self.end)

    def note(self, number: int, state: ChangeState) -> None:
        """Store what became of a change. Without effect on a closed segment: whoever has it then asks the store."""
        if self._fd < 0:
            return
        if state == ChangeState.DONE and number >= self._number and self._states[number] in _WAITING:
            self.unread -= 1
        self._states[number] = state
        self._log.disk.wrote(self)

    # ------------------------------------------------------------------------------------------------- reading

    def read(self) -> list[Frame]:
        """The next frames, without those that are done: some ``READ_BYTES`` of the file, or one larger frame.

        An empty list says nothing: ``exhausted`` does. Damage is told in the log, and skipped.
        """
        frames: list[Frame] = []
        try:
            block = os.pread(self._fd, min(READ_BYTES, self.end - self._at), self._at)
            frames += self._frames_of(block)
        except OSError as error:
            self._tell(f"it cannot be read: {error}")
            self._at = self.end
        if self._at >= self.end:
            self.exhausted = True
            self._count_missing(self.frames if self.own else SEGMENT_FRAMES)
        return frames

    def _frames_of(self, block: bytes) -> Iterator[Frame]:
        used = 0
        while self._at < self.end:
            rest = len(block) - used
            whole = rest >= _FRAME.size
            mark, number, length, crc = _FRAME.unpack_from(block, used) if whole else (_MARK, self._number, 0, 0)
            size = _FRAME.size + length
            sound = mark == _MARK and self._number <= number < SEGMENT_FRAMES and self._at + size <= self.end
            if sound and rest < max(size, _FRAME.size):
                if self._at + rest >= self.end:
                    sound = False  # the file ends in the middle of a frame
                elif used:
                    return  # the rest is read next time
                else:
                    block = os.pread(self._fd, size, self._at)
                    sound = len(block) == size
            content = block[used + _FRAME.size : used + size]
            if not (sound and length >= _MADE.size and zlib.crc32(content, number) == crc):
                self._skip_damage()
                return
            self._count_missing(number)
            self._number = number + 1
            self._at += size
            used += size
            state = self._states[number]
            if state in _WAITING:
                self.unread -= 1
            if state != ChangeState.DONE:
                yield Frame(number, state, _MADE.unpack_from(content)[0], content[_MADE.size :])

    def _count_missing(self, before: int) -> None:
        """Take note of changes whose frames are not there though they have a state."""
        while self._number < before:
            if self._states[self._number] in _WAITING:
                self.unread -= 1
                self.damaged += 1
                self._states[self._number] = ChangeState.DONE
            self._number += 1

    def _skip_damage(self) -> None:
        """Go on at the next frame behind bytes that are none."""
        at = self._at
        self._at += 1
        while self._at < self.end:
            block = os.pread(self._fd, min(READ_BYTES, self.end - self._at), self._at)
            found = block.find(_MARK)
            if found >= 0:
                self._at += found
                break
            self._at = self.end if len(block) < len(_MARK) else self._at + len(block) - len(_MARK) + 1
            if len(block) < READ_BYTES:
                self._at = self.end
        # A process that is killed while it writes leaves half a frame, whose change it had not sent anywhere.
        follows = self._number < SEGMENT_FRAMES and self._states[self._number] != ChangeState.NONE
        if self._at < self.end or follows:
            self._tell(f"the bytes from {at} to {self._at} are not what was written; the rest is used")

    def _tell(self, reason: str) -> None:
        _log.error("change_log_damaged", file=str(self._log.folder / self.name), reason=reason)

    # ------------------------------------------------------------------------------------------------- its end

    def descriptors(self) -> Iterable[int]:
        """As ``Written.descriptors``."""
        return () if self._fd < 0 else (os.dup(self._fd),)

    def close(self) -> None:
        """Release the file and its lock. Idempotent."""
        if self._fd >= 0:
            self._states.release()
            self._map.close()
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close the file and remove it."""
        with contextlib.suppress(OSError):
            os.unlink(self.name, dir_fd=self._log.folder_fd)
        self.close()


class ChangeLog:
    """One process's part in the changes of one migration that the ``side`` has yet to take. ``open`` before use."""

    def __init__(self, folder: Path, side: str, disk: Disk) -> None:
        self.folder = folder
        self.disk = disk
        self.folder_fd = -1
        self._side = side
        self._names: set[str] = set()  # of segments that are not to be looked at: its own, and strange ones
        self._current: Segment | None = None

    def open(self) -> None:
        """Make the folder. Raises ``OSError``."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # All files are named relative to the open folder, so that it may be renamed meanwhile.
        self.folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def append(self, body: bytes, *, state: ChangeState, read_later: bool) -> tuple[Segment, int]:
        """Write a change; returns its segment and its number there. Raises ``OSError``, and nothing is written."""
        segment = self._current
        if segment is None or not segment.takes(len(body)):
            segment = self._current = self._make()
        made = time.time_ns() // 1000
        try:
            return segment, segment.append(body, made, state=state, read_later=read_later)
        except OSError:
            segment.cut()
            raise

    @property
    def current(self) -> Segment | None:
        """The segment that is appended to."""
        return self._current

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
                os.posix_fallocate(fd, 0, _HEADER)
                os.pwrite(fd, _START.pack(_MAGIC, time.time_ns() // 1000), 0)
                segment = Segment(self, name, fd, own=True)
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
        if found.st_nlink and found.st_size < _HEADER:
            # A process that was killed while it made the segment; one that makes it now sees that it is gone.
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self.folder_fd)
        elif found.st_nlink:
            magic = os.pread(fd, len(_MAGIC), 0)
            if magic in (_MAGIC, bytes(len(_MAGIC))):
                self._names.add(name)
                return Segment(self, name, fd, own=False)
            self._refuse(name, "it is no segment of a change log that this version knows")
        os.close(fd)
        return None

    def _refuse(self, name: str, reason: str) -> None:
        self._names.add(name)  # told once
        _log.error("change_log_damaged", file=str(self.folder / name), reason=reason)

    def discard(self, segment: Segment) -> None:
        """Remove a segment in which all is done."""
        self._names.discard(segment.name)
        if segment is self._current:
            self._current = None
        segment.remove()

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
        self._current = None
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
