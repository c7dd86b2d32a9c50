"""How every process writes its log: one JSON object a line on standard error; at a terminal, a line to be read.

Whoever has something to say, it ends here. Our own code logs events through structlog. What libraries say through the
standard library's logging and ``warnings`` comes out as ``library_message``, an exception that nobody caught as
``uncaught_exception``. What a process writes past all that (an interpreter that crashes, a library in C) reaches the
log through the supervisor: see ``stray``.

No request is logged here, so a line may cost its microseconds. Nothing secret may be passed as a value. A log that
cannot be written stops nobody: the line is lost.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final

import orjson
import structlog
from structlog.typing import EventDict, Processor

STDERR: Final = 2
VALUE_CHARS: Final = 16_384  # a longer text loses its middle: what failed stands at an end of a traceback

# What a terminal or a reader of lines would act on, and JSON allows inside a text: DEL and the C1 control characters,
# line separators, and the marks that turn the direction of writing.
_ACTED_ON: Final = re.compile("[\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LEVELS: Final = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)

_log = structlog.get_logger("phasegate.log")


def configure(process: str, fd: int = STDERR, level: int = logging.INFO) -> None:
    """Send everything that this process logs to ``fd``; ``process`` names it on every line."""
    at_terminal = os.isatty(fd)
    time = structlog.processors.TimeStamper(fmt="%H:%M:%S" if at_terminal else "iso", utc=not at_terminal)
    structlog.configure(
        processors=[
            _named(process),
            structlog.processors.add_log_level,
            time,
            structlog.processors.format_exc_info,
            _bounded,
            *((_for_terminal, _RENDER) if at_terminal else (_as_json,)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(fd),
        cache_logger_on_first_use=True,
    )
    handler = _Libraries()
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.lastResort = handler  # for loggers that hand nothing on to the root, as Google's do
    logging.captureWarnings(True)
    sys.excepthook = _ended_by
    sys.unraisablehook = _unraisable
    threading.excepthook = _ended_thread


class _Lines:
    """The logger under structlog's: each line is one write, so that the lines of several processes do not mix."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def _write(self, line: str) -> None:
        rest = line.encode("utf-8", "backslashreplace") + b"\n"
        with suppress(OSError):
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    debug = info = warning = error = critical = _write


# ---------------------------------------------------------------------------------------- what a line is made of


def _named(process: str) -> Processor:
    pid = os.getpid()

    def name(_: object, __: str, event: EventDict) -> EventDict:
        return {"process": process, "pid": pid, **event}

    return name


def _bounded(_: object, __: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > VALUE_CHARS:
            half = VALUE_CHARS // 2
            event[key] = f"{value[:half]} … {len(value) - 2 * half} characters left out … {value[-half:]}"
    return event


def _as_json(_: object, __: str, event: EventDict) -> str:
    try:
        line = orjson.dumps(event, default=str).decode()
    except TypeError:  # text that is not Unicode, a number of more than 64 bits, an object that cannot be shown
        line = json.dumps({key: _plain(value) for key, value in event.items()})
    return _ACTED_ON.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _plain(value: object) -> str | int | None:
    """The value as something that every reader of JSON takes."""
    if value is None or (isinstance(value, int) and abs(value) < 2**53):
        return value
    try:
        return str(value).encode("utf-8", "backslashreplace").decode()
    except Exception:  # its own __str__ fails
        return f"<{type(value).__name__}>"


# ``repr`` shows every control character, so no value can move the cursor or write over another line.
_RENDER: Final = structlog.dev.ConsoleRenderer(pad_event_to=24, repr_native_str=True)


def _for_terminal(_: object, __: str, event: EventDict) -> EventDict:
    """Set texts of several lines below the line, indented; show control characters in what is not shown by repr."""
    below = [line for key in tuple(event) if _has_lines(event[key]) for line in str(event.pop(key)).splitlines()]
    for key in ("event", "logger"):
        if key in event:
            event[key] = _shown(str(event[key]))
    if below:
        event["exception"] = "\n".join(f"    {_shown(line)}" for line in below)
    return event


def _has_lines(value: object) -> bool:
    return isinstance(value, str) and "\n" in value


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


# ---------------------------------------------------------------------------------- what others say or leave behind


class _Libraries(logging.Handler):
    """Passes on what is said through the standard library's logging, and so ``warnings`` too."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log it as an event; never raises."""
        try:
            message = record.getMessage()
        except Exception:  # the arguments do not fit: the library's mistake
            message = str(record.msg)
        level = next((level for level in _LEVELS if record.levelno >= level), logging.DEBUG)
        _log.log(level, "library_message", logger=record.name, message=message, exc_info=record.exc_info)


def _ended_by(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _uncaught("the main thread, which ends the process", error)


def _ended_thread(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_type is not SystemExit:
        _uncaught(f"thread {hook.thread.name if hook.thread is not None else 'unknown'}", hook.exc_value)


def _unraisable(hook: sys.UnraisableHookArgs) -> None:
    name = getattr(hook.object, "__qualname__", type(hook.object).__qualname__)
    _uncaught(f"{hook.err_msg or 'ignored in'} {name}", hook.exc_value)


def _uncaught(where: str, error: BaseException | None) -> None:
    _log.error("uncaught_exception", where=where, exc_info=error)
