"""The spool of webhook messages: what a receiver has not taken yet, kept in the run directory over every restart.

A file of JSON lines that only grows: a message with the receivers it is for, and a receipt for each that has taken
it. It is written anew, with what still waits, when it is mostly receipts, and where a write failed or broke off and
left half a line. All of it is in memory too: where the disk is full or broken, messages are delivered from there and
written down as soon as the disk takes them. It holds no address and no key, only a digest of both.

The file is read and written on a thread of its own: a slow disk never holds up the event loop. Writing begins at
once, so that a process that is killed loses at most what was added in its last moment. The disk is not synced for
each message: a power failure may cost the last ones.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

_log = structlog.get_logger("phasegate.webhooks")

T = TypeVar("T")

RETRY_S: Final = 1.0  # between attempts on a disk that failed
CLOSE_WITHIN_S: Final = 1.0  # how long an end waits for the disk
GARBAGE_MAX: Final = 1 << 20  # bytes of lines that nobody needs any more, before the file is written anew
UNWRITTEN_MAX: Final = 1000  # lines that wait for a slow disk; beyond them the file is written anew


class SpooledMessage(msgspec.Struct, frozen=True, tag_field="line", tag="message"):
    """A message, and the receivers that it is for. ``body`` is sent as it is."""

    id: str
    to: tuple[str, ...]
    event: str
    body: msgspec.Raw


class Receipt(msgspec.Struct, frozen=True, tag_field="line", tag="receipt"):
    """A receiver needs the message no more: it took it, or its queue was full."""

    id: str
    by: str


_lines: Final = msgspec.json.Decoder(SpooledMessage | Receipt)


class SpoolFile:
    """The file. Every method may raise ``OSError``; used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self.damaged = 0  # lines that were read and not understood
        self.whole = True  # what was read ends where a line ends, and all of it was understood
        self.size = 0  # bytes read

    def load(self) -> list[SpooledMessage]:
        """What waits, oldest first, each for the receivers that have not taken it. No file: nothing waits."""
        waiting: dict[str, SpooledMessage] = {}
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return []
        with os.fdopen(fd, "rb") as file:
            content = file.read()
        self.damaged, self.size = 0, len(content)
        for line in content.split(b"\n"):
            if not line:
                continue
            try:
                read = _lines.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.damaged += 1
                continue
            if isinstance(read, SpooledMessage):
                # ``Raw`` is a view of the whole line, which it would keep.
                waiting[read.id] = msgspec.structs.replace(read, body=read.body.copy())
            elif read.id in waiting:
                without(waiting, read)
        self.whole = not self.damaged and (not content or content.endswith(b"\n"))
        return list(waiting.values())

    def append(self, data: bytes) -> None:
        """Write whole lines at the end."""
        if self._fd is None:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        _write(self._fd, data)

    def replace(self, data: bytes) -> None:
        """Put whole lines in the place of everything, at once."""
        self.close()
        new = self._path.with_name(f"{self._path.name}.new")
        fd = os.open(new, os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            _write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        new.rename(self._path)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def without(waiting: dict[str, SpooledMessage], receipt: Receipt) -> None:
    """Take the receiver off the message; one that nobody waits for any more is gone."""
    message = waiting[receipt.id]
    to = tuple(receiver for receiver in message.to if receiver != receipt.by)
    if to:
        waiting[receipt.id] = msgspec.structs.replace(message, to=to)
    else:
        del waiting[receipt.id]


class Spool:
    """What waits, in memory and in the file. Used on the event loop; never waits."""

    def __init__(self, path: Path, *, retry_s: float = RETRY_S) -> None:
        self._file = SpoolFile(path)
        self._retry_s = retry_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._waiting: dict[str, SpooledMessage] = {}
        self._unwritten: list[bytes] = []  # lines for the end of the file
        self._anew = False  # the file must be written anew
        self._written = 0  # bytes of the file
        self._job: asyncio.Task[None] | None = None
        self._closed = False
        self.loaded: asyncio.Future[list[SpooledMessage]] = asyncio.get_running_loop().create_future()
        self.failing = False  # the disk does not take what is to be written

    def start(self) -> None:
        """Begin to read and write; ``loaded`` is what the file held."""
        self._begin()

    def add(self, message: SpooledMessage) -> None:
        """A message that is to reach its receivers."""
        self._waiting[message.id] = message
        self._write(message)

    def took(self, message_id: str, receiver: str) -> None:
        """The receiver needs the message no more."""
        if message_id in self._waiting:
            receipt = Receipt(message_id, receiver)
            without(self._waiting, receipt)
            self._write(receipt)

    async def close(self) -> None:
        """Write what is left, as far as the disk lets us."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                if self._job is not None and not self.failing:
                    await asyncio.wait({self._job})
        self._closed = True
        if self._job is not None:
            self._job.cancel()
            await asyncio.wait({self._job})
        self._thread.submit(self._file.close)
        self._thread.shutdown(wait=False)

    def _write(self, line: SpooledMessage | Receipt) -> None:
        if not self._anew:
            self._unwritten.append(_line(line))
        if len(self._unwritten) > UNWRITTEN_MAX:
            self._unwritten.clear()
            self._anew = True
        self._begin()

    def _behind(self) -> bool:
        """Whether there is something to read or write."""
        return self._anew or bool(self._unwritten) or not self.loaded.done()

    def _begin(self) -> None:
        if (self._job is None or self._job.done()) and not self._closed and self._behind():
            self._job = asyncio.create_task(self._work(), name="spool")

    async def _work(self) -> None:
        """Bring the file up to date. A failed write is followed by writing all anew."""
        while self._behind():
            try:
                await self._step()
            except OSError as error:
                self._anew = True
                self._unwritten.clear()
                if not self.failing:
                    _log.error("webhook_spool_failed", reason=str(error))
                self.failing = True
                await asyncio.sleep(self._retry_s)
            else:
                if self.failing:
                    _log.info("webhook_spool_back", waiting=len(self._waiting))
                self.failing = False

    async def _step(self) -> None:
        if not self.loaded.done():
            # Nothing may be written before: it would take the place of what was not read.
            older = await self._off_loop(self._file.load)
            if self._file.damaged:
                _log.error("webhook_spool_damaged", lines=self._file.damaged)
            newer, self._waiting = self._waiting, {message.id: message for message in older}
            self._waiting |= newer
            self._written = self._file.size
            self._anew |= not self._file.whole
            self.loaded.set_result(older)
        live = b"".join(map(_line, self._waiting.values())) if self._anew or self._is_mostly_garbage() else None
        if live is not None:
            self._anew = False
            self._unwritten.clear()
            await self._off_loop(partial(self._file.replace, live))
            self._written = len(live)
        elif self._unwritten:
            data = b"".join(self._unwritten)
            self._unwritten.clear()
            await self._off_loop(partial(self._file.append, data))
            self._written += len(data)

    def _is_mostly_garbage(self) -> bool:
        if self._written < GARBAGE_MAX:
            return False
        live = sum(len(_line(message)) for message in self._waiting.values())
        return self._written > 2 * live + GARBAGE_MAX

    async def _off_loop(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _line(line: SpooledMessage | Receipt) -> bytes:
    return msgspec.json.encode(line) + b"\n"
