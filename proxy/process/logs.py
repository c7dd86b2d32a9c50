"""How every process writes its log: one JSON object a line on standard error; at a terminal, a line to be read.

No request is logged here, so a line may cost its microseconds; nothing secret may be passed as a value.
"""

from __future__ import annotations

import os
import sys

import orjson
import structlog

_FOR_PROGRAMS: tuple[structlog.typing.Processor, ...] = (
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode()),
)
_FOR_PEOPLE: tuple[structlog.typing.Processor, ...] = (
    structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
    structlog.dev.ConsoleRenderer(pad_event_to=24, exception_formatter=structlog.dev.plain_traceback),
)


def configure(process: str) -> None:
    """Set up structlog for this process; ``process`` names it on every line."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            *(_FOR_PEOPLE if sys.stderr.isatty() else _FOR_PROGRAMS),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.configure(processors=[_named(process), *structlog.get_config()["processors"]])


def _named(process: str) -> structlog.typing.Processor:
    pid = os.getpid()

    def name(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"process": process, "pid": pid, **event}

    return name
