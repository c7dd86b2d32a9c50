"""Wake-ups to the microsecond: an event loop's own timers round to a millisecond, which would distort latencies."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

_CLOCK_MONOTONIC: Final = 1  # clock_gettime(2)
_ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME, timerfd_create(2)
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
_BILLION: Final = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """One timerfd(2): its ``fd`` becomes readable at the time that was set."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def set(self, at_ns: int) -> None:
        """Wake at this time of CLOCK_MONOTONIC; at once if it has passed."""
        setting = _Setting(_Timespec(0, 0), _Timespec(*divmod(max(at_ns, 1), _BILLION)))
        if _libc.timerfd_settime(self.fd, _ABSOLUTE, ctypes.byref(setting), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def clear(self) -> None:
        """Consume a wake-up: ``fd`` is not readable until the next."""
        with contextlib.suppress(BlockingIOError):  # it was set anew meanwhile
            os.read(self.fd, 8)

    def close(self) -> None:
        """Close the timer."""
        os.close(self.fd)
