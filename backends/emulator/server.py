"""Runs the emulator on a loopback address until it is told to end."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
from collections.abc import Callable
from typing import Any, Final

import grpc
import uvloop

from backends.emulator.service import FirestoreService

GRACE_S: Final = 0.2  # for calls under way at the end
# One process answers all: a second one at the same address is a mistake. A commit may be larger than gRPC's 4 MiB;
# what is larger than Firestore takes is refused in words, up to this size.
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 16 * 2**20),
    ("grpc.max_send_message_length", -1),
)


class CannotListenError(Exception):
    """The address cannot be listened on; the message says why."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, and end the process with 0: it does not return.

    ``ready`` is told the address, ``HOST:PORT``; what it prints it must flush. Raises ``CannotListenError``.
    """
    if not is_loopback(host):
        raise CannotListenError(
            f"{host} is not a loopback address, and this emulator asks nobody who they are; "
            "expected 127.0.0.1, localhost or ::1"
        )
    uvloop.run(_serve(f"[{host}]" if ":" in host else host, port, ready))


async def start(host: str, port: int) -> tuple[Any, str]:
    """A server that answers, and its address; port 0: any free one. Raises ``CannotListenError``."""
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers([FirestoreService()])
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        raise CannotListenError(f"{host}:{port} cannot be listened on: another program may be there") from None
    await server.start()
    return server, f"{host}:{bound}"


async def _serve(host: str, port: int, ready: Callable[[str], None]) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server, bound = await start(host, port)
    ready(bound)
    await ended.wait()
    await server.stop(GRACE_S)
    # To give back a million documents one by one takes longer than whoever pressed Ctrl-C waits, and none is kept.
    os._exit(0)
