"""A log of commits shared by the processes of a machine, which makes their memory stores replicas of one store.

Two files. Every process maps the *head*. One word in it says which data file is current and how much of it is
committed (epoch u16 · length u48); storing the word is the commit. Bytes beyond that length, such as a half-written
record of a killed process, do not count, and the next append overwrites them. The *data* file is a sequence of
records, each ``length u32 · crc32 u32 · body``, the body in MessagePack. Writers take turns by ``flock`` on the head,
which the kernel releases when a process dies. Compaction writes a new data file and then stores the word.

Nothing is synced to the disk: a record survives the process that wrote it, not a crash of the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from backends.documents.port import Context, Document, Mutation, Transform
from backends.errors import Fault, FaultKind

MAGIC: Final = int.from_bytes(b"phsjrnl1", "little")
COMPACT_BYTES: Final = 64 * 2**20  # a data file is not compacted below this size
COMPACT_FACTOR: Final = 4  # nor before it is this many times what the last compaction left
_HEAD_BYTES: Final = 64
_LENGTH_BITS: Final = 48
_FRAME: Final = struct.Struct("<II")
_WORDS: Final = struct.Struct("=QQ")  # the head's: magic, epoch and length
_CHUNK: Final = 2**20  # bytes read at once
_REOPENINGS: Final = 10  # attempts to open the data file while compactions replace it
_LOCK_FIRST_S: Final = 0.0005  # pause before the next attempt to get the lock; doubles
_LOCK_MOST_S: Final = 0.01

_log = structlog.get_logger("phasegate.journal")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What a replica applies: ``mutations`` at ``time``, or ``documents`` as they are."""

    time: int
    mutations: tuple[Mutation, ...] = ()
    documents: tuple[Document, ...] = ()


def _decoded(body: bytes) -> Record:
    time, mutations, documents = _decode(body)
    return Record(time, tuple(map(_mutation, mutations)), tuple(Document(*document) for document in documents))


def _mutation(parts: list[Any]) -> Mutation:
    path, fields, mask, transforms, _ = parts
    return Mutation(
        path,
        fields,
        None if mask is None else tuple(map(tuple, mask)),
        tuple(Transform(tuple(field), op, operand) for field, op, operand in transforms),
    )


def first_record(path: Path) -> tuple[Record, bool] | None:
    """The first record of a journal, in use or not, and whether others came after it; None where nothing was written.

    A compacted journal has had others. Only the first record is read. Raises ``OSError``, which says what to do.
    """
    for _ in range(_REOPENINGS):
        with contextlib.suppress(FileNotFoundError):
            word = _word(path)
            if not word:
                return None
            with path.with_name(f"{path.name}.{word >> _LENGTH_BITS}").open("rb") as data:
                length, crc = _FRAME.unpack(data.read(_FRAME.size))
                body = data.read(length)
            if zlib.crc32(body) != crc:
                raise OSError(f"{path}: its first record is not what was written; remove the journal and begin anew")
            first = _FRAME.size + length
            others = word >> _LENGTH_BITS != 0 or word & (1 << _LENGTH_BITS) - 1 != first
            return _decoded(body), others
    raise OSError(f"{path}: its data file is missing; remove {path} too")


def _word(path: Path) -> int:
    """The head's word; 0 where there is no journal, or nothing was committed. Raises ``OSError``."""
    try:
        head = path.read_bytes()[:_HEAD_BYTES]
    except FileNotFoundError:
        return 0
    if len(head) < _HEAD_BYTES:
        return 0
    magic, word = _WORDS.unpack_from(head)
    if magic not in (0, MAGIC):
        raise OSError(f"{path} is not a journal of the mock; remove it")
    return int(word)


