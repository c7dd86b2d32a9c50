"""Runs one task at a time in a process of its own: starts it, feeds it, reads how far it is, and ends it.

The process is not believed more than it must be: lines that are none of its messages are left out, a line is bounded,
and one that does not end when it is told to is killed. A task that ends without its last line has crashed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from backends.copy.calm import ArrivalLook
from control.data.messages import (
    NotUnderstoodError,
    OrderedTask,
    ParentLine,
    TaskCost,
    TaskDone,
    TaskEnd,
    TaskFailed,
    TaskKind,
    TaskProgress,
    line,
    understood,
)

_log = structlog.get_logger("phasegate.data")

MODULE: Final = "control.data.task"
LINE_MAX: Final = 1024 * 1024  # bytes of a line that is read: a result has a row for each collection
SHOWN: Final = 200  # characters of a line that is not understood, in the log
FEED_EVERY_S: Final = 0.1  # between two words of what has reached both sides: a task acts after two of them
EXIT_WITHIN_S: Final = 5.0  # after its last line, or after the end of its output
STOP_WITHIN_S: Final = 10.0  # after it was told to stop: a page of documents may be under way
CLOSE_WITHIN_S: Final = 2.0  # when control itself ends: a copy knows where it is, whenever it is killed

Ended = Callable[[TaskEnd], None]


class TaskBusyError(Exception):
    """A task is under way already."""


def command(log: int, module: str = MODULE) -> tuple[str, ...]:
    """How a task's process is started; it logs to the descriptor ``log``."""
    return sys.executable, "-m", "control.data.launch", str(os.getpid()), str(log), module


def task_id(kind: TaskKind) -> str:
    """A new task's name."""
    return f"{kind.value}-{secrets.token_hex(6)}"


class TaskRunner:
    """The process of one task after the other. ``arrival`` says what has reached both sides."""

    def __init__(
        self,
        migration: str,
        arrival: Callable[[], ArrivalLook],
        start: Sequence[str],
        *,
        log: int = 2,
        stop_within_s: float = STOP_WITHIN_S,
    ) -> None:
        self.progress: TaskProgress | None = None  # of the task under way
        self.cost: TaskCost | None = None
        self._migration = migration
        self._arrival = arrival
        self._start = tuple(start)
        self._log_fd = log
        self._stop_within_s = stop_within_s
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._garbage = 0  # lines of this task that were none of its messages

    @property
    def busy(self) -> bool:
        """Whether a task is under way."""
        return self._running is not None

    def begin(self, orders: OrderedTask, ended: Ended) -> None:
        """Start a task; ``ended`` is called with its end. Raises ``TaskBusyError``."""
        if self._running is not None:
            raise TaskBusyError
        self.progress = self.cost = None
        self._garbage = 0
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(self._run(orders, ended), name=f"task {self._migration}")

    def stop(self) -> None:
        """Tell the task to end; it is killed where it does not within ``stop_within_s``."""
        self._stop.set()

    async def close(self) -> None:
        """End the task's process without waiting for its work; ``ended`` is not called."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self, orders: OrderedTask, ended: Ended) -> None:
        try:
            end = await self._carry_out(orders)
        except OSError as error:
            end = TaskFailed(f"its process could not be started: {error}", "crashed")
        finally:
            self._running = None
        ended(end)

    async def _carry_out(self, orders: OrderedTask) -> TaskEnd:
        pipe, no_fds = asyncio.subprocess.PIPE, ()
        process = await asyncio.create_subprocess_exec(
            *self._start,
            stdin=pipe,
            stdout=pipe,
            limit=LINE_MAX,
            pass_fds=(self._log_fd,) if self._log_fd > 2 else no_fds,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        feeding = asyncio.create_task(self._feed(process.stdin, orders))
        killing = asyncio.create_task(self._kill_when_stopped(process))
        try:
            end = await self._read(process.stdout)
            with suppress(TimeoutError):
                async with asyncio.timeout(EXIT_WITHIN_S):
                    await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            feeding.cancel()
            killing.cancel()
            await asyncio.gather(feeding, killing, return_exceptions=True)
            if process.returncode is None:
                process.kill()
            code = await process.wait()
        return end or self._unsaid(code)

    def _unsaid(self, code: int) -> TaskFailed:
        """What became of a task that did not say it."""
        if self._stop.is_set():
            message = f"it did not end within {self._stop_within_s:g} s of being told to, and was killed"
            return TaskFailed(message, "stopped")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return TaskFailed(f"its process {how} before it was done; the log has its last words", "crashed")

    async def _read(self, output: asyncio.StreamReader) -> TaskEnd | None:
        """Read up to the last line; None where the output ends without it."""
        while True:
            try:
                written = await output.readline()
            except ValueError:  # longer than LINE_MAX; what was read of it is dropped
                written = b"(a line of more than %d bytes)\n" % LINE_MAX
            if not written:
                return None
            try:
                message = understood(written)
            except NotUnderstoodError as error:
                self._leave_out(written, str(error))
                continue
            match message:
                case TaskProgress():
                    self.progress = message
                case TaskCost():
                    self.cost = message
                case TaskDone() | TaskFailed():
                    return message

    def _leave_out(self, written: bytes, reason: str) -> None:
        self._garbage += 1
        if self._garbage == 1:
            text = written.decode("utf-8", "replace").rstrip("\n")[:SHOWN]
            _log.warning("task_output_not_understood", migration=self._migration, text=text, reason=reason)

    async def _feed(self, stdin: asyncio.StreamWriter, orders: OrderedTask) -> None:
        """Write the orders, then what has reached both sides, again and again, and at last that it is to stop."""
        with suppress(ConnectionError):  # it has ended, which whoever reads its output sees
            stdin.write(line(orders))
            await stdin.drain()
            while not self._stop.is_set():
                stdin.write(line(ParentLine(self._arrival())))
                await stdin.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(FEED_EVERY_S):
                        await self._stop.wait()
            stdin.write(line(ParentLine(stop=True)))
            await stdin.drain()

    async def _kill_when_stopped(self, process: asyncio.subprocess.Process) -> None:
        await self._stop.wait()
        await asyncio.sleep(self._stop_within_s)
        _log.warning("task_killed", migration=self._migration, waited_s=self._stop_within_s)
        with suppress(ProcessLookupError):
            process.kill()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it as a parent's death would, and kill it where it stays."""
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_WITHIN_S):
            await process.wait()
