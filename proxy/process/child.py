"""What every process under the supervisor does first: read what it is told, and tie its life to its parent's.

A child is spawned as ``python -m MODULE`` with one JSON document on its standard input; its listening sockets and
its log are inherited descriptors. Nothing secret is ever on a command line.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def read_orders() -> bytes:
    """The whole of standard input: what the supervisor tells this child."""
    return sys.stdin.buffer.read()


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as this user may have: each client takes one, and each connection to the app."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def die_with_parent() -> None:
    """Take signals again, and have the kernel send SIGTERM when the supervisor dies, however it dies.

    The supervisor blocks the signals that it waits for, and a child inherits that. Without the kernel's promise a
    supervisor that is killed would leave workers that answer on its sockets beside its successor's.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent or parent == 1:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)