class Journal:
    """The log of commits, in two files. Each event loop has its own instance; ``open`` before use."""

    def __init__(self, path: Path, compact_bytes: int = COMPACT_BYTES) -> None:
        self._path = path
        self._compact_at = self._compact_bytes = compact_bytes
        self._word = 0  # the head's word up to which records were read
        self._epoch = 0
        self._offset = 0
        self._head_fd = self._data_fd = -1

    def open(self) -> None:
        """Map the head, creating it if it does not exist. Raises ``OSError``, which says what to do."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._head_fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._head_fd).st_size < _HEAD_BYTES:
            os.ftruncate(self._head_fd, _HEAD_BYTES)  # grown with zeros: epoch 0, nothing committed
        self._map = mmap.mmap(self._head_fd, _HEAD_BYTES)
        self._cells = memoryview(self._map).cast("Q")
        if self._cells[0] not in (0, MAGIC):
            raise OSError(f"{self._path} is not a journal of the mock; remove it")
        self._cells[0] = MAGIC
        for _ in range(_REOPENINGS):
            with contextlib.suppress(FileNotFoundError):
                self._open_data(self._cells[1] >> _LENGTH_BITS)
                return
        raise OSError(f"{self._path}: its data file is missing; remove {self._path} too")

    def _data(self, epoch: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{epoch}")

    def _open_data(self, epoch: int) -> None:
        # O_CREAT only for the very first file: with it, a data file that a compaction has just removed would be
        # created again, and taken for an empty one.
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if epoch == 0 and self._cells[1] == 0 else 0)
        fd = os.open(self._data(epoch), flags, 0o600)
        if self._data_fd >= 0:
            os.close(self._data_fd)
        self._data_fd, self._epoch, self._offset = fd, epoch, 0

    def behind(self) -> bool:
        """Whether other processes have committed records that ``read`` has not returned yet. Cheap."""
        return self._cells[1] != self._word

    def read(self, reset: Callable[[], None]) -> Iterator[Record]:
        """What was committed since the last call. If it starts over with everything, it calls ``reset`` first.

        Raises ``OSError``, which says what to do.
        """
        word = self._cells[1]
        for _ in range(_REOPENINGS):
            if word >> _LENGTH_BITS == self._epoch:
                break
            try:
                self._open_data(word >> _LENGTH_BITS)
                reset()
            except FileNotFoundError:
                word = self._cells[1]  # compacted again in between
        else:
            raise OSError(f"{self._path}: its data file is missing; remove {self._path} too")
        yield from self._records(word & (1 << _LENGTH_BITS) - 1)
        self._word = word

    def _records(self, end: int) -> Iterator[Record]:
        block = b""
        used = 0  # bytes of the block
        while True:
            while len(block) - used >= _FRAME.size:
                length, crc = _FRAME.unpack_from(block, used)
                start = used + _FRAME.size
                if len(block) - start < length:
                    break
                body = block[start : start + length]
                if zlib.crc32(body) != crc:
                    reason = (
                        f"the record at byte {self._offset} is not what was written; it and all after are dropped"
                    )
                    _log.error("journal_damaged", file=str(self._data(self._epoch)), reason=reason)
                    return
                used = start + length
                self._offset += _FRAME.size + length
                yield _decoded(body)
            left = end - self._offset
            if left <= 0:
                return
            # Twice as much as last time if one record is larger than the block.
            size = _CHUNK if used else max(_CHUNK, 2 * len(block))
            longer = os.pread(self._data_fd, min(size, left), self._offset)
            if not used and len(longer) <= len(block):
                return  # the machine crashed before the file reached the disk: the rest is lost
            block, used = longer, 0

    async def lock(self, ctx: Context) -> None:
        """Get the exclusive right to append. Raises ``Fault`` (DEADLINE) if the lock is not free in time."""
        loop = asyncio.get_running_loop()
        wait = _LOCK_FIRST_S
        while True:
            try:
                fcntl.flock(self._head_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if loop.time() + wait > ctx.deadline:
                    message = "mock: another process holds the journal's lock"
                    raise Fault(FaultKind.DEADLINE, message, may_retry=True) from None
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LOCK_MOST_S)

    def unlock(self) -> None:
        """Let the next process append."""
        fcntl.flock(self._head_fd, fcntl.LOCK_UN)

    def append(self, record: Record) -> None:
        """Commit the record. Only with the lock, and after reading everything. Raises ``Fault`` (EXHAUSTED)."""
        self._write(record)
        self._commit()

    def _write(self, record: Record) -> None:
        body = _encode(record)
        frame = memoryview(_FRAME.pack(len(body), zlib.crc32(body)) + body)
        at = self._offset
        try:
            while frame:
                written = os.pwrite(self._data_fd, frame, at)
                frame, at = frame[written:], at + written
        except OSError as problem:
            raise Fault(FaultKind.EXHAUSTED, f"mock: the journal cannot be written: {problem}") from None
        self._offset = at

    def _commit(self) -> None:
        self._word = self._cells[1] = self._epoch << _LENGTH_BITS | self._offset

    def full(self) -> bool:
        """Whether it is time to ``compact``."""
        return self._offset > self._compact_at

    def compact(self, records: Iterable[Record]) -> None:
        """Replace the data file by one with only ``records``, the store's whole content. Only with the lock."""
        old, old_fd, old_offset = self._epoch, self._data_fd, self._offset
        epoch = old % 0xFFFF + 1
        self._data_fd = os.open(self._data(epoch), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._epoch, self._offset = epoch, 0
        try:
            for record in records:
                self._write(record)
        except Fault:
            os.close(self._data_fd)
            self._data(epoch).unlink()
            self._data_fd, self._epoch, self._offset = old_fd, old, old_offset
            self._compact_at *= 2  # do not try again at once
            return
        self._commit()
        os.close(old_fd)
        self._data(old).unlink(missing_ok=True)
        self._compact_at = max(self._compact_bytes, COMPACT_FACTOR * self._offset)

    def close(self) -> None:
        """Unmap the head and close the files. Idempotent."""
        if self._head_fd >= 0:
            self._cells.release()
            self._map.close()
            os.close(self._head_fd)
            self._head_fd = -1
        if self._data_fd >= 0:
            os.close(self._data_fd)
            self._data_fd = -1
