"""A segment: one file of the change log, locked by the process that works on it.

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
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from backends.disk import Disk

SEGMENT_BYTES: Final = 16 * 2**20  # a segment takes no further frame beyond this
SEGMENT_FRAMES: Final = 32_768
READ_BYTES: Final = 64 * 1024  # read at once, between two turns of the event loop

MAGIC: Final = b"phschng1"
START: Final = struct.Struct("<8sQ")  # magic, and when it was made
STATES_AT: Final = 64  # where the states begin
HEADER: Final = STATES_AT + SEGMENT_FRAMES
_FRAME: Final = struct.Struct("<4sIII")
MARK: Final = b"\x9cChg"  # begins a frame: where to go on behind a damaged one
_MADE: Final = struct.Struct("<Q")

_log = structlog.get_logger("phasegate.changelog")


class ChangeState(IntEnum):
    """What became of a change, as far as its process noted it."""

    NONE = 0  # not noted: the process died before it sent the change, or the machine crashed
    OPEN = 1  # it may have been sent to its own side's store
    SETTLED = 2  # its own side has it, the other side has yet to get it
    DONE = 3  # both sides have it, or neither


# By name once and for all: looking a member up in its class takes longer than what is done with it (Python 3.11).
OPEN: Final = ChangeState.OPEN
SETTLED: Final = ChangeState.SETTLED
DONE: Final = ChangeState.DONE
_WAITING: Final = frozenset({OPEN, SETTLED})


class Frame(NamedTuple):
    """A change as it is in a segment; ``made`` in microseconds since 1970."""

    number: int
    state: int
    made: int
    body: bytes


class Segment:
    """One file of changes, locked by this process."""

    def __init__(self, path: Path, fd: int, disk: Disk, *, own: bool) -> None:
        self.name = path.name
        self.own = own  # made by this process, which may append to it
        self._path = path
        self._disk = disk
        self._fd = fd
        # Only a file that is long enough is mapped: what is behind a mapped file's end cannot be touched.
        self._map = mmap.mmap(fd, HEADER)
        self._states = memoryview(self._map)[STATES_AT:]
        _, self.made = START.unpack_from(self._map)
        self.frames = 0  # written, of a segment of this process
        self.end = HEADER if own else os.fstat(fd).st_size
        self._at = HEADER  # ``read`` goes on here
        self._number = 0  # with the frame of this number
        self.unread = 0 if own else sum(self._states.tobytes().count(state) for state in _WAITING)
        self.exhausted = own  # nothing is left to be read
        self.open = 0  # changes whose handler has not ended
        self.damaged = 0  # changes that were there and cannot be read; ``read`` adds to it
        self._told_disk = False  # of what was written since the last sync began

    # ------------------------------------------------------------------------------------------------- writing

    def takes(self, size: int) -> bool:
        """Whether there is room for another change of so many bytes."""
        return self.frames < SEGMENT_FRAMES and (self.end + size <= SEGMENT_BYTES or self.frames == 0)

    def append(self, body: bytes, made: int, *, state: ChangeState, read_later: bool) -> int:
        """Write a change; returns its number. With ``read_later`` it will be read back. Raises ``OSError``."""
        number = self.frames
        content = _MADE.pack(made) + body
        frame = _FRAME.pack(MARK, number, len(content), zlib.crc32(content, number)) + content
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
        if not self._told_disk:
            self._tell_disk()
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
        if number >= self._number and state == DONE and self._states[number] in _WAITING:
            self.unread -= 1
        self._states[number] = state
        if not self._told_disk:
            self._tell_disk()

    def _tell_disk(self) -> None:
        self._told_disk = True
        self._disk.wrote(self)

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
            mark, number, length, crc = _FRAME.unpack_from(block, used) if whole else (MARK, self._number, 0, 0)
            size = _FRAME.size + length
            sound = mark == MARK and self._number <= number < SEGMENT_FRAMES and self._at + size <= self.end
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
            if state != DONE:
                yield Frame(number, state, _MADE.unpack_from(content)[0], content[_MADE.size :])

    def _count_missing(self, before: int) -> None:
        """Take note of changes whose frames are not there though they have a state."""
        while self._number < before:
            if self._states[self._number] in _WAITING:
                self.unread -= 1
                self.damaged += 1
                self._states[self._number] = DONE
            self._number += 1

    def _skip_damage(self) -> None:
        """Go on at the next frame behind bytes that are none."""
        at = self._at
        self._at += 1
        while self._at < self.end:
            block = os.pread(self._fd, min(READ_BYTES, self.end - self._at), self._at)
            found = block.find(MARK)
            if found >= 0:
                self._at += found
                break
            self._at = self.end if len(block) < len(MARK) else self._at + len(block) - len(MARK) + 1
            if len(block) < READ_BYTES:
                self._at = self.end
        # A process that is killed while it writes leaves half a frame, whose change it had not sent anywhere.
        follows = self._number < SEGMENT_FRAMES and self._states[self._number] != ChangeState.NONE
        if self._at < self.end or follows:
            self._tell(f"the bytes from {at} to {self._at} are not what was written; the rest is used")

    def _tell(self, reason: str) -> None:
        _log.error("change_log_damaged", file=str(self._path), reason=reason)

    # ------------------------------------------------------------------------------------------------- its end

    def descriptors(self) -> Iterable[int]:
        """As ``Written.descriptors``."""
        self._told_disk = False  # what is written from now on is of the next sync
        return () if self._fd < 0 else (os.dup(self._fd),)

    def close(self) -> None:
        """Release the file and its lock. Idempotent."""
        if self._fd >= 0:
            self._states.release()
            self._map.close()
            os.close(self._fd)
            self._fd = -1
